"""Overlay for dry runs: the stores as a repair would leave them. Writes stay in memory, where later batches of the range read them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, cast

from analytics_defs.core.events.event import Event
from analytics_defs.core.ledger import BatchRecord
from analytics_defs.core.storage.object_keys import DEAD_LETTERS
from analytics_defs.core.timestamps import iso_milliseconds
from analytics_defs.ports import (
    RECENT_EVENTS_TTL,
    ClaimResult,
    Ledger,
    ObjectInfo,
    ObjectStore,
    Ports,
    RecentEvents,
    StoredEvent,
    StoredObject,
)

MAX_OVERLAY_ITEMS = 200_000
MAX_OVERLAY_BYTES = 64 * 2**20
"""Bytes of dead letters. Above these two bounds a dry run may report data as lost that the repair itself restores."""


def dry_run_overlay(ports: Ports) -> Ports:
    """Return ports that read from the stores and keep writes in memory."""
    return replace(
        ports,
        recent_events=_RecentEventsOverlay(ports.recent_events),
        object_store=_ObjectStoreOverlay(ports.object_store),
        ledger=cast(Ledger, _LedgerOverlay(ports.ledger)),
    )


class _LedgerOverlay:
    """The ledger without the entries that the dry run would restore. No other method of a repair writes to the ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def __getattr__(self, method: str) -> Any:
        return getattr(self._ledger, method)

    def restore_entries(self, record: BatchRecord) -> None:
        pass


class _RecentEventsOverlay:
    """Owners of event ids, with the claims of the dry run. Owners decide whether a later event is a duplicate."""

    def __init__(self, store: RecentEvents) -> None:
        self._store = store
        self._items: dict[str, StoredEvent] = {}

    def claim(self, events: Sequence[Event], batch_time: datetime) -> ClaimResult:
        time, ttl = iso_milliseconds(batch_time), int((batch_time + RECENT_EVENTS_TTL).timestamp())
        for event in events if len(self._items) < MAX_OVERLAY_ITEMS else ():
            self._items[event.id] = StoredEvent(event.id, event.type, event.timestamp, event.record.source, time, ttl, None)
        return ClaimResult({}, frozenset())

    def get_items(self, ids: Sequence[str]) -> Mapping[str, StoredEvent]:
        return {event_id: self._items[event_id] for event_id in ids if event_id in self._items} | dict(self._store.get_items(ids))

    def needs_pointer(self, event: Event, batch_time: datetime) -> bool:
        return self._store.needs_pointer(event, batch_time)


class _ObjectStoreOverlay:
    """Objects, with the dead letters of the dry run. No other written object is read again by a repair."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._dead_letters: dict[str, bytes] = {}

    def put(self, objects: Sequence[StoredObject]) -> None:
        for object_ in objects:
            if object_.key.startswith(DEAD_LETTERS) and sum(map(len, self._dead_letters.values())) + len(object_.body) <= MAX_OVERLAY_BYTES:
                self._dead_letters[object_.key] = object_.body

    def put_many_if_absent(self, objects: Sequence[StoredObject]) -> Sequence[StoredObject]:
        return [existing for object_ in objects if (existing := self._store.get_object(object_.key))]

    def put_if_absent(self, object_: StoredObject) -> bytes:
        return object_.body

    def get(self, key: str) -> bytes | None:
        return self._dead_letters[key] if key in self._dead_letters else self._store.get(key)

    def get_object(self, key: str) -> StoredObject | None:
        return self._store.get_object(key)

    def head(self, key: str) -> ObjectInfo | None:
        return self._store.head(key)

    def download(self, key: str, path: str) -> bool:
        return self._store.download(key, path)

    def upload(self, key: str, path: str, content_type: str) -> None:
        pass

    def put_if(self, object_: StoredObject, over: Callable[[bytes | None], bool]) -> bool:
        return over(self._store.get(object_.key))

    def delete(self, keys: Sequence[str]) -> None:
        pass

    def list_keys(self, prefix: str) -> Iterator[str]:
        return self._store.list_keys(prefix)
