"""A clock that a test moves, and workers that take turns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar

_T = TypeVar("_T")


@dataclass(slots=True)
class ManualClock:
    """Stands still until a test moves it."""

    time: datetime
    ms: int = 0

    def now(self) -> datetime:
        return self.time

    def elapsed_ms(self) -> int:
        return self.ms

    def sleep(self, duration: timedelta) -> None:
        """Time passes at once."""
        self.advance(duration)

    def advance(self, by: timedelta) -> None:
        self.time += by
        self.ms += int(by.total_seconds() * 1000)


class InlineTaskPool:
    """One job after the other, in the caller's thread."""

    def run_all(self, jobs: Sequence[Callable[[], _T]]) -> list[_T]:
        return [job() for job in jobs]
