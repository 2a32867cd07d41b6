"""Age of waiting records, growth of their logs, and the time until retention removes them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from analytics_defs.core.ingest.planning import PartitionLag
from analytics_defs.core.monitoring.backlog import (
    RATE_WINDOW,
    Backlog,
    OldestRecord,
    PartitionGrowth,
    TopicRetention,
    estimate_seconds_until_data_loss,
    track_growth,
    track_stalls,
)
from analytics_defs.core.offsets import TopicPartition

NOW = datetime(2024, 1, 15, 12, tzinfo=UTC)
FIRST, SECOND = TopicPartition("T", 0, 0), TopicPartition("T", 0, 1)
HOUR = timedelta(hours=1)


def lag(next_offset: int, high: int, low: int = 0, at: TopicPartition = FIRST) -> PartitionLag:
    return PartitionLag(at, next_offset, high, high, low, next_offset)


def test_a_stall_counts_from_the_last_move_of_the_checkpoint_while_records_wait() -> None:
    stalls = track_stalls({}, [lag(10, 20), lag(3, 9, at=SECOND)], NOW)
    later = NOW + timedelta(minutes=1)
    stalls = track_stalls(stalls, [lag(10, 30), lag(4, 9, at=SECOND)], later)
    assert (stalls[FIRST].since, stalls[SECOND].since) == (NOW, later)
    assert track_stalls(stalls, [lag(30, 30), lag(9, 9, at=SECOND)], later) == {}


def test_a_growth_rate_is_measured_over_a_minute_and_kept_until_the_next() -> None:
    first = track_growth(None, [lag(0, 100)], NOW)
    assert first.by_partition == {}
    assert track_growth(first, [lag(0, 500)], NOW + RATE_WINDOW - timedelta(seconds=1)) is first
    second = track_growth(first, [lag(0, 700), lag(0, 50, at=SECOND)], NOW + RATE_WINDOW)
    assert second.by_partition == {FIRST: 10.0}
    third = track_growth(second, [lag(0, 700), lag(0, 50, at=SECOND)], NOW + RATE_WINDOW * 2)
    assert third.by_partition == {FIRST: 0.0, SECOND: 0.0}
    shorter = track_growth(third, [lag(0, 5)], NOW + RATE_WINDOW * 3)  # a recreated topic, or a truncated log
    assert shorter.by_partition == {FIRST: 0.0}


def seconds_left(lag: PartitionLag, retention: TopicRetention, growth: PartitionGrowth, age: timedelta = HOUR) -> float | None:
    backlog = Backlog({FIRST: OldestRecord(lag.next_offset, NOW - age)}, {"T": retention})
    return estimate_seconds_until_data_loss(lag, backlog, growth, NOW)


@pytest.mark.parametrize(
    ("lag", "growth", "seconds"),
    [
        # A new log: 10,000 bytes have room for 100 records of 30 + 70 bytes. 20 are waiting, two arrive per second.
        (lag(0, 20), PartitionGrowth(2.0, 30.0), 40.0),
        # A log with removed segments: 1,000 offsets in at most 10,000 bytes and a segment of 2,500 are 800 in 10,000.
        (lag(5_500, 6_000, low=5_000), PartitionGrowth(1.0, 30.0), 300.0),
        # The size of records is not known: the estimate uses the offsets in the log alone.
        (lag(5_500, 6_000, low=5_000), PartitionGrowth(1.0, None), 300.0),
        # More records are waiting than there is room for.
        (lag(5_000, 6_000, low=5_000), PartitionGrowth(1.0, 30.0), 0.0),
        # No records arrive: only the age counts.
        (lag(0, 20), PartitionGrowth(0.0, 30.0), 23 * 3600.0),
        (lag(0, 20), PartitionGrowth(None, 30.0), None),
        (lag(20, 20), PartitionGrowth(None, None), float("inf")),
    ],
    ids=["new log", "removed segments", "unknown record size", "no room", "no growth", "unknown growth", "nothing waits"],
)
def test_the_size_limit_leaves_seconds_at_the_current_growth_rate(
    lag: PartitionLag, growth: PartitionGrowth, seconds: float | None
) -> None:
    assert seconds_left(lag, TopicRetention(timedelta(days=1), 10_000, 2_500), growth) == seconds


def test_the_first_of_both_limits_counts() -> None:
    both = TopicRetention(timedelta(minutes=61), 10_000)
    assert seconds_left(lag(0, 20), both, PartitionGrowth(0.1, 30.0)) == 60
    assert seconds_left(lag(0, 20), both, PartitionGrowth(2.0, 30.0)) == 40
    assert seconds_left(lag(0, 20), TopicRetention(timedelta.max, 10_000), PartitionGrowth(2.0, 30.0)) == 40
    assert seconds_left(lag(0, 20), TopicRetention(timedelta.max), PartitionGrowth(None, None)) == float("inf")


def test_without_the_broker_s_retention_the_time_is_not_known() -> None:
    backlog, growth = Backlog({FIRST: OldestRecord(0, NOW)}, {}), PartitionGrowth(2.0, 30.0)
    assert estimate_seconds_until_data_loss(lag(0, 20), backlog, growth, NOW) is None
    assert seconds_left(lag(0, 20), TopicRetention(None, 10_000), growth) is None
