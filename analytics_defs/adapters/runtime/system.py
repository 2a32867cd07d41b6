"""The machine itself: its clock, threads that work side by side, and Python's collector of cycles."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Generic, TypeVar

T = TypeVar("T")
GC_GENERATION0_THRESHOLD = 50_000
"""New containers between two looks for cycles. Python's own 700 took a quarter of a micro-batch's CPU, this takes next to nothing
(measured: `python -m bench --only profile`): an event is some fifty containers, none in a cycle, and a batch keeps thousands of events."""


@contextmanager
def reduced_gc() -> Iterator[None]:
    """Python looks for cycles less often for the length of the block, in the whole process. What is in none goes at once, as always."""
    before = gc.get_threshold()
    gc.set_threshold(GC_GENERATION0_THRESHOLD, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


class SystemClock:
    """`ports.Clock` of this machine."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def elapsed_ms(self) -> int:
        return time.monotonic_ns() // 1_000_000

    def sleep(self, duration: timedelta) -> None:
        time.sleep(duration.total_seconds())


class ThreadTaskPool:
    """`ports.Workers` on at most `threads` threads, shared by all callers. No thread starts before the first job.

    A job must not call `run` of its own workers: it could wait for itself.
    """

    def __init__(self, threads: int, name: str = "worker") -> None:
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)

    def close(self) -> None:
        """Waits for the jobs under way. Not to be used afterwards."""
        self._pool.shutdown()

    def run_all(self, jobs: Sequence[Callable[[], T]]) -> list[T]:
        """Jobs not begun when one fails, or when the caller is interrupted, are left out; those begun are waited for in every case.

        So a store that is down costs one round of retries, not one for each job, and nothing goes on behind a caller's back.
        """
        shift = _Shift(jobs)
        try:
            wait([self._pool.submit(shift.work) for _ in range(min(len(jobs), self._threads))])
        except BaseException:
            shift.break_off()
            raise
        if shift.failures:
            raise _first(shift.failures)
        return [shift.answers[number] for number in range(len(jobs))]


class _Shift(Generic[T]):
    """The jobs of one call, and the threads at work on them."""

    def __init__(self, jobs: Sequence[Callable[[], T]]) -> None:
        self.answers: dict[int, T] = {}
        self.failures: list[BaseException] = []
        self._left = iter(enumerate(jobs))
        self._at_work = 0
        self._changed = threading.Condition()

    def work(self) -> None:
        """One thread's share. Taking the next of a sequence's iterator is atomic, so every job is begun once."""
        with self._changed:
            self._at_work += 1
        try:
            for number, job in self._left:
                self.answers[number] = job()
        except BaseException as failure:  # noqa: BLE001 (raised by `run`, an interrupt first)
            self.failures.append(failure)
            self._leave_out()
        finally:
            with self._changed:
                self._at_work -= 1
                self._changed.notify_all()

    def break_off(self) -> None:
        """Begin nothing more; wait for what was begun. Threads count before they take a job, so none is overlooked."""
        self._leave_out()
        with self._changed:
            self._changed.wait_for(lambda: not self._at_work)

    def _leave_out(self) -> None:
        for _ in self._left:
            pass


def _first(failures: Sequence[BaseException]) -> BaseException:
    """The first of these, with the others as notes. One that is no error, such as an interrupt, goes before all errors."""
    first = next((each for each in failures if not isinstance(each, Exception)), failures[0])
    for each in failures:
        if each is not first:
            first.add_note(f"also: {type(each).__name__}: {each}")
    return first
