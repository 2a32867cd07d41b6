"""Stalls and lag in the monitor, if it is polled rarely or the ledger is slow."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from datetime import timedelta
from typing import Any

import pytest

from analytics_defs.core.ingest.planning import PlanningPolicy
from analytics_defs.core.monitoring.health import KAFKA
from analytics_defs.web.monitor import HealthMonitor, MonitorSettings
from tests.proof.interceptors import Call, intercept
from tests.proof.world import World, event
from tests.web.served import health_clients

MINUTES = timedelta(minutes=10)


@pytest.fixture
def world() -> World:
    world = World()
    world.create()
    world.produce(event("a"))
    world.settle()
    world.produce(event("waiting"))
    return world


class Scene:
    def __init__(self, world: World) -> None:
        self.ledger_answers = threading.Event()
        self.ledger_answers.set()

        def interceptor(call: Call, perform: Callable[[], Any]) -> Any:
            if call.port == "ledger":
                assert self.ledger_answers.wait(30)
            return perform()

        ports = intercept(world.ports, interceptor)
        settings = MonitorSettings(PlanningPolicy(), timedelta(minutes=5), "1", "one")
        self.monitor = HealthMonitor(health_clients(ports), settings)

    def poll(self) -> None:
        """Refresh until every probe has answered. Kafka's offsets are combined with checkpoints that were read before them."""
        for _ in range(2):
            wait(self.monitor.refresh(), 10)
            wait(self.monitor.refresh(), 10)

    @property
    def stall_reasons(self) -> list[str]:
        return [reason for reason in self.monitor.snapshot().status.reasons if reason.startswith("stalled")]

    @property
    def lags(self) -> list[int]:
        return [partition.lag for partition in self.monitor.snapshot().partitions]


@pytest.fixture
def scene(world: World) -> Iterator[Scene]:
    scene = Scene(world)
    scene.poll()
    yield scene
    scene.ledger_answers.set()


def test_time_since_the_last_poll_is_not_a_stall(world: World, scene: Scene) -> None:
    assert scene.lags == [1]
    world.clock.advance(MINUTES)
    assert scene.stall_reasons == []


def test_checkpoints_that_moved_between_two_rare_polls_are_not_stalled(world: World, scene: Scene) -> None:
    world.settle()
    world.produce(event("also waiting"))
    world.clock.advance(MINUTES)
    scene.poll()
    assert scene.lags == [1]
    assert scene.stall_reasons == []


def test_a_checkpoint_that_did_not_move_is_stalled_however_rare_the_polls(world: World, scene: Scene) -> None:
    world.clock.advance(MINUTES)
    scene.poll()
    assert [reason.partition(" (")[0] for reason in scene.stall_reasons] == [
        "stalled: 1 offsets of ProductDeleted/0 are waiting, and no batch of theirs closed for 600s"
    ]


def test_new_watermarks_are_not_compared_with_old_checkpoints(world: World, scene: Scene) -> None:
    world.settle()
    world.produce(*(event(f"later {number}") for number in range(50)))
    world.clock.advance(MINUTES)
    scene.ledger_answers.clear()
    before = scene.monitor.snapshot().services[KAFKA].succeeded_at
    scene.monitor.refresh()
    attempt = scene.monitor._kafka.refresh()
    assert attempt is not None
    wait([attempt], 10)
    assert scene.monitor.snapshot().services[KAFKA].succeeded_at != before
    assert scene.monitor.snapshot().planning is None
    assert scene.lags == []
    assert scene.stall_reasons == []
    scene.ledger_answers.set()
