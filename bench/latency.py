"""Seconds from a record's production to its item being there to query, at a steady rate, with the sensor's runs as the only movers."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import islice
from pathlib import Path

from confluent_kafka import Producer

from analytics_defs.devstack import dev_celery
from analytics_defs.devstack.dev import PROCESSES, Launcher
from analytics_defs.simulator.publisher import simulated_records
from analytics_defs.simulator.shop import CLEAN_MIX
from bench.drain import daemon
from bench.world import World, new_world

LOOK_SECONDS = 0.1
"""How exact the answer is: the table is asked that often for the events that were not there yet."""
PATIENCE = timedelta(minutes=2)


@dataclass(frozen=True, slots=True)
class Latency:
    """Of every event that was produced."""

    launcher: str
    events: int
    per_second: float
    p50_seconds: float
    p99_seconds: float
    worst_seconds: float


@dataclass(frozen=True, slots=True)
class Load:
    """So many events a second."""

    rate: float
    events: int


def launchers() -> Mapping[str, Launcher]:
    """By what the report calls them. One lane and one worker: the table says what a launcher does, not what many do."""
    return {"a process for each run": PROCESSES, "a warm Celery worker": dev_celery.celery_launcher(1)}


def latency(folder: Path, launcher: str, load: Load, on_progress: Callable[[int], None]) -> Latency:
    """The first events warm the system up: two runs' worth of them are produced and seen before the clock counts."""
    world, rate, events = new_world(lanes="1"), load.rate, load.events
    with daemon(folder, world, launchers()[launcher]) as (stack, _):
        for number in (1, 2):
            world.produce(1)
            stack.wait_until(partial(_closed, world, number), what="the first runs", limit=PATIENCE)
        produced = _Produced(world, rate, events)
        waits: list[float] = []

        def all_seen() -> bool:
            time.sleep(LOOK_SECONDS)
            waits.extend(produced.seen())
            on_progress(len(waits))
            return len(waits) >= events

        stack.wait_until(all_seen, what="events to become queryable", limit=timedelta(seconds=events / rate) + PATIENCE)
        stack.wait_until(partial(_closed, world, events + 2), what="the last batch's close", limit=PATIENCE)
    world.prove(events + 2)
    waits.sort()
    return Latency(launcher, events, rate, waits[len(waits) // 2], waits[len(waits) * 99 // 100], waits[-1])


def _closed(world: World, events: int) -> bool:
    time.sleep(LOOK_SECONDS)
    return world.closed() >= events


class _Produced:
    """Events produced one by one in a thread, and when; forgotten once they are seen."""

    def __init__(self, world: World, rate: float, events: int) -> None:
        self._recent = world.ports.recent_events
        self._since: dict[str, float] = {}
        self._lock = threading.Lock()
        settings = world.settings
        self._producer = Producer(
            {"bootstrap.servers": settings.kafka_brokers, "linger.ms": 0, "enable.idempotence": True, "max.in.flight": 1}
        )
        records = islice(simulated_records(int(datetime.now(UTC).timestamp()), CLEAN_MIX, settings.kafka_topics), events)
        threading.Thread(target=self._produce, args=(records, rate), daemon=True).start()

    def _produce(self, records: islice, rate: float) -> None:  # type: ignore[type-arg]
        begun = time.monotonic()
        for number, (topic, key, value, _) in enumerate(records):
            time.sleep(max(0.0, begun + number / rate - time.monotonic()))
            with self._lock:
                self._since[json.loads(value or b"")["id"]] = time.monotonic()
            self._producer.produce(topic, value, key)
            self._producer.poll(0)
        self._producer.flush()

    def seen(self) -> list[float]:
        """Seconds that each event waited which is there now and was not before."""
        with self._lock:
            waiting = list(self._since)
        found = self._recent.get_items(waiting)
        now = time.monotonic()
        with self._lock:
            return [now - self._since.pop(each) for each in found]
