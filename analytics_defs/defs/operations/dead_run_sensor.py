"""The sensor that finds dead runs of every kind except the lanes' runs, which the sensor `kafka_micro_batches` finds.

Dagster's run monitoring finds runs that do not start and runs that do not cancel. A started run whose process was killed together
with its launcher stays STARTED, and holds its slot of the pool, until a time limit. These runs are found by their lease, with any
launcher and any storage.
"""

# No postponed annotations here: Dagster reads the types of `context` and resources.

import dagster as dg

from analytics_defs.core.ingest.run_dispatch import LeaseObservation, observe_leases
from analytics_defs.defs.cursors import parse_cursor
from analytics_defs.defs.ingest.job import LANE_TAG
from analytics_defs.defs.ingest.sensor import LEASE_OBSERVATIONS
from analytics_defs.defs.resources.platform import Platform
from analytics_defs.errors import AnalyticsError

NO_HEARTBEAT = (
    "This run has no heartbeat: its process is gone, or cannot write to the ledger. What it wrote is valid, and a process that still runs "
    "does no harm. Run retries, automation or its schedule request it again."
)


@dg.sensor(
    name="dead_run_sensor",
    minimum_interval_seconds=10,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Reports started runs without heartbeat as failed, so that their slots are freed and they are requested again. "
    "The runs of lanes are watched by kafka_micro_batches.",
)
def dead_run_sensor(context: dg.SensorEvaluationContext, platform: dg.ResourceParam[Platform]) -> dg.SensorResult:
    """Observe the leases of started runs. If the ledger does not answer, no run is reported and no time counts as silence."""
    started = context.instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED]))
    runs = {run.run_id: run for run in started if LANE_TAG not in run.tags}
    try:
        ports = platform.ports()
        leases = ports.ledger.snapshot().leases if runs else {}
    except AnalyticsError as error:
        if error.retryable:
            return dg.SensorResult(skip_reason=str(error))
        raise dg.Failure(description=str(error)) from error
    watched = [run_id for run_id, run in runs.items() if run_id in leases or _is_of_this_location(run, context)]
    observations = observe_leases(watched, leases, parse_cursor(context, _parse), ports.clock.now())
    dead = [run_id for run_id, observation in observations.items() if observation.is_expired]
    for run_id in dead:
        context.instance.report_run_failed(runs[run_id], NO_HEARTBEAT)
    skip_reason = f"watched {len(watched)} runs; without heartbeat, reported as failed: {', '.join(dead) or 'none'}"
    return dg.SensorResult(skip_reason=skip_reason, cursor=LEASE_OBSERVATIONS.dump_json(observations).decode())


def _is_of_this_location(run: dg.DagsterRun, context: dg.SensorEvaluationContext) -> bool:
    """Return False for runs of other code locations, and for runs that a command launched without a code location."""
    origin, here = run.remote_job_origin, context.code_location_origin
    return origin is not None and here is not None and origin.repository_origin.code_location_origin.location_name == here.location_name


def _parse(text: str | None) -> dict[str, LeaseObservation]:
    return LEASE_OBSERVATIONS.validate_json(text or "{}")
