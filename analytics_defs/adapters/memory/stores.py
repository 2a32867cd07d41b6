"""The table of recent events and the bucket in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from analytics_defs.adapters.memory.locking import LockedStore, atomic
from analytics_defs.core.events.decimal_json import parse_decimal_json
from analytics_defs.core.events.event import Event
from analytics_defs.core.offsets import Source
from analytics_defs.core.timestamps import iso_milliseconds
from analytics_defs.ports import DEDUPLICATION_WINDOW, RECENT_EVENTS_TTL, ClaimResult, ObjectInfo, StoredEvent, StoredObject


class MemoryRecentEvents(LockedStore):
    """The table of recent events. `items` holds its items by id."""

    def __init__(self, unholdable: Callable[[Event], bool] = lambda _: False) -> None:
        super().__init__()
        self.items: dict[str, StoredEvent] = {}
        self._unholdable = unholdable

    @atomic
    def claim(self, events: Sequence[Event], batch_time: datetime) -> ClaimResult:
        duplicates: dict[Source, Source] = {}
        pointers: set[Source] = set()
        for event in events:
            owner = self.items.get(event.id)
            if (
                owner
                and owner.source != event.record.source
                and owner.ttl > (batch_time + RECENT_EVENTS_TTL - DEDUPLICATION_WINDOW).timestamp()
            ):
                duplicates[event.record.source] = owner.source
                continue
            if self._unholdable(event):
                pointers.add(event.record.source)
            self.items[event.id] = StoredEvent(
                event.id,
                event.type,
                event.timestamp,
                event.record.source,
                iso_milliseconds(batch_time),
                int((batch_time + RECENT_EVENTS_TTL).timestamp()),
                None if self._unholdable(event) else parse_decimal_json(event.data),
            )
        return ClaimResult(duplicates, frozenset(pointers))

    @atomic
    def get_items(self, ids: Sequence[str]) -> Mapping[str, StoredEvent]:
        return {event_id: self.items[event_id] for event_id in ids if event_id in self.items}

    def needs_pointer(self, event: Event, batch_time: datetime) -> bool:  # noqa: ARG002 - the port's signature
        return self._unholdable(event)


class MemoryObjectStore(LockedStore):
    """The bucket. `objects` holds its objects by key."""

    def __init__(self) -> None:
        super().__init__()
        self.objects: dict[str, StoredObject] = {}

    @atomic
    def put(self, objects: Sequence[StoredObject]) -> None:
        self.objects |= {obj.key: obj for obj in objects}

    @atomic
    def put_many_if_absent(self, objects: Sequence[StoredObject]) -> Sequence[StoredObject]:
        existing = [stored for obj in objects if (stored := self.get_object(obj.key))]
        existing_keys = {obj.key for obj in existing}
        self.objects |= {obj.key: obj for obj in objects if obj.key not in existing_keys}
        return existing

    @atomic
    def put_if_absent(self, obj: StoredObject) -> bytes:
        return self.objects.setdefault(obj.key, obj).body

    @atomic
    def get(self, key: str) -> bytes | None:
        obj = self.objects.get(key)
        return obj.body if obj else None

    @atomic
    def get_object(self, key: str) -> StoredObject | None:
        obj = self.objects.get(key)
        return obj and replace(obj, metadata={name.lower(): value for name, value in obj.metadata.items()})

    @atomic
    def head(self, key: str) -> ObjectInfo | None:
        obj = self.get_object(key)
        return ObjectInfo(len(obj.body), obj.metadata) if obj else None

    @atomic
    def download(self, key: str, path: str) -> bool:
        obj = self.objects.get(key)
        if obj is None:
            return False
        Path(path).write_bytes(obj.body)
        return True

    @atomic
    def upload(self, key: str, path: str, content_type: str) -> None:
        self.objects[key] = StoredObject(key, Path(path).read_bytes(), content_type, {})

    @atomic
    def put_if(self, obj: StoredObject, may_replace: Callable[[bytes | None], bool]) -> bool:
        """Write only if the predicate did not change the object: it may write the same key, as another writer would."""
        current = self.objects.get(obj.key)
        while may_replace(current.body if current else None):
            if self.objects.get(obj.key) is current:
                self.objects[obj.key] = obj
                return True
            current = self.objects.get(obj.key)
        return False

    @atomic
    def delete(self, keys: Sequence[str]) -> None:
        for key in keys:
            self.objects.pop(key, None)

    @atomic
    def list_keys(self, prefix: str) -> Iterator[str]:
        return iter(sorted(key for key in self.objects if key.startswith(prefix)))
