"""Lanes at the same time, where claims take a fixed time and store nothing: what the engine gives, whatever this machine's cores give."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from analytics_defs.devstack import dev_celery
from bench.drain import daemon, emptied
from bench.slow_stores import CLAIM_SECONDS
from bench.world import World, new_world

MODULE = "bench.slow_stores"
DELAY = f"{CLAIM_SECONDS * 1000:g} ms for each claim of 100 events, one claim after another in each lane"


@dataclass(frozen=True, slots=True)
class Scaling:
    """Events a second, by the number of lanes at work at the same time; from the first run's creation to the last close."""

    events: int
    per_second: dict[int, float]

    @property
    def factor(self) -> float:
        """What two lanes do of what one does."""
        return self.per_second[2] / self.per_second[1]


def slow_world(lanes: int) -> World:
    """One claim at a time in each lane: what is measured is lanes, not threads."""
    return new_world(lanes=str(lanes), write_threads="1", batch_max_records="1000", write_event_json="false")


def speed(folder: Path, world: World, events: int, on_progress: Callable[[int], None]) -> float:
    """Events a second through a world of `slow_world`, all its lanes on one warm Celery worker. Needs redis-server."""
    platform = daemon(folder, world, dev_celery.celery_launcher(1), ("-m", MODULE))
    return events / emptied(platform, world, events, on_progress).seconds


def scaling(folder: Path, events: int, on_progress: Callable[[int], None]) -> Scaling:
    """One lane, then two. `on_progress` is told how many events of both are through."""
    found = {lanes: speed(folder, slow_world(lanes), events, _onward((lanes - 1) * events, on_progress)) for lanes in (1, 2)}
    return Scaling(events, found)


def _onward(before: int, on_progress: Callable[[int], None]) -> Callable[[int], None]:
    return lambda done: on_progress(before + done)
