"""The JSON objects of claimed events, one each. Nobody's object is written over, also where an id was free again and is stored anew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from analytics_defs.core.events import Event
from analytics_defs.core.layout import event_key, event_metadata, later_event_key
from analytics_defs.core.ledger import Batch
from analytics_defs.ports import Blob, Ports, may_be_again


def put_event_objects(batch: Batch, events: Sequence[Event], ports: Ports) -> None:
    """Of events that the batch has claimed. The same objects again, whoever repeats it. Events of old hours alone ask what is there."""
    old = {hour for hour in {event.hour for event in events} if may_be_again(hour, batch.time)}
    ports.archive.put([_object(event, batch) for event in events if event.hour not in old])
    if old:
        _put_new([event for event in events if event.hour in old], batch, ports)


def object_of(event: Event, batch_time: datetime, ports: Ports) -> tuple[str, Blob | None]:
    """The key of the object of an event that was stored at that time, and what lies there. Reads only.

    Its own name beside another event's, where one lies there or another event's object holds the plain name.
    """
    key, source = event_key(event.hour, event.id), str(event.record.source)
    found = ports.archive.fetch(key)
    if not may_be_again(event.hour, batch_time) or (found and found.metadata.get("source") == source):
        return key, found
    beside = later_event_key(event.hour, event.id, event.record.source)
    own = ports.archive.fetch(beside)
    return (beside, own) if own or found else (key, None)


def _put_new(events: Sequence[Event], batch: Batch, ports: Ports) -> None:
    """So late that an event of the same id and hour may have been stored before, and forgotten: beside its object, not over it.

    Also beside where retention has begun to remove the hour's objects: one that sleeps over its delete may still take the plain name
    from under us. That is asked after the plain name is written: where the hour is not frozen then, nothing of it was deleted yet, so
    whoever deletes later sees whose object it is.
    """
    there = {blob.key: blob.metadata.get("source") for blob in ports.archive.put_new([_object(event, batch) for event in events])}
    touched = {hour for hour in sorted({event.hour for event in events}) if _is_touched(hour, ports)}
    others = [
        event
        for event in events
        if event.hour in touched or there.get(event_key(event.hour, event.id), str(event.record.source)) != str(event.record.source)
    ]
    ports.archive.put([replace(_object(event, batch), key=later_event_key(event.hour, event.id, event.record.source)) for event in others])


def _is_touched(hour: str, ports: Ports) -> bool:
    revision = ports.ledger.revision(hour)
    return revision is not None and revision.taken.objects_through is not None


def _object(event: Event, batch: Batch) -> Blob:
    return Blob(event_key(event.hour, event.id), event.record.value or b"", "application/json", event_metadata(event, batch.id))
