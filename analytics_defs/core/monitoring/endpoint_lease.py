"""When the always-on job is started as a run of Dagster, and when that run ends. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timedelta

from analytics_defs.core.monitoring.health import SchedulerStatus

START_TIMEOUT = timedelta(seconds=60)
"""A run that was asked for has so long before another one is."""
MAX_WAIT = timedelta(minutes=10)
HEARTBEAT_TIMEOUT = timedelta(seconds=60)
"""Without a heartbeat of the daemon for so long nobody would restart the run, or stop it: it ends itself."""


@dataclass(frozen=True, slots=True)
class StartAttempt:
    """The place is taken by the run that was asked for, whatever its status says: until it answers, or its time is over."""

    requested_at: datetime | None = None
    """None: nothing was asked for since the endpoint last answered."""
    attempts: int = 0

    @classmethod
    def parse(cls, text: str | None) -> StartAttempt:
        found = json.loads(text) if text else {}
        asked_at = found.get("asked_at")
        return cls(datetime.fromisoformat(asked_at) if asked_at else None, found.get("attempts", 0))

    def __str__(self) -> str:
        return json.dumps({"asked_at": self.requested_at and self.requested_at.isoformat(), "attempts": self.attempts})

    def ends_at(self) -> datetime | None:
        """Doubles with each attempt that never answered."""
        if self.requested_at is None:
            return None
        doubled: timedelta = START_TIMEOUT * 2 ** min(self.attempts - 1, 10)
        return self.requested_at + min(doubled, MAX_WAIT)

    def with_attempt(self, now: datetime) -> StartAttempt:
        return StartAttempt(now, self.attempts + 1)


@dataclass(frozen=True, slots=True)
class KeeperStatus:
    """What a run of the endpoint knows of those who keep it."""

    sensor_stopped: bool
    heartbeat_at: datetime
    """When the daemon's newest heartbeat was, or the run's start."""


def with_heartbeat(before: KeeperStatus, found: SchedulerStatus | None) -> KeeperStatus:
    """`found` is None where the instance did not answer: then nothing was heard."""
    if found is None:
        return before
    return KeeperStatus(found.sensor_stopped, max(before.heartbeat_at, found.heartbeat) if found.heartbeat else before.heartbeat_at)


def stop_reason(signs: KeeperStatus, now: datetime) -> str | None:
    """Why the run ends now, or None."""
    if signs.sensor_stopped:
        return "its sensor was stopped"
    if now - signs.heartbeat_at > HEARTBEAT_TIMEOUT:
        return f"Dagster's daemon gave no sign of life for {(now - signs.heartbeat_at).total_seconds():.0f} s"
    return None
