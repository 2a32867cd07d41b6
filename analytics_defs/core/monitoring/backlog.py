"""What waits to be read: since when, how fast it grows, and how long the broker keeps it. Values and pure functions only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from analytics_defs.core.ingest.planning import PartitionLag
from analytics_defs.core.offsets import TopicPartition

RATE_WINDOW = timedelta(seconds=60)
"""A pace is measured over so long at least."""
RECORD_OVERHEAD_BYTES = 70
"""Bytes that Kafka adds to a record at most, when it is alone in its record batch."""
UNLIMITED = float("inf")


@dataclass(frozen=True, slots=True)
class TopicRetention:
    """How long the broker keeps the records of a topic."""

    age: timedelta | None
    """None where it does not tell; `timedelta.max`: however old."""
    size: int | None = None
    """Bytes of one partition's log; None: however large."""
    segment: int = 0
    """Bytes of one segment: only whole ones are removed."""


@dataclass(frozen=True, slots=True)
class OldestRecord:
    """The first record at or after an offset."""

    position: int
    since: datetime | None
    """The record's own timestamp. None where it carries none, or no record can be read there."""
    size: int = 0
    """Bytes of its key, value and headers."""


@dataclass(frozen=True, slots=True)
class Backlog:
    """What Kafka tells of that which waits."""

    oldest: Mapping[TopicPartition, OldestRecord] = field(default_factory=dict)
    """Of the partitions that are behind, as far as they were looked at."""
    kept: Mapping[str, TopicRetention] = field(default_factory=dict)
    """By topic, where the broker tells."""


@dataclass(frozen=True, slots=True)
class StalledSince:
    """A head that stands still although something waits behind it."""

    next: int
    since: datetime


def track_stalls(
    before: Mapping[TopicPartition, StalledSince], lags: Sequence[PartitionLag], now: datetime
) -> dict[TopicPartition, StalledSince]:
    """Since when each head stands where it stands, of those where something waits.

    It remembers within one process only: after a restart the time counts from then.
    """
    found = {}
    for lag in lags:
        known = before.get(lag.topic_partition)
        if lag.offsets:
            found[lag.topic_partition] = (
                known if known is not None and known.next == lag.next_offset else StalledSince(lag.next_offset, now)
            )
    return found


@dataclass(frozen=True, slots=True)
class GrowthRate:
    """How fast the logs grow: measured between two looks, at least `RATE_WINDOW` apart."""

    at: datetime
    """The newer look."""
    highs: Mapping[TopicPartition, int]
    """Its high watermarks."""
    by_partition: Mapping[TopicPartition, float] = field(default_factory=dict)
    """Offsets a second; empty until there were two looks."""


def track_growth(before: GrowthRate | None, lags: Sequence[PartitionLag], now: datetime) -> GrowthRate:
    highs = {lag.topic_partition: lag.high_watermark for lag in lags}
    if before is None:
        return GrowthRate(now, highs)
    if now - before.at < RATE_WINDOW:
        return before
    seconds = (now - before.at).total_seconds()
    grown = {each: max(0, high - before.highs[each]) / seconds for each, high in highs.items() if each in before.highs}
    return GrowthRate(now, highs, grown)


def next_readable_offset(lag: PartitionLag) -> int:
    """The oldest offset that waits and is still there."""
    return max(lag.next_offset, lag.log_start_offset)


def age_seconds(lag: PartitionLag, waiting: Backlog | None, at: datetime) -> float | None:
    """Age of the oldest record that waits. 0 where nothing waits; None where it is not known."""
    if not lag.offsets:
        return 0.0
    found = waiting.oldest.get(lag.topic_partition) if waiting else None
    return max(0.0, (at - found.since).total_seconds()) if found is not None and found.since else None


@dataclass(frozen=True, slots=True)
class Growth:
    """What decides when a log is too large."""

    pace: float | None
    """Offsets a second; None while it is not known."""
    record_bytes: float | None
    """Of a record as its producer made it, without what Kafka adds; None while it is not known."""


def estimate_seconds_until_data_loss(lag: PartitionLag, waiting: Backlog | None, growth: Growth, at: datetime) -> float | None:
    """Until retention removes the oldest record that waits: by its age or by the size of its log, whichever comes first.

    Infinite where nothing waits or the topic keeps everything; None where it is not known.
    """
    if not lag.offsets:
        return UNLIMITED
    kept = waiting.kept.get(lag.topic_partition.topic) if waiting else None
    if waiting is None or kept is None or kept.age is None:
        return None
    age = age_seconds(lag, waiting, at)
    if kept.age == timedelta.max:
        by_age: float | None = UNLIMITED
    else:
        by_age = None if age is None else kept.age.total_seconds() - age
    by_size = _seconds_by_size(lag, kept, growth)
    return None if by_age is None or by_size is None else min(by_age, by_size)


def _seconds_by_size(lag: PartitionLag, kept: TopicRetention, growth: Growth) -> float | None:
    """At the earliest, at the pace of now.

    The broker tells the limit, and no client of ours asks it for a log's size. But what is in the log now has room in it, but for
    the segment that is full and about to go; and so have records enough of the size of those read lately, which compression only
    makes more. The larger of the two is sure.
    """
    if kept.size is None:
        return UNLIMITED
    if growth.pace is None:
        return None
    held = (lag.high_watermark - lag.log_start_offset) * kept.size / max(1, kept.size + kept.segment)
    fit = kept.size / (growth.record_bytes + RECORD_OVERHEAD_BYTES) if growth.record_bytes is not None else 0.0
    room = max(held, fit) - (lag.high_watermark - next_readable_offset(lag))
    if room <= 0:
        return 0.0
    return room / growth.pace if growth.pace else UNLIMITED
