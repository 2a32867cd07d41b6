"""Concurrent lanes with claims that take a fixed time and store nothing.

This measures how the platform scales, independent of the cores of the machine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from analytics_defs.devstack import dev_celery
from bench.drain import daemon, measure_drain
from bench.slow_stores import CLAIM_SECONDS
from bench.world import World, new_world

MODULE = "bench.slow_stores"
DELAY = f"{CLAIM_SECONDS * 1000:g} ms for each claim of 100 events, one claim at a time in each lane"


@dataclass(frozen=True, slots=True)
class Scaling:
    """Events per second by number of lanes, from the creation of the first run to the close of the last batch."""

    events: int
    per_second: dict[int, float]

    @property
    def factor(self) -> float:
        """Speed of two lanes relative to one."""
        return self.per_second[2] / self.per_second[1]


def slow_world(lanes: int) -> World:
    """Return a world with one claim at a time in each lane, so that lanes are measured and not threads."""
    return new_world(lanes=str(lanes), write_threads="1", batch_max_records="1000", write_event_json="false")


def speed(folder: Path, world: World, events: int, on_progress: Callable[[int], None]) -> float:
    """Return events per second in a world of `slow_world`, with one warm Celery worker. Needs redis-server."""
    platform = daemon(folder, world, dev_celery.celery_launcher(1), ("-m", MODULE))
    return events / measure_drain(platform, world, events, on_progress).seconds


def scaling(folder: Path, events: int, on_progress: Callable[[int], None]) -> Scaling:
    """Measure one lane, then two. `on_progress` gets the number of closed events of both."""
    per_second = {lanes: speed(folder, slow_world(lanes), events, _offset((lanes - 1) * events, on_progress)) for lanes in (1, 2)}
    return Scaling(events, per_second)


def _offset(before: int, on_progress: Callable[[int], None]) -> Callable[[int], None]:
    return lambda done: on_progress(before + done)
