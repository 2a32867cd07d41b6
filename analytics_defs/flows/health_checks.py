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
from analytics_defs.core.ingest.planning import PartitionLag
from analytics_defs.core.ledger import LedgerSnapshot
from analytics_defs.core.monitoring.backlog import Backlog, OldestRecord, TopicRetention, next_readable_offset
from analytics_defs.core.monitoring.health import KafkaState, LedgerStatistics, ProbeResult, SchedulerStatus
from analytics_defs.core.offsets import Range, Record, TopicPartition
from analytics_defs.core.storage.object_keys import STAGING
from analytics_defs.flows.ingest.planning import read_topic_offsets
from analytics_defs.ports import EventLog, Ports

RECENT_BATCHES = 20
RECENT_HOURS_READ = 24
PARTITIONS_AT_ONCE = 250
"""Partitions whose oldest record is looked at in one round."""
MAX_OFFSET_SEARCHES = 16
"""Of them those whose next offset holds no record: each costs a reading of its own."""


class RetentionSource(Protocol):
    """How long the broker keeps records."""

    def retention(self, topics: Sequence[str]) -> Mapping[str, TopicRetention]:
        """By topic, where the broker tells."""
        ...


class SchedulerProbe(Protocol):
    """Dagster's instance."""

    def scheduler_status(self) -> SchedulerStatus | None:
        """None where no instance is configured. May be slow, and may raise anything that a database raises."""
        ...


@dataclass(frozen=True, slots=True)
class HealthClients:
    """What the always-on job reaches. Its own clients, with short limits: nothing else waits for them."""

    topics: tuple[str, ...]
    ports: Ports
    lag_reader: EventLog
    """A second log: `ports.log` is used by one thread at a time, and reading must not hold up watching."""
    retention: RetentionSource
    scheduling: SchedulerProbe | None = None


def probe_kafka(doors: HealthClients, known: ProbeResult[LedgerSnapshot]) -> KafkaState:
    """The ledger's word is older than Kafka's, as in `observe.look`: so no head can seem to be ahead of the log."""
    return KafkaState(known.value, read_topic_offsets(doors.topics, doors.ports), known.succeeded_at)


def probe_dynamodb(doors: HealthClients) -> LedgerSnapshot:
    """The heads, and proof that RecentEvents answers: the look-up of an id that no event can have."""
    doors.ports.recent_events.get_items(["~"])
    return doors.ports.ledger.snapshot()


def probe_object_store(doors: HealthClients) -> bool:
    """One listing of a folder that is nearly always empty. Whether something was there."""
    return any(True for _ in islice(doors.ports.object_store.list_keys(STAGING), 1))


def read_ledger_statistics(doors: HealthClients) -> LedgerStatistics:
    ledger, hours = doors.ports.ledger, recent_hours(doors.ports.clock.now(), RECENT_HOURS_READ)
    return LedgerStatistics(
        ledger.counters_by_lane(), ledger.hourly_counters(hours[0], hours[-1]), tuple(ledger.last_batches(RECENT_BATCHES))
    )


def read_backlog(doors: HealthClients, lags: Sequence[PartitionLag], before: Backlog | None) -> Backlog:
    """The first record at or after `next` of every partition that is behind, those first that were never looked at, or longest ago.

    What was found before is told again while the head stands where it stood, and of partitions whose turn has not come.
    """
    behind = {lag.topic_partition: lag for lag in lags if lag.last_stable_offset > next_readable_offset(lag)}
    known = {each: found for each, found in (before.oldest if before else {}).items() if each in behind}
    due = [lag for each, lag in behind.items() if each not in known or known[each].position != next_readable_offset(lag)]
    turns = {each: turn for turn, each in enumerate(known)}
    turn = sorted(due, key=lambda lag: turns.get(lag.topic_partition, -1))[:PARTITIONS_AT_ONCE]
    looked_at = _oldest(doors.lag_reader, turn)
    topics = sorted({lag.topic_partition.topic for lag in lags})
    kept = doors.retention.retention(topics) if topics else {}
    # Those looked at now come last, and so have their next turn last.
    return Backlog({each: found for each, found in known.items() if each not in looked_at} | looked_at, kept)


def _oldest(log: EventLog, lags: Sequence[PartitionLag]) -> dict[TopicPartition, OldestRecord]:
    """All partitions in one reading of one offset each; where that offset holds no record, one by one over what follows."""
    at_once = log.read([_from(lag, next_readable_offset(lag) + 1) for lag in lags], lambda _: True) if lags else None
    records = {record.source.topic_partition: record for record in (at_once.records if at_once else ())}
    found, searched = {}, 0
    for lag in lags:
        each = lag.topic_partition
        record = records.get(each)
        if record is None and at_once is not None and each not in at_once.errors:
            if searched == MAX_OFFSET_SEARCHES:
                continue
            searched += 1
            record = _first_record(log, _from(lag, lag.last_stable_offset))
        since = datetime.fromtimestamp(record.timestamp_ms / 1000, UTC) if record is not None and record.timestamp_ms >= 0 else None
        found[each] = OldestRecord(next_readable_offset(lag), since, record.size if record is not None else 0)
    return found


def _from(lag: PartitionLag, end: int) -> Range:
    return Range(lag.topic_partition, next_readable_offset(lag), end)


def _first_record(log: EventLog, range: Range) -> Record | None:
    found: list[Record] = []
    log.read([range], _keep_one(found))
    return found[0] if found else None


def _keep_one(found: list[Record]) -> Callable[[Record], bool]:
    def admit(record: Record) -> bool:
        found.append(record)
        return False

    return admit
