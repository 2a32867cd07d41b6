"""The JSON objects of claimed events, one object per event. An object of another event is never overwritten, even if ids are reused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from analytics_defs.core.events.event import Event
from analytics_defs.core.hours.revision import ExpiredData
from analytics_defs.core.ledger import Batch
from analytics_defs.core.offsets import Source
from analytics_defs.core.storage.content_types import JSON_CONTENT_TYPE
from analytics_defs.core.storage.object_keys import RECORD_TIMESTAMP, batch_time, event_key, event_metadata, reused_id_event_key
from analytics_defs.ports import Ports, StoredObject, may_have_been_reused


def put_event_json(batch: Batch, events: Sequence[Event], ports: Ports) -> None:
    """Write the JSON objects of events that the batch has claimed. Idempotent for every executor of the batch.

    Only events of hours older than the deduplication window cost a read: their ids may have been reused.
    """
    old_hours = {hour for hour in {event.hour for event in events} if may_have_been_reused(hour, batch.time)}
    ports.object_store.put([_json_object(event, batch) for event in events if event.hour not in old_hours])
    if old_hours:
        _put_reused_ids([event for event in events if event.hour in old_hours], batch, ports)


def event_json_object(event: Event, batch_time: datetime, ports: Ports) -> tuple[str, StoredObject | None]:
    """Return the key of the event's object, and the object at that key. Reads only.

    The key is the plain one, unless another event's object holds it: then it is the key with the hash of the source.
    """
    key, source = event_key(event.hour, event.id), str(event.record.source)
    plain = ports.object_store.get_object(key)
    if not may_have_been_reused(event.hour, batch_time) or (plain and plain.metadata.get("source") == source):
        return key, plain
    reused_id_key = reused_id_event_key(event.hour, event.id, event.record.source)
    own = ports.object_store.get_object(reused_id_key)
    return (reused_id_key, own) if own or plain else (key, None)


def has_same_metadata(existing: Mapping[str, str], expected: Mapping[str, str]) -> bool:
    """Compare metadata, ignoring a record timestamp that only one side has.

    Objects of older versions do not carry it. If Kafka has lost the record, the timestamp cannot be found elsewhere.
    """
    held, wanted = dict(existing), {name.lower(): value for name, value in expected.items()}
    timestamps = {held.pop(RECORD_TIMESTAMP.lower(), None), wanted.pop(RECORD_TIMESTAMP.lower(), None)}
    return held == wanted and len(timestamps - {None}) <= 1


def _put_reused_ids(events: Sequence[Event], batch: Batch, ports: Ports) -> None:
    """Write without overwriting the object of an older event with the same id and hour: then the key gets a hash of the source.

    While retention is deleting JSON objects of the hour, that key is always written: a slow delete could still remove the plain one.
    The expired data is read after the plain key is written. If the hour is not expired then, no delete has begun,
    and every later delete sees which event the object belongs to.
    """
    existing = {
        object_.key: object_.metadata for object_ in ports.object_store.put_many_if_absent([_json_object(event, batch) for event in events])
    }
    expired = {hour: _expired_data(hour, ports) for hour in sorted({event.hour for event in events})}
    conflicting = [
        event
        for event in events
        if expired[event.hour].event_json_expired_through
        or _has_another_source(existing.get(event_key(event.hour, event.id)), event.record.source)
    ]
    ports.object_store.put(
        [replace(_json_object(event, batch), key=reused_id_event_key(event.hour, event.id, event.record.source)) for event in conflicting]
    )
    ports.object_store.put(
        [
            _json_object(event, batch)
            for event in conflicting
            if _is_expired(existing.get(event_key(event.hour, event.id)), expired[event.hour])
        ]
    )


def _expired_data(hour: str, ports: Ports) -> ExpiredData:
    revision = ports.ledger.latest_revision(hour)
    return revision.expired if revision else ExpiredData()


def _has_another_source(metadata: Mapping[str, str] | None, source: Source) -> bool:
    return metadata is not None and metadata.get("source") != str(source)


def _is_expired(metadata: Mapping[str, str] | None, expired: ExpiredData) -> bool:
    """Return whether retention deletes the object with this metadata.

    The late event then gets the plain key too, because its item in RecentEvents may point to it.
    """
    try:
        return metadata is not None and expired.has_expired_event_json_of(batch_time(metadata.get("batch", "")))
    except ValueError:
        return False


def _json_object(event: Event, batch: Batch) -> StoredObject:
    return StoredObject(event_key(event.hour, event.id), event.record.value or b"", JSON_CONTENT_TYPE, event_metadata(event, batch.id))
