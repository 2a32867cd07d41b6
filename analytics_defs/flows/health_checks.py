"""What the always-on job asks, each question by itself and read-only: whoever asks decides when, and how long to wait.

kafka ──► watermarks, group offsets        dynamodb ──► heads, and one look into RecentEvents
figures ──► counters, hours, last batches  s3 ──► one listing
waiting ──► the oldest unread records and how long the broker keeps them
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Protocol

from analytics_defs.core.ingest.batch_accounting import recent_hours
from analytics_defs.core.ingest.planning import Lag
from analytics_defs.core.ledger import Snapshot
from analytics_defs.core.monitoring.backlog import Kept, Oldest, Waiting, position
from analytics_defs.core.monitoring.health import Answer, Figures, Scheduler, View
from analytics_defs.core.offsets import Range, Record, TopicPartition
from analytics_defs.core.storage.object_keys import STAGING
from analytics_defs.flows.ingest.planning import observe
from analytics_defs.ports import EventLog, Ports

LAST_BATCHES = 20
HOURS = 24
PARTITIONS_AT_ONCE = 250
"""Partitions whose oldest record is looked at in one round."""
SEARCHES = 16
"""Of them those whose next offset holds no record: each costs a reading of its own."""


class Retention(Protocol):
    """How long the broker keeps records."""

    def retention(self, topics: Sequence[str]) -> Mapping[str, Kept]:
        """By topic, where the broker tells."""
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


def ask_kafka(doors: Doors, known: Answer[Snapshot]) -> View:
    """The ledger's word is older than Kafka's, as in `observe.look`: so no head can seem to be ahead of the log."""
    return View(known.value, observe(doors.topics, doors.ports), known.succeeded_at)


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


def ask_waiting(doors: Doors, lags: Sequence[Lag], before: Waiting | None) -> Waiting:
    """The first record at or after `next` of every partition that is behind, those first that were never looked at, or longest ago.

    What was found before is told again while the head stands where it stood, and of partitions whose turn has not come.
    """
    behind = {lag.topic_partition: lag for lag in lags if lag.stable > position(lag)}
    known = {each: found for each, found in (before.oldest if before else {}).items() if each in behind}
    due = [lag for each, lag in behind.items() if each not in known or known[each].position != position(lag)]
    turns = {each: turn for turn, each in enumerate(known)}
    turn = sorted(due, key=lambda lag: turns.get(lag.topic_partition, -1))[:PARTITIONS_AT_ONCE]
    looked_at = _oldest(doors.peeking, turn)
    topics = sorted({lag.topic_partition.topic for lag in lags})
    kept = doors.retention.retention(topics) if topics else {}
    # Those looked at now come last, and so have their next turn last.
    return Waiting({each: found for each, found in known.items() if each not in looked_at} | looked_at, kept)


def _oldest(log: EventLog, lags: Sequence[Lag]) -> dict[TopicPartition, Oldest]:
    """All partitions in one reading of one offset each; where that offset holds no record, one by one over what follows."""
    at_once = log.read([_from(lag, position(lag) + 1) for lag in lags], lambda _: True) if lags else None
    records = {record.source.topic_partition: record for record in (at_once.records if at_once else ())}
    found, searched = {}, 0
    for lag in lags:
        each = lag.topic_partition
        record = records.get(each)
        if record is None and at_once is not None and each not in at_once.faults:
            if searched == SEARCHES:
                continue
            searched += 1
            record = _first_record(log, _from(lag, lag.stable))
        since = datetime.fromtimestamp(record.timestamp_ms / 1000, UTC) if record is not None and record.timestamp_ms >= 0 else None
        found[each] = Oldest(position(lag), since, record.size if record is not None else 0)
    return found


def _from(lag: Lag, end: int) -> Range:
    return Range(lag.topic_partition, position(lag), end)


def _first_record(log: EventLog, range: Range) -> Record | None:
    found: list[Record] = []
    log.read([range], _keep_one(found))
    return found[0] if found else None


def _keep_one(found: list[Record]) -> Callable[[Record], bool]:
    def admit(record: Record) -> bool:
        found.append(record)
        return False

    return admit
