"""The machine: a clock and threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Protocol, TypeVar

_T = TypeVar("_T")


class Clock(Protocol):
    """The time of day, and a stopwatch."""

    def now(self) -> datetime:
        """Return the current time, aware UTC."""
        ...

    def elapsed_ms(self) -> int:
        """Return milliseconds of a monotonic clock, for durations."""
        ...

    def sleep(self, duration: timedelta) -> None:
        """Block the calling thread."""
        ...


class TaskPool(Protocol):
    """Threads for independent jobs."""

    def run_all(self, jobs: Sequence[Callable[[], _T]]) -> list[_T]:
        """Run all jobs, concurrently if the pool has threads. Return their results in the order of the jobs.

        Wait for every job, then raise the first error, with the others as notes.
        """
        ...
