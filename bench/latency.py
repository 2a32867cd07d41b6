"""Seconds from the production of a record to its queryable item, at a steady rate, with the sensor's runs."""

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

POLL_SECONDS = 0.1
"""Interval between two reads of the table for missing events. It limits the precision of the result."""
GRACE = timedelta(minutes=2)


@dataclass(frozen=True, slots=True)
class Latency:
    """Latencies of all produced events."""

    launcher: str
    events: int
    per_second: float
    p50_seconds: float
    p99_seconds: float
    worst_seconds: float


@dataclass(frozen=True, slots=True)
class Load:
    """A steady rate of events per second."""

    rate: float
    events: int


def launchers() -> Mapping[str, Launcher]:
    """Return the launchers by their names in the report. Celery gets one worker, because the launchers are compared."""
    return {"a process for each run": PROCESSES, "a warm Celery worker": dev_celery.celery_launcher(1)}


def latency(folder: Path, launcher: str, load: Load, on_progress: Callable[[int], None]) -> Latency:
    """Measure the latency with one lane.

    The first two events warm up the system, one run each. They are stored before the measurement starts.
    """
    world, rate, events = new_world(lanes="1"), load.rate, load.events
    with daemon(folder, world, launchers()[launcher]) as (stack, _):
        for number in (1, 2):
            world.produce(1)
            stack.wait_until(partial(_closed, world, number), what="the first runs", limit=GRACE)
        producer = _LatencyProbe(world, rate, events)
        waits: list[float] = []

        def all_stored() -> bool:
            time.sleep(POLL_SECONDS)
            waits.extend(producer.newly_stored())
            on_progress(len(waits))
            return len(waits) >= events

        stack.wait_until(all_stored, what="storing the events", limit=timedelta(seconds=events / rate) + GRACE)
        stack.wait_until(partial(_closed, world, events + 2), what="closing the last batch", limit=GRACE)
    world.verify(events + 2)
    waits.sort()
    return Latency(launcher, events, rate, waits[len(waits) // 2], waits[len(waits) * 99 // 100], waits[-1])


def _closed(world: World, events: int) -> bool:
    time.sleep(POLL_SECONDS)
    return world.closed() >= events


class _LatencyProbe:
    """A thread that produces events one by one, and the times of those that are not stored yet."""

    def __init__(self, world: World, rate: float, events: int) -> None:
        self._recent = world.ports.recent_events
        self._produced_at: dict[str, float] = {}
        self._lock = threading.Lock()
        settings = world.settings
        self._producer = Producer(
            {"bootstrap.servers": settings.kafka_brokers, "linger.ms": 0, "enable.idempotence": True, "max.in.flight": 1}
        )
        records = islice(simulated_records(int(datetime.now(UTC).timestamp()), CLEAN_MIX, settings.kafka_topics), events)
        threading.Thread(target=self._produce, args=(records, rate), daemon=True).start()

    def _produce(self, records: islice, rate: float) -> None:  # type: ignore[type-arg]
        started = time.monotonic()
        for number, (topic, key, value, _) in enumerate(records):
            time.sleep(max(0.0, started + number / rate - time.monotonic()))
            with self._lock:
                self._produced_at[json.loads(value or b"")["id"]] = time.monotonic()
            self._producer.produce(topic, value, key)
            self._producer.poll(0)
        self._producer.flush()

    def newly_stored(self) -> list[float]:
        """Return the latency in seconds of each event that was stored since the last call."""
        with self._lock:
            missing = list(self._produced_at)
        stored = self._recent.get_items(missing)
        now = time.monotonic()
        with self._lock:
            return [now - self._produced_at.pop(event_id) for event_id in stored]
