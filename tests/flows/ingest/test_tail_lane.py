"""A run that tails its lane stores the same as one run per batch, and ends by itself."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from itertools import count
from typing import Any

import pytest

from analytics_defs.core.ingest.planning import PlanningPolicy
from analytics_defs.core.ledger import BatchRecord
from analytics_defs.errors import Unavailable
from analytics_defs.flows.ingest.execute_plan import ExecutionReport
from analytics_defs.flows.ingest.tail_lane import IDLE_TIMEOUT, TailOptions, tail_lane
from analytics_defs.ports import Ports
from tests.flows.ingest.test_execute_plan import problems
from tests.proof.clocks import ScriptedClock
from tests.proof.interceptors import Call, Crashed, failing, intercept
from tests.proof.world import NOW, TOPIC, World, event, ingest_options

INTERVAL = timedelta(seconds=1)


def a_world(policy: PlanningPolicy | None = None) -> tuple[World, ScriptedClock]:
    clock = ScriptedClock(NOW)
    world = World(clock=clock, policy=policy or PlanningPolicy())
    world.create(partitions=2)
    return world, clock


def tail_options(world: World, seconds: float = 20, policy: PlanningPolicy | None = None) -> TailOptions:
    return TailOptions(world.topics, policy or world.policy, timedelta(seconds=seconds), INTERVAL)


def tail(
    world: World, ports: Ports | None = None, closed: list[BatchRecord] | None = None, lane: int = 0, **options: Any
) -> ExecutionReport:
    on_closed = (lambda _: None) if closed is None else closed.append
    return tail_lane(lane, tail_options(world, **options), ports or world.ports, ingest_options("tailing run"), on_closed)


def test_records_that_arrive_during_the_run_are_stored_in_further_batches() -> None:
    world, clock = a_world()
    clock.on_sleep = [
        lambda: world.produce(event("a"), event("b")),
        lambda: None,
        lambda: world.produce(event("c"), event("a"), None, b"no event", partition=1),
    ]
    report = tail(world)
    assert [record.outcome_counts.stored for record in report.closed] == [2, 1]
    assert [record.outcome_counts.total for record in report.closed] == [2, 4]
    assert report.stop_reason is None
    assert sorted(world.recent_events.items) == ["a", "b", "c"]
    assert not any(world.plan().plans)
    assert problems(world) == []


def test_the_run_ends_after_the_idle_timeout_which_restarts_with_each_record() -> None:
    world, clock = a_world()
    clock.on_sleep = [lambda: None] * 3 + [lambda: world.produce(event("a"))]
    tail(world)
    assert clock.sleeps == [INTERVAL] * (4 + IDLE_TIMEOUT // INTERVAL)


def test_the_run_plans_at_least_once_however_long_the_interval() -> None:
    world, clock = a_world()
    long_interval = TailOptions(world.topics, world.policy, timedelta(minutes=1), timedelta(seconds=10))
    clock.on_sleep = [lambda: world.produce(event("a"))]
    report = tail_lane(0, long_interval, world.ports, ingest_options("tailing run"), lambda _: None)
    assert [record.outcome_counts.stored for record in report.closed] == [1]
    assert clock.sleeps == [timedelta(seconds=10)] * 2


def test_the_run_ends_after_its_duration_and_leaves_the_rest_to_the_next_plan() -> None:
    world, clock = a_world()
    numbers = count()
    clock.on_sleep = [lambda: world.produce(event(f"e{next(numbers)}"))] * 30
    report = tail(world, seconds=20)
    assert len(report.closed) == 19
    world.produce(event("after"))
    assert [len(plan.ranges) for plan in world.plan().plans] == [1]
    world.settle()
    assert problems(world) == []


def test_a_plan_is_no_larger_than_its_policy_and_the_next_plan_reads_the_rest() -> None:
    world, clock = a_world()
    clock.on_sleep = [lambda: world.produce(*(event(f"e{number}") for number in range(25)))]
    report = tail(world, policy=PlanningPolicy(max_offsets=10))
    assert [record.outcome_counts.stored for record in report.closed] == [10, 10, 5]
    assert clock.sleeps[:4] == [INTERVAL, timedelta(0), timedelta(0), INTERVAL], "a backlog needs no pause; less than a full batch does"
    assert problems(world) == []


@pytest.mark.parametrize("seconds", [0, 1])
def test_a_duration_below_the_interval_makes_no_plan(seconds: int) -> None:
    world, clock = a_world()
    world.produce(event("a"))
    assert tail(world, seconds=seconds).closed == []
    assert clock.sleeps == []


def test_a_lane_that_no_longer_exists_is_not_tailed() -> None:
    world, _ = a_world()
    world.produce(event("a"))
    assert tail(world, lane=1).closed == []
    assert world.recent_events.items == {}


def test_only_its_own_lane_is_tailed() -> None:
    world, _ = a_world(PlanningPolicy(lanes=2))
    world.produce(event("a"))
    world.produce(event("b"), partition=1)
    [range_] = world.plan().plans[1].ranges
    [record] = tail(world, lane=1).closed
    assert record.batch.ranges == (range_,)
    assert record.batch.lane == 1


def test_the_run_ends_if_another_run_begins_its_batch_first() -> None:
    world, clock = a_world()
    clock.on_sleep = [lambda: world.produce(event("a"))]

    def rival_first(call: Call, perform: Callable[[], Any]) -> Any:
        if call.method == "begin_batch":
            world.run(by=ingest_options("rival"))
            clock.on_sleep = [lambda: world.produce(event("b"))]
        return perform()

    report = tail(world, intercept(world.ports, rival_first))
    assert report.stop_reason == f"another run began {TOPIC}/0[0,1) first"
    assert report.closed == []
    assert problems(world) == []
    assert sorted(world.recent_events.items) == ["a"]


def test_a_fault_ends_the_run_and_closed_batches_stay_closed() -> None:
    world, clock = a_world()
    clock.on_sleep = [lambda: world.produce(event("a")), lambda: world.produce(event("b"))]
    claims = count()

    def second_claim_fails(call: Call, perform: Callable[[], Any]) -> Any:
        if call.method == "claim" and next(claims) == 1:
            raise Unavailable("DynamoDB does not answer")
        return perform()

    closed: list[BatchRecord] = []
    with pytest.raises(Unavailable):
        tail(world, intercept(world.ports, second_claim_fails), closed)
    assert [record.outcome_counts.stored for record in closed] == [1]
    world.settle()
    assert problems(world) == []
    assert sorted(world.recent_events.items) == ["a", "b"]


def test_a_crash_of_a_tailing_run_at_any_call_is_repaired_by_the_next_run() -> None:
    for at in count():
        for effect in (False, True):
            world, clock = a_world()
            clock.on_sleep = [partial(world.produce, event("a"), event("b")), partial(world.produce, event("a"), None)]
            try:
                tail(world, intercept(world.ports, failing(at, effect, lambda _: Crashed())))
            except Crashed:
                pass
            else:
                assert at > 30, "the calls of two batches at least"
                return
            world.settle()
            assert problems(world) == []
            assert sorted(world.recent_events.items) == ["a", "b"]


def test_many_partitions_make_no_more_batches_than_the_intervals_allow() -> None:
    """Bound the batches per hour, because the hour's archive lists them. A plan of many partitions makes several batches."""
    clock = ScriptedClock(NOW)
    world = World(clock=clock)
    world.create(partitions=60)

    def trickle() -> None:
        for partition in range(60):
            world.produce(event(f"{clock.elapsed_ms()} {partition}"), partition=partition)

    clock.on_sleep = [trickle] * 30
    paced = TailOptions(world.topics, world.policy, timedelta(seconds=20), INTERVAL, INTERVAL)
    report = tail_lane(0, paced, world.ports, ingest_options("tailing run"), lambda _: None)
    assert 15 <= len(report.closed) <= 20 + 2, "three in the first second of each interval"
