"""The health status: each reason to be unhealthy alone, and none if all is well."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from analytics_defs.core.ingest.planning import PartitionLag, PlanningPolicy, PlanningResult, TopicOffsets, make_plans
from analytics_defs.core.ledger import Checkpoint, LedgerSnapshot, TopicState
from analytics_defs.core.monitoring.backlog import StalledSince
from analytics_defs.core.monitoring.health import DAEMON_HEARTBEAT_TIMEOUT, HealthSnapshot, LedgerStatistics, SchedulerStatus
from analytics_defs.core.monitoring.partition_health import PartitionReadings, assess_partitions
from analytics_defs.core.monitoring.probe_result import NO_RESULT, ProbeResult
from analytics_defs.core.offsets import TopicPartition

NOW = datetime(2024, 1, 15, 12, tzinfo=UTC)
AT = TopicPartition("ProductDeleted", 0, 0)
UP: ProbeResult[object] = ProbeResult(True, None, 3, 100, NOW)
STATISTICS: ProbeResult[LedgerStatistics] = ProbeResult(LedgerStatistics({}, {}, ()), None, 3, 100, NOW)


def lag(next_offset: int = 10, high: int = 10, stable: int | None = None) -> PartitionLag:
    return PartitionLag(AT, next_offset, high, high if stable is None else stable, 0, next_offset)


def snapshot_of(partition: PartitionLag | None = None, stalled: timedelta | None = None, **changes: object) -> HealthSnapshot:
    """Return a healthy snapshot with the given differences."""
    seen = partition or lag()
    ledger = LedgerSnapshot({AT.topic: TopicState(AT.topic, 0, "id", {0: 0})}, {AT: Checkpoint(AT, 0, seen.next_offset)})
    topics = {AT.topic: TopicOffsets(AT.topic, "id", {0: 0}, {0: seen.last_stable_offset}, {0: seen.high_watermark}, {0: seen.next_offset})}
    planning = make_plans(ledger, topics, PlanningPolicy(), NOW)
    stalled_since = {} if stalled is None else {AT: StalledSince(seen.next_offset, NOW - stalled)}
    snapshot = HealthSnapshot(
        taken_at=NOW,
        stall_timeout=timedelta(minutes=5),
        kafka=UP,
        dynamodb=ProbeResult(ledger, None, 3, 100, NOW),
        s3=UP,
        ledger_statistics=STATISTICS,
        planning=planning,
        partitions=assess_partitions(PartitionReadings(NOW, planning, NOW, stalled_since)),
    )
    return replace(snapshot, **changes)  # type: ignore[arg-type]


def test_a_snapshot_without_a_fault_is_healthy_and_ready() -> None:
    snapshot = snapshot_of()
    assert (snapshot.status.healthy, snapshot.readiness.healthy) == (True, True)


@pytest.mark.parametrize("name", ["kafka", "dynamodb", "s3"])
def test_a_service_that_does_not_answer_is_named_with_its_error(name: str) -> None:
    down = replace(snapshot_of(), **{name: ProbeResult(None, "connection refused", 2, 50, None)})  # type: ignore[arg-type]
    assert down.status.reasons == down.readiness.reasons == (f"{name}: connection refused",)


def test_a_service_that_has_not_answered_yet_is_unhealthy() -> None:
    assert snapshot_of(s3=NO_RESULT).status.reasons == ("s3: no answer yet",)


def test_lag_is_healthy_until_the_stall_timeout() -> None:
    assert snapshot_of(lag(10, 900), stalled=timedelta(minutes=5)).status.healthy


def test_lag_without_a_commit_for_longer_is_a_stall_but_ready() -> None:
    stalled = snapshot_of(lag(10, 900, stable=700), stalled=timedelta(minutes=5, seconds=1))
    offsets = "890 offsets of ProductDeleted/0 are waiting, 200 of them behind an open transaction"
    assert stalled.status.reasons == (f"stalled: {offsets}, and no batch of theirs closed for 301s (STALL_TIMEOUT=300s)",)
    assert snapshot_of(lag(10, 900), stalled=timedelta(hours=1)).readiness.healthy


def many_partitions(count: int, stalled: int) -> HealthSnapshot:
    """Return `count` partitions that are behind. `stalled` of them did not move for ten minutes."""
    lags = tuple(PartitionLag(TopicPartition("T", 0, number), 5, 8, 8, 0, 5) for number in range(count))
    minutes = {lag.topic_partition: 10 if number < stalled else 0 for number, lag in enumerate(lags)}
    stalled_since = {key: StalledSince(5, NOW - timedelta(minutes=value)) for key, value in minutes.items()}
    planning = PlanningResult(LedgerSnapshot({}, {}), (), lags)
    partitions = assess_partitions(PartitionReadings(NOW, planning, NOW, stalled_since))
    return replace(snapshot_of(), planning=planning, partitions=partitions)


def test_progress_of_other_partitions_does_not_hide_a_stall() -> None:
    """A damaged record batch, for example, stops its own partition only."""
    assert many_partitions(9, stalled=1).status.reasons == (
        "stalled: 3 offsets of T/0 are waiting, and no batch of theirs closed for 600s (STALL_TIMEOUT=300s)",
    )
    assert many_partitions(9, stalled=0).status.healthy


def test_many_stalled_partitions_are_one_reason_that_names_three() -> None:
    [reason] = many_partitions(500, stalled=500).status.reasons
    names = "500 partitions (T/0, T/1, T/2, …)"
    assert reason.startswith(f"stalled: 1500 offsets of {names} are waiting, and no batch of theirs closed for 600s")


def test_unreadable_counters_are_a_reason_although_dynamodb_answers() -> None:
    """Checkpoints and counters are in two tables."""
    unreadable = ProbeResult(STATISTICS.value, "no table EventAggregates", 3, 100, NOW)
    assert snapshot_of(ledger_statistics=unreadable).status.reasons == ("counters: no table EventAggregates",)
    assert snapshot_of(ledger_statistics=NO_RESULT).status.reasons == ("counters: no answer yet",)
    down = snapshot_of(ledger_statistics=ProbeResult(None, "it is down"), dynamodb=ProbeResult(None, "it is down"))
    assert down.status.reasons == ("dynamodb: it is down",)


def test_a_recreated_topic_is_a_reason_that_names_the_command() -> None:
    [reason] = snapshot_of(lag(next_offset=10, high=4)).status.reasons
    assert "analytics accept-recreated-topic ProductDeleted" in reason


def scheduled(sensor_stopped: bool = False, heartbeat: datetime | None = NOW) -> HealthSnapshot:
    return snapshot_of(scheduler=ProbeResult(SchedulerStatus(sensor_stopped, heartbeat), None, 3, 100, NOW))


def test_a_stopped_sensor_and_a_missing_heartbeat_are_reasons() -> None:
    assert scheduled().status.healthy
    assert scheduled(heartbeat=NOW - DAEMON_HEARTBEAT_TIMEOUT).status.healthy
    assert scheduled(sensor_stopped=True).status.reasons == ("the sensor kafka_micro_batches is stopped: no runs are requested",)
    late = scheduled(heartbeat=NOW - DAEMON_HEARTBEAT_TIMEOUT - timedelta(seconds=1))
    assert late.status.reasons == ("Dagster's sensor daemon has sent no heartbeat for 121s: no runs are requested",)
    assert "never" in scheduled(heartbeat=None).status.reasons[0]


def test_an_old_status_of_a_dagster_instance_that_does_not_answer_is_ignored() -> None:
    old = ProbeResult(SchedulerStatus(True, None), "database is down", 3, 100, NOW)
    assert snapshot_of(scheduler=old).status.healthy
