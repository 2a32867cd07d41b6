"""The verdict: every reason to be unhealthy by itself, and none where there is none."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from analytics_defs.core.ingest.planning import Lag, Planning, Policy, Seen, plan
from analytics_defs.core.ledger import Head, Snapshot, TopicState
from analytics_defs.core.monitoring.backlog import Kept, Oldest, Pace, Stand, Waiting
from analytics_defs.core.monitoring.health import (
    DAEMON_SILENT_AFTER,
    Answer,
    Figures,
    Picture,
    Scheduler,
    lag_seconds,
    seconds_standing,
    seconds_to_loss,
    unready,
    verdict,
)
from analytics_defs.core.offsets import TopicPartition

NOW = datetime(2024, 1, 15, 12, tzinfo=UTC)
AT = TopicPartition("ProductDeleted", 0, 0)
UP: Answer[object] = Answer(True, None, 3, 100, NOW)
COUNTED: Answer[Figures] = Answer(Figures({}, {}, ()), None, 3, 100, NOW)


def lag(next: int = 10, high: int = 10, stable: int | None = None) -> Lag:
    return Lag(AT, next, high, high if stable is None else stable, 0, next)


def picture(lags: Lag | None = None, since: timedelta | None = None, **changes: object) -> Picture:
    """All is well, but for what is given."""
    seen = lags or lag()
    snapshot = Snapshot({AT.topic: TopicState(AT.topic, 0, "id", {0: 0})}, {AT: Head(AT, 0, seen.next)})
    topics = {AT.topic: Seen(AT.topic, "id", {0: 0}, {0: seen.stable}, {0: seen.high}, {0: seen.next})}
    made = Picture(
        at=NOW,
        stall_after=timedelta(minutes=5),
        kafka=UP,
        dynamodb=Answer(snapshot, None, 3, 100, NOW),
        s3=UP,
        figures=COUNTED,
        planning=plan(snapshot, topics, Policy(), NOW),
        stands={} if since is None else {AT: Stand(seen.next, NOW - since)},
        heads_at=NOW,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def test_all_well_is_healthy_and_ready() -> None:
    assert (verdict(picture()).healthy, unready(picture()).healthy) == (True, True)


@pytest.mark.parametrize("name", ["kafka", "dynamodb", "s3"])
def test_a_service_that_does_not_answer_is_named_with_its_fault(name: str) -> None:
    down = replace(picture(), **{name: Answer(None, "connection refused", 2, 50, None)})  # type: ignore[arg-type]
    assert verdict(down).reasons == unready(down).reasons == (f"{name}: connection refused",)


def test_a_service_that_was_never_heard_of_is_not_well() -> None:
    assert verdict(picture(s3=Answer())).reasons == ("s3: no answer yet",)


def test_lag_is_well_as_long_as_commits_come() -> None:
    assert verdict(picture(lag(10, 900), since=timedelta(minutes=5))).healthy


def test_lag_without_a_commit_for_too_long_is_stalled_in_words() -> None:
    found = verdict(picture(lag(10, 900, stable=700), since=timedelta(minutes=5, seconds=1)))
    where = "890 offsets of ProductDeleted/0 wait, 200 of them behind an open transaction"
    assert found.reasons == (f"stalled: {where}, and nothing was committed there for 301s (STALL_AFTER=300s)",)
    assert unready(picture(lag(10, 900), since=timedelta(hours=1))).healthy


def several(count: int, standing: int) -> Picture:
    """`count` partitions are behind, `standing` of them did not move for ten minutes; the others did a second ago."""
    lags = [Lag(TopicPartition("T", 0, number), 5, 8, 8, 0, 5) for number in range(count)]
    stands = {each.topic_partition: Stand(5, NOW - timedelta(minutes=10 if place < standing else 0)) for place, each in enumerate(lags)}
    return replace(picture(), planning=Planning(Snapshot({}, {}), (), tuple(lags)), stands=stands)


def test_one_partition_that_stands_still_is_stalled_however_well_the_others_get_on() -> None:
    """A damaged record batch, say: that partition waits for a person, everything else goes on."""
    found = verdict(several(9, standing=1)).reasons
    assert found == ("stalled: 3 offsets of T/0 wait, and nothing was committed there for 600s (STALL_AFTER=300s)",)
    assert verdict(several(9, standing=0)).healthy


def test_many_that_stand_still_are_one_reason_that_names_some() -> None:
    [found] = verdict(several(500, standing=500)).reasons
    assert found.startswith("stalled: 1500 offsets of 500 partitions (T/0, T/1, T/2, …) wait, and nothing was committed there for 600s")


def test_how_long_a_partition_stands_is_not_known_before_it_was_seen_to_stand_there() -> None:
    assert seconds_standing(lag(), picture()) == 0
    assert seconds_standing(lag(10, 20), picture()) is None
    assert seconds_standing(lag(10, 20), picture(lag(10, 20), since=timedelta(seconds=7))) == 7
    assert seconds_standing(lag(11, 20), picture(lag(10, 20), since=timedelta(seconds=7))) is None


def test_counters_that_cannot_be_read_are_a_reason_though_dynamodb_answers() -> None:
    """The tables of heads and of counters are two."""
    assert verdict(picture(figures=Answer(COUNTED.value, "no table EventAggregates", 3, 100, NOW))).reasons == (
        "counters: no table EventAggregates",
    )
    assert verdict(picture(figures=Answer())).reasons == ("counters: no answer yet",)
    down = picture(figures=Answer(None, "it is down"), dynamodb=Answer(None, "it is down"))
    assert verdict(down).reasons == ("dynamodb: it is down",)


def test_a_topic_that_was_created_again_is_a_reason_and_says_how_to_go_on() -> None:
    found = verdict(picture(lag(next=10, high=4)))
    assert len(found.reasons) == 1
    assert "analytics accept-topic ProductDeleted" in found.reasons[0]


def scheduled(sensor_stopped: bool = False, heartbeat: datetime | None = NOW) -> Picture:
    return picture(scheduler=Answer(Scheduler(sensor_stopped, heartbeat), None, 3, 100, NOW))


def test_a_stopped_sensor_and_a_silent_daemon_are_reasons_where_dagster_can_be_asked() -> None:
    assert verdict(scheduled()).healthy
    assert verdict(scheduled(heartbeat=NOW - DAEMON_SILENT_AFTER)).healthy
    assert verdict(scheduled(sensor_stopped=True)).reasons == ("the sensor kafka_micro_batches is stopped: no run is asked for",)
    silent = verdict(scheduled(heartbeat=NOW - DAEMON_SILENT_AFTER - timedelta(seconds=1)))
    assert silent.reasons == ("Dagster's sensor daemon gave no sign of life for 121s: no run is asked for",)
    assert "never" in verdict(scheduled(heartbeat=None)).reasons[0]


def test_an_instance_that_cannot_be_asked_decides_nothing() -> None:
    old = Answer(Scheduler(True, None), "database is down", 3, 100, NOW)
    assert verdict(picture(scheduler=old)).healthy


def waiting(age: timedelta | None, kept: Kept | None, position: int = 10) -> Answer[Waiting]:
    oldest = {} if age is None else {AT: Oldest(position, NOW - age, 30)}
    return Answer(Waiting(oldest, {} if kept is None else {AT.topic: kept}), None, 3, 100, NOW)


def test_lag_in_seconds_is_the_age_of_the_oldest_record_that_waits_or_not_known() -> None:
    behind = lag(10, 20)
    assert lag_seconds(lag(), picture()) == 0
    assert lag_seconds(behind, picture(behind)) is None
    assert lag_seconds(behind, picture(behind, waiting=waiting(timedelta(seconds=90), None))) == 90
    assert lag_seconds(behind, picture(behind, waiting=waiting(timedelta(seconds=-5), None))) == 0


def test_what_kafka_told_of_a_head_that_moved_on_is_told_while_it_answers_and_not_afterwards() -> None:
    behind, told = lag(12, 20), waiting(timedelta(seconds=90), None, position=10)
    assert lag_seconds(behind, picture(behind, waiting=told)) == 90
    assert lag_seconds(behind, picture(behind, waiting=replace(told, error="no answer for 9 s"))) is None
    same = replace(waiting(timedelta(seconds=90), None, position=12), error="no answer for 9 s")
    assert lag_seconds(behind, picture(behind, waiting=same)) == 90


def test_time_to_data_loss_is_what_retention_leaves_to_the_oldest_record_that_waits() -> None:
    behind, day = lag(10, 20), Kept(timedelta(days=1))
    assert seconds_to_loss(lag(), picture()) == float("inf")
    assert seconds_to_loss(behind, picture(behind)) is None
    assert seconds_to_loss(behind, picture(behind, waiting=waiting(timedelta(hours=1), day))) == 23 * 3600
    assert seconds_to_loss(behind, picture(behind, waiting=waiting(timedelta(hours=25), day))) == -3600
    assert seconds_to_loss(behind, picture(behind, waiting=waiting(None, Kept(timedelta.max)))) == float("inf")
    assert seconds_to_loss(behind, picture(behind, waiting=waiting(None, day))) is None


def test_a_log_that_may_only_grow_so_large_loses_what_waits_sooner() -> None:
    """10,000 bytes hold a hundred records of 30 and 70 of Kafka's own; ten wait, so 90 more may come, two a second."""
    behind, kept = lag(10, 20), Kept(timedelta(days=1), size=10_000)
    told = waiting(timedelta(hours=1), kept)
    pace = Pace(NOW, {AT: 20}, {AT: 2.0})
    assert seconds_to_loss(behind, picture(behind, waiting=told, pace=pace)) == 45
    assert seconds_to_loss(behind, picture(behind, waiting=told)) is None  # by size it is not known, and it may be sooner
    quiet = Pace(NOW, {AT: 20}, {AT: 0.0})
    assert seconds_to_loss(behind, picture(behind, waiting=told, pace=quiet)) == 23 * 3600
