"""SIGKILL, or a long sleep, of a compaction's own process at each of its steps: readers see every event once, before and after recovery."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from analytics_defs import wiring
from analytics_defs.adapters.memory import ManualClock
from analytics_defs.config import Settings
from analytics_defs.core.storage.object_keys import manifest_key, parquet_dir
from analytics_defs.flows.hours.compaction import compact_hour
from tests.devstack.waiting import until
from tests.real import data, doomed, plain, world
from tests.real.doomed import Boundary
from tests.real.world import World

pytestmark = pytest.mark.real

CALLS = [
    "ledger.batches_of_hour",
    "object_store.download",
    "object_store.upload",
    "ledger.put_revision",
    "object_store.put_if",
    "object_store.list_keys",
    "object_store.delete parquet",
]
KILLED = [*(Boundary(call, 1, "before") for call in CALLS), *(Boundary(call, 1, "after") for call in CALLS)]
ASLEEP = [Boundary(call, 1, "before") for call in CALLS[2:]]
HOURS = {str(boundary): f"2024-02-{day:02d}T07" for day, boundary in enumerate(KILLED, 1)} | {
    f"asleep {boundary}": f"2024-03-{day:02d}T07" for day, boundary in enumerate(ASLEEP, 1)
}
"""Each case has an hour of its own, in one world."""


@dataclass(frozen=True)
class Job:
    """What the process does, and where it ends."""

    settings: Settings
    hour: str
    boundary: Boundary
    number: signal.Signals
    folder: Path

    @property
    def mark(self) -> Path:
        return self.folder / "mark"


def work(job: Job) -> None:
    """The process's whole life."""
    tempfile.tempdir = str(job.folder)  # who is killed removes nothing
    ports = wiring.build_ports(job.settings)

    def watch(name: str, perform: object, args: tuple[object, ...]) -> object:
        assert callable(perform)
        if name != job.boundary.call or job.mark.exists():
            return perform(*args)
        answer = perform(*args) if job.boundary.moment == "after" else None
        job.mark.write_text(name, encoding="utf-8")
        os.kill(os.getpid(), job.number)
        return answer if job.boundary.moment == "after" else perform(*args)

    compact_hour(job.hour, doomed.watched(ports, watch), wiring.workspace_factory(job.settings))
    sys.exit(doomed.SUCCEEDED)


def started(job: Job) -> AbstractContextManager[ForkServerProcess]:
    return doomed.alive(doomed.context.Process(target=work, args=(job,)))


@pytest.fixture(scope="module")
def scene() -> Iterator[World]:
    """In every hour an archive of two batches, and the part of a third."""
    with plain.topics(1) as topics, world.new_world(topics, ManualClock(world.this_second()), batch_max_hours=24) as found:
        hours = list(HOURS.values())
        for turn in range(3):
            plain.produce([plain.Written(topics[0], 0, data.event(f"{hour} {turn}", hour)) for hour in hours])
            found.settle()
            if turn == 1:
                for hour in hours:
                    compact_hour(hour, found.ports, wiring.workspace_factory(found.settings))
        yield found


def expected(hour: str) -> list[str]:
    return [f"{hour} {turn}" for turn in range(3)]


def by_marker(found: World, hour: str) -> list[str]:
    """What a reader sees that knows nothing but the bucket."""
    said = json.loads(plain.get(found.bucket, manifest_key(hour)).body)
    keys = [parquet_dir(hour) + each["name"] for each in said["files"]]
    for key in plain.keys(found.bucket, parquet_dir(hour)):
        name = key.rpartition("/")[2]
        if not name.startswith(("archive-", "_")) and name.removesuffix(".parquet") not in said["batches"]:
            keys.append(key)
    tables = [pq.read_table(io.BytesIO(plain.get(found.bucket, key).body), columns=["event_id"]) for key in keys]
    return sorted(event_id for table in tables for event_id in table["event_id"].to_pylist())


def assert_whole(found: World, hour: str, revision: int) -> None:
    assert by_marker(found, hour) == expected(hour)
    names = [key.rpartition("/")[2][:14] for key in plain.keys(found.bucket, parquet_dir(hour))]
    assert names == ["_SUCCESS.json", f"archive-{revision:06d}"]


@pytest.mark.parametrize("boundary", KILLED, ids=str)
def test_a_compaction_that_is_killed_hides_no_event_and_the_next_one_converges(scene: World, boundary: Boundary, tmp_path: Path) -> None:
    hour = HOURS[str(boundary)]
    with started(Job(scene.settings, hour, boundary, signal.SIGKILL, tmp_path)) as process:
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
    assert by_marker(scene, hour) == expected(hour)
    compact_hour(hour, scene.ports, wiring.workspace_factory(scene.settings))
    assert_whole(scene, hour, 2)


@pytest.mark.parametrize("boundary", ASLEEP, ids=str)
def test_a_compaction_that_sleeps_while_others_go_on_does_no_harm_when_it_wakes(scene: World, boundary: Boundary, tmp_path: Path) -> None:
    hour = HOURS[f"asleep {boundary}"]
    with started(Job(scene.settings, hour, boundary, signal.SIGSTOP, tmp_path)) as process:
        until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED)
        compact_hour(hour, scene.ports, wiring.workspace_factory(scene.settings))
        plain.produce([plain.Written(scene.settings.kafka_topics[0], 0, data.event(f"{hour} late", hour))])
        scene.settle()
        compact_hour(hour, scene.ports, wiring.workspace_factory(scene.settings))
        assert process.pid is not None
        os.kill(process.pid, signal.SIGCONT)
        process.join(60)
        assert process.exitcode == 0
    assert by_marker(scene, hour) == sorted([*expected(hour), f"{hour} late"])
    compact_hour(hour, scene.ports, wiring.workspace_factory(scene.settings))
    assert len(plain.keys(scene.bucket, parquet_dir(hour))) == 2
