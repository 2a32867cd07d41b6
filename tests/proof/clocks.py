"""Clocks for tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta

from analytics_defs.adapters.memory import ManualClock


@dataclass(slots=True)
class Eventful(ManualClock):
    """A manual clock that runs the next of the `happens` callbacks during each sleep."""

    happens: list[Callable[[], object]] = field(default_factory=list)
    slept: list[timedelta] = field(default_factory=list)

    def sleep(self, duration: timedelta) -> None:
        self.advance(duration)
        self.slept.append(duration)
        if self.happens:
            self.happens.pop(0)()
