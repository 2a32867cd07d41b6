"""The verdict: every reason to be unhealthy by itself, and none where there is none."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from analytics_defs.core.health import (
    DAEMON_SILENT_AFTER,
    Answer,
    Picture,
    Scheduler,
    Waiting,
    lag_seconds,
    progressed,
    seconds_to_loss,
    unready,
    verdict,
)
from analytics_defs.core.ledger import Head, Snapshot, TopicState
from analytics_defs.core.offsets import TopicPartition
from analytics_defs.core.plan import Lag, Policy, Seen, plan

NOW = datetime(2024, 1, 15, 12, tzinfo=UTC)
AT = TopicPartition("ProductDeleted", 0, 0)
UP: Answer[object] = Answer(True, None, 3, 100, NOW)


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
        planning=plan(snapshot, topics, Policy(), NOW),
        progress=None if since is None else progressed(None, [seen], NOW - since),
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
    assert found.reasons == (
        "stalled: 890 offsets wait, 200 of them behind an open transaction, and nothing was committed for 301s (STALL_AFTER=300s)",
    )
    assert unready(picture(lag(10, 900), since=timedelta(hours=1))).healthy


def test_the_time_counts_from_the_last_move_of_a_head_and_only_while_something_waits() -> None:
    first = progressed(None, [lag(10, 20)], NOW)
    later = NOW + timedelta(minutes=1)
    assert first is not None
    assert progressed(first, [lag(10, 30)], later) == first
    moved = progressed(first, [lag(11, 30)], later)
    assert moved is not None
    assert moved.since == later
    assert progressed(first, [lag(20, 20)], later) is None


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


def waiting(age: timedelta | None, retention: timedelta | None) -> Answer[Waiting]:
    since = {} if age is None else {AT: NOW - age}
    return Answer(Waiting(since, {AT.topic: retention}), None, 3, 100, NOW)


def test_lag_in_seconds_is_the_age_of_the_oldest_record_that_waits_or_not_known() -> None:
    behind = lag(10, 20)
    assert lag_seconds(lag(), picture()) == 0
    assert lag_seconds(behind, picture(behind)) is None
    assert lag_seconds(behind, picture(behind, waiting=waiting(timedelta(seconds=90), None))) == 90
    assert lag_seconds(behind, picture(behind, waiting=waiting(timedelta(seconds=-5), None))) == 0


def test_time_to_data_loss_is_what_retention_leaves_to_the_oldest_record_that_waits() -> None:
    behind, day = lag(10, 20), timedelta(days=1)
    assert seconds_to_loss(lag(), picture()) == float("inf")
    assert seconds_to_loss(behind, picture(behind)) is None
    assert seconds_to_loss(behind, picture(behind, waiting=waiting(timedelta(hours=1), day))) == 23 * 3600
    assert seconds_to_loss(behind, picture(behind, waiting=waiting(timedelta(hours=25), day))) == -3600
    assert seconds_to_loss(behind, picture(behind, waiting=waiting(None, timedelta.max))) == float("inf")
    assert seconds_to_loss(behind, picture(behind, waiting=waiting(None, day))) is None
