"""Decisions about runs: attempts, backoff, dead runs, small plans."""

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
    attempts = Attempts(2, NOW - timedelta(seconds=9))
    assert isinstance(dispatch(PLAN, attempts, NOW), HoldLane)
    request = dispatch(PLAN, attempts, NOW + timedelta(seconds=1))
    assert isinstance(request, StartRun)
    assert request.run_key == f"{PLAN.fingerprint}#2"


def test_the_backoff_doubles_up_to_five_minutes() -> None:
    assert [backoff(attempt).total_seconds() for attempt in (1, 2, 3, 6, 7, 8, 10_000)] == [5, 10, 20, 160, 300, 300, 300]


SECOND, HOUR = timedelta(seconds=1), timedelta(hours=1)


def dead_by_message(runs: list[LaneRun], observations: dict[str, LeaseObservation]) -> dict[str, str]:
    return dead_runs(runs, observations, START_TIMEOUT, NOW)


def observe(leases: dict[str, Lease], *seconds: int, known: dict[str, LeaseObservation] | None = None) -> dict[str, LeaseObservation]:
    """Return what a sensor knows after observations of the same leases, each so many seconds after NOW."""
    for offset in seconds:
        known = observe_leases(["run"], leases, known or {}, NOW + offset * SECOND)
    return known or {}


@pytest.mark.parametrize(
    ("launched_ago", "dead"),
    [(None, False), (119 * SECOND, False), (121 * SECOND, True)],
    ids=["queued", "still starting", "did not begin in time"],
)
def test_a_launched_run_that_does_not_begin_is_dead_after_the_start_timeout(launched_ago: timedelta | None, dead: bool) -> None:
    assert bool(dead_by_message([run(launched_ago)], {})) is dead


def test_a_run_that_never_began_has_another_message_than_a_dead_process() -> None:
    (not_begun,) = dead_by_message([run(121 * SECOND)], {}).values()
    assert "no process began it within 120 s (RUN_START_TIMEOUT): there are no workers, fewer slots than lanes" in not_begun
    (no_heartbeat,) = dead_by_message([run(HOUR, HOUR)], observe({}, *range(0, 70, 5))).values()
    assert "its process is gone" in no_heartbeat


def test_the_state_of_a_run_describes_what_it_waits_for() -> None:
    assert run(None).state == "run run waits in Dagster's queue, behind max_concurrent_runs in dagster.yaml"
    assert run(SECOND).state == "run run was launched and has not begun yet"
    assert run(HOUR, SECOND).state == "run run is in flight"


@pytest.mark.parametrize(
    ("renews", "seconds", "dead"),
    [(True, 65, False), (False, 60, False), (False, 65, True)],
    ids=["renewed", "unchanged for one lease duration", "unchanged for longer"],
)
@pytest.mark.parametrize("skew", [timedelta(hours=-1), timedelta(0), timedelta(hours=1)])
def test_a_run_is_dead_if_its_lease_is_unchanged_at_any_clock_skew(renews: bool, seconds: int, dead: bool, skew: timedelta) -> None:
    known = observe(lease(skew), *range(0, seconds, 5))
    known = observe(lease(skew - 5 * SECOND) if renews else lease(skew), seconds, known=known)
    assert bool(dead_by_message([run(HOUR, HOUR)], known)) is dead


def test_a_run_without_a_lease_is_dead_after_one_lease_duration() -> None:
    """A finishing run releases its lease before its status changes."""
    assert observe({}, 0) == {"run": LeaseObservation(None, NOW)}
    assert not observe({}, *range(0, 65, 5))["run"].is_expired
    assert observe({}, *range(0, 70, 5))["run"].is_expired


@pytest.mark.parametrize("gap", [600, -600], ids=["outage or suspended machine", "clock set back"])
def test_a_gap_between_observations_does_not_expire_a_lease(gap: int) -> None:
    """Breaks: the ledger does not answer for ten minutes, and every run counts as dead in the first tick that reads it again."""
    old = lease(timedelta(0))
    known = observe(old, 0, 15, gap, gap + 15)
    assert not known["run"].is_expired
    assert not observe(lease(-gap * SECOND), gap + 30, known=known)["run"].unchanged_for
    assert observe(old, *range(gap + 30, gap + 70, 5), known=known)["run"].is_expired


def test_an_observation_ends_with_its_run() -> None:
    assert observe_leases([], {}, observe({}, 0), NOW) == {}


def test_the_fingerprint_depends_on_lane_and_start_and_not_on_the_end() -> None:
    partition = TopicPartition("ProductCreated", 0, 0)
    assert Plan(0, (Range(partition, 10, 99),)).fingerprint == PLAN.fingerprint
    assert Plan(0, (Range(partition, 11, 20),)).fingerprint != PLAN.fingerprint
    assert Plan(1, PLAN.ranges).fingerprint != PLAN.fingerprint
    assert len(PLAN.fingerprint) == 16


def test_a_small_plan_waits_for_more_records_up_to_the_maximum_wait() -> None:
    wait, min_offsets = timedelta(seconds=30), 100
    assert should_wait_for_more(PLAN, None, NOW, wait, min_offsets)
    assert should_wait_for_more(PLAN, NOW - timedelta(seconds=29), NOW, wait, min_offsets)
    assert not should_wait_for_more(PLAN, NOW - timedelta(seconds=30), NOW, wait, min_offsets)
    assert not should_wait_for_more(PLAN, NOW, NOW, timedelta(0), min_offsets)
    assert not should_wait_for_more(PLAN, NOW, NOW, wait, min_offsets=10)


def test_a_plan_with_pending_batches_or_commits_never_waits() -> None:
    assert not should_wait_for_more(Plan(0, PLAN.ranges, pending_batch_ids=("batch",)), NOW, NOW, timedelta(minutes=1), 100)
    assert not should_wait_for_more(Plan(0, recommit=(TopicPartition("ProductCreated", 0, 0),)), NOW, NOW, timedelta(minutes=1), 100)
