"""When the health endpoint is started as a Dagster run, and when that run ends. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timedelta

from analytics_defs.core.monitoring.health import SchedulerStatus

START_TIMEOUT = timedelta(seconds=60)
"""Time for the first requested run to answer before another run is requested."""
MAX_WAIT = timedelta(minutes=10)
"""Upper limit of the start timeout, which doubles with each failed attempt."""
HEARTBEAT_TIMEOUT = timedelta(seconds=60)
"""Without the daemon, nothing restarts or stops the run. The run then ends itself after this time."""


@dataclass(frozen=True, slots=True)
class StartAttempt:
    """The newest request for a run, kept in the cursor of the sensor.

    Until that run answers or its time is over, no other run is requested. The status of the run in Dagster does not matter.
    """

    requested_at: datetime | None = None
    """None: nothing was requested since the endpoint last answered."""
    attempts: int = 0
    """Requests since the endpoint last answered."""

    @classmethod
    def parse(cls, text: str | None) -> StartAttempt:
        """Return the attempt in the text. Raises ValueError, TypeError or AttributeError for a text that `str` did not write."""
        stored = json.loads(text) if text else {}
        requested_at = datetime.fromisoformat(stored["requested_at"]) if stored.get("requested_at") else None
        if requested_at is not None and requested_at.tzinfo is None:
            raise ValueError(f"{requested_at} has no offset from UTC")
        return cls(requested_at, int(stored.get("attempts", 0)))

    def __str__(self) -> str:
        return json.dumps({"requested_at": self.requested_at and self.requested_at.isoformat(), "attempts": self.attempts})

    def ends_at(self) -> datetime | None:
        """Return when the next run may be requested. The timeout doubles with each attempt, up to `MAX_WAIT`."""
        if self.requested_at is None:
            return None
        timeout: timedelta = START_TIMEOUT * 2 ** min(self.attempts - 1, 10)
        return self.requested_at + min(timeout, MAX_WAIT)

    def with_attempt(self, now: datetime) -> StartAttempt:
        return StartAttempt(now, self.attempts + 1)


@dataclass(frozen=True, slots=True)
class SupervisionStatus:
    """State of the sensor and the daemon that keep this run alive."""

    sensor_stopped: bool
    heartbeat_at: datetime
    """Newest heartbeat of the daemon, or the start of the run if that is later."""


def with_heartbeat(previous: SupervisionStatus, scheduler: SchedulerStatus | None) -> SupervisionStatus:
    """Return the status after one more reading. `scheduler` is None if Dagster's instance did not answer."""
    if scheduler is None:
        return previous
    newest = max(previous.heartbeat_at, scheduler.heartbeat) if scheduler.heartbeat else previous.heartbeat_at
    return SupervisionStatus(scheduler.sensor_stopped, newest)


def stop_reason(keeper: SupervisionStatus, now: datetime) -> str | None:
    """Return why the run has to end now, or None."""
    if keeper.sensor_stopped:
        return "its sensor was stopped"
    if now - keeper.heartbeat_at > HEARTBEAT_TIMEOUT:
        return f"Dagster's daemon has sent no heartbeat for {(now - keeper.heartbeat_at).total_seconds():.0f} s"
    return None
