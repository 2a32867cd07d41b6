"""What the always-on job asks, each question by itself and read-only: whoever asks decides when, and how long to wait.

kafka ──► watermarks, group offsets        dynamodb ──► heads, and one look into RecentEvents
figures ──► counters, hours, last batches  s3 ──► one listing
waiting ──► the oldest unread records and how long the broker keeps them
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Protocol

from analytics_defs.core.counting import recent_hours
from analytics_defs.core.health import Figures, Scheduler, View, Waiting
from analytics_defs.core.layout import STAGING
from analytics_defs.core.ledger import Snapshot
from analytics_defs.core.offsets import Range, Record
from analytics_defs.core.plan import Lag
from analytics_defs.flows.observe import observe
from analytics_defs.ports import EventLog, Ports

LAST_BATCHES = 20
HOURS = 24
PARTITIONS_AT_ONCE = 32
"""Partitions whose oldest record is looked at in one round, those furthest behind first."""


class Retention(Protocol):
    """How long the broker keeps records."""

    def retention(self, topics: Sequence[str]) -> Mapping[str, timedelta | None]:
        """None where the broker does not tell; `timedelta.max` where everything is kept."""
        ...


class Scheduling(Protocol):
    """Dagster's instance."""

    def look(self) -> Scheduler | None:
        """None where no instance is configured. May be slow, and may raise anything that a database raises."""
        ...


@dataclass(frozen=True, slots=True)
class Doors:
    """What the always-on job reaches. Its own clients, with short limits: nothing else waits for them."""

    topics: tuple[str, ...]
    ports: Ports
    peeking: EventLog
    """A second log: `ports.log` is used by one thread at a time, and reading must not hold up watching."""
    retention: Retention
    scheduling: Scheduling | None = None


def ask_kafka(doors: Doors, known: Snapshot | None) -> View:
    """The ledger's word is older than Kafka's, as in `observe.look`: so no head can seem to be ahead of the log."""
    return View(known, observe(doors.topics, doors.ports))


def ask_dynamodb(doors: Doors) -> Snapshot:
    """The heads, and proof that RecentEvents answers: the look-up of an id that no event can have."""
    doors.ports.recent.held(["~"])
    return doors.ports.ledger.snapshot()


def ask_s3(doors: Doors) -> bool:
    """One listing of a folder that is nearly always empty. Whether something was there."""
    return any(True for _ in islice(doors.ports.archive.keys(STAGING), 1))


def ask_figures(doors: Doors) -> Figures:
    ledger, hours = doors.ports.ledger, recent_hours(doors.ports.clock.now(), HOURS)
    return Figures(ledger.counters_by_lane(), ledger.hourly(hours[0], hours[-1]), tuple(ledger.last_batches(LAST_BATCHES)))


def ask_waiting(doors: Doors, lags: Sequence[Lag]) -> Waiting:
    """The first record at or after `next` of every partition that is behind. Offsets without a record are passed over."""
    behind = sorted((lag for lag in lags if lag.stable > lag.next), key=lambda lag: -lag.offsets)[:PARTITIONS_AT_ONCE]
    since = {}
    for lag in behind:
        first = _first_record(doors.peeking, Range(lag.topic_partition, max(lag.next, lag.low), max(lag.stable, lag.low)))
        if first is not None and first.timestamp_ms >= 0:
            since[lag.topic_partition] = datetime.fromtimestamp(first.timestamp_ms / 1000, UTC)
    topics = sorted({lag.topic_partition.topic for lag in lags})
    return Waiting(since, doors.retention.retention(topics) if topics else {})


def _first_record(log: EventLog, range: Range) -> Record | None:
    found: list[Record] = []
    log.read([range], _keep_one(found))
    return found[0] if found else None


def _keep_one(found: list[Record]) -> Callable[[Record], bool]:
    def admit(record: Record) -> bool:
        found.append(record)
        return False

    return admit
