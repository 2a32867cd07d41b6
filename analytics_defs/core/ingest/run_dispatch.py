"""Decisions of the sensor: which lanes start a run, and which runs are dead. Pure functions of Dagster's and the ledger's state."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from pydantic import AwareDatetime

from analytics_defs.core.ingest.planning import LEASE_DURATION, Plan
from analytics_defs.core.ledger import Lease

MIN_BACKOFF = timedelta(seconds=5)
MAX_BACKOFF = timedelta(minutes=5)
MAX_OBSERVED_GAP = timedelta(seconds=15)
"""Limit of the time that counts between two observations of a lease. If the ledger did not answer for an hour, or the machine was
suspended, the runs have the rest of `LEASE_DURATION` to renew their leases."""


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
    """How long a sensor has seen the lease of a run unchanged."""

    renewed_at: AwareDatetime | None
    """Renewal time in the lease, by the clock of the run's worker. None if the run had no lease."""
    observed_at: AwareDatetime
    """Time of the last observation, by the sensor's clock."""
    unchanged_for: timedelta = timedelta(0)
    """Sum of the times between the observations of this lease, each at most MAX_OBSERVED_GAP."""

    @property
    def is_expired(self) -> bool:
        return self.unchanged_for > LEASE_DURATION


def observe_leases(
    run_ids: Iterable[str], leases: Mapping[str, Lease], known: Mapping[str, LeaseObservation], now: datetime
) -> dict[str, LeaseObservation]:
    """Return an observation for each run. The runs have begun. `known`: the result of the previous tick.

    Lease age is measured with the sensor's clock, because the clocks of workers differ. A finishing run releases
    its lease before Dagster shows it as finished, so a missing lease must also persist for a while.
    """
    return {run_id: _observe(leases.get(run_id), known.get(run_id), now) for run_id in run_ids}


def _observe(lease: Lease | None, known: LeaseObservation | None, now: datetime) -> LeaseObservation:
    renewed_at = lease.renewed_at if lease else None
    if known is None or known.renewed_at != renewed_at:
        return LeaseObservation(renewed_at, now)
    gap = min(max(now - known.observed_at, timedelta(0)), MAX_OBSERVED_GAP)
    return LeaseObservation(renewed_at, now, known.unchanged_for + gap)


def dead_runs(
    runs: Sequence[LaneRun], observations: Mapping[str, LeaseObservation], start_timeout: timedelta, now: datetime
) -> dict[str, str]:
    """Return a message for each dead run, by run id.

    A run is dead if its lease is unchanged for longer than `LEASE_DURATION`, or if it was launched and did not begin
    within `start_timeout`. Its status in Dagster is ignored.
    """
    unbegun = [run.run_id for run in runs if run.began_at is None and run.launched_at and now - run.launched_at > start_timeout]
    without_heartbeat = [run_id for run_id, observation in observations.items() if observation.is_expired]
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
