"""Which lanes start a run now. Pure: the sensor asks Dagster and the ledger, this decides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from analytics_defs.core.ingest.planning import LEASE_DURATION, Plan
from analytics_defs.core.ledger import Lease

MIN_BACKOFF = timedelta(seconds=5)
MAX_BACKOFF = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class LaneRun:
    """A run of a lane that Dagster calls unfinished."""

    run_id: str
    lane: int
    launched_at: datetime | None
    """When it left Dagster's queue, or was created without ever coming there; None while it waits there."""
    began_at: datetime | None = None
    """When its process began to execute it; None while it waits for one, in a launcher's own queue perhaps."""

    @property
    def state(self) -> str:
        """What its lane waits for."""
        if self.began_at:
            return f"run {self.run_id} is in flight"
        if self.launched_at:
            return f"run {self.run_id} was launched and has not begun yet"
        return f"run {self.run_id} waits in Dagster's queue, behind max_concurrent_runs in dagster.yaml"


@dataclass(frozen=True, slots=True)
class Attempts:
    """Runs that were asked for from the same start."""

    count: int
    last_ended_at: datetime | None


@dataclass(frozen=True, slots=True)
class StartRun:
    """Start a run for this plan."""

    plan: Plan
    attempt: int

    @property
    def run_key(self) -> str:
        return f"{self.plan.fingerprint}#{self.attempt}"


@dataclass(frozen=True, slots=True)
class HoldLane:
    """Start nothing in this lane now, and why."""

    lane: int
    why: str


@dataclass(frozen=True, slots=True)
class LeaseObservation:
    """How long a run shows nothing new."""

    since: datetime
    """By the clock of whoever looks."""
    renewed_at: datetime | None
    """What its lease said then, by the clock of its own machine, which may be another one. None: it had none."""


def observe_leases(
    runs: Sequence[LaneRun], leases: Mapping[str, Lease], known: Mapping[str, LeaseObservation], now: datetime
) -> dict[str, LeaseObservation]:
    """Of each run that began. `known`: what this said at the tick before.

    A run is silent from the moment that is noticed: clocks differ, and one that ends gives its lease back before its status says so.
    """
    begun = [run.run_id for run in runs if run.began_at]
    seen = {run_id: LeaseObservation(now, leases[run_id].renewed_at if run_id in leases else None) for run_id in begun}
    return {
        run_id: known[run_id] if run_id in known and known[run_id].renewed_at == each.renewed_at else each for run_id, each in seen.items()
    }


def dead_runs(runs: Sequence[LaneRun], silent: Mapping[str, LeaseObservation], start_timeout: timedelta, now: datetime) -> dict[str, str]:
    """Why, by run: it was silent for longer than a lease lasts, or was launched and did not begin in time, whatever its status says."""
    unbegun = [run.run_id for run in runs if run.began_at is None and run.launched_at and now - run.launched_at > start_timeout]
    gone = [run_id for run_id, silence in silent.items() if now - silence.since > LEASE_DURATION]
    seconds = f"{start_timeout.total_seconds():g} s (RUN_START_TIMEOUT)"
    return dict.fromkeys(unbegun, _UNBEGUN.format(seconds=seconds)) | dict.fromkeys(gone, _GONE)


_GONE = "This run shows no sign of life: its process is gone. What it had closed stays closed; the sensor asks again for the rest."
_UNBEGUN = (
    "This run was launched, and no process began it within {seconds}: there are no workers, fewer slots than lanes, or what was to start "
    "it is lost. Nothing was changed; the sensor asks again. Where starting takes longer, raise RUN_START_TIMEOUT."
)


def backoff(attempt: int) -> timedelta:
    """How long the attempt with this number waits after the one before it: 5 s, doubled each time, at most 5 minutes."""
    doublings: int = 2 ** min(attempt - 1, 10)
    return min(MIN_BACKOFF * doublings, MAX_BACKOFF)


def dispatch(plan: Plan, attempts: Attempts, now: datetime) -> StartRun | HoldLane:
    """For a lane that is free and has something to do."""
    if attempts.count and attempts.last_ended_at is not None:
        again_at = attempts.last_ended_at + backoff(attempts.count)
        if now < again_at:
            return HoldLane(plan.lane, f"attempt {attempts.count + 1} waits until {again_at:%H:%M:%S}Z")
    return StartRun(plan, attempts.count)


def should_wait_for_more(plan: Plan, first_seen: datetime | None, now: datetime, max_wait: timedelta, worth: int) -> bool:
    """Whether a small plan may wait for more: it is below `worth` offsets, has nothing to mend, and has not waited `max_wait` yet."""
    small = plan.offsets < worth and not plan.pending_batch_ids and not plan.recommit
    return small and max_wait > timedelta(0) and (first_seen is None or now - first_seen < max_wait)
