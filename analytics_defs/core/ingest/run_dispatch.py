"""Decisions of the sensor: which lanes start a run, and which runs are dead. Pure functions of Dagster's and the ledger's state."""

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
    """A run of a lane with an unfinished status in Dagster."""

    run_id: str
    lane: int
    launched_at: datetime | None
    """When it left Dagster's queue, or when it was created if it was not queued. None while it is queued."""
    began_at: datetime | None = None
    """When a process began to execute it. None while it waits for a process, for example in the launcher's queue."""

    @property
    def state(self) -> str:
        """Return a description of what the lane waits for."""
        if self.began_at:
            return f"run {self.run_id} is in flight"
        if self.launched_at:
            return f"run {self.run_id} was launched and has not begun yet"
        return f"run {self.run_id} waits in Dagster's queue, behind max_concurrent_runs in dagster.yaml"


@dataclass(frozen=True, slots=True)
class Attempts:
    """Earlier runs that were requested for the same start offsets."""

    count: int
    last_ended_at: datetime | None


@dataclass(frozen=True, slots=True)
class StartRun:
    """Decision to start a run for this plan."""

    plan: Plan
    attempt: int

    @property
    def run_key(self) -> str:
        return f"{self.plan.fingerprint}#{self.attempt}"


@dataclass(frozen=True, slots=True)
class HoldLane:
    """Decision not to start a run in this lane now, with the reason."""

    lane: int
    why: str


@dataclass(frozen=True, slots=True)
class LeaseObservation:
    """Time since when the lease of a run is unchanged."""

    since: datetime
    """Time of the first observation of this lease, by the sensor's clock."""
    renewed_at: datetime | None
    """Renewal time in the lease, by the clock of the run's worker. None if the run had no lease."""


def observe_leases(
    runs: Sequence[LaneRun], leases: Mapping[str, Lease], known: Mapping[str, LeaseObservation], now: datetime
) -> dict[str, LeaseObservation]:
    """Return an observation for each run that began. `known`: the result of the previous tick.

    Lease age is measured with the sensor's clock, because the clocks of workers differ. A finishing run releases
    its lease before Dagster shows it as finished, so a missing lease must also persist for a while.
    """
    begun = [run.run_id for run in runs if run.began_at]
    current = {run_id: LeaseObservation(now, leases[run_id].renewed_at if run_id in leases else None) for run_id in begun}
    unchanged = {run_id for run_id in begun if run_id in known and known[run_id].renewed_at == current[run_id].renewed_at}
    return {run_id: known[run_id] if run_id in unchanged else observation for run_id, observation in current.items()}


def dead_runs(
    runs: Sequence[LaneRun], observations: Mapping[str, LeaseObservation], start_timeout: timedelta, now: datetime
) -> dict[str, str]:
    """Return a message for each dead run, by run id.

    A run is dead if its lease is unchanged for longer than `LEASE_DURATION`, or if it was launched and did not begin
    within `start_timeout`. Its status in Dagster is ignored.
    """
    unbegun = [run.run_id for run in runs if run.began_at is None and run.launched_at and now - run.launched_at > start_timeout]
    without_heartbeat = [run_id for run_id, observation in observations.items() if now - observation.since > LEASE_DURATION]
    seconds = f"{start_timeout.total_seconds():g} s (RUN_START_TIMEOUT)"
    return dict.fromkeys(unbegun, _NOT_BEGUN.format(seconds=seconds)) | dict.fromkeys(without_heartbeat, _NO_HEARTBEAT)


_NO_HEARTBEAT = (
    "This run has no heartbeat: its process is gone. The batches that it closed stay closed. The sensor starts another run for the rest."
)
_NOT_BEGUN = (
    "This run was launched, and no process began it within {seconds}: there are no workers, fewer slots than lanes, or the launcher's "
    "message is lost. Nothing was changed. The sensor starts another run. If starting takes longer, raise RUN_START_TIMEOUT."
)


def backoff(ended_attempts: int) -> timedelta:
    """Return the pause after this many attempts: 5 s after the first, doubled with each one, at most 5 minutes."""
    doublings: int = 2 ** min(ended_attempts - 1, 10)
    return min(MIN_BACKOFF * doublings, MAX_BACKOFF)


def dispatch(plan: Plan, attempts: Attempts, now: datetime) -> StartRun | HoldLane:
    """Decide for a lane that has work and no run."""
    if attempts.count and attempts.last_ended_at is not None:
        next_at = attempts.last_ended_at + backoff(attempts.count)
        if now < next_at:
            return HoldLane(plan.lane, f"attempt {attempts.count + 1} waits until {next_at:%H:%M:%S}Z")
    return StartRun(plan, attempts.count)


def should_wait_for_more(plan: Plan, first_seen: datetime | None, now: datetime, max_wait: timedelta, min_offsets: int) -> bool:
    """Return True for a plan below `min_offsets`, without pending batches or commits, that is younger than `max_wait`."""
    is_small = plan.offsets < min_offsets and not plan.pending_batch_ids and not plan.recommit
    return is_small and max_wait > timedelta(0) and (first_seen is None or now - first_seen < max_wait)
