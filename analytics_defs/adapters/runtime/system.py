"""The machine: its clock, a pool of threads, and Python's garbage collector."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Generic, TypeVar

_T = TypeVar("_T")
GC_GENERATION0_THRESHOLD = 50_000
"""New containers between two garbage collections. With Python's default of 700 they took a quarter of a micro-batch's CPU, with this
value next to nothing (`python -m bench --only profile`). An event is about fifty containers without cycles, a batch holds thousands."""


@contextmanager
def reduced_gc() -> Iterator[None]:
    """Raise the threshold of the garbage collector inside the block, process-wide. Reference counting is unaffected."""
    before = gc.get_threshold()
    gc.set_threshold(GC_GENERATION0_THRESHOLD, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


class SystemClock:
    """Clock of this machine: see `ports.Clock`."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def elapsed_ms(self) -> int:
        return time.monotonic_ns() // 1_000_000

    def sleep(self, duration: timedelta) -> None:
        time.sleep(duration.total_seconds())


class ThreadTaskPool:
    """Task pool (see `ports.TaskPool`) of at most `threads` threads, shared by all callers. Threads start with the first job.

    A job must not call `run_all` of its own pool: it could wait for itself.
    """

    def __init__(self, threads: int, name: str = "worker") -> None:
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)

    def close(self) -> None:
        """Wait for running jobs. The pool cannot be used afterwards."""
        self._pool.shutdown()

    def run_all(self, jobs: Sequence[Callable[[], _T]]) -> list[_T]:
        """Run the jobs. After an error, or an interrupt of the caller, start no further job, but wait for those that run.

        So a store outage costs one round of retries, not one per job, and no job runs after the call returns.
        """
        # Not one future per job with `cancel()`: the thread of a failed job starts its next job before the caller can
        # cancel it, and an interrupt inside `submit` loses a future whose job then runs unnoticed.
        queue = _JobQueue(jobs)
        try:
            wait([self._pool.submit(queue.work) for _ in range(min(len(jobs), self._threads))])
        except BaseException:
            queue.stop_and_wait()
            raise
        if queue.errors:
            raise _with_notes(queue.errors)
        return [queue.results[number] for number in range(len(jobs))]


class _JobQueue(Generic[_T]):
    """The jobs of one call, their results, and the number of threads that work on them."""

    def __init__(self, jobs: Sequence[Callable[[], _T]]) -> None:
        self.results: dict[int, _T] = {}
        self.errors: list[BaseException] = []
        """In the order in which they were raised."""
        self._remaining = iter(enumerate(jobs))
        self._active_threads = 0
        self._changed = threading.Condition()

    def work(self) -> None:
        """Run jobs until none remains. Each job starts once, because advancing the iterator is atomic."""
        with self._changed:
            self._active_threads += 1
        try:
            for number, job in self._remaining:
                self.results[number] = job()
        except BaseException as error:  # noqa: BLE001 (raised by `run_all`, an interrupt first)
            self.errors.append(error)
            self._drop_remaining()
        finally:
            with self._changed:
                self._active_threads -= 1
                self._changed.notify_all()

    def stop_and_wait(self) -> None:
        """Start no further job. Wait for running ones: a thread counts as active before it gets a job, so none is missed."""
        self._drop_remaining()
        with self._changed:
            self._changed.wait_for(lambda: not self._active_threads)

    def _drop_remaining(self) -> None:
        for _ in self._remaining:
            pass


def _with_notes(errors: Sequence[BaseException]) -> BaseException:
    """Return the first error with the others as notes. An exception that is no error, such as an interrupt, precedes all errors."""
    first = next((error for error in errors if not isinstance(error, Exception)), errors[0])
    for error in errors:
        if error is not first:
            first.add_note(f"also: {type(error).__name__}: {error}")
    return first
