"""A run in a process that sends itself SIGKILL or SIGSTOP at a chosen call of a port.

It executes the Dagster job `micro_batch` with the production wiring, except for two things. The clock does not move, so that stored
bytes can be compared. Claims are smaller, so that a small batch has a first, a middle and a last claim.
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
"""Events per claim."""
SUCCEEDED, FAILED = 0, 3
"""Exit codes of a process that was not killed, by the result of its run."""


@dataclass(frozen=True, slots=True)
class Boundary:
    """One call of one port, and the moment before, within or after it."""

    call: str
    """`port.method`. `object_store.put` (also for `put_many_if_absent`) and `object_store.delete` are followed by the top folder,
    for example `object_store.put parquet`."""
    number: int = 1
    """Ordinal of the call among the calls of this name in the process, from 1."""
    moment: Literal["before", "within", "after"] = "before"
    """`within`: the call writes the first half of its items."""

    def __str__(self) -> str:
        return f"{self.moment} {self.call} {self.number}"


@dataclass(frozen=True, slots=True)
class RunSpec:
    """The plan that the process executes, and where it kills or stops itself."""

    settings: Settings
    plan: Plan
    now: datetime
    folder: Path
    """The folder for the output and for `boundary_file`."""
    run_id: str = "00000000-0000-4000-8000-000000000001"
    boundary: Boundary | None = None
    signal_number: signal.Signals = signal.SIGKILL
    """The signal that the process sends itself at the boundary."""
    barriers: Mapping[str, Barrier] = field(default_factory=dict)
    """Keyed by call name. Before its first call of that name the process waits at the barrier for another process."""

    @property
    def boundary_file(self) -> Path:
        """Return the file that the process writes when it reaches the boundary."""
        return self.folder / f"{self.run_id}.boundary"

    @property
    def output(self) -> Path:
        return self.folder / f"{self.run_id}.txt"


context: ForkServerContext = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["tests.real.preload"])
"""The fork server imports Dagster and the client libraries once. The process of each run is a fork of it."""


def launched(spec: RunSpec) -> AbstractContextManager[ForkServerProcess]:
    return running(context.Process(target=execute, args=(spec,)))


@contextmanager
def running(process: ForkServerProcess) -> Iterator[ForkServerProcess]:
    """Start the process, and kill it after the block if it still runs."""
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()
        process.close()


def execute(spec: RunSpec) -> None:
    """Execute the run and exit. This is the main function of the process."""
    with spec.output.open("ab") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    tempfile.tempdir = str(spec.folder)  # a killed process does not remove its temporary files
    write_batch.CLAIM_CHUNK_EVENTS = CHUNK
    with dg.DagsterInstance.ephemeral() as instance:
        result = defs.resolve_job_def(MICRO_BATCH_JOB).execute_in_process(
            run_config=run_config(spec.plan, spec.settings),
            resources={"platform": KillablePlatform(spec)},
            instance=instance,
            run_id=spec.run_id,
            raise_on_error=False,
        )
    sys.exit(SUCCEEDED if result.success else FAILED)


class KillablePlatform(Platform):
    def __init__(self, spec: RunSpec) -> None:
        self._settings = spec.settings
        self._ports = intercepted(replace(wiring.build_ports(spec.settings), clock=ManualClock(spec.now)), _BoundaryInterceptor(spec))

    def settings(self) -> Settings:
        return self._settings

    def ports(self) -> Ports:
        return self._ports


Interceptor = Callable[[str, Callable[..., Any], tuple[Any, ...]], Any]
"""Called with the name of a port call, the function that performs it, and its arguments."""


def intercepted(ports: Ports, interceptor: Interceptor) -> Ports:
    """Return the same ports with the interceptor around each call."""
    return replace(
        ports,
        event_log=cast(EventLog, _InterceptedPort("event_log", ports.event_log, interceptor)),
        recent_events=cast(RecentEvents, _InterceptedPort("recent_events", ports.recent_events, interceptor)),
        object_store=cast(ObjectStore, _InterceptedPort("object_store", ports.object_store, interceptor)),
        ledger=cast(Ledger, _InterceptedPort("ledger", ports.ledger, interceptor)),
    )


class _InterceptedPort:
    def __init__(self, port: str, target: object, interceptor: Interceptor) -> None:
        self._port, self._target, self._interceptor = port, target, interceptor

    def __getattr__(self, method: str) -> Callable[..., Any]:
        perform = getattr(self._target, method)
        return lambda *args: self._interceptor(_call_name(self._port, method, args), perform, args)


def _call_name(port: str, method: str, args: tuple[Any, ...]) -> str:
    name = f"{port}.{method}".replace("put_many_if_absent", "put")
    if name not in ("object_store.put", "object_store.delete") or not args[0]:
        return name
    first = args[0][0]
    return f"{name} {(first if isinstance(first, str) else first.key).partition('/')[0]}"


class _BoundaryInterceptor:
    """An interceptor that counts calls and sends the signal at the boundary. Thread-safe."""

    def __init__(self, spec: RunSpec) -> None:
        self._spec = spec
        self._calls = Counter[str]()
        self._lock = threading.Lock()

    def __call__(self, name: str, perform: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        with self._lock:
            self._calls[name] += 1
            number = self._calls[name]
        if number == 1 and name in self._spec.barriers:
            self._spec.barriers[name].wait(30)
        boundary = self._spec.boundary
        if boundary is None or (name, number) != (boundary.call, boundary.number):
            return perform(*args)
        if boundary.moment == "after":
            result = perform(*args)
            self._send_signal()
            return result
        if boundary.moment == "within":
            perform(_first_half(args[0]), *args[1:])
        self._send_signal()
        return perform(*args)

    def _send_signal(self) -> None:
        """Send the signal to this process. After SIGSTOP this returns when another process sends SIGCONT."""
        self._spec.boundary_file.write_text(str(self._spec.boundary), encoding="utf-8")
        os.kill(os.getpid(), self._spec.signal_number)


def _first_half(items: Sequence[Any]) -> Sequence[Any]:
    assert len(items) > 1, "a single item has no first half"
    return items[: len(items) // 2]
