"""The JSON objects of claimed events, one each. Nobody's object is written over, also where an id was free again and is stored anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from analytics_defs.core.events.event import Event
from analytics_defs.core.hours.revision import Taken
from analytics_defs.core.ledger import Batch
from analytics_defs.core.offsets import Source
from analytics_defs.core.storage.object_keys import batch_time, event_key, event_metadata, later_event_key
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
    there = {blob.key: blob.metadata for blob in ports.archive.put_new([_object(event, batch) for event in events])}
    taken = {hour: _taken_of(hour, ports) for hour in sorted({event.hour for event in events})}
    others = [
        event
        for event in events
        if taken[event.hour].objects_through or _is_anothers(there.get(event_key(event.hour, event.id)), event.record.source)
    ]
    ports.archive.put([replace(_object(event, batch), key=later_event_key(event.hour, event.id, event.record.source)) for event in others])
    ports.archive.put([_object(event, batch) for event in others if _goes(there.get(event_key(event.hour, event.id)), taken[event.hour])])


def _taken_of(hour: str, ports: Ports) -> Taken:
    revision = ports.ledger.revision(hour)
    return revision.taken if revision else Taken()


def _is_anothers(held: Mapping[str, str] | None, source: Source) -> bool:
    return held is not None and held.get("source") != str(source)


def _goes(held: Mapping[str, str] | None, taken: Taken) -> bool:
    """Whether retention removes this object, or is about to: the name is the late event's, whose item may point to it."""
    try:
        return held is not None and taken.has_objects_of(batch_time(held.get("batch", "")))
    except ValueError:
        return False


def _object(event: Event, batch: Batch) -> Blob:
    return Blob(event_key(event.hour, event.id), event.record.value or b"", "application/json", event_metadata(event, batch.id))
