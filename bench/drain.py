"""Drains of a backlog by the runs of the sensor, with daemon and code server as in production."""

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
PEAK_POLL_SECONDS = 1.0
"""Interval between two reads of the kernel's peak value (VmHWM). Only growth in the last second of a run can be missed."""
PROGRESS_POLL_SECONDS = 2.0
"""Interval between two reads of the progress. It is long because the reads use the stores that are measured.
The results use the times in the batch records."""
TIMEOUT = timedelta(minutes=40)
WORKSPACE = ("-w", "workspace.yaml")
"""Dagster's options for the code location, as in production."""


class EventJson(Enum):
    """How JSON objects are written. The values are labels of the report."""

    BY_PUT = "JSON by PUT"
    BY_TAR = "JSON by tar"
    OFF = "JSON off"

    @property
    def settings(self) -> Mapping[str, str]:
        return {
            "write_event_json": str(self is not EventJson.OFF).lower(),
            "minio_snowball": "auto" if self is EventJson.BY_TAR else "off",
        }


@dataclass(frozen=True, slots=True)
class DrainResult:
    """Measurements of one drain."""

    events: int
    lanes: int
    event_json: EventJson
    seconds: float
    """From the creation of the first run to the close of the last batch, including process starts and pauses."""
    batch_seconds: float
    """Sum of the durations of the batches."""
    runs: int
    peak_mib: float
    """Largest resident set of a run's process (VmHWM)."""
    steps_seconds: Mapping[str, float] = field(default_factory=dict)
    """Seconds by step, summed over threads. Steps overlap, so the sum exceeds the duration."""

    @property
    def per_second(self) -> float:
        return self.events / self.seconds

    @property
    def per_second_in_batches(self) -> float:
        """Events per second of one lane while it processes batches."""
        return self.events / self.batch_seconds


@dataclass(frozen=True, slots=True)
class DrainMeasurement:
    """Measurements until every event of a world was in a closed batch."""

    seconds: float
    """From the creation of the first run to the close of the last batch, including process starts and pauses."""
    records: Sequence[BatchRecord]
    runs: int
    peak_mib: float


def drain(folder: Path, events: int, *, lanes: int, event_json: EventJson, on_progress: Callable[[int], None]) -> DrainResult:
    """Produce events, then start the daemon and wait. Raise AssertionError if an event was lost."""
    world = new_world(lanes=str(lanes), **event_json.settings)
    measurement = measure_drain(daemon(folder, world), world, events, on_progress)
    steps = sum((Counter(record.steps_ms) for record in measurement.records), Counter[str]())
    return DrainResult(
        events,
        lanes,
        event_json,
        measurement.seconds,
        sum(record.duration_ms for record in measurement.records) / 1000,
        measurement.runs,
        measurement.peak_mib,
        {step: ms / 1000 for step, ms in steps.most_common()},
    )


def measure_drain(platform: Platform, world: World, events: int, on_progress: Callable[[int], None]) -> DrainMeasurement:
    """Produce events, then start the platform and wait. Raise AssertionError if an event was lost."""
    world.produce(events)
    with platform as (stack, home), peak_memory(stack) as peaks:
        _await(stack, world, events, on_progress)
        with dg.DagsterInstance.from_config(str(home)) as instance:
            created = [record.create_timestamp for record in instance.get_run_records(dg.RunsFilter(job_name=MICRO_BATCH_JOB))]
    world.verify(events)
    records = _records(world)
    seconds = (max(record.closed_at for record in records) - min(created).astimezone(UTC)).total_seconds()
    return DrainMeasurement(seconds, records, len(created), max(peaks.values(), default=0.0))


LARGE_BYTES = 900_000


def drain_large(folder: Path, records: int, *, on_progress: Callable[[int], None]) -> float:
    """Return the peak memory in MiB of the runs that drain events of 900 KB each."""
    world = new_world(write_event_json="true")
    _produce_large(world, records)
    with daemon(folder, world) as (stack, _), peak_memory(stack) as peaks:
        _await(stack, world, records, on_progress)
    world.verify(records)
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
        time.sleep(PROGRESS_POLL_SECONDS)
        on_progress(closed := world.closed())
        return closed >= events

    stack.wait_until(all_closed, what=f"draining {events} events", limit=TIMEOUT)


Platform: TypeAlias = AbstractContextManager[tuple[Supervisor, Path]]
"""A running platform: its programs and DAGSTER_HOME."""


@contextmanager
def daemon(
    folder: Path, world: World, launcher: Launcher = PROCESSES, workspace: Sequence[str] = WORKSPACE
) -> Iterator[tuple[Supervisor, Path]]:
    """Run Dagster's daemon, its code server, a new instance (SQLite) and the launcher, without the web server."""
    with supervised(folder) as stack:
        environment = {**launcher.prepare(stack), **world.environment}
        launcher.start(stack, environment)
        stack.start("daemon", (DAEMON, "run", *workspace), environment)
        yield stack, Path(environment["DAGSTER_HOME"])


@contextmanager
def peak_memory(stack: Supervisor) -> Iterator[dict[int, float]]:
    """Record the peak resident set of every run's process below the daemon, in MiB by process id."""
    peaks: dict[int, float] = {}
    ended = threading.Event()
    record = ProcessRecord.load(stack.folder / "processes" / "daemon")
    assert record is not None

    def watch() -> None:
        while not ended.wait(PEAK_POLL_SECONDS):
            for pid in record.group():
                with suppress(OSError, psutil.Error):  # the process ended
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
    """Return whether a command line is that of a run. The code server starts runs with `multiprocessing`."""
    return any("multiprocessing.spawn" in word for word in command)


def _peak_mib(pid: int) -> float:
    [line] = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


def _records(world: World) -> list[BatchRecord]:
    days = {datetime.now(UTC).date(), (datetime.now(UTC) - timedelta(days=1)).date()}
    return [record for day in sorted(days) for record in world.ports.ledger.batches_of_day(day.isoformat())]
