"""What the watch tells of a world that it looks at seldom, or with difficulty."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from datetime import timedelta
from typing import Any

import pytest

from analytics_defs.core.ingest.planning import PlanningPolicy
from analytics_defs.core.monitoring.health import KAFKA, evaluate_health
from analytics_defs.web.monitor import HealthMonitor, MonitorSettings
from tests.proof.doors import Call, through
from tests.proof.world import World, event
from tests.web.served import doors

MINUTES = timedelta(minutes=10)


@pytest.fixture
def world() -> World:
    found = World()
    found.create()
    found.produce(event("a"))
    found.settle()
    found.produce(event("waits"))
    return found


class Scene:
    def __init__(self, world: World) -> None:
        self.let_ledger = threading.Event()
        self.let_ledger.set()

        def door(call: Call, perform: Callable[[], Any]) -> Any:
            if call.port == "ledger":
                assert self.let_ledger.wait(30)
            return perform()

        ports = through(world.ports, door)
        self.watch = HealthMonitor(doors(ports, None), MonitorSettings(PlanningPolicy(), timedelta(minutes=5), "1", "one"))

    def look(self) -> None:
        """Everything that is due is asked and answers, twice: what Kafka says is put beside heads that were read before."""
        for _ in range(2):
            wait(self.watch.refresh(), 10)
            wait(self.watch.refresh(), 10)

    @property
    def reasons(self) -> list[str]:
        return [each for each in evaluate_health(self.watch.snapshot()).reasons if each.startswith("stalled")]


@pytest.fixture
def scene(world: World) -> Iterator[Scene]:
    found = Scene(world)
    found.look()
    yield found
    found.let_ledger.set()


def test_what_was_seen_long_ago_is_no_stall_now(world: World, scene: Scene) -> None:
    assert [lag.offsets for lag in scene.watch.snapshot().lags] == [1]
    world.clock.advance(MINUTES)
    assert scene.reasons == []


def test_heads_that_moved_between_two_looks_far_apart_are_no_stall(world: World, scene: Scene) -> None:
    world.settle()
    world.produce(event("another waits"))
    world.clock.advance(MINUTES)
    scene.look()
    assert [lag.offsets for lag in scene.watch.snapshot().lags] == [1]
    assert scene.reasons == []


def test_a_head_that_stands_where_it_stood_is_stalled_however_seldom_one_looks(world: World, scene: Scene) -> None:
    world.clock.advance(MINUTES)
    scene.look()
    assert [each.partition(" (")[0] for each in scene.reasons] == [
        "stalled: 1 offsets of ProductDeleted/0 wait, and nothing was committed there for 600s"
    ]


def test_while_the_ledger_takes_its_time_new_watermarks_are_not_set_against_old_heads(world: World, scene: Scene) -> None:
    world.settle()
    world.produce(*(event(f"later {number}") for number in range(50)))
    world.clock.advance(MINUTES)
    scene.let_ledger.clear()
    before = scene.watch.snapshot().services[KAFKA].succeeded_at
    scene.watch.refresh()
    asked = scene.watch._kafka.refresh()
    assert asked is not None
    wait([asked], 10)
    assert scene.watch.snapshot().services[KAFKA].succeeded_at != before
    assert scene.watch.snapshot().lags == ()
    assert scene.reasons == []
    scene.let_ledger.set()
