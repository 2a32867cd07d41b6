"""Benchmark of the time and memory of the compaction and statistics of one hour.

    python -m tests.bench.hours make FOLDER 300000
    python -m tests.bench.hours measure FOLDER

Parts are written to a temporary bucket in the object store of the environment (`make servers`, then its env file). The
ledger is in memory, because it is not measured. One process does the work, as in a run, so that its peak is that of a
run.
"""

from __future__ import annotations

import pickle
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from analytics_defs.adapters.duckdb.statistics import duckdb_statistics
from analytics_defs.adapters.memory import MemoryEventLog, MemoryLedger, MemoryRecentEvents
from analytics_defs.adapters.runtime.system import SystemClock, ThreadTaskPool
from analytics_defs.core.storage.object_keys import part_key
from analytics_defs.flows.hours.compaction import compact_hour
from analytics_defs.flows.hours.statistics import compute_hourly_stats
from analytics_defs.ports import Ports, StoredObject
from tests.bench.parts import HOUR, parts
from tests.contracts.object_store_fixtures import real_object_store

MEMORY_MB = 384


def make(folder: Path, events: int) -> None:
    """Write parts and the records of their batches as files, for any number of measurements."""
    folder.mkdir(parents=True)
    records = []
    for record, data in parts(events):
        records.append(record)
        (folder / f"{record.batch.id}.parquet").write_bytes(data)
    (folder / "records").write_bytes(pickle.dumps(records))


def measure(folder: Path) -> None:
    with stored_hour(folder) as (ports, events):
        engine_factory = partial(duckdb_statistics, MEMORY_MB)
        for name, work in (("compact", compact_hour), ("statistics", compute_hourly_stats)):
            before, started, cpu = peak_mb(), time.monotonic(), time.process_time()
            work(HOUR, ports, engine_factory)
            seconds, cpu = time.monotonic() - started, time.process_time() - cpu
            print(  # noqa: T201 - the result of this script
                f"{name}: {events} events in {seconds:.1f} s ({events / seconds:,.0f}/s), {cpu:.1f} s of CPU, "
                f"peak {peak_mb():.0f} MB ({before:.0f} MB before)",
                flush=True,
            )


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@contextmanager
def stored_hour(folder: Path) -> Iterator[tuple[Ports, int]]:
    with real_object_store() as archive:
        ledger, workers = MemoryLedger(), ThreadTaskPool(8)
        try:
            events = 0
            for record in pickle.loads((folder / "records").read_bytes()):  # noqa: S301 - written by `make`
                data = (folder / f"{record.batch.id}.parquet").read_bytes()
                events += record.outcome_counts.stored
                assert ledger.begin_batch(record.batch)
                assert ledger.close_batch(record)
                archive.port.put([StoredObject(part_key(HOUR, record.batch.id), data, "application/vnd.apache.parquet", {})])
            yield Ports(MemoryEventLog(), MemoryRecentEvents(), archive.port, ledger, SystemClock(), workers), events
        finally:
            workers.close()


if __name__ == "__main__":
    if sys.argv[1] == "make":
        make(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        measure(Path(sys.argv[2]))
