"""Health of each partition, computed once for every answer of the endpoint. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from analytics_defs.core.ingest.planning import PartitionLag, PlanningResult
from analytics_defs.core.ledger import BatchKind, BatchRecord
from analytics_defs.core.monitoring.backlog import (
    Backlog,
    GrowthRate,
    PartitionGrowth,
    StalledSince,
    age_seconds,
    estimate_seconds_until_data_loss,
    next_readable_offset,
)
from analytics_defs.core.monitoring.probe_result import NO_RESULT, ProbeResult
from analytics_defs.core.offsets import TopicPartition


@dataclass(frozen=True, slots=True)
class PartitionHealth:
    """State of one topic-partition at one moment."""

    topic_partition: TopicPartition
    next_offset: int
    log_start_offset: int
    lag: int
    """Offsets that are not closed yet, up to the high watermark."""
    transaction_lag: int
    """Offsets of `lag` that are behind an open transaction."""
    lag_seconds: float | None
    """Age of the oldest waiting record. 0: none is waiting. None: not known."""
    stalled_seconds: float | None
    """Time without a commit although records are waiting. 0: none is waiting. None: not known."""
    seconds_until_data_loss: float | None
    """Time until retention removes the oldest waiting record. Infinite: never. None: not known."""
    halted_reason: str | None
    """Why an operator has to decide before ingestion continues. None: it continues."""


@dataclass(frozen=True, slots=True)
class PartitionReadings:
    """All inputs of `assess_partitions`, read at about the same moment."""

    now: datetime
    planning: PlanningResult
    checkpoints_read_at: datetime | None = None
    """When the checkpoints in `planning` were read."""
    stalled_since: Mapping[TopicPartition, StalledSince] = field(default_factory=dict)
    growth_rate: GrowthRate | None = None
    backlog: ProbeResult[Backlog] = NO_RESULT
    recent_batches: Sequence[BatchRecord] = ()


def assess_partitions(readings: PartitionReadings) -> tuple[PartitionHealth, ...]:
    """Return the health of every partition whose lag is known, in the order of the plan."""
    batch_record_bytes = _mean_record_bytes(readings.recent_batches)
    return tuple(_assess(lag, readings, batch_record_bytes) for lag in readings.planning.lags)


def _assess(lag: PartitionLag, readings: PartitionReadings, batch_record_bytes: float | None) -> PartitionHealth:
    backlog, at = _current_backlog(lag, readings.backlog), lag.topic_partition
    rate = readings.growth_rate.by_partition.get(at) if readings.growth_rate else None
    growth = PartitionGrowth(rate, _record_bytes(lag, readings.backlog.value, batch_record_bytes))
    return PartitionHealth(
        topic_partition=at,
        next_offset=lag.next_offset,
        log_start_offset=lag.log_start_offset,
        lag=lag.offsets,
        transaction_lag=lag.transaction_lag,
        lag_seconds=age_seconds(lag, backlog, readings.now),
        stalled_seconds=_stalled_seconds(lag, readings),
        seconds_until_data_loss=estimate_seconds_until_data_loss(lag, backlog, growth, readings.now),
        halted_reason=readings.planning.halted.get(at),
    )


def _stalled_seconds(lag: PartitionLag, readings: PartitionReadings) -> float | None:
    """Return the time from the last movement of the checkpoint to its newest reading.

    Time after the newest reading does not count: infrequent polling must not look like a stall.
    """
    if not lag.offsets:
        return 0.0
    stall = readings.stalled_since.get(lag.topic_partition)
    if stall is None or stall.next_offset != lag.next_offset or readings.checkpoints_read_at is None:
        return None
    return max(0.0, (readings.checkpoints_read_at - stall.since).total_seconds())


def _current_backlog(lag: PartitionLag, backlog: ProbeResult[Backlog]) -> Backlog | None:
    """Return the backlog as it was read last, or None if it is too old for this partition.

    It is too old if the last attempt failed and the checkpoint has moved since the last success.
    """
    known = backlog.value
    if known is None or backlog.ok:
        return known
    oldest = known.oldest.get(lag.topic_partition)
    return known if oldest is not None and oldest.position == next_readable_offset(lag) else None


def _mean_record_bytes(batches: Sequence[BatchRecord]) -> float | None:
    ingested = [record for record in batches if record.batch.kind is BatchKind.INGEST]
    records = sum(record.outcome_counts.total - record.outcome_counts.gaps - record.outcome_counts.lost for record in ingested)
    return sum(record.bytes for record in ingested) / records if records else None


def _record_bytes(lag: PartitionLag, backlog: Backlog | None, batch_record_bytes: float | None) -> float | None:
    """Return the larger of two sizes: the mean of recent batches, and the oldest waiting record."""
    oldest = backlog.oldest.get(lag.topic_partition) if backlog else None
    waiting = float(oldest.size) if oldest is not None and oldest.since else None
    return max((size for size in (batch_record_bytes, waiting) if size is not None), default=None)
