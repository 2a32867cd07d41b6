"""A backlog drained by sensor-driven runs: the daemon and the code server as in production, everything else a run's own doing."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import Enum
from pathlib import Path
from typing import TypeAlias

import dagster as dg
import psutil
from confluent_kafka import Producer

from analytics_defs.core.ledger import BatchRecord
from analytics_defs.defs.ingest.job import MICRO_BATCH_JOB
from analytics_defs.devstack.dev import PROCESSES, Launcher
from analytics_defs.devstack.processes import ProcessRecord
from analytics_defs.devstack.supervisor import Supervisor, supervised
from bench.world import World, new_world

DAEMON = str(Path(sys.executable).with_name("dagster-daemon"))
PEAK_SECONDS = 1.0
"""Between two looks at the kernel's own peak (VmHWM), so only what a run takes in its last second can be missed."""
ASK_SECONDS = 2.0
"""Between two looks at the progress: they go to the stores that are measured. Figures come from the records' own times."""
TOO_LONG = timedelta(minutes=40)
WORKSPACE = ("-w", "workspace.yaml")
"""Dagster's options for the code that plans and moves the events: production's own."""


class EventObjects(Enum):
    """How each event's JSON object is written, in words for the table."""

    BY_PUT = "JSON by PUT"
    BY_TAR = "JSON by tar"
    OFF = "JSON off"

    @property
    def settings(self) -> Mapping[str, str]:
        return {
            "write_event_json": str(self is not EventObjects.OFF).lower(),
            "minio_snowball": "auto" if self is EventObjects.BY_TAR else "off",
        }


@dataclass(frozen=True, slots=True)
class Drained:
    """What one drain took."""

    events: int
    lanes: int
    write_event_json: EventObjects
    seconds: float
    """From the creation of the first run to the close of the last batch: starts of processes and waits between runs included."""
    batch_seconds: float
    """Sum of the batches' own durations."""
    runs: int
    peak_mib: float
    """Largest resident set of a run's process (VmHWM)."""
    steps_seconds: Mapping[str, float] = field(default_factory=dict)
    """By step, over all threads: steps overlap, so their sum exceeds the duration."""

    @property
    def per_second(self) -> float:
        return self.events / self.seconds

    @property
    def per_second_in_batches(self) -> float:
        """What one lane does while it works."""
        return self.events / self.batch_seconds


@dataclass(frozen=True, slots=True)
class Emptied:
    """What it took until every event of a world was in a closed batch."""

    seconds: float
    """From the creation of the first run to the close of the last batch: starts of processes and waits between runs included."""
    records: Sequence[BatchRecord]
    runs: int
    peak_mib: float


def drain(folder: Path, events: int, *, lanes: int, write_event_json: EventObjects, on_progress: Callable[[int], None]) -> Drained:
    """Produce first, then start the daemon, then wait. Raises AssertionError where the account does not balance afterwards."""
    world = new_world(lanes=str(lanes), **write_event_json.settings)
    found = emptied(daemon(folder, world), world, events, on_progress)
    steps = sum((Counter(record.steps_ms) for record in found.records), Counter[str]())
    return Drained(
        events,
        lanes,
        write_event_json,
        found.seconds,
        sum(record.duration_ms for record in found.records) / 1000,
        found.runs,
        found.peak_mib,
        {step: ms / 1000 for step, ms in steps.most_common()},
    )


def emptied(platform: Platform, world: World, events: int, on_progress: Callable[[int], None]) -> Emptied:
    """Fill the world, then start what moves the events. Raises AssertionError where the account does not balance afterwards."""
    world.produce(events)
    with platform as (stack, home), peak_memory(stack) as peaks:
        _await(stack, world, events, on_progress)
        with dg.DagsterInstance.from_config(str(home)) as instance:
            created = [record.create_timestamp for record in instance.get_run_records(dg.RunsFilter(job_name=MICRO_BATCH_JOB))]
    world.prove(events)
    records = _records(world)
    seconds = (max(record.closed_at for record in records) - min(created).astimezone(UTC)).total_seconds()
    return Emptied(seconds, records, len(created), max(peaks.values(), default=0.0))


LARGE_BYTES = 900_000


def drain_large(folder: Path, records: int, *, on_progress: Callable[[int], None]) -> float:
    """Peak memory of the runs, in MiB, that drain events of 900 KB each."""
    world = new_world(write_event_json="true")
    _produce_large(world, records)
    with daemon(folder, world) as (stack, _), peak_memory(stack) as peaks:
        _await(stack, world, records, on_progress)
    world.prove(records)
    return max(peaks.values())


def _produce_large(world: World, records: int) -> None:
    settings = world.settings
    producer = Producer(
        {"bootstrap.servers": settings.kafka_brokers, "message.max.bytes": 1_000_000, "enable.idempotence": True, "max.in.flight": 1}
    )
    for number in range(records):
        event = {"id": f"large-{number}", "timestamp": datetime.now(UTC).isoformat(), "type": "ProductDeleted", "productId": "p"}
        text = json.dumps(event | {"sellerId": "s", "note": "x" * LARGE_BYTES})
        producer.produce(settings.kafka_topics[number % len(settings.kafka_topics)], text)
        producer.poll(0.01)
    assert producer.flush(60) == 0


def _await(stack: Supervisor, world: World, events: int, on_progress: Callable[[int], None]) -> None:
    def all_closed() -> bool:
        time.sleep(ASK_SECONDS)
        on_progress(closed := world.closed())
        return closed >= events

    stack.wait_until(all_closed, what=f"draining {events} events", limit=TOO_LONG)


Platform: TypeAlias = AbstractContextManager[tuple[Supervisor, Path]]
"""Runs for the length of a block. Its programs, and Dagster's home."""


@contextmanager
def daemon(
    folder: Path, world: World, engine: Launcher = PROCESSES, workspace: Sequence[str] = WORKSPACE
) -> Iterator[tuple[Supervisor, Path]]:
    """Dagster's daemon, its code server, an instance of its own (SQLite) and what executes the runs, without the web server."""
    with supervised(folder) as stack:
        environment = {**engine.prepare(stack), **world.environment}
        engine.start(stack, environment)
        stack.start("daemon", (DAEMON, "run", *workspace), environment)
        yield stack, Path(environment["DAGSTER_HOME"])


@contextmanager
def peak_memory(stack: Supervisor) -> Iterator[dict[int, float]]:
    """Peak resident set of every run's process below the daemon, in MiB by process id, looked at every second."""
    peaks: dict[int, float] = {}
    ended = threading.Event()
    record = ProcessRecord.load(stack.folder / "processes" / "daemon")
    assert record is not None

    def watch() -> None:
        while not ended.wait(PEAK_SECONDS):
            for pid in record.group():
                with suppress(OSError, psutil.Error):  # it ended in between
                    if _is_run(psutil.Process(pid).cmdline()):
                        peaks[pid] = max(peaks.get(pid, 0.0), _peak_mib(pid))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peaks
    finally:
        ended.set()
        thread.join()


def _is_run(command: Sequence[str]) -> bool:
    """The code server starts each run by Python's own `multiprocessing`."""
    return any("multiprocessing.spawn" in word for word in command)


def _peak_mib(pid: int) -> float:
    [line] = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


def _records(world: World) -> list[BatchRecord]:
    days = {datetime.now(UTC).date(), (datetime.now(UTC) - timedelta(days=1)).date()}
    return [record for day in sorted(days) for record in world.ports.ledger.batches_of_day(day.isoformat())]
