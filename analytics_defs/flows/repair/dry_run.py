"""The stores as a dry run would have left them by now: what it puts back stays in memory, where later batches of the range find it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from analytics_defs.core.events.event import Event
from analytics_defs.core.storage.object_keys import DEAD_LETTERS
from analytics_defs.core.timestamps import iso_milliseconds
from analytics_defs.ports import KEPT, Archive, Blob, Claims, Ports, RecentEvents, Stat, StoredEvent

MOST_ITEMS = 200_000
MOST_BYTES = 64 * 2**20
"""Of dead letters. Beyond these a dry run may call lost what the replay itself brings back: memory is bounded first."""


def ahead_of(ports: Ports) -> Ports:
    """Reads go through; nothing is written to any store."""
    return replace(ports, recent=_RecentAhead(ports.recent), archive=_ArchiveAhead(ports.archive))


class _RecentAhead:
    """Who would hold an id. That decides whether a later event of the id is a repeat."""

    def __init__(self, under: RecentEvents) -> None:
        self._under = under
        self._items: dict[str, StoredEvent] = {}

    def claim(self, events: Sequence[Event], batch_time: datetime) -> Claims:
        time, ttl = iso_milliseconds(batch_time), int((batch_time + KEPT).timestamp())
        for each in events if len(self._items) < MOST_ITEMS else ():
            self._items[each.id] = StoredEvent(each.id, each.type, each.timestamp, each.record.source, time, ttl, None)
        return Claims({}, frozenset())

    def held(self, ids: Sequence[str]) -> Mapping[str, StoredEvent]:
        return {each: self._items[each] for each in ids if each in self._items} | dict(self._under.held(ids))


class _ArchiveAhead:
    """Of what it would write, dead letters alone are kept: the redrives of a batch need them."""

    def __init__(self, under: Archive) -> None:
        self._under = under
        self._letters: dict[str, bytes] = {}

    def put(self, blobs: Sequence[Blob]) -> None:
        for blob in blobs:
            if blob.key.startswith(DEAD_LETTERS) and sum(map(len, self._letters.values())) + len(blob.body) <= MOST_BYTES:
                self._letters[blob.key] = blob.body

    def put_new(self, blobs: Sequence[Blob]) -> Sequence[Blob]:
        return [found for blob in blobs if (found := self._under.fetch(blob.key))]

    def put_if_absent(self, blob: Blob) -> bytes:
        return blob.body

    def get(self, key: str) -> bytes | None:
        return self._letters[key] if key in self._letters else self._under.get(key)

    def fetch(self, key: str) -> Blob | None:
        return self._under.fetch(key)

    def stat(self, key: str) -> Stat | None:
        return self._under.stat(key)

    def download(self, key: str, path: str) -> bool:
        return self._under.download(key, path)

    def upload(self, key: str, path: str, content_type: str) -> None:
        pass

    def advance(self, blob: Blob, over: Callable[[bytes | None], bool]) -> bool:
        return over(self._under.get(blob.key))

    def delete(self, keys: Sequence[str]) -> None:
        pass

    def keys(self, prefix: str) -> Iterator[str]:
        return self._under.keys(prefix)
