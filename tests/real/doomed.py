"""A run's own process, which ends or stops itself at a chosen call of a port.

It runs the Dagster job `micro_batch` with the production wiring. Only the clock stands still, so that the bytes written can be compared,
and claims are smaller, so that a small batch has a first, a middle and a last one.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from multiprocessing.context import ForkServerContext, ForkServerProcess
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any, Literal, cast

import dagster as dg

from analytics_defs import wiring
from analytics_defs.adapters.memory import ManualClock
from analytics_defs.config import Settings
from analytics_defs.core.ingest.planning import Plan
from analytics_defs.definitions import defs
from analytics_defs.defs.ingest.job import MICRO_BATCH_JOB, run_config
from analytics_defs.defs.resources.platform import Platform
from analytics_defs.flows.ingest import write_batch
from analytics_defs.ports import EventLog, Ledger, ObjectStore, Ports, RecentEvents

CHUNK = 20
"""Events in one claim."""
SUCCEEDED, FAILED = 0, 3
"""Exit codes of a process that lived to its end, by how its run ended."""


@dataclass(frozen=True, slots=True)
class Boundary:
    """One call of one port, and the moment at it."""

    call: str
    """`port.method`; for `archive.put` (which stands for `put_many_if_absent` too) and `archive.delete` followed by the tree, for example
    `archive.put parquet`."""
    number: int = 1
    """The how-manieth such call of the process."""
    moment: Literal["before", "within", "after"] = "before"
    """`within`: of what the call is to write, the first half is written."""

    def __str__(self) -> str:
        return f"{self.moment} {self.call} {self.number}"


@dataclass(frozen=True, slots=True)
class Mission:
    """What the process does, and where it ends."""

    settings: Settings
    plan: Plan
    now: datetime
    folder: Path
    """For its output and for the mark that it leaves at the boundary."""
    run_id: str = "00000000-0000-4000-8000-000000000001"
    boundary: Boundary | None = None
    number: signal.Signals = signal.SIGKILL
    """What it sends itself at the boundary."""
    meetings: Mapping[str, Barrier] = field(default_factory=dict)
    """Before the first call of such a name it waits for the other party."""

    @property
    def mark(self) -> Path:
        return self.folder / f"{self.run_id}.mark"

    @property
    def output(self) -> Path:
        return self.folder / f"{self.run_id}.txt"


context: ForkServerContext = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["tests.real.warm"])
"""One process imports Dagster and the clients' libraries, once; each run's process is a fork of that."""


def launched(mission: Mission) -> AbstractContextManager[ForkServerProcess]:
    return alive(context.Process(target=execute, args=(mission,)))


@contextmanager
def alive(process: ForkServerProcess) -> Iterator[ForkServerProcess]:
    """The process, running; it does not outlive the block."""
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()
        process.close()


def execute(mission: Mission) -> None:
    """The process's whole life."""
    with mission.output.open("ab") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    tempfile.tempdir = str(mission.folder)  # who is killed removes nothing
    write_batch.CLAIM_CHUNK_EVENTS = CHUNK
    with dg.DagsterInstance.ephemeral() as instance:
        result = defs.resolve_job_def(MICRO_BATCH_JOB).execute_in_process(
            run_config=run_config(mission.plan, mission.settings),
            resources={"platform": DoomedPlatform(mission)},
            instance=instance,
            run_id=mission.run_id,
            raise_on_error=False,
        )
    sys.exit(SUCCEEDED if result.success else FAILED)


class DoomedPlatform(Platform):
    def __init__(self, mission: Mission) -> None:
        self._settings = mission.settings
        self._ports = watched(replace(wiring.build_ports(mission.settings), clock=ManualClock(mission.now)), _Fate(mission))

    def settings(self) -> Settings:
        return self._settings

    def ports(self) -> Ports:
        return self._ports


Watch = Callable[[str, Callable[..., Any], tuple[Any, ...]], Any]
"""Gets the call's name, what performs it, and its arguments."""


def watched(ports: Ports, watch: Watch) -> Ports:
    """The same ports, each call by way of `watch`."""
    return replace(
        ports,
        event_log=cast(EventLog, _Watched("event_log", ports.event_log, watch)),
        recent_events=cast(RecentEvents, _Watched("recent_events", ports.recent_events, watch)),
        object_store=cast(ObjectStore, _Watched("object_store", ports.object_store, watch)),
        ledger=cast(Ledger, _Watched("ledger", ports.ledger, watch)),
    )


class _Watched:
    def __init__(self, port: str, target: object, watch: Watch) -> None:
        self._port, self._target, self._watch = port, target, watch

    def __getattr__(self, method: str) -> Callable[..., Any]:
        perform = getattr(self._target, method)
        return lambda *args: self._watch(_name(self._port, method, args), perform, args)


def _name(port: str, method: str, args: tuple[Any, ...]) -> str:
    name = f"{port}.{method}".replace("put_many_if_absent", "put")
    if name not in ("object_store.put", "object_store.delete") or not args[0]:
        return name
    first = args[0][0]
    return f"{name} {(first if isinstance(first, str) else first.key).partition('/')[0]}"


class _Fate:
    """Counts calls, from any thread, and ends the process at the mission's boundary."""

    def __init__(self, mission: Mission) -> None:
        self._mission = mission
        self._calls = Counter[str]()
        self._lock = threading.Lock()

    def __call__(self, name: str, perform: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        with self._lock:
            self._calls[name] += 1
            number = self._calls[name]
        if number == 1 and name in self._mission.meetings:
            self._mission.meetings[name].wait(30)
        boundary = self._mission.boundary
        if boundary is None or (name, number) != (boundary.call, boundary.number):
            return perform(*args)
        if boundary.moment == "after":
            answer = perform(*args)
            self._end()
            return answer
        if boundary.moment == "within":
            perform(_half(args[0]), *args[1:])
        self._end()
        return perform(*args)

    def _end(self) -> None:
        """Where the signal only stops the process, the call goes on when somebody lets it."""
        self._mission.mark.write_text(str(self._mission.boundary), encoding="utf-8")
        os.kill(os.getpid(), self._mission.number)


def _half(of: Sequence[Any]) -> Sequence[Any]:
    assert len(of) > 1, "there is no middle"
    return of[: len(of) // 2]
