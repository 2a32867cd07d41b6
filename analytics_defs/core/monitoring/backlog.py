"""Waiting records of a partition: their age, the growth of the log, and the time until retention removes them. Pure.

A record is waiting while it is in Kafka and not in a closed batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from analytics_defs.core.ingest.planning import PartitionLag
from analytics_defs.core.offsets import TopicPartition

RATE_WINDOW = timedelta(seconds=60)
"""Minimum time between the two readings that a growth rate is computed from."""
RECORD_OVERHEAD_BYTES = 70
"""Maximum bytes that Kafka adds to a record, reached when the record is alone in its record batch."""
UNLIMITED = float("inf")


@dataclass(frozen=True, slots=True)
class TopicRetention:
    """Retention settings of a topic."""

    age: timedelta | None
    """`retention.ms`. None: the broker does not report it. `timedelta.max`: records are kept at any age."""
    size: int | None = None
    """`retention.bytes`, for the log of one partition. None: unlimited."""
    segment: int = 0
    """`segment.bytes`. Retention removes whole segments only."""


@dataclass(frozen=True, slots=True)
class OldestRecord:
    """The first record at or after an offset."""

    position: int
    """The offset at which the search started."""
    since: datetime | None
    """The record's timestamp. None: it has no valid one, or no record could be read."""
    size: int = 0
    """Bytes of key, value and headers."""


@dataclass(frozen=True, slots=True)
class Backlog:
    """The oldest waiting record of each partition, and the retention that will remove it."""

    oldest: Mapping[TopicPartition, OldestRecord] = field(default_factory=dict)
    """Partitions that are behind, except those that were never read."""
    retention: Mapping[str, TopicRetention] = field(default_factory=dict)
    """Keyed by topic. A topic is missing if the broker does not report its settings."""


@dataclass(frozen=True, slots=True)
class StalledSince:
    """A checkpoint that has not moved although records are waiting after it."""

    next_offset: int
    since: datetime


def track_stalls(
    previous: Mapping[TopicPartition, StalledSince], lags: Sequence[PartitionLag], now: datetime
) -> dict[TopicPartition, StalledSince]:
    """Return the time of the last movement of each checkpoint that has waiting records.

    The state is kept in memory: after a restart of the process, the time counts from the first reading.
    """
    stalls = {}
    for lag in lags:
        known = previous.get(lag.topic_partition)
        if lag.offsets:
            unmoved = known is not None and known.next_offset == lag.next_offset
            stalls[lag.topic_partition] = known if known is not None and unmoved else StalledSince(lag.next_offset, now)
    return stalls


@dataclass(frozen=True, slots=True)
class GrowthRate:
    """The growth of each log between two readings that are at least `RATE_WINDOW` apart."""

    at: datetime
    """Time of the newer reading."""
    high_watermarks: Mapping[TopicPartition, int]
    """Values of the newer reading."""
    by_partition: Mapping[TopicPartition, float] = field(default_factory=dict)
    """Offsets per second. Empty until there are two readings."""


def track_growth(previous: GrowthRate | None, lags: Sequence[PartitionLag], now: datetime) -> GrowthRate:
    """Return the new rate, or `previous` unchanged if `RATE_WINDOW` has not passed since then."""
    high_watermarks = {lag.topic_partition: lag.high_watermark for lag in lags}
    if previous is None:
        return GrowthRate(now, high_watermarks)
    if now - previous.at < RATE_WINDOW:
        return previous
    seconds = (now - previous.at).total_seconds()
    rates = {
        topic_partition: max(0, high - previous.high_watermarks[topic_partition]) / seconds
        for topic_partition, high in high_watermarks.items()
        if topic_partition in previous.high_watermarks
    }
    return GrowthRate(now, high_watermarks, rates)


def next_readable_offset(lag: PartitionLag) -> int:
    """Return the oldest waiting offset that retention has not removed."""
    return max(lag.next_offset, lag.log_start_offset)


def age_seconds(lag: PartitionLag, backlog: Backlog | None, at: datetime) -> float | None:
    """Return the age of the oldest waiting record: 0 if none is waiting, None if it is not known."""
    if not lag.offsets:
        return 0.0
    oldest = backlog.oldest.get(lag.topic_partition) if backlog else None
    return max(0.0, (at - oldest.since).total_seconds()) if oldest is not None and oldest.since else None


@dataclass(frozen=True, slots=True)
class PartitionGrowth:
    """The inputs that decide when a log exceeds `retention.bytes`."""

    offsets_per_second: float | None
    """None: not known yet."""
    record_bytes: float | None
    """Mean size of a record without Kafka's overhead. None: not known yet."""


def estimate_seconds_until_data_loss(lag: PartitionLag, backlog: Backlog | None, growth: PartitionGrowth, at: datetime) -> float | None:
    """Return the time until retention removes the oldest waiting record, by its age or by the size of its log.

    The shorter of the two counts. Infinite if nothing is waiting or the topic keeps everything. None if it is not known.
    """
    if not lag.offsets:
        return UNLIMITED
    retention = backlog.retention.get(lag.topic_partition.topic) if backlog else None
    if retention is None or retention.age is None:
        return None
    age = age_seconds(lag, backlog, at)
    if retention.age == timedelta.max:
        by_age: float | None = UNLIMITED
    else:
        by_age = None if age is None else retention.age.total_seconds() - age
    by_size = _seconds_until_size_limit(lag, retention, growth)
    return None if by_age is None or by_size is None else min(by_age, by_size)


def _seconds_until_size_limit(lag: PartitionLag, retention: TopicRetention, growth: PartitionGrowth) -> float | None:
    """Return a lower bound at the current growth rate.

    The size of a log cannot be queried. Its capacity in records is therefore estimated as the larger of two lower bounds:
    the current number of offsets less one segment, and `retention.bytes` divided by the size of a recent record.
    Compression only increases the second one.
    """
    if retention.size is None:
        return UNLIMITED
    if growth.offsets_per_second is None:
        return None
    held = (lag.high_watermark - lag.log_start_offset) * retention.size / max(1, retention.size + retention.segment)
    fit = retention.size / (growth.record_bytes + RECORD_OVERHEAD_BYTES) if growth.record_bytes is not None else 0.0
    room = max(held, fit) - (lag.high_watermark - next_readable_offset(lag))
    if room <= 0:
        return 0.0
    return room / growth.offsets_per_second if growth.offsets_per_second else UNLIMITED
