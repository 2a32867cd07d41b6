"""When the always-on job is started as a run of Dagster, and when that run ends. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timedelta

from analytics_defs.core.monitoring.health import Scheduler

STARTS_WITHIN = timedelta(seconds=60)
"""A run that was asked for has so long before another one is."""
LONGEST_WAIT = timedelta(minutes=10)
SILENT_AFTER = timedelta(seconds=60)
"""Without a heartbeat of the daemon for so long nobody would restart the run, or stop it: it ends itself."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The place is taken by the run that was asked for, whatever its status says: until it answers, or its time is over."""

    asked_at: datetime | None = None
    """None: nothing was asked for since the endpoint last answered."""
    attempts: int = 0

    @classmethod
    def parse(cls, text: str | None) -> Lease:
        found = json.loads(text) if text else {}
        asked_at = found.get("asked_at")
        return cls(datetime.fromisoformat(asked_at) if asked_at else None, found.get("attempts", 0))

    def __str__(self) -> str:
        return json.dumps({"asked_at": self.asked_at and self.asked_at.isoformat(), "attempts": self.attempts})

    def ends_at(self) -> datetime | None:
        """Doubles with each attempt that never answered."""
        if self.asked_at is None:
            return None
        doubled: timedelta = STARTS_WITHIN * 2 ** min(self.attempts - 1, 10)
        return self.asked_at + min(doubled, LONGEST_WAIT)

    def asked(self, now: datetime) -> Lease:
        return Lease(now, self.attempts + 1)


@dataclass(frozen=True, slots=True)
class Signs:
    """What a run of the endpoint knows of those who keep it."""

    sensor_stopped: bool
    heard_at: datetime
    """When the daemon's newest heartbeat was, or the run's start."""


def heard(before: Signs, found: Scheduler | None) -> Signs:
    """`found` is None where the instance did not answer: then nothing was heard."""
    if found is None:
        return before
    return Signs(found.sensor_stopped, max(before.heard_at, found.heartbeat) if found.heartbeat else before.heard_at)


def why_over(signs: Signs, now: datetime) -> str | None:
    """Why the run ends now, or None."""
    if signs.sensor_stopped:
        return "its sensor was stopped"
    if now - signs.heard_at > SILENT_AFTER:
        return f"Dagster's daemon gave no sign of life for {(now - signs.heard_at).total_seconds():.0f} s"
    return None
