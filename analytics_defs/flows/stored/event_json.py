"""The JSON objects of claimed events, one each. Nobody's object is written over, also where an id was free again and is stored anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from analytics_defs.core.events.event import Event
from analytics_defs.core.hours.revision import ExpiredData
from analytics_defs.core.ledger import Batch
from analytics_defs.core.offsets import Source
from analytics_defs.core.storage.content_types import JSON_CONTENT_TYPE
from analytics_defs.core.storage.object_keys import batch_time, event_key, event_metadata, reused_id_event_key
from analytics_defs.ports import Ports, StoredObject, may_have_been_reused


def put_event_json(batch: Batch, events: Sequence[Event], ports: Ports) -> None:
    """Of events that the batch has claimed. The same objects again, whoever repeats it. Events of old hours alone ask what is there."""
    old = {hour for hour in {event.hour for event in events} if may_have_been_reused(hour, batch.time)}
    ports.object_store.put([_object(event, batch) for event in events if event.hour not in old])
    if old:
        _put_new([event for event in events if event.hour in old], batch, ports)


def event_json_object(event: Event, batch_time: datetime, ports: Ports) -> tuple[str, StoredObject | None]:
    """The key of the object of an event that was stored at that time, and what lies there. Reads only.

    Its own name beside another event's, where one lies there or another event's object holds the plain name.
    """
    key, source = event_key(event.hour, event.id), str(event.record.source)
    found = ports.object_store.get_object(key)
    if not may_have_been_reused(event.hour, batch_time) or (found and found.metadata.get("source") == source):
        return key, found
    beside = reused_id_event_key(event.hour, event.id, event.record.source)
    own = ports.object_store.get_object(beside)
    return (beside, own) if own or found else (key, None)


def _put_new(events: Sequence[Event], batch: Batch, ports: Ports) -> None:
    """So late that an event of the same id and hour may have been stored before, and forgotten: beside its object, not over it.

    Also beside where retention has begun to remove the hour's objects: one that sleeps over its delete may still take the plain name
    from under us. That is asked after the plain name is written: where the hour is not frozen then, nothing of it was deleted yet, so
    whoever deletes later sees whose object it is.
    """
    there = {blob.key: blob.metadata for blob in ports.object_store.put_many_if_absent([_object(event, batch) for event in events])}
    taken = {hour: _taken_of(hour, ports) for hour in sorted({event.hour for event in events})}
    others = [
        event
        for event in events
        if taken[event.hour].event_json_expired_through or _is_anothers(there.get(event_key(event.hour, event.id)), event.record.source)
    ]
    ports.object_store.put(
        [replace(_object(event, batch), key=reused_id_event_key(event.hour, event.id, event.record.source)) for event in others]
    )
    ports.object_store.put(
        [_object(event, batch) for event in others if _goes(there.get(event_key(event.hour, event.id)), taken[event.hour])]
    )


def _taken_of(hour: str, ports: Ports) -> ExpiredData:
    revision = ports.ledger.latest_revision(hour)
    return revision.expired if revision else ExpiredData()


def _is_anothers(held: Mapping[str, str] | None, source: Source) -> bool:
    return held is not None and held.get("source") != str(source)


def _goes(held: Mapping[str, str] | None, taken: ExpiredData) -> bool:
    """Whether retention removes this object, or is about to: the name is the late event's, whose item may point to it."""
    try:
        return held is not None and taken.has_expired_event_json_of(batch_time(held.get("batch", "")))
    except ValueError:
        return False


def _object(event: Event, batch: Batch) -> StoredObject:
    return StoredObject(event_key(event.hour, event.id), event.record.value or b"", JSON_CONTENT_TYPE, event_metadata(event, batch.id))
