"""How long what waits has waited, how fast it grows, and how long the broker keeps it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from analytics_defs.core.ingest.planning import PartitionLag
from analytics_defs.core.monitoring.backlog import (
    RATE_WINDOW,
    Backlog,
    Growth,
    OldestRecord,
    TopicRetention,
    estimate_seconds_until_data_loss,
    track_growth,
    track_stalls,
)
from analytics_defs.core.offsets import TopicPartition

NOW = datetime(2024, 1, 15, 12, tzinfo=UTC)
AT, OTHER = TopicPartition("T", 0, 0), TopicPartition("T", 0, 1)
HOUR = timedelta(hours=1)


def lag(next: int, high: int, low: int = 0, at: TopicPartition = AT) -> PartitionLag:
    return PartitionLag(at, next, high, high, low, next)


def test_the_time_counts_from_the_last_move_of_each_head_and_only_while_something_waits() -> None:
    first = track_stalls({}, [lag(10, 20), lag(3, 9, at=OTHER)], NOW)
    later = NOW + timedelta(minutes=1)
    second = track_stalls(first, [lag(10, 30), lag(4, 9, at=OTHER)], later)
    assert (second[AT].since, second[OTHER].since) == (NOW, later)
    assert track_stalls(second, [lag(30, 30), lag(9, 9, at=OTHER)], later) == {}


def test_a_pace_is_measured_over_a_minute_and_kept_until_the_next() -> None:
    first = track_growth(None, [lag(0, 100)], NOW)
    assert first.by_partition == {}
    assert track_growth(first, [lag(0, 500)], NOW + RATE_WINDOW - timedelta(seconds=1)) is first
    second = track_growth(first, [lag(0, 700), lag(0, 50, at=OTHER)], NOW + RATE_WINDOW)
    assert second.by_partition == {AT: 10.0}
    third = track_growth(second, [lag(0, 700), lag(0, 50, at=OTHER)], NOW + RATE_WINDOW * 2)
    assert third.by_partition == {AT: 0.0, OTHER: 0.0}
    again = track_growth(third, [lag(0, 5)], NOW + RATE_WINDOW * 3)  # another topic of that name, or a log that was cut
    assert again.by_partition == {AT: 0.0}


def loss(lag: PartitionLag, kept: TopicRetention, growth: Growth, age: timedelta = HOUR) -> float | None:
    return estimate_seconds_until_data_loss(lag, Backlog({AT: OldestRecord(lag.next_offset, NOW - age)}, {"T": kept}), growth, NOW)


@pytest.mark.parametrize(
    ("lag", "growth", "seconds"),
    [
        # A young log: 10,000 bytes are room for 100 records of 30 + 70 bytes, 20 wait, two come each second.
        (lag(0, 20), Growth(2.0, 30.0), 40.0),
        # A log that removed something holds 1,000 offsets in at most 10,000 bytes and a segment of 2,500: 800 in 10,000.
        (lag(5_500, 6_000, low=5_000), Growth(1.0, 30.0), 300.0),
        # Nothing is known of the size of records: what the log holds is sure.
        (lag(5_500, 6_000, low=5_000), Growth(1.0, None), 300.0),
        # More waits than there is room for.
        (lag(5_000, 6_000, low=5_000), Growth(1.0, 30.0), 0.0),
        # Nothing comes: only its age removes it.
        (lag(0, 20), Growth(0.0, 30.0), 23 * 3600.0),
        (lag(0, 20), Growth(None, 30.0), None),
        (lag(20, 20), Growth(None, None), float("inf")),
    ],
)
def test_the_size_of_a_log_leaves_so_many_seconds_at_the_pace_of_now(lag: PartitionLag, growth: Growth, seconds: float | None) -> None:
    assert loss(lag, TopicRetention(timedelta(days=1), 10_000, 2_500), growth) == seconds


def test_whichever_comes_first_removes_it() -> None:
    roomy = TopicRetention(timedelta(minutes=61), 10_000)
    assert loss(lag(0, 20), roomy, Growth(0.1, 30.0)) == 60
    assert loss(lag(0, 20), roomy, Growth(2.0, 30.0)) == 40
    assert loss(lag(0, 20), TopicRetention(timedelta.max, 10_000), Growth(2.0, 30.0)) == 40
    assert loss(lag(0, 20), TopicRetention(timedelta.max), Growth(None, None)) == float("inf")


def test_nothing_is_said_where_the_broker_tells_nothing() -> None:
    assert estimate_seconds_until_data_loss(lag(0, 20), Backlog({AT: OldestRecord(0, NOW)}, {}), Growth(2.0, 30.0), NOW) is None
    assert loss(lag(0, 20), TopicRetention(None, 10_000), Growth(2.0, 30.0)) is None
