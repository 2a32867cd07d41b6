"""Lanes on Celery workers: real Redis, Postgres, Kafka and stores; workers and servers that die, sleep and come back."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from analytics_defs.core.offsets import TopicPartition
from analytics_defs.core.plan import lane_of
from tests.local.waiting import until
from tests.real import chaos
from tests.real.fleet import Fleet
from tests.real.world import World

pytestmark = [pytest.mark.real, pytest.mark.timeout(420)]

AWAY_SECONDS = 8.0
"""Longer than the sensor's tick: each kind of outage meets a launch."""


def test_lanes_follow_their_work_while_workers_die_and_sleep_and_their_number_changes(tmp_path: Path) -> None:
    seen = chaos.play(tmp_path, events=9_000, rate=90)
    assert seen["rounds"] == 1


def redis_goes_and_comes(ships: Fleet) -> None:
    ships.redis.kill()
    until(lambda: "Connection to broker lost" in ships.log("one").read_text(), seconds=60)
    stay_away()
    ships.redis.start()


def storage_goes_and_comes(ships: Fleet) -> None:
    ships.postgres.stop()
    until(lambda: "OperationalError" in ships.log("daemon").read_text(), seconds=60)
    stay_away()
    ships.postgres.start()


def daemon_is_killed_and_started(ships: Fleet) -> None:
    ships.kill("daemon")
    ships.start_daemon()


def code_server_is_killed_and_started(ships: Fleet) -> None:
    ships.kill("code")
    ships.start_code()


def stay_away() -> None:
    back_at = time.monotonic() + AWAY_SECONDS
    until(lambda: time.monotonic() > back_at, seconds=AWAY_SECONDS + 5)


@pytest.mark.parametrize(
    "fault",
    [redis_goes_and_comes, storage_goes_and_comes, daemon_is_killed_and_started, code_server_is_killed_and_started],
    ids=lambda fault: fault.__name__,
)
def test_what_the_lanes_stand_on_goes_and_comes_and_nothing_is_lost(tmp_path: Path, fault: Callable[[Fleet], None]) -> None:
    with chaos.scene(tmp_path, 4, plan_max_offsets=2_000) as (ships, found):
        chaos.begin(ships, "one", "two")
        chaos.produce(ships, 4_000, 80)
        until(lambda: sum(heads(found).values()) > 200, seconds=60)
        os.kill(chaos.catch(ships, found, "one").pid, signal.SIGCONT)  # so that the fault meets a run in the middle of its work
        fault(ships)
        before = heads(found)
        until(lambda: moved(found, before) == {0, 1, 2, 3}, seconds=chaos.MOVES_WITHIN)
        chaos.settle(ships, found, 150)
        chaos.assert_whole(found, 4_000)


def heads(found: World) -> dict[TopicPartition, int]:
    return {each: head.next for each, head in found.ports.ledger.snapshot().heads.items()}


def moved(found: World, before: Mapping[TopicPartition, int]) -> set[int]:
    """Lanes in which a batch was closed since."""
    return {lane_of(each, found.settings.lanes) for each, offset in heads(found).items() if offset > before.get(each, 0)}
