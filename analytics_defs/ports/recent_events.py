"""The table of recent events, and how long an event id stays claimed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from analytics_defs.core.events.decimal_json import parse_decimal_json
from analytics_defs.core.events.event import Event
from analytics_defs.core.offsets import Source
from analytics_defs.core.timestamps import iso_milliseconds

RECENT_EVENTS_TTL = timedelta(days=30)
"""The lifetime of an item, counted from the time of its batch."""

DEDUPLICATION_WINDOW = RECENT_EVENTS_TTL - timedelta(days=1)
"""The time for which an id is refused to other sources, counted from the time of its batch.

It is one day shorter than the TTL. Several executors may work on a batch, and they must not see different outcomes because DynamoDB
deleted the item in between.
"""


NO_TTL = 2**63 - 1
"""The `ttl` of an item without one: DynamoDB never deletes it."""


def may_have_been_reused(hour: str, batch_time: datetime) -> bool:
    """Return whether this hour may already contain an event with the same id: true once the batch is older than the window.

    An event is at most one day ahead of its batch; a second day is a margin. If two events of one hour have the same id, the one stored
    later therefore always gets true, in every executor.
    """
    return batch_time - datetime.fromisoformat(f"{hour}:00+00:00") >= DEDUPLICATION_WINDOW - timedelta(days=2)


@dataclass(frozen=True, slots=True)
class ClaimResult:
    """The outcome of one claim call. An event that is not among the duplicates owns its id."""

    duplicates: Mapping[Source, Source]
    """The source that owns the id, by the source of each refused event."""
    pointers: frozenset[Source]
    """Claimed events whose item points to the event's JSON object, because DynamoDB cannot hold their data."""


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An item of the table, as a reader sees it. An attribute that is missing or of another type has a value that no claim writes."""

    id: str
    type: str
    timestamp: str
    source: Source
    created_at: str
    ttl: int
    """Epoch seconds. DynamoDB deletes late: readers treat an item past its TTL as deleted."""
    data: object
    """JSON values with Decimal numbers. None if the item points to the event's JSON object. Not a dict: the item was altered."""

    def differs_from(self, event: Event, batch_time: datetime) -> str:
        """Return the first attribute that a claim of this event writes with another value. Empty: none."""
        ttl = int((batch_time + RECENT_EVENTS_TTL).timestamp())
        attributes = (
            ("source", self.source == event.record.source),
            ("eventType", self.type == event.type),
            ("timestamp", self.timestamp == event.timestamp),
            ("createdAt", self.created_at == iso_milliseconds(batch_time)),
            ("ttl", self.ttl == ttl),
            ("data", self.data is None or self.data == parse_decimal_json(event.data)),
        )
        return next((name for name, is_same in attributes if not is_same), "")

    def is_outside_deduplication_window(self, batch_time: datetime) -> bool:
        """Return whether a batch of this time may claim the id although the item exists."""
        return self.ttl <= int((batch_time + RECENT_EVENTS_TTL - DEDUPLICATION_WINDOW).timestamp())


class RecentEvents(Protocol):
    """The table of recent events. Thread-safe."""

    def claim(self, events: Sequence[Event], batch_time: datetime) -> ClaimResult:
        """Write each event unless another source owns its id. The ids of one call are distinct.

        Idempotent: an event that already owns its id is written again, byte for byte. An id is free again once its owner's batch is
        `DEDUPLICATION_WINDOW` or more older than `batch_time`.
        """
        ...

    def get_items(self, ids: Sequence[str]) -> Mapping[str, StoredEvent]:
        """Return the items of these ids by a strongly consistent read. Missing ids are left out."""
        ...

    def needs_pointer(self, event: Event, batch_time: datetime) -> bool:
        """Return whether the item of this event has to point to its JSON object, by the store's documented limits."""
        ...
