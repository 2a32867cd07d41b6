"""The tables and the bucket in memory."""

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
    """The table of recent events. `items` is what it holds, by id."""

    def __init__(self, unholdable: Callable[[Event], bool] = lambda _: False) -> None:
        super().__init__()
        self.items: dict[str, StoredEvent] = {}
        self._unholdable = unholdable

    @atomic
    def claim(self, events: Sequence[Event], batch_time: datetime) -> ClaimResult:
        refused: dict[Source, Source] = {}
        pointers: set[Source] = set()
        for event in events:
            holder = self.items.get(event.id)
            if (
                holder
                and holder.source != event.record.source
                and holder.ttl > (batch_time + RECENT_EVENTS_TTL - DEDUPLICATION_WINDOW).timestamp()
            ):
                refused[event.record.source] = holder.source
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
        return ClaimResult(refused, frozenset(pointers))

    @atomic
    def get_items(self, ids: Sequence[str]) -> Mapping[str, StoredEvent]:
        return {each: self.items[each] for each in ids if each in self.items}

    def needs_pointer(self, event: Event, batch_time: datetime) -> bool:  # noqa: ARG002 - the port's signature
        return self._unholdable(event)


class MemoryObjectStore(LockedStore):
    """The bucket. `objects` is what it holds, by key."""

    def __init__(self) -> None:
        super().__init__()
        self.objects: dict[str, StoredObject] = {}

    @atomic
    def put(self, blobs: Sequence[StoredObject]) -> None:
        self.objects |= {blob.key: blob for blob in blobs}

    @atomic
    def put_many_if_absent(self, blobs: Sequence[StoredObject]) -> Sequence[StoredObject]:
        there = [found for blob in blobs if (found := self.get_object(blob.key))]
        taken = {blob.key for blob in there}
        self.objects |= {blob.key: blob for blob in blobs if blob.key not in taken}
        return there

    @atomic
    def put_if_absent(self, blob: StoredObject) -> bytes:
        return self.objects.setdefault(blob.key, blob).body

    @atomic
    def get(self, key: str) -> bytes | None:
        found = self.objects.get(key)
        return found.body if found else None

    @atomic
    def get_object(self, key: str) -> StoredObject | None:
        found = self.objects.get(key)
        return found and replace(found, metadata={name.lower(): value for name, value in found.metadata.items()})

    @atomic
    def head(self, key: str) -> ObjectInfo | None:
        found = self.get_object(key)
        return ObjectInfo(len(found.body), found.metadata) if found else None

    @atomic
    def download(self, key: str, path: str) -> bool:
        found = self.objects.get(key)
        if found is None:
            return False
        Path(path).write_bytes(found.body)
        return True

    @atomic
    def upload(self, key: str, path: str, content_type: str) -> None:
        self.objects[key] = StoredObject(key, Path(path).read_bytes(), content_type, {})

    @atomic
    def put_if(self, blob: StoredObject, over: Callable[[bytes | None], bool]) -> bool:
        if not over(self.get(blob.key)):
            return False
        self.objects[blob.key] = blob
        return True

    @atomic
    def delete(self, keys: Sequence[str]) -> None:
        for key in keys:
            self.objects.pop(key, None)

    @atomic
    def list_keys(self, prefix: str) -> Iterator[str]:
        return iter(sorted(key for key in self.objects if key.startswith(prefix)))
