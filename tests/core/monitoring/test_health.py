"""The verdict: every reason to be unhealthy by itself, and none where there is none."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from analytics_defs.core.ingest.planning import PartitionLag, PlanningPolicy, PlanningResult, TopicOffsets, make_plans
from analytics_defs.core.ledger import Checkpoint, LedgerSnapshot, TopicState
from analytics_defs.core.monitoring.backlog import Backlog, GrowthRate, OldestRecord, StalledSince, TopicRetention
from analytics_defs.core.monitoring.health import (
    DAEMON_HEARTBEAT_TIMEOUT,
    HealthSnapshot,
    LedgerStatistics,
    ProbeResult,
    SchedulerStatus,
    evaluate_health,
    lag_seconds,
    readiness,
    seconds_stalled,
    seconds_until_data_loss,
)
from analytics_defs.core.offsets import TopicPartition

NOW = datetime(2024, 1, 15, 12, tzinfo=UTC)
AT = TopicPartition("ProductDeleted", 0, 0)
UP: ProbeResult[object] = ProbeResult(True, None, 3, 100, NOW)
COUNTED: ProbeResult[LedgerStatistics] = ProbeResult(LedgerStatistics({}, {}, ()), None, 3, 100, NOW)


def lag(next: int = 10, high: int = 10, stable: int | None = None) -> PartitionLag:
    return PartitionLag(AT, next, high, high if stable is None else stable, 0, next)


def picture(lags: PartitionLag | None = None, since: timedelta | None = None, **changes: object) -> HealthSnapshot:
    """All is well, but for what is given."""
    seen = lags or lag()
    snapshot = LedgerSnapshot({AT.topic: TopicState(AT.topic, 0, "id", {0: 0})}, {AT: Checkpoint(AT, 0, seen.next_offset)})
    topics = {AT.topic: TopicOffsets(AT.topic, "id", {0: 0}, {0: seen.last_stable_offset}, {0: seen.high_watermark}, {0: seen.next_offset})}
    made = HealthSnapshot(
        taken_at=NOW,
        stall_timeout=timedelta(minutes=5),
        kafka=UP,
        dynamodb=ProbeResult(snapshot, None, 3, 100, NOW),
        s3=UP,
        ledger_statistics=COUNTED,
        planning=make_plans(snapshot, topics, PlanningPolicy(), NOW),
        stalled_since={} if since is None else {AT: StalledSince(seen.next_offset, NOW - since)},
        checkpoints_read_at=NOW,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def test_all_well_is_healthy_and_ready() -> None:
    assert (evaluate_health(picture()).healthy, readiness(picture()).healthy) == (True, True)


@pytest.mark.parametrize("name", ["kafka", "dynamodb", "s3"])
def test_a_service_that_does_not_answer_is_named_with_its_fault(name: str) -> None:
    down = replace(picture(), **{name: ProbeResult(None, "connection refused", 2, 50, None)})  # type: ignore[arg-type]
    assert evaluate_health(down).reasons == readiness(down).reasons == (f"{name}: connection refused",)


def test_a_service_that_was_never_heard_of_is_not_well() -> None:
    assert evaluate_health(picture(s3=ProbeResult())).reasons == ("s3: no answer yet",)


def test_lag_is_well_as_long_as_commits_come() -> None:
    assert evaluate_health(picture(lag(10, 900), since=timedelta(minutes=5))).healthy


def test_lag_without_a_commit_for_too_long_is_stalled_in_words() -> None:
    found = evaluate_health(picture(lag(10, 900, stable=700), since=timedelta(minutes=5, seconds=1)))
    where = "890 offsets of ProductDeleted/0 wait, 200 of them behind an open transaction"
    assert found.reasons == (f"stalled: {where}, and nothing was committed there for 301s (STALL_TIMEOUT=300s)",)
    assert readiness(picture(lag(10, 900), since=timedelta(hours=1))).healthy


def several(count: int, standing: int) -> HealthSnapshot:
    """`count` partitions are behind, `standing` of them did not move for ten minutes; the others did a second ago."""
    lags = [PartitionLag(TopicPartition("T", 0, number), 5, 8, 8, 0, 5) for number in range(count)]
    stands = {
        each.topic_partition: StalledSince(5, NOW - timedelta(minutes=10 if place < standing else 0)) for place, each in enumerate(lags)
    }
    return replace(picture(), planning=PlanningResult(LedgerSnapshot({}, {}), (), tuple(lags)), stalled_since=stands)


def test_one_partition_that_stands_still_is_stalled_however_well_the_others_get_on() -> None:
    """A damaged record batch, say: that partition waits for a person, everything else goes on."""
    found = evaluate_health(several(9, standing=1)).reasons
    assert found == ("stalled: 3 offsets of T/0 wait, and nothing was committed there for 600s (STALL_TIMEOUT=300s)",)
    assert evaluate_health(several(9, standing=0)).healthy


def test_many_that_stand_still_are_one_reason_that_names_some() -> None:
    [found] = evaluate_health(several(500, standing=500)).reasons
    assert found.startswith("stalled: 1500 offsets of 500 partitions (T/0, T/1, T/2, …) wait, and nothing was committed there for 600s")


def test_how_long_a_partition_stands_is_not_known_before_it_was_seen_to_stand_there() -> None:
    assert seconds_stalled(lag(), picture()) == 0
    assert seconds_stalled(lag(10, 20), picture()) is None
    assert seconds_stalled(lag(10, 20), picture(lag(10, 20), since=timedelta(seconds=7))) == 7
    assert seconds_stalled(lag(11, 20), picture(lag(10, 20), since=timedelta(seconds=7))) is None


def test_counters_that_cannot_be_read_are_a_reason_though_dynamodb_answers() -> None:
    """The tables of heads and of counters are two."""
    assert evaluate_health(picture(ledger_statistics=ProbeResult(COUNTED.value, "no table EventAggregates", 3, 100, NOW))).reasons == (
        "counters: no table EventAggregates",
    )
    assert evaluate_health(picture(ledger_statistics=ProbeResult())).reasons == ("counters: no answer yet",)
    down = picture(ledger_statistics=ProbeResult(None, "it is down"), dynamodb=ProbeResult(None, "it is down"))
    assert evaluate_health(down).reasons == ("dynamodb: it is down",)


def test_a_topic_that_was_created_again_is_a_reason_and_says_how_to_go_on() -> None:
    found = evaluate_health(picture(lag(next=10, high=4)))
    assert len(found.reasons) == 1
    assert "analytics accept-recreated-topic ProductDeleted" in found.reasons[0]


def scheduled(sensor_stopped: bool = False, heartbeat: datetime | None = NOW) -> HealthSnapshot:
    return picture(scheduler=ProbeResult(SchedulerStatus(sensor_stopped, heartbeat), None, 3, 100, NOW))


def test_a_stopped_sensor_and_a_silent_daemon_are_reasons_where_dagster_can_be_asked() -> None:
    assert evaluate_health(scheduled()).healthy
    assert evaluate_health(scheduled(heartbeat=NOW - DAEMON_HEARTBEAT_TIMEOUT)).healthy
    assert evaluate_health(scheduled(sensor_stopped=True)).reasons == ("the sensor kafka_micro_batches is stopped: no run is asked for",)
    silent = evaluate_health(scheduled(heartbeat=NOW - DAEMON_HEARTBEAT_TIMEOUT - timedelta(seconds=1)))
    assert silent.reasons == ("Dagster's sensor daemon gave no sign of life for 121s: no run is asked for",)
    assert "never" in evaluate_health(scheduled(heartbeat=None)).reasons[0]


def test_an_instance_that_cannot_be_asked_decides_nothing() -> None:
    old = ProbeResult(SchedulerStatus(True, None), "database is down", 3, 100, NOW)
    assert evaluate_health(picture(scheduler=old)).healthy


def waiting(age: timedelta | None, kept: TopicRetention | None, position: int = 10) -> ProbeResult[Backlog]:
    oldest = {} if age is None else {AT: OldestRecord(position, NOW - age, 30)}
    return ProbeResult(Backlog(oldest, {} if kept is None else {AT.topic: kept}), None, 3, 100, NOW)


def test_lag_in_seconds_is_the_age_of_the_oldest_record_that_waits_or_not_known() -> None:
    behind = lag(10, 20)
    assert lag_seconds(lag(), picture()) == 0
    assert lag_seconds(behind, picture(behind)) is None
    assert lag_seconds(behind, picture(behind, backlog=waiting(timedelta(seconds=90), None))) == 90
    assert lag_seconds(behind, picture(behind, backlog=waiting(timedelta(seconds=-5), None))) == 0


def test_what_kafka_told_of_a_head_that_moved_on_is_told_while_it_answers_and_not_afterwards() -> None:
    behind, told = lag(12, 20), waiting(timedelta(seconds=90), None, position=10)
    assert lag_seconds(behind, picture(behind, backlog=told)) == 90
    assert lag_seconds(behind, picture(behind, backlog=replace(told, error="no answer for 9 s"))) is None
    same = replace(waiting(timedelta(seconds=90), None, position=12), error="no answer for 9 s")
    assert lag_seconds(behind, picture(behind, backlog=same)) == 90


def test_time_to_data_loss_is_what_retention_leaves_to_the_oldest_record_that_waits() -> None:
    behind, day = lag(10, 20), TopicRetention(timedelta(days=1))
    assert seconds_until_data_loss(lag(), picture()) == float("inf")
    assert seconds_until_data_loss(behind, picture(behind)) is None
    assert seconds_until_data_loss(behind, picture(behind, backlog=waiting(timedelta(hours=1), day))) == 23 * 3600
    assert seconds_until_data_loss(behind, picture(behind, backlog=waiting(timedelta(hours=25), day))) == -3600
    assert seconds_until_data_loss(behind, picture(behind, backlog=waiting(None, TopicRetention(timedelta.max)))) == float("inf")
    assert seconds_until_data_loss(behind, picture(behind, backlog=waiting(None, day))) is None


def test_a_log_that_may_only_grow_so_large_loses_what_waits_sooner() -> None:
    """10,000 bytes hold a hundred records of 30 and 70 of Kafka's own; ten wait, so 90 more may come, two a second."""
    behind, kept = lag(10, 20), TopicRetention(timedelta(days=1), size=10_000)
    told = waiting(timedelta(hours=1), kept)
    pace = GrowthRate(NOW, {AT: 20}, {AT: 2.0})
    assert seconds_until_data_loss(behind, picture(behind, backlog=told, growth_rate=pace)) == 45
    assert seconds_until_data_loss(behind, picture(behind, backlog=told)) is None  # by size it is not known, and it may be sooner
    quiet = GrowthRate(NOW, {AT: 20}, {AT: 0.0})
    assert seconds_until_data_loss(behind, picture(behind, backlog=told, growth_rate=quiet)) == 23 * 3600
