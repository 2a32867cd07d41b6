"""Health of one partition: lag in seconds, stalls, and the time until data loss, each with what is not known."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from analytics_defs.core.ingest.planning import PartitionLag, PlanningResult
from analytics_defs.core.ledger import LedgerSnapshot
from analytics_defs.core.monitoring.backlog import Backlog, GrowthRate, OldestRecord, StalledSince, TopicRetention
from analytics_defs.core.monitoring.partition_health import PartitionHealth, PartitionReadings, assess_partitions
from analytics_defs.core.monitoring.probe_result import NO_RESULT, ProbeResult
from analytics_defs.core.offsets import TopicPartition

NOW = datetime(2024, 1, 15, 12, tzinfo=UTC)
AT = TopicPartition("ProductDeleted", 0, 0)
DAY = TopicRetention(timedelta(days=1))


def lag(next_offset: int = 10, high: int = 10) -> PartitionLag:
    return PartitionLag(AT, next_offset, high, high, 0, next_offset)


def assess(lag: PartitionLag, **changes: object) -> PartitionHealth:
    planning = PlanningResult(LedgerSnapshot({}, {}), (), (lag,))
    readings = replace(PartitionReadings(NOW, planning, NOW), **changes)  # type: ignore[arg-type]
    [partition] = assess_partitions(readings)
    return partition


def backlog(age: timedelta | None, retention: TopicRetention | None, position: int = 10) -> ProbeResult[Backlog]:
    oldest = {} if age is None else {AT: OldestRecord(position, NOW - age, 30)}
    return ProbeResult(Backlog(oldest, {} if retention is None else {AT.topic: retention}), None, 3, 100, NOW)


def test_offsets_come_from_the_plan() -> None:
    partition = assess(PartitionLag(AT, 12, 20, 17, 3, 12))
    assert (partition.topic_partition, partition.next_offset, partition.log_start_offset) == (AT, 12, 3)
    assert (partition.lag, partition.transaction_lag) == (8, 3)


def test_only_a_halted_partition_has_a_reason() -> None:
    planning = PlanningResult(LedgerSnapshot({}, {}), (), (lag(),), halted={AT: "recreated"})
    assert assess(lag(), planning=planning).halted_reason == "recreated"
    assert assess(lag()).halted_reason is None


def test_a_stall_is_not_known_before_the_checkpoint_was_seen_unmoved() -> None:
    stalled_since = {AT: StalledSince(10, NOW - timedelta(seconds=7))}
    assert assess(lag()).stalled_seconds == 0
    assert assess(lag(10, 20)).stalled_seconds is None
    assert assess(lag(10, 20), stalled_since=stalled_since).stalled_seconds == 7
    assert assess(lag(11, 20), stalled_since=stalled_since).stalled_seconds is None


def test_lag_in_seconds_is_the_age_of_the_oldest_waiting_record() -> None:
    behind = lag(10, 20)
    assert assess(lag()).lag_seconds == 0
    assert assess(behind, backlog=NO_RESULT).lag_seconds is None
    assert assess(behind, backlog=backlog(timedelta(seconds=90), None)).lag_seconds == 90
    assert assess(behind, backlog=backlog(timedelta(seconds=-5), None)).lag_seconds == 0


def test_a_backlog_of_an_older_checkpoint_counts_only_while_kafka_answers() -> None:
    behind, older = lag(12, 20), backlog(timedelta(seconds=90), None, position=10)
    assert assess(behind, backlog=older).lag_seconds == 90
    assert assess(behind, backlog=replace(older, error="no answer for 9 s")).lag_seconds is None
    unmoved = replace(backlog(timedelta(seconds=90), None, position=12), error="no answer for 9 s")
    assert assess(behind, backlog=unmoved).lag_seconds == 90


def test_time_to_data_loss_is_the_retention_less_the_age_of_the_oldest_record() -> None:
    behind, unlimited = lag(10, 20), TopicRetention(timedelta.max)
    assert assess(lag()).seconds_until_data_loss == float("inf")
    assert assess(behind).seconds_until_data_loss is None
    assert assess(behind, backlog=backlog(timedelta(hours=1), DAY)).seconds_until_data_loss == 23 * 3600
    assert assess(behind, backlog=backlog(timedelta(hours=25), DAY)).seconds_until_data_loss == -3600
    assert assess(behind, backlog=backlog(None, unlimited)).seconds_until_data_loss == float("inf")
    assert assess(behind, backlog=backlog(None, DAY)).seconds_until_data_loss is None


def test_a_size_limit_shortens_the_time_to_data_loss() -> None:
    """10,000 bytes hold 100 records of 30 + 70 bytes. 10 are waiting, so 90 more fit, at two per second."""
    behind, limited = lag(10, 20), backlog(timedelta(hours=1), TopicRetention(timedelta(days=1), size=10_000))
    growth = GrowthRate(NOW, {AT: 20}, {AT: 2.0})
    assert assess(behind, backlog=limited, growth_rate=growth).seconds_until_data_loss == 45
    assert assess(behind, backlog=limited).seconds_until_data_loss is None  # the size limit may be the shorter one
    no_growth = GrowthRate(NOW, {AT: 20}, {AT: 0.0})
    assert assess(behind, backlog=limited, growth_rate=no_growth).seconds_until_data_loss == 23 * 3600
