"""Clocks for tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta

from analytics_defs.adapters.memory import ManualClock


@dataclass(slots=True)
class ScriptedClock(ManualClock):
    """A manual clock that runs the next of the `on_sleep` callbacks during each sleep."""

    on_sleep: list[Callable[[], object]] = field(default_factory=list)
    sleeps: list[timedelta] = field(default_factory=list)

    def sleep(self, duration: timedelta) -> None:
        self.advance(duration)
        self.sleeps.append(duration)
        if self.on_sleep:
            self.on_sleep.pop(0)()
