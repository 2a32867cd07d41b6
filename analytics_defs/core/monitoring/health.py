"""Is it well? What is known of the services and of the work, and the verdict on it. Values and pure functions only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Generic, TypeVar

from analytics_defs.core.ingest.planning import PartitionLag, PlanningResult, TopicOffsets
from analytics_defs.core.ledger import BatchKind, BatchRecord, LedgerSnapshot
from analytics_defs.core.monitoring import backlog
from analytics_defs.core.monitoring.backlog import Backlog, Growth, GrowthRate, StalledSince
from analytics_defs.core.offsets import TopicPartition

T_co = TypeVar("T_co", covariant=True)

KAFKA, DYNAMODB, S3 = SERVICES = ("kafka", "dynamodb", "s3")
MAX_PARTITIONS_NAMED = 3
"""Partitions that a reason names at most."""
DAEMON_HEARTBEAT_TIMEOUT = timedelta(minutes=2)
"""Dagster's daemon writes a heartbeat every 30 s."""


@dataclass(frozen=True, slots=True)
class ProbeResult(Generic[T_co]):
    """What one question brought so far. Asking goes on in the background; this is how it stands at one moment."""

    value: T_co | None = None
    """Of the newest attempt that succeeded; None where none did."""
    error: str | None = None
    """Why the newest attempt failed, or that it does not come back. None: it succeeded."""
    latency_ms: int | None = None
    """Of the newest attempt that came back."""
    age_ms: int | None = None
    """Since the newest attempt came back. None: none did yet."""
    succeeded_at: datetime | None = None
    """When `value` was true."""

    @property
    def ok(self) -> bool:
        return self.error is None and self.succeeded_at is not None


@dataclass(frozen=True, slots=True)
class KafkaState:
    """What Kafka said, and what the ledger had said shortly before."""

    snapshot: LedgerSnapshot | None
    """None where the ledger never answered."""
    topics: Mapping[str, TopicOffsets | None]
    checkpoints_read_at: datetime | None = None
    """When the ledger had said that."""


@dataclass(frozen=True, slots=True)
class LedgerStatistics:
    """What the ledger counted."""

    lanes: Mapping[int, Mapping[str, int]]
    """Totals by lane; the names are those of `core.ingest.batch_accounting.counter_increments`."""
    hours: Mapping[str, Mapping[str, int]]
    """Counters of the last 24 hours that have any."""
    batches: Sequence[BatchRecord]
    """The newest ones, newest first."""


@dataclass(frozen=True, slots=True)
class SchedulerStatus:
    """What Dagster's instance says of those who start the runs."""

    sensor_stopped: bool
    heartbeat: datetime | None
    """The newest sign of life of the daemon that evaluates sensors; None where there never was one."""


@dataclass(frozen=True, slots=True)
class HealthSnapshot:
    """Everything that is known at one moment. What every answer, page and metric is made from."""

    taken_at: datetime
    stall_timeout: timedelta
    kafka: ProbeResult[object] = ProbeResult()
    dynamodb: ProbeResult[LedgerSnapshot] = ProbeResult()
    s3: ProbeResult[object] = ProbeResult()
    ledger_statistics: ProbeResult[LedgerStatistics] = ProbeResult()
    backlog: ProbeResult[Backlog] = ProbeResult()
    scheduler: ProbeResult[SchedulerStatus] | None = None
    """None: Dagster's instance is not to be asked."""
    planning: PlanningResult | None = None
    """From the newest watermarks and the snapshot before them; None where Kafka does not answer: an old lag is none."""
    stalled_since: Mapping[TopicPartition, StalledSince] = field(default_factory=dict)
    """The heads that stand still although something waits."""
    checkpoints_read_at: datetime | None = None
    """When the heads were read that this is about: nobody who looks seldom may call a head still that was not looked at."""
    growth_rate: GrowthRate | None = None
    version: str = ""
    instance: str = ""
    """Which process answers."""

    @property
    def services(self) -> dict[str, ProbeResult[object]]:
        return {KAFKA: self.kafka, DYNAMODB: self.dynamodb, S3: self.s3}

    @property
    def ledger_read_age_ms(self) -> int | None:
        """Since the ledger was last read, whatever was tried after that."""
        read_at = self.ledger_statistics.succeeded_at
        return None if read_at is None else max(0, round((self.taken_at - read_at).total_seconds() * 1000))

    @property
    def lags(self) -> Sequence[PartitionLag]:
        return self.planning.lags if self.planning else ()


@dataclass(frozen=True, slots=True)
class HealthStatus:
    """Well, or why not: one sentence for each reason."""

    reasons: tuple[str, ...] = field(default=())

    @property
    def healthy(self) -> bool:
        return not self.reasons


def readiness(picture: HealthSnapshot) -> HealthStatus:
    """Ready: every service the work needs answers. A fault of ours in the work itself is not looked at."""
    return HealthStatus(tuple(f"{name}: {each.error or 'no answer yet'}" for name, each in picture.services.items() if not each.ok))


