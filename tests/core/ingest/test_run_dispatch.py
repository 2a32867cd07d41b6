"""Which lanes start a run: attempts, backoff, dead runs, small plans."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from analytics_defs.core.ingest.planning import Plan
from analytics_defs.core.ingest.run_dispatch import (
    Attempts,
    HoldLane,
    LaneRun,
    LeaseObservation,
    StartRun,
    backoff,
    dead_runs,
    dispatch,
    observe_leases,
    should_wait_for_more,
)
from analytics_defs.core.ledger import Lease
from analytics_defs.core.offsets import Range, TopicPartition

NOW = datetime(2024, 1, 15, 10, 30, tzinfo=UTC)
START_TIMEOUT = timedelta(minutes=2)
PLAN = Plan(0, (Range(TopicPartition("ProductCreated", 0, 0), 10, 20),))


def run(launched_ago: timedelta | None, began_ago: timedelta | None = None) -> LaneRun:
    launched, began = (None if ago is None else NOW - ago for ago in (launched_ago, began_ago))
    return LaneRun("run", 0, launched, began)


def lease(renewed_ago: timedelta) -> dict[str, Lease]:
    return {"run": Lease("run", 0, NOW - renewed_ago)}


def test_the_first_attempt_starts_at_once() -> None:
    request = dispatch(PLAN, Attempts(0, None), NOW)
    assert isinstance(request, StartRun)
    assert request.run_key == f"{PLAN.fingerprint}#0"


def test_an_attempt_after_a_failure_waits_for_its_backoff_and_has_a_new_run_key() -> None:
    ended = Attempts(2, NOW - timedelta(seconds=9))
    assert isinstance(dispatch(PLAN, ended, NOW), HoldLane)
    request = dispatch(PLAN, ended, NOW + timedelta(seconds=1))
    assert isinstance(request, StartRun)
    assert request.run_key == f"{PLAN.fingerprint}#2"


def test_the_backoff_doubles_up_to_five_minutes() -> None:
    assert [backoff(attempt).total_seconds() for attempt in (1, 2, 3, 6, 7, 8, 10_000)] == [5, 10, 20, 160, 300, 300, 300]


def judged(runs: list[LaneRun], leases: dict[str, Lease], known: dict[str, LeaseObservation], now: datetime) -> dict[str, str]:
    return dead_runs(runs, observe_leases(runs, leases, known, now), START_TIMEOUT, now)


SECOND, HOUR = timedelta(seconds=1), timedelta(hours=1)


@pytest.mark.parametrize(
    ("launched_ago", "dead"),
    [(None, False), (119 * SECOND, False), (121 * SECOND, True)],
    ids=["queued", "still starting", "did not begin in time"],
)
def test_a_launched_run_that_does_not_begin_is_dead_after_the_start_timeout(launched_ago: timedelta | None, dead: bool) -> None:
    assert bool(judged([run(launched_ago)], {}, {}, NOW)) is dead


def test_a_run_that_never_began_has_another_message_than_a_dead_process() -> None:
    (unbegun,) = judged([run(121 * SECOND)], {}, {}, NOW).values()
    assert "no process began it within 120 s (RUN_START_TIMEOUT): there are no workers, fewer slots than lanes" in unbegun
    silent = {"run": LeaseObservation(NOW - HOUR, None)}
    (gone,) = judged([run(HOUR, HOUR)], {}, silent, NOW).values()
    assert "its process is gone" in gone


def test_the_state_of_a_run_describes_what_it_waits_for() -> None:
    assert run(None).state == "run run waits in Dagster's queue, behind max_concurrent_runs in dagster.yaml"
    assert run(SECOND).state == "run run was launched and has not begun yet"
    assert run(HOUR, SECOND).state == "run run is in flight"


@pytest.mark.parametrize(
    ("found", "renews", "later", "dead"),
    [
        (run(3 * HOUR, 3 * HOUR), True, 61, False),
        (run(3 * HOUR, 3 * HOUR), False, 60, False),
        (run(3 * HOUR, 3 * HOUR), False, 61, True),
        (run(2 * SECOND, SECOND), False, 61, True),
    ],
    ids=["works for hours", "silent for a moment", "stopped showing itself after hours", "stopped showing itself at once"],
)
@pytest.mark.parametrize("skew", [timedelta(hours=-1), timedelta(0), timedelta(hours=1)])
def test_a_run_is_dead_if_its_lease_is_unchanged_at_any_clock_skew(
    found: LaneRun, renews: bool, later: int, dead: bool, skew: timedelta
) -> None:
    after = NOW + later * SECOND
    noticed = observe_leases([found], lease(skew), {}, NOW)
    leases = lease(skew - 5 * SECOND) if renews else lease(skew)
    assert bool(judged([found], leases, noticed, after)) is dead


@pytest.mark.parametrize("old", [run(3 * HOUR, 3 * HOUR), run(SECOND, SECOND)], ids=["began long ago", "began just now"])
def test_a_run_without_a_lease_is_dead_after_one_lease_duration(old: LaneRun) -> None:
    """One that ends has given its lease back, and its status follows a moment later."""
    later = NOW + 61 * SECOND
    noticed = observe_leases([old], {}, {}, NOW)
    assert (noticed, judged([old], {}, {}, NOW)) == ({"run": LeaseObservation(NOW, None)}, {})
    assert judged([old], {}, noticed, later).keys() == {"run"}
    assert observe_leases([], {}, noticed, later) == {}


def test_the_fingerprint_depends_on_lane_and_start_and_not_on_the_end() -> None:
    partition = TopicPartition("ProductCreated", 0, 0)
    assert Plan(0, (Range(partition, 10, 99),)).fingerprint == PLAN.fingerprint
    assert Plan(0, (Range(partition, 11, 20),)).fingerprint != PLAN.fingerprint
    assert Plan(1, PLAN.ranges).fingerprint != PLAN.fingerprint
    assert len(PLAN.fingerprint) == 16


def test_a_small_plan_waits_for_more_records_up_to_the_maximum_wait() -> None:
    wait, worth = timedelta(seconds=30), 100
    assert should_wait_for_more(PLAN, None, NOW, wait, worth)
    assert should_wait_for_more(PLAN, NOW - timedelta(seconds=29), NOW, wait, worth)
    assert not should_wait_for_more(PLAN, NOW - timedelta(seconds=30), NOW, wait, worth)
    assert not should_wait_for_more(PLAN, NOW, NOW, timedelta(0), worth)
    assert not should_wait_for_more(PLAN, NOW, NOW, wait, worth=10)


def test_a_plan_with_pending_batches_or_commits_never_waits() -> None:
    assert not should_wait_for_more(Plan(0, PLAN.ranges, pending_batch_ids=("batch",)), NOW, NOW, timedelta(minutes=1), 100)
    assert not should_wait_for_more(Plan(0, recommit=(TopicPartition("ProductCreated", 0, 0),)), NOW, NOW, timedelta(minutes=1), 100)
