"""Read-only queries of the health endpoint. The caller decides when each one runs and how long to wait.

probe_kafka            watermarks and group offsets
probe_dynamodb         checkpoints, and one lookup in RecentEvents
probe_object_store     one listing
read_ledger_statistics counters, hourly counters, newest batches
read_backlog           oldest waiting records, and the retention of their topics
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
from analytics_defs.core.monitoring.health import KafkaState, LedgerStatistics, SchedulerStatus
from analytics_defs.core.monitoring.probe_result import ProbeResult
from analytics_defs.core.offsets import Range, Record, TopicPartition
from analytics_defs.core.storage.object_keys import STAGING
from analytics_defs.flows.ingest.planning import read_topic_offsets
from analytics_defs.ports import EventLog, Ports

RECENT_BATCHES = 20
RECENT_HOURS_READ = 24
PARTITIONS_PER_READ = 250
"""Maximum number of partitions whose oldest record is read in one call of `read_backlog`."""
MAX_OFFSET_SEARCHES = 16
"""Maximum number of them whose next offset holds no record. Each of these costs a separate read."""


class TopicRetentionSource(Protocol):
    """Retention settings of the broker."""

    def retention(self, topics: Sequence[str]) -> Mapping[str, TopicRetention]:
        """Return the settings by topic. Topics whose settings the broker does not report are left out."""
        ...


class SchedulerProbe(Protocol):
    """State of Dagster's instance."""

    def scheduler_status(self) -> SchedulerStatus | None:
        """Return the status, or None if no instance is configured.

        The call may be slow and may raise any error of a database driver.
        """
        ...


@dataclass(frozen=True, slots=True)
class HealthClients:
    """Clients of the health endpoint. They have short timeouts and are not shared with ingestion."""

    topics: tuple[str, ...]
    ports: Ports
    backlog_log: EventLog
    """A second event log for `read_backlog`: one event log serves one thread, and reads must not delay `probe_kafka`."""
    retention: TopicRetentionSource
    scheduler: SchedulerProbe | None = None


def probe_kafka(clients: HealthClients, ledger: ProbeResult[LedgerSnapshot]) -> KafkaState:
    """Return the offsets of all topics, read after the checkpoints: no checkpoint can appear to be ahead of its log."""
    return KafkaState(ledger.value, read_topic_offsets(clients.topics, clients.ports), ledger.succeeded_at)


def probe_dynamodb(clients: HealthClients) -> LedgerSnapshot:
    """Return the checkpoints. Raise if the ledger or RecentEvents does not answer."""
    clients.ports.recent_events.get_items(["~"])  # no event can have this id
    return clients.ports.ledger.snapshot()


def probe_object_store(clients: HealthClients) -> bool:
    """Return whether a staging file exists. The listing is short: the folder is nearly always empty."""
    return any(True for _ in islice(clients.ports.object_store.list_keys(STAGING), 1))


def read_ledger_statistics(clients: HealthClients) -> LedgerStatistics:
    ledger, hours = clients.ports.ledger, recent_hours(clients.ports.clock.now(), RECENT_HOURS_READ)
    return LedgerStatistics(
        ledger.counters_by_lane(), ledger.hourly_counters(hours[0], hours[-1]), tuple(ledger.last_batches(RECENT_BATCHES))
    )


def read_backlog(clients: HealthClients, lags: Sequence[PartitionLag], previous: Backlog | None) -> Backlog:
    """Return the oldest waiting record of every partition that is behind.

    Partitions that were never read, or were read longest ago, are read first. The previous record is returned again if the
    checkpoint has not moved, or if the partition is beyond the limit of this call.
    """
    behind = {lag.topic_partition: lag for lag in lags if lag.last_stable_offset > next_readable_offset(lag)}
    known = {key: record for key, record in (previous.oldest if previous else {}).items() if key in behind}
    due = [lag for key, lag in behind.items() if key not in known or known[key].position != next_readable_offset(lag)]
    last_read = {key: order for order, key in enumerate(known)}
    to_read = sorted(due, key=lambda lag: last_read.get(lag.topic_partition, -1))[:PARTITIONS_PER_READ]
    read = _read_oldest(clients.backlog_log, to_read)
    topics = sorted({lag.topic_partition.topic for lag in lags})
    retention = clients.retention.retention(topics) if topics else {}
    # The order of the mapping is the order of reading: what was read now comes last, and is due last.
    return Backlog({key: record for key, record in known.items() if key not in read} | read, retention)


def _read_oldest(log: EventLog, lags: Sequence[PartitionLag]) -> dict[TopicPartition, OldestRecord]:
    """Read one offset of every partition in one call. If that offset holds no record, search the partition by itself."""
    result = log.read([_range_to(lag, next_readable_offset(lag) + 1) for lag in lags], lambda _: True) if lags else None
    records = {record.source.topic_partition: record for record in (result.records if result else ())}
    oldest, searches = {}, 0
    for lag in lags:
        key = lag.topic_partition
        record = records.get(key)
        if record is None and result is not None and key not in result.errors:
            if searches == MAX_OFFSET_SEARCHES:
                continue
            searches += 1
            record = _first_record(log, _range_to(lag, lag.last_stable_offset))
        timestamp_ms = None if record is None else record.valid_timestamp_ms
        since = None if timestamp_ms is None else datetime.fromtimestamp(timestamp_ms / 1000, UTC)
        oldest[key] = OldestRecord(next_readable_offset(lag), since, record.size if record is not None else 0)
    return oldest


def _range_to(lag: PartitionLag, end: int) -> Range:
    return Range(lag.topic_partition, next_readable_offset(lag), end)


def _first_record(log: EventLog, range_: Range) -> Record | None:
    records: list[Record] = []
    log.read([range_], _stop_after_first(records))
    return records[0] if records else None


def _stop_after_first(records: list[Record]) -> Callable[[Record], bool]:
    def admit(record: Record) -> bool:
        records.append(record)
        return False

    return admit
