"""SIGKILL or SIGSTOP of the process of a compaction at each of its steps. Readers see every event once, before and after recovery."""

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
from tests.real import data, killable_run, raw_clients, world
from tests.real.killable_run import Boundary
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
STOPPED = [Boundary(call, 1, "before") for call in CALLS[2:]]
HOURS = {str(boundary): f"2024-02-{day:02d}T07" for day, boundary in enumerate(KILLED, 1)} | {
    f"stopped {boundary}": f"2024-03-{day:02d}T07" for day, boundary in enumerate(STOPPED, 1)
}
"""Keyed by case. All cases use one test platform, so each has its own hour."""


@dataclass(frozen=True)
class CompactionSpec:
    """The hour that the process compacts, and where it kills or stops itself."""

    settings: Settings
    hour: str
    boundary: Boundary
    signal_number: signal.Signals
    folder: Path

    @property
    def boundary_file(self) -> Path:
        """Return the file that the process writes when it reaches the boundary."""
        return self.folder / "boundary"


def compact(spec: CompactionSpec) -> None:
    """Compact the hour and exit. This is the main function of the process."""
    tempfile.tempdir = str(spec.folder)  # a killed process does not remove its temporary files
    ports = wiring.build_ports(spec.settings)

    def interceptor(name: str, perform: object, args: tuple[object, ...]) -> object:
        assert callable(perform)
        if name != spec.boundary.call or spec.boundary_file.exists():
            return perform(*args)
        result = perform(*args) if spec.boundary.moment == "after" else None
        spec.boundary_file.write_text(name, encoding="utf-8")
        os.kill(os.getpid(), spec.signal_number)
        return result if spec.boundary.moment == "after" else perform(*args)

    compact_hour(spec.hour, killable_run.intercepted(ports, interceptor), wiring.statistics_engine_factory(spec.settings))
    sys.exit(killable_run.SUCCEEDED)


def launched(spec: CompactionSpec) -> AbstractContextManager[ForkServerProcess]:
    return killable_run.running(killable_run.context.Process(target=compact, args=(spec,)))


@pytest.fixture(scope="module")
def platform() -> Iterator[World]:
    """Yield a platform where every hour has an archive of two batches and a part of a third batch."""
    with raw_clients.topics(1) as topics, world.new_world(topics, ManualClock(world.this_second()), batch_max_hours=24) as platform:
        hours = list(HOURS.values())
        for number in range(3):
            raw_clients.produce([raw_clients.Written(topics[0], 0, data.event(f"{hour} {number}", hour)) for hour in hours])
            platform.settle()
            if number == 1:
                for hour in hours:
                    compact_hour(hour, platform.ports, wiring.statistics_engine_factory(platform.settings))
        yield platform


def expected_ids(hour: str) -> list[str]:
    return [f"{hour} {number}" for number in range(3)]


def ids_by_manifest(platform: World, hour: str) -> list[str]:
    """Return the event ids that a reader finds with the bucket alone: the manifest's files, and parts of later batches."""
    manifest = json.loads(raw_clients.get(platform.bucket, manifest_key(hour)).body)
    keys = [parquet_dir(hour) + file["name"] for file in manifest["files"]]
    for key in raw_clients.keys(platform.bucket, parquet_dir(hour)):
        name = key.rpartition("/")[2]
        if not name.startswith(("archive-", "_")) and name.removesuffix(".parquet") not in manifest["batches"]:
            keys.append(key)
    tables = [pq.read_table(io.BytesIO(raw_clients.get(platform.bucket, key).body), columns=["event_id"]) for key in keys]
    return sorted(event_id for table in tables for event_id in table["event_id"].to_pylist())


def assert_compacted(platform: World, hour: str, revision: int) -> None:
    assert ids_by_manifest(platform, hour) == expected_ids(hour)
    names = [key.rpartition("/")[2][:14] for key in raw_clients.keys(platform.bucket, parquet_dir(hour))]
    assert names == ["_SUCCESS.json", f"archive-{revision:06d}"]


@pytest.mark.parametrize("boundary", KILLED, ids=str)
def test_a_killed_compaction_hides_no_event_and_the_next_one_completes(platform: World, boundary: Boundary, tmp_path: Path) -> None:
    hour = HOURS[str(boundary)]
    with launched(CompactionSpec(platform.settings, hour, boundary, signal.SIGKILL, tmp_path)) as process:
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
    assert ids_by_manifest(platform, hour) == expected_ids(hour)
    compact_hour(hour, platform.ports, wiring.statistics_engine_factory(platform.settings))
    assert_compacted(platform, hour, 2)


@pytest.mark.parametrize("boundary", STOPPED, ids=str)
def test_a_zombie_compaction_hides_no_event_of_later_revisions(platform: World, boundary: Boundary, tmp_path: Path) -> None:
    hour = HOURS[f"stopped {boundary}"]
    with launched(CompactionSpec(platform.settings, hour, boundary, signal.SIGSTOP, tmp_path)) as process:
        until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED)
        compact_hour(hour, platform.ports, wiring.statistics_engine_factory(platform.settings))
        raw_clients.produce([raw_clients.Written(platform.settings.kafka_topics[0], 0, data.event(f"{hour} late", hour))])
        platform.settle()
        compact_hour(hour, platform.ports, wiring.statistics_engine_factory(platform.settings))
        assert process.pid is not None
        os.kill(process.pid, signal.SIGCONT)
        process.join(60)
        assert process.exitcode == 0
    assert ids_by_manifest(platform, hour) == sorted([*expected_ids(hour), f"{hour} late"])
    compact_hour(hour, platform.ports, wiring.statistics_engine_factory(platform.settings))
    assert len(raw_clients.keys(platform.bucket, parquet_dir(hour))) == 2
