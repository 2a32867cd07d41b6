"""A run that goes on with what arrives: the same account as a run for each, and it ends by itself."""

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
from tests.proof.clocks import Eventful
from tests.proof.doors import Call, Crashed, failing, through
from tests.proof.world import NOW, TOPIC, World, conduct, event

EVERY = timedelta(seconds=1)


def a_world(policy: PlanningPolicy | None = None) -> tuple[World, Eventful]:
    clock = Eventful(NOW)
    world = World(clock=clock, policy=policy or PlanningPolicy())
    world.create(partitions=2)
    return world, clock


def following(world: World, seconds: float = 20, policy: PlanningPolicy | None = None) -> TailOptions:
    return TailOptions(world.topics, policy or world.policy, timedelta(seconds=seconds), EVERY)


def followed(
    world: World, ports: Ports | None = None, closed: list[BatchRecord] | None = None, lane: int = 0, **order: Any
) -> ExecutionReport:
    on_closed = (lambda _: None) if closed is None else closed.append
    return tail_lane(lane, following(world, **order), ports or world.ports, conduct("follower"), on_closed)


def test_what_arrives_meanwhile_is_stored_by_the_same_run_in_batches_of_its_own() -> None:
    world, clock = a_world()
    clock.happens = [
        lambda: world.produce(event("a"), event("b")),
        lambda: None,
        lambda: world.produce(event("c"), event("a"), None, b"no event", partition=1),
    ]
    report = followed(world)
    assert [record.tally.stored for record in report.closed] == [2, 1]
    assert [record.tally.total for record in report.closed] == [2, 4]
    assert report.stop_reason is None
    assert sorted(world.recent_events.items) == ["a", "b", "c"]
    assert not any(world.plan().plans)
    assert problems(world) == []


def test_it_ends_when_nothing_came_for_a_while_and_every_arrival_begins_that_while_again() -> None:
    world, clock = a_world()
    clock.happens = [lambda: None] * 3 + [lambda: world.produce(event("a"))]
    followed(world)
    assert clock.slept == [EVERY] * (4 + IDLE_TIMEOUT // EVERY)


def test_it_looks_at_least_once_however_rarely_it_looks() -> None:
    world, clock = a_world()
    rarely = TailOptions(world.topics, world.policy, timedelta(minutes=1), timedelta(seconds=10))
    clock.happens = [lambda: world.produce(event("a"))]
    report = tail_lane(0, rarely, world.ports, conduct("follower"), lambda _: None)
    assert [record.tally.stored for record in report.closed] == [1]
    assert clock.slept == [timedelta(seconds=10)] * 2


def test_it_ends_when_its_time_is_over_and_leaves_the_rest_to_the_next_plan() -> None:
    world, clock = a_world()
    numbers = count()
    clock.happens = [lambda: world.produce(event(f"e{next(numbers)}"))] * 30
    report = followed(world, seconds=20)
    assert len(report.closed) == 19
    world.produce(event("after"))
    assert [len(plan.ranges) for plan in world.plan().plans] == [1]
    world.settle()
    assert problems(world) == []


def test_a_plan_is_no_larger_than_what_it_was_told_and_the_rest_comes_with_the_next() -> None:
    world, clock = a_world()
    clock.happens = [lambda: world.produce(*(event(f"e{number}") for number in range(25)))]
    report = followed(world, policy=PlanningPolicy(max_offsets=10))
    assert [record.tally.stored for record in report.closed] == [10, 10, 5]
    assert clock.slept[:4] == [EVERY, timedelta(0), timedelta(0), EVERY], "a backlog does not wait; what is smaller than a batch does"
    assert problems(world) == []


@pytest.mark.parametrize("seconds", [0, 1])
def test_no_time_is_no_plan(seconds: int) -> None:
    world, clock = a_world()
    world.produce(event("a"))
    assert followed(world, seconds=seconds).closed == []
    assert clock.slept == []


def test_a_lane_that_is_no_more_is_not_followed() -> None:
    world, _ = a_world()
    world.produce(event("a"))
    assert followed(world, lane=1).closed == []
    assert world.recent_events.items == {}


def test_only_its_own_lane_is_followed() -> None:
    world, _ = a_world(PlanningPolicy(lanes=2))
    world.produce(event("a"))
    world.produce(event("b"), partition=1)
    [mine] = world.plan().plans[1].ranges
    [record] = followed(world, lane=1).closed
    assert record.batch.ranges == (mine,)
    assert record.batch.lane == 1


def test_it_ends_where_another_run_takes_what_it_planned() -> None:
    world, clock = a_world()
    clock.happens = [lambda: world.produce(event("a"))]

    def rival_first(call: Call, perform: Callable[[], Any]) -> Any:
        if call.method == "begin_batch":
            world.run(by=conduct("rival"))
            clock.happens = [lambda: world.produce(event("b"))]
        return perform()

    report = followed(world, through(world.ports, rival_first))
    assert report.stop_reason == f"another run began {TOPIC}/0[0,1) first"
    assert report.closed == []
    assert problems(world) == []
    assert sorted(world.recent_events.items) == ["a"]


def test_a_fault_ends_it_and_what_was_closed_stays_closed() -> None:
    world, clock = a_world()
    clock.happens = [lambda: world.produce(event("a")), lambda: world.produce(event("b"))]
    claims = count()

    def second_claim_fails(call: Call, perform: Callable[[], Any]) -> Any:
        if call.method == "claim" and next(claims) == 1:
            raise Unavailable("DynamoDB does not answer")
        return perform()

    closed: list[BatchRecord] = []
    with pytest.raises(Unavailable):
        followed(world, through(world.ports, second_claim_fails), closed)
    assert [record.tally.stored for record in closed] == [1]
    world.settle()
    assert problems(world) == []
    assert sorted(world.recent_events.items) == ["a", "b"]


def test_a_crash_at_any_call_of_a_follower_is_mended_by_whoever_comes_next() -> None:
    for at in count():
        for effect in (False, True):
            world, clock = a_world()
            clock.happens = [partial(world.produce, event("a"), event("b")), partial(world.produce, event("a"), None)]
            try:
                followed(world, through(world.ports, failing(at, effect, lambda _: Crashed())))
            except Crashed:
                pass
            else:
                assert at > 30, "the calls of two batches at least"
                return
            world.settle()
            assert problems(world) == []
            assert sorted(world.recent_events.items) == ["a", "b"]


def test_many_partitions_make_no_more_batches_than_the_pauses_allow() -> None:
    """Breaks: at most so many batches an hour that its archive can list them. A plan of many partitions is several batches."""
    clock = Eventful(NOW)
    world = World(clock=clock)
    world.create(partitions=60)

    def trickle() -> None:
        for partition in range(60):
            world.produce(event(f"{clock.elapsed_ms()} {partition}"), partition=partition)

    clock.happens = [trickle] * 30
    slowly = TailOptions(world.topics, world.policy, timedelta(seconds=20), EVERY, EVERY)
    report = tail_lane(0, slowly, world.ports, conduct("follower"), lambda _: None)
    assert 15 <= len(report.closed) <= 20 + 2, "three in the first second of each pause"
