"""The stores as a dry run would have left them by now: what it puts back stays in memory, where later batches of the range find it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from analytics_defs.core.events.event import Event
from analytics_defs.core.storage.object_keys import DEAD_LETTERS
from analytics_defs.core.timestamps import iso_milliseconds
from analytics_defs.ports import RECENT_EVENTS_TTL, ClaimResult, ObjectInfo, ObjectStore, Ports, RecentEvents, StoredEvent, StoredObject

MAX_OVERLAY_ITEMS = 200_000
MAX_OVERLAY_BYTES = 64 * 2**20
"""Of dead letters. Beyond these a dry run may call lost what the replay itself brings back: memory is bounded first."""


def dry_run_overlay(ports: Ports) -> Ports:
    """Reads go through; nothing is written to any store."""
    return replace(ports, recent_events=_RecentAhead(ports.recent_events), object_store=_ArchiveAhead(ports.object_store))


class _RecentAhead:
    """Who would hold an id. That decides whether a later event of the id is a repeat."""

    def __init__(self, under: RecentEvents) -> None:
        self._under = under
        self._items: dict[str, StoredEvent] = {}

    def claim(self, events: Sequence[Event], batch_time: datetime) -> ClaimResult:
        time, ttl = iso_milliseconds(batch_time), int((batch_time + RECENT_EVENTS_TTL).timestamp())
        for each in events if len(self._items) < MAX_OVERLAY_ITEMS else ():
            self._items[each.id] = StoredEvent(each.id, each.type, each.timestamp, each.record.source, time, ttl, None)
        return ClaimResult({}, frozenset())

    def get_items(self, ids: Sequence[str]) -> Mapping[str, StoredEvent]:
        return {each: self._items[each] for each in ids if each in self._items} | dict(self._under.get_items(ids))

    def needs_pointer(self, event: Event, batch_time: datetime) -> bool:
        return self._under.needs_pointer(event, batch_time)


class _ArchiveAhead:
    """Of what it would write, dead letters alone are kept: the redrives of a batch need them."""

    def __init__(self, under: ObjectStore) -> None:
        self._under = under
        self._letters: dict[str, bytes] = {}

    def put(self, blobs: Sequence[StoredObject]) -> None:
        for blob in blobs:
            if blob.key.startswith(DEAD_LETTERS) and sum(map(len, self._letters.values())) + len(blob.body) <= MAX_OVERLAY_BYTES:
                self._letters[blob.key] = blob.body

    def put_many_if_absent(self, blobs: Sequence[StoredObject]) -> Sequence[StoredObject]:
        return [found for blob in blobs if (found := self._under.get_object(blob.key))]

    def put_if_absent(self, blob: StoredObject) -> bytes:
        return blob.body

    def get(self, key: str) -> bytes | None:
        return self._letters[key] if key in self._letters else self._under.get(key)

    def get_object(self, key: str) -> StoredObject | None:
        return self._under.get_object(key)

    def head(self, key: str) -> ObjectInfo | None:
        return self._under.head(key)

    def download(self, key: str, path: str) -> bool:
        return self._under.download(key, path)

    def upload(self, key: str, path: str, content_type: str) -> None:
        pass

    def put_if(self, blob: StoredObject, over: Callable[[bytes | None], bool]) -> bool:
        return over(self._under.get(blob.key))

    def delete(self, keys: Sequence[str]) -> None:
        pass

    def list_keys(self, prefix: str) -> Iterator[str]:
        return self._under.list_keys(prefix)