def evaluate_health(picture: HealthSnapshot) -> HealthStatus:
    """Healthy: every service answers, and the work gets done."""
    return HealthStatus((*readiness(picture).reasons, *_work(picture)))


def _work(picture: HealthSnapshot) -> Iterator[str]:
    if picture.dynamodb.ok and not picture.ledger_statistics.ok:
        yield f"counters: {picture.ledger_statistics.error or 'no answer yet'}"
    if picture.planning is not None:
        yield from picture.planning.halted.values()
        yield from picture.planning.unavailable.values()
        yield from _stalled(picture, picture.planning)
    scheduler = picture.scheduler.value if picture.scheduler and picture.scheduler.ok else None
    if scheduler is not None:
        if scheduler.sensor_stopped:
            yield "the sensor kafka_micro_batches is stopped: no run is asked for"
        if scheduler.heartbeat is None:
            yield "Dagster's sensor daemon never gave a sign of life: no run is asked for"
        elif (silent := picture.taken_at - scheduler.heartbeat) > DAEMON_HEARTBEAT_TIMEOUT:
            yield f"Dagster's sensor daemon gave no sign of life for {_seconds(silent)}: no run is asked for"


def _stalled(picture: HealthSnapshot, planning: PlanningResult) -> Iterator[str]:
    """By partition: one that waits is not well because the others get on."""
    stuck = [
        lag
        for lag in planning.lags
        if lag.topic_partition not in planning.halted and (seconds_stalled(lag, picture) or 0) > picture.stall_timeout.total_seconds()
    ]
    if stuck:
        names = ", ".join(str(lag.topic_partition) for lag in stuck[:MAX_PARTITIONS_NAMED]) + (
            ", …" if len(stuck) > MAX_PARTITIONS_NAMED else ""
        )
        where = names if len(stuck) == 1 else f"{len(stuck)} partitions ({names})"
        held = sum(lag.transaction_lag for lag in stuck)
        why = f", {held} of them behind an open transaction" if held else ""
        for_seconds = min(seconds_stalled(lag, picture) or 0 for lag in stuck)
        limit = f"STALL_TIMEOUT={_seconds(picture.stall_timeout)}"
        behind = sum(lag.offsets for lag in stuck)
        yield f"stalled: {behind} offsets of {where} wait{why}, and nothing was committed there for {for_seconds:.0f}s ({limit})"


def seconds_stalled(lag: PartitionLag, picture: HealthSnapshot) -> float | None:
    """How long nothing of the partition was committed although something waits, as far as the heads were read. 0 where nothing waits; None
    where it is not known.
    """
    if not lag.offsets:
        return 0.0
    stand = picture.stalled_since.get(lag.topic_partition)
    if stand is None or stand.next != lag.next_offset or picture.checkpoints_read_at is None:
        return None
    return max(0.0, (picture.checkpoints_read_at - stand.since).total_seconds())


def lag_seconds(lag: PartitionLag, picture: HealthSnapshot) -> float | None:
    """Age of the oldest record that waits. 0 where nothing waits; None where it is not known."""
    return backlog.age_seconds(lag, _known(lag, picture), picture.taken_at)


def seconds_until_data_loss(lag: PartitionLag, picture: HealthSnapshot) -> float | None:
    """Until retention removes the oldest record that waits. Infinite where none waits or all is kept; None where it is not known."""
    pace = picture.growth_rate.by_partition.get(lag.topic_partition) if picture.growth_rate else None
    return backlog.estimate_seconds_until_data_loss(lag, _known(lag, picture), Growth(pace, _record_bytes(lag, picture)), picture.taken_at)


def _known(lag: PartitionLag, picture: HealthSnapshot) -> Backlog | None:
    """What Kafka told of the records that wait. Once it does not tell any more, that of a head that moved on is too old."""
    known = picture.backlog.value
    if known is None or picture.backlog.ok:
        return known
    found = known.oldest.get(lag.topic_partition)
    return known if found is not None and found.position == backlog.next_readable_offset(lag) else None


def _record_bytes(lag: PartitionLag, picture: HealthSnapshot) -> float | None:
    """Of the records of the newest batches, or of the one that waits, whichever is larger."""
    batches = [
        each
        for each in (picture.ledger_statistics.value.batches if picture.ledger_statistics.value else ())
        if each.batch.kind is BatchKind.INGEST
    ]
    records = sum(each.tally.total - each.tally.gaps - each.tally.lost for each in batches)
    oldest = picture.backlog.value.oldest.get(lag.topic_partition) if picture.backlog.value else None
    sizes = [sum(each.bytes for each in batches) / records] if records else []
    sizes += [float(oldest.size)] if oldest is not None and oldest.since else []
    return max(sizes, default=None)


def _seconds(duration: timedelta) -> str:
    return f"{duration.total_seconds():.0f}s"
