"""A profiler that reads the clocks of a thread when it enters and leaves a step, or a part of a step.

CPU time is work. Wall time beyond it is waiting. Both are added to the innermost open span, so that no time is counted
twice, and time without a span is visible as missing. Sampling would not work: it adds a short burst of work to the wait
that follows, and micro-batches consist of such bursts.
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

OWN_THREADS = "(waits for its threads)"
COLLECTOR = "garbage collection"


class Key(NamedTuple):
    """A line of the profile."""

    step: str = ""
    """Empty between steps."""
    part: str = ""
    """Empty for the code of the step itself."""


@dataclass(slots=True)
class TimeSpent:
    """CPU and wall time of one thread or several."""

    cpu_ns: int = 0
    wall_ns: int = 0
    count: int = 0

    @property
    def waited_ns(self) -> int:
        return max(0, self.wall_ns - self.cpu_ns)

    def add(self, other: TimeSpent) -> None:
        self.cpu_ns += other.cpu_ns
        self.wall_ns += other.wall_ns
        self.count += other.count


class Span(NamedTuple):
    """A timed function as `module:name`, with the step and part of its time. Step None is the enclosing step."""

    target: str
    step: str | None = None
    part: str = ""


@dataclass(slots=True)
class _Thread:
    is_main: bool = field(default_factory=lambda: threading.current_thread() is threading.main_thread())
    spent: dict[Key, TimeSpent] = field(default_factory=dict)
    open: list[Key] = field(default_factory=list)
    cpu_ns: int = 0
    wall_ns: int = 0

    def charge(self) -> None:
        """Add the time since the last call to the innermost span."""
        cpu_ns, wall_ns = time.thread_time_ns(), time.perf_counter_ns()
        if self.open:
            spent = self.spent.setdefault(self.open[-1], TimeSpent())
            spent.cpu_ns += cpu_ns - self.cpu_ns
            spent.wall_ns += wall_ns - self.wall_ns
            spent.count += 1
        self.cpu_ns, self.wall_ns = cpu_ns, wall_ns

    @property
    def step(self) -> str:
        return self.open[-1].step if self.open else ""

    def enter(self, step: str | None, part: str) -> None:
        self.charge()
        self.open.append(Key(self.step if step is None else step, part))

    def leave(self) -> None:
        self.charge()
        self.open.pop()


class Spans:
    """The time spent by thread. Each thread writes its own values. Read them only while no thread is in a span."""

    def __init__(self) -> None:
        self._local = threading.local()
        self._threads: list[_Thread] = []

    @contextmanager
    def span(self, step: str | None = None, part: str = "") -> Iterator[None]:
        """Open a span for the duration of the block. Step None is the step that is open on this thread."""
        thread = self._thread()
        thread.enter(step, part)
        try:
            yield
        finally:
            thread.leave()

    def clear(self) -> None:
        """Delete the times. Open spans stay open."""
        for thread in self._threads:
            thread.spent.clear()

    def spent(self, *, is_main: bool) -> Mapping[Key, TimeSpent]:
        """Return the times of the main thread, or the sums of all other threads."""
        totals: dict[Key, TimeSpent] = {}
        for thread in self._threads:
            for key, spent in thread.spent.items() if thread.is_main == is_main else ():
                totals.setdefault(key, TimeSpent()).add(spent)
        return totals

    @contextmanager
    def installed(self, table: Sequence[Span]) -> Iterator[None]:
        """Time the functions of the table, the steps of `Stopwatch`, the pool's threads and the garbage collector."""
        gc.callbacks.append(self._on_collection)
        try:
            with ExitStack() as patches:
                for span in table:
                    self._patch(patches, span.target, functools.partial(self._timed, span))
                self._patch(patches, "analytics_defs.flows.ingest.execute_plan:Stopwatch", self._stopwatch)
                self._patch(patches, "analytics_defs.adapters.runtime.system:ThreadTaskPool.run_all", self._workers)
                yield
        finally:
            gc.callbacks.remove(self._on_collection)

    def _patch(self, patches: ExitStack, target: str, wrap: Callable[[Any], Any]) -> None:
        module, _, path = target.partition(":")
        owner, _, name = path.rpartition(".")
        target_object = pkgutil.resolve_name(f"{module}:{owner}" if owner else module)
        patches.enter_context(patch.object(target_object, name, wrap(getattr(target_object, name))))

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

        class TimedStopwatch(Stopwatch):
            @contextmanager
            def __call__(self, step: str) -> Iterator[None]:
                with super().__call__(step), spans.span(step):
                    yield

        return TimedStopwatch

    def _workers(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Charge a job to the step of the thread that waits for it."""

        def run(workers: ThreadTaskPool, jobs: Sequence[Callable[[], Any]]) -> list[Any]:
            step = self._thread().step
            with self.span(part=OWN_THREADS):
                results: list[Any] = original(workers, [functools.partial(self._within, step, job) for job in jobs])
            return results

        return run

    def _within(self, step: str, job: Callable[[], Any]) -> Any:
        with self.span(step):
            return job()

    def _on_collection(self, phase: str, _: Mapping[str, int]) -> None:
        thread = self._thread()
        if phase == "start":
            thread.enter(COLLECTOR, "")
        elif thread.step == COLLECTOR:
            thread.leave()

    def _thread(self) -> _Thread:
        thread: _Thread | None = getattr(self._local, "thread", None)
        if thread is None:
            thread = self._local.thread = _Thread()
            self._threads.append(thread)
        return thread


def native_cpu_ns() -> Mapping[str, int]:
    """Return the CPU time of threads that native libraries started, by thread name. Linux only."""
    python_threads, times = {str(thread.native_id) for thread in threading.enumerate()}, dict[str, int]()
    for task in Path("/proc/self/task").iterdir():
        if task.name not in python_threads:
            name = (task / "comm").read_text().strip()
            times[name] = times.get(name, 0) + int((task / "schedstat").read_text().split()[0])
    return times


def cost_ns(rounds: int = 20_000) -> float:
    """Measure the CPU time of one empty span."""
    spans = Spans()
    started = time.thread_time_ns()
    for _ in range(rounds):
        with spans.span("measured"):
            pass
    return (time.thread_time_ns() - started) / rounds
