"""Where a process's time goes: each thread's clocks are read where it enters and where it leaves a step, or a part of one.

What passes on a thread's CPU clock is work; what passes on the wall clock beyond that is waiting. Both are charged to the innermost span
that is open, so nothing is counted twice, and what no span covers is seen as missing. No sampling: a sampler of Python frames charges a
short burst of work to the long wait that follows it, and micro-batches are made of such bursts.
"""

from __future__ import annotations

import functools
import gc
import pkgutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

from analytics_defs.adapters.runtime.system import ThreadTaskPool
from analytics_defs.flows.ingest.timings import Stopwatch

OWN_THREADS = "(waits for threads of its own)"
COLLECTOR = "garbage collection"


class Key(NamedTuple):
    step: str = ""
    """Empty: between the steps."""
    part: str = ""
    """Empty: the step's own code."""


@dataclass(slots=True)
class Spent:
    cpu_ns: int = 0
    wall_ns: int = 0
    count: int = 0

    @property
    def waited_ns(self) -> int:
        return max(0, self.wall_ns - self.cpu_ns)

    def add(self, other: Spent) -> None:
        self.cpu_ns += other.cpu_ns
        self.wall_ns += other.wall_ns
        self.count += other.count


class Span(NamedTuple):
    """A function of ours or of a library, as `module:name`, and what its time is charged to; None: to the step around it."""

    target: str
    step: str | None = None
    part: str = ""


@dataclass(slots=True)
class _Thread:
    is_main: bool = field(default_factory=lambda: threading.current_thread() is threading.main_thread())
    spent: dict[Key, Spent] = field(default_factory=dict)
    open: list[Key] = field(default_factory=list)
    cpu_ns: int = 0
    wall_ns: int = 0

    def turn(self) -> None:
        """Charge what passed since the last turn to what is innermost."""
        cpu_ns, wall_ns = time.thread_time_ns(), time.perf_counter_ns()
        if self.open:
            spent = self.spent.setdefault(self.open[-1], Spent())
            spent.cpu_ns += cpu_ns - self.cpu_ns
            spent.wall_ns += wall_ns - self.wall_ns
            spent.count += 1
        self.cpu_ns, self.wall_ns = cpu_ns, wall_ns

    @property
    def step(self) -> str:
        return self.open[-1].step if self.open else ""

    def enter(self, step: str | None, part: str) -> None:
        self.turn()
        self.open.append(Key(self.step if step is None else step, part))

    def leave(self) -> None:
        self.turn()
        self.open.pop()


class Spans:
    """What was spent, by thread. Every thread writes to its own; read it when they rest."""

    def __init__(self) -> None:
        self._local = threading.local()
        self._threads: list[_Thread] = []

    @contextmanager
    def span(self, step: str | None = None, part: str = "") -> Iterator[None]:
        """None: a part of the step that is open on this thread."""
        thread = self._thread()
        thread.enter(step, part)
        try:
            yield
        finally:
            thread.leave()

    def clear(self) -> None:
        """Spans that are open stay open."""
        for each in self._threads:
            each.spent.clear()

    def spent(self, *, is_main: bool) -> Mapping[Key, Spent]:
        """By the main thread, or by all others together."""
        found: dict[Key, Spent] = {}
        for thread in self._threads:
            for key, each in thread.spent.items() if thread.is_main == is_main else ():
                found.setdefault(key, Spent()).add(each)
        return found

    @contextmanager
    def installed(self, table: Sequence[Span]) -> Iterator[None]:
        """The table's functions, the code's own stopwatch and its threads report here, for the length of the block."""
        gc.callbacks.append(self._collects)
        try:
            with ExitStack() as patches:
                for each in table:
                    self._patch(patches, each.target, functools.partial(self._timed, each))
                self._patch(patches, "analytics_defs.flows.ingest.execute_plan:Stopwatch", self._stopwatch)
                self._patch(patches, "analytics_defs.adapters.runtime.system:ThreadTaskPool.run_all", self._workers)
                yield
        finally:
            gc.callbacks.remove(self._collects)

    def _patch(self, patches: ExitStack, target: str, wrap: Callable[[Any], Any]) -> None:
        module, _, path = target.partition(":")
        owner, _, name = path.rpartition(".")
        found = pkgutil.resolve_name(f"{module}:{owner}" if owner else module)
        patches.enter_context(patch.object(found, name, wrap(getattr(found, name))))

    def _timed(self, span: Span, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def call(*args: Any, **kwargs: Any) -> Any:
            thread = self._thread()
            thread.enter(span.step, span.part)
            try:
                return original(*args, **kwargs)
            finally:
                thread.leave()

        return call

    def _stopwatch(self, _: type[Stopwatch]) -> type[Stopwatch]:
        spans = self

        class Watched(Stopwatch):
            @contextmanager
            def __call__(self, step: str) -> Iterator[None]:
                with super().__call__(step), spans.span(step):
                    yield

        return Watched

    def _workers(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """A job belongs to the step of whoever waits for it."""

        def run(workers: ThreadTaskPool, jobs: Sequence[Callable[[], Any]]) -> list[Any]:
            step = self._thread().step
            with self.span(part=OWN_THREADS):
                found: list[Any] = original(workers, [functools.partial(self._within, step, job) for job in jobs])
            return found

        return run

    def _within(self, step: str, job: Callable[[], Any]) -> Any:
        with self.span(step):
            return job()

    def _collects(self, phase: str, _: Mapping[str, int]) -> None:
        thread = self._thread()
        if phase == "start":
            thread.enter(COLLECTOR, "")
        elif thread.step == COLLECTOR:
            thread.leave()

    def _thread(self) -> _Thread:
        found: _Thread | None = getattr(self._local, "thread", None)
        if found is None:
            found = self._local.thread = _Thread()
            self._threads.append(found)
        return found


def native_cpu_ns() -> Mapping[str, int]:
    """CPU of the process's threads that are not Python's, by their names: those that libraries start. Linux tells."""
    ours, found = {str(thread.native_id) for thread in threading.enumerate()}, dict[str, int]()
    for task in Path("/proc/self/task").iterdir():
        if task.name not in ours:
            name = (task / "comm").read_text().strip()
            found[name] = found.get(name, 0) + int((task / "schedstat").read_text().split()[0])
    return found


def cost_ns(rounds: int = 20_000) -> float:
    """What one span costs here, measured."""
    spans = Spans()
    begun = time.thread_time_ns()
    for _ in range(rounds):
        with spans.span("measured"):
            pass
    return (time.thread_time_ns() - begun) / rounds
