"""Health of the pipeline: the snapshot that every answer is made from, and the reasons to be unhealthy. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from analytics_defs.core.ingest.planning import PlanningResult, TopicOffsets
from analytics_defs.core.ledger import REDRIVE_CHECKPOINT, BatchRecord, LedgerSnapshot
from analytics_defs.core.monitoring.partition_health import PartitionHealth
from analytics_defs.core.monitoring.probe_result import NO_RESULT, ProbeResult

KAFKA, DYNAMODB, S3 = SERVICES = ("kafka", "dynamodb", "s3")
MAX_PARTITIONS_NAMED = 3
"""Maximum number of partitions that one reason names."""
DAEMON_HEARTBEAT_TIMEOUT = timedelta(minutes=2)
"""Dagster's daemon writes a heartbeat every 30 s."""


@dataclass(frozen=True, slots=True)
class KafkaState:
    """Offsets of all topics, with the ledger snapshot that was read shortly before them."""

    ledger_snapshot: LedgerSnapshot | None
    """None: the ledger has not been read yet."""
    topics: Mapping[str, TopicOffsets | None]
    """Keyed by topic. None: the topic does not exist."""
    checkpoints_read_at: datetime | None = None
    """When `ledger_snapshot` was read."""


@dataclass(frozen=True, slots=True)
class LedgerStatistics:
    """Counters and recent batches of the ledger."""

    lanes: Mapping[int, Mapping[str, int]]
    """Totals by lane. `core.ingest.batch_accounting.counter_increments` defines their names."""
    hours: Mapping[str, Mapping[str, int]]
    """Counters of the last 24 hours. Hours without events are missing."""
    batches: Sequence[BatchRecord]
    """The newest batches, newest first."""


@dataclass(frozen=True, slots=True)
class SchedulerStatus:
    """State of the sensor and of the daemon that start runs in Dagster."""

    sensor_stopped: bool
    heartbeat: datetime | None
    """Newest heartbeat of the daemon that evaluates sensors. None: there has been none."""


@dataclass(frozen=True, slots=True)
class HealthStatus:
    """Reasons to be unhealthy, one sentence each. Without a reason, the status is healthy."""

    reasons: tuple[str, ...] = ()

    @property
    def healthy(self) -> bool:
        return not self.reasons


@dataclass(frozen=True, slots=True)
class HealthSnapshot:
    """Everything that is known at one moment. Each answer, page and metric is formatted from it alone."""

    taken_at: datetime
    stall_timeout: timedelta
    kafka: ProbeResult[object] = NO_RESULT
    dynamodb: ProbeResult[LedgerSnapshot] = NO_RESULT
    s3: ProbeResult[object] = NO_RESULT
    ledger_statistics: ProbeResult[LedgerStatistics] = NO_RESULT
    scheduler: ProbeResult[SchedulerStatus] | None = None
    """None: no Dagster instance is configured."""
    planning: PlanningResult | None = None
    """From the newest offsets and the checkpoints read before them. None: Kafka or the ledger cannot be read now."""
    partitions: tuple[PartitionHealth, ...] = ()
    """Partitions whose lag is known. Empty if `planning` is None: an old lag would be wrong."""
    version: str = ""
    instance: str = ""
    """Name of the process that answers."""

    @property
    def services(self) -> dict[str, ProbeResult[object]]:
        return {KAFKA: self.kafka, DYNAMODB: self.dynamodb, S3: self.s3}

    @property
    def readiness(self) -> HealthStatus:
        """Ready if every service answers. The progress of ingestion is not considered."""
        return HealthStatus(tuple(_service_reasons(self)))

    @property
    def status(self) -> HealthStatus:
        """Healthy if every service answers and ingestion makes progress."""
        return HealthStatus((*_service_reasons(self), *_ingest_reasons(self), *_scheduler_reasons(self)))

    @property
    def ledger_read_age_ms(self) -> int | None:
        """Time since the statistics were last read successfully. None: never."""
        read_at = self.ledger_statistics.succeeded_at
        return None if read_at is None else max(0, round((self.taken_at - read_at).total_seconds() * 1000))

    @property
    def unaccounted_offsets(self) -> int | None:
        """Closed offsets that no outcome explains. None: the checkpoints cannot be read now."""
        ledger_snapshot = self.dynamodb.value
        if ledger_snapshot is None or not self.dynamodb.ok:
            return None
        checkpoints = ledger_snapshot.checkpoints.items()
        return sum(abs(checkpoint.unaccounted) for key, checkpoint in checkpoints if key != REDRIVE_CHECKPOINT)


def _service_reasons(snapshot: HealthSnapshot) -> Iterator[str]:
    for name, result in snapshot.services.items():
        if not result.ok:
            yield f"{name}: {result.error or 'no answer yet'}"


def _ingest_reasons(snapshot: HealthSnapshot) -> Iterator[str]:
    if snapshot.dynamodb.ok and not snapshot.ledger_statistics.ok:
        yield f"counters: {snapshot.ledger_statistics.error or 'no answer yet'}"
    if snapshot.planning is not None:
        yield from snapshot.planning.halted.values()
        yield from snapshot.planning.unavailable.values()
    yield from _stall_reasons(snapshot)


def _stall_reasons(snapshot: HealthSnapshot) -> Iterator[str]:
    """Yield at most one reason. Each partition counts by itself: progress of the others does not hide a stall."""
    timeout = snapshot.stall_timeout.total_seconds()
    stalled = [
        partition for partition in snapshot.partitions if partition.halted_reason is None and (partition.stalled_seconds or 0) > timeout
    ]
    if stalled:
        behind = sum(partition.lag for partition in stalled)
        in_transaction = sum(partition.transaction_lag for partition in stalled)
        why = f", {in_transaction} of them behind an open transaction" if in_transaction else ""
        seconds = min(partition.stalled_seconds or 0 for partition in stalled)
        yield (
            f"stalled: {behind} offsets of {_names(stalled)} are waiting{why}, "
            f"and no batch of theirs closed for {seconds:.0f}s (STALL_TIMEOUT={timeout:.0f}s)"
        )


def _names(partitions: Sequence[PartitionHealth]) -> str:
    names = ", ".join(str(partition.topic_partition) for partition in partitions[:MAX_PARTITIONS_NAMED])
    names += ", …" if len(partitions) > MAX_PARTITIONS_NAMED else ""
    return names if len(partitions) == 1 else f"{len(partitions)} partitions ({names})"


def _scheduler_reasons(snapshot: HealthSnapshot) -> Iterator[str]:
    scheduler = snapshot.scheduler.value if snapshot.scheduler and snapshot.scheduler.ok else None
    if scheduler is None:
        return
    if scheduler.sensor_stopped:
        yield "the sensor kafka_micro_batches is stopped: no runs are requested"
    if scheduler.heartbeat is None:
        yield "Dagster's sensor daemon has never sent a heartbeat: no runs are requested"
    elif (age := snapshot.taken_at - scheduler.heartbeat) > DAEMON_HEARTBEAT_TIMEOUT:
        yield f"Dagster's sensor daemon has sent no heartbeat for {age.total_seconds():.0f}s: no runs are requested"
