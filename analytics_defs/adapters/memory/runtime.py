"""A clock that a test moves, and a task pool without threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar

_T = TypeVar("_T")


@dataclass(slots=True)
class ManualClock:
    """A clock that changes only when a test moves it, or a flow sleeps."""

    time: datetime
    ms: int = 0

    def now(self) -> datetime:
        return self.time

    def elapsed_ms(self) -> int:
        return self.ms

    def sleep(self, duration: timedelta) -> None:
        """Advance the clock at once."""
        self.advance(duration)

    def advance(self, by: timedelta) -> None:
        self.time += by
        self.ms += int(by.total_seconds() * 1000)


class InlineTaskPool:
    """A task pool that runs one job after the other in the caller's thread."""

    def run_all(self, jobs: Sequence[Callable[[], _T]]) -> list[_T]:
        return [job() for job in jobs]
