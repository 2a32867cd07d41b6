"""Which lanes start a run: attempts, backoff, dead runs, small plans."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from analytics_defs.core.dispatch import Attempts, LaneRun, Request, Silence, Wait, backoff, dead_runs, dispatch, silences, too_small
from analytics_defs.core.ledger import Lease
from analytics_defs.core.offsets import Range, TopicPartition
from analytics_defs.core.plan import Plan

NOW = datetime(2024, 1, 15, 10, 30, tzinfo=UTC)
START_TIMEOUT = timedelta(minutes=2)
PLAN = Plan(0, (Range(TopicPartition("ProductCreated", 0, 0), 10, 20),))


def run(started_ago: timedelta | None) -> LaneRun:
    return LaneRun("run", 0, None if started_ago is None else NOW - started_ago)


def lease(renewed_ago: timedelta) -> dict[str, Lease]:
    return {"run": Lease("run", 0, NOW - renewed_ago)}


def test_the_first_attempt_starts_at_once() -> None:
    request = dispatch(PLAN, Attempts(0, None), NOW)
    assert isinstance(request, Request)
    assert request.run_key == f"{PLAN.fingerprint}#0"


def test_an_attempt_after_a_failure_waits_for_its_backoff_and_has_a_key_of_its_own() -> None:
    ended = Attempts(2, NOW - timedelta(seconds=9))
    assert isinstance(dispatch(PLAN, ended, NOW), Wait)
    request = dispatch(PLAN, ended, NOW + timedelta(seconds=1))
    assert isinstance(request, Request)
    assert request.run_key == f"{PLAN.fingerprint}#2"


def test_the_backoff_doubles_up_to_five_minutes_and_stays_there() -> None:
    assert [backoff(attempt).total_seconds() for attempt in (1, 2, 3, 6, 7, 8, 10_000)] == [5, 10, 20, 160, 300, 300, 300]


@pytest.mark.parametrize(
    ("started_ago", "renews", "later", "dead"),
    [
        (None, False, 3600, False),
        (timedelta(seconds=50), False, 61, False),
        (timedelta(hours=3), True, 61, False),
        (timedelta(hours=3), False, 60, False),
        (timedelta(hours=3), False, 61, True),
    ],
    ids=["queued", "still starting", "works for hours", "silent for a moment", "stopped showing itself"],
)
@pytest.mark.parametrize("skew", [timedelta(hours=-1), timedelta(0), timedelta(hours=1)])
def test_a_run_is_dead_when_it_is_past_its_start_and_shows_nothing_new(
    started_ago: timedelta | None, renews: bool, later: int, dead: bool, skew: timedelta
) -> None:
    after = NOW + timedelta(seconds=later)
    noticed = silences([run(started_ago)], lease(skew), {}, START_TIMEOUT, NOW)
    leases = lease(skew - timedelta(seconds=5)) if renews else lease(skew)
    assert bool(dead_runs(silences([run(started_ago)], leases, noticed, START_TIMEOUT, after), after)) is dead


def test_a_run_without_a_lease_is_dead_when_that_was_noticed_a_lease_ago() -> None:
    """One that ends has given its lease back, and its status follows a moment later."""
    old, later = [run(timedelta(hours=3))], NOW + timedelta(seconds=61)
    noticed = silences(old, {}, {}, START_TIMEOUT, NOW)
    assert (noticed, dead_runs(noticed, NOW)) == ({"run": Silence(NOW, None)}, set())
    assert dead_runs(silences(old, {}, noticed, START_TIMEOUT, later), later) == {"run"}
    assert silences([], {}, noticed, START_TIMEOUT, later) == {}


def test_the_fingerprint_follows_where_a_plan_starts_and_not_where_it_ends() -> None:
    partition = TopicPartition("ProductCreated", 0, 0)
    assert Plan(0, (Range(partition, 10, 99),)).fingerprint == PLAN.fingerprint
    assert Plan(0, (Range(partition, 11, 20),)).fingerprint != PLAN.fingerprint
    assert Plan(1, PLAN.ranges).fingerprint != PLAN.fingerprint
    assert len(PLAN.fingerprint) == 16


def test_a_small_plan_waits_for_more_but_never_longer_than_it_may() -> None:
    wait, worth = timedelta(seconds=30), 100
    assert too_small(PLAN, None, NOW, wait, worth)
    assert too_small(PLAN, NOW - timedelta(seconds=29), NOW, wait, worth)
    assert not too_small(PLAN, NOW - timedelta(seconds=30), NOW, wait, worth)
    assert not too_small(PLAN, NOW, NOW, timedelta(0), worth)
    assert not too_small(PLAN, NOW, NOW, wait, worth=10)


def test_a_plan_with_something_to_mend_never_waits() -> None:
    assert not too_small(Plan(0, PLAN.ranges, finish=("batch",)), NOW, NOW, timedelta(minutes=1), 100)
    assert not too_small(Plan(0, recommit=(TopicPartition("ProductCreated", 0, 0),)), NOW, NOW, timedelta(minutes=1), 100)
