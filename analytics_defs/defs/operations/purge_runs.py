"""Purge of Dagster's own storage: old runs of scheduled jobs, and old events that belong to no run.

Dagster itself purges ticks only (`retention` in dagster.yaml). A run is kept, however old, if the UI shows one of its events as the newest
or if the sensor counts attempts by it. Runs of hours and days (backfills, automation) are never deleted: each holds the materialization
of a partition, which would otherwise count as missing.
"""

# No postponed annotations here: Dagster reads the types of `context` and resources.

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg

from analytics_defs.defs.checks.balance import BALANCE_ASSET, BALANCE_CHECK
from analytics_defs.defs.checks.ingest_health import INGEST_CHECKS, PARTS, stores_consistency_check_job
from analytics_defs.defs.ingest.job import LANE_TAG, MICRO_BATCH_JOB, ingest_events
from analytics_defs.defs.observability import endpoint
from analytics_defs.defs.operations import retention_job
from analytics_defs.defs.operations.purge_dagster_events import purge_dagster_events
from analytics_defs.defs.resources.platform import Platform, as_dagster_failures

PURGE_JOB = "purge_old_runs"
PURGED_JOBS = (MICRO_BATCH_JOB, stores_consistency_check_job.name, endpoint.ENDPOINT_JOB, retention_job.RETENTION_JOB, PURGE_JOB)
MAX_RUNS_PER_PURGE = 2_000
"""Limit of runs, and of events of each kind, that one purge deletes: 48,000 a day. One run every 5 s makes 17,280 a day."""
_PAGE = 100
_FINISHED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]
_SHOWN_CHECKS = [
    dg.AssetCheckKey(BALANCE_ASSET, BALANCE_CHECK),
    dg.AssetCheckKey(PARTS, "stores_consistent"),
    *(dg.AssetCheckKey(asset, name) for asset, name, _ in INGEST_CHECKS),
]


@dataclass(slots=True)
class PurgeResult:
    """Number of rows that one purge deleted."""

    runs: dict[str, int]
    """Deleted runs by job."""
    kept: int
    """Old runs that were kept."""
    events: dict[str, int]
    """Deleted events by kind."""

    @property
    def limit_reached(self) -> bool:
        """Return whether a limit was reached, so that old rows may be left."""
        return max(sum(self.runs.values()), *self.events.values()) >= MAX_RUNS_PER_PURGE


def purge_runs(instance: dg.DagsterInstance, before: datetime, limit: int = MAX_RUNS_PER_PURGE) -> PurgeResult:
    """Delete at most `limit` runs that ended before that time, oldest first, and as many events of each kind.

    Idempotent, also after a crash: the row of a run is deleted last, so that the next purge finds the rest of it.
    """
    kept, deleted = _newest_shown(instance), dict.fromkeys(PURGED_JOBS, 0)
    kept_old: set[str] = set()
    for job in PURGED_JOBS:
        for run in _old_runs(instance, job, before, kept, kept_old):
            if sum(deleted.values()) >= limit:
                break
            _delete_run(instance, run)
            deleted[job] += 1
    return PurgeResult(deleted, len(kept_old), purge_dagster_events(instance, before, limit))


def _old_runs(instance: dg.DagsterInstance, job: str, before: datetime, kept: set[str], kept_old: set[str]) -> Iterator[dg.DagsterRun]:
    """Yield old runs of a job, oldest first. Add the old runs that are kept to `kept_old`.

    The caller must delete each run before it asks for the next one: every page starts at the oldest run, because a cursor must name an
    existing run. The newest run of each lane is added to `kept`: the sensor derives attempts and backoff from its run key and end.
    """
    lanes: set[str] = set()
    while True:
        filters = dg.RunsFilter(job_name=job, statuses=_FINISHED, updated_before=before)
        page = [record.dagster_run for record in instance.get_run_records(filters, limit=_PAGE + len(kept), ascending=True)]
        for run in page:
            lane = run.tags.get(LANE_TAG)
            if lane is not None and lane not in lanes:
                lanes.add(lane)
                kept |= _newest_of_lane(instance, job, lane)
        kept_old.update(run.run_id for run in page if run.run_id in kept)
        old = [run for run in page if run.run_id not in kept]
        if not old:
            return
        yield from old


def _newest_of_lane(instance: dg.DagsterInstance, job: str, lane: str) -> set[str]:
    newest = instance.get_run_records(dg.RunsFilter(job_name=job, tags={LANE_TAG: lane}), limit=1)
    return {record.dagster_run.run_id for record in newest}


def _newest_shown(instance: dg.DagsterInstance) -> set[str]:
    """Return the runs with the newest materialization of an asset or the newest evaluation of a check."""
    events = [instance.get_latest_materialization_event(key) for key in ingest_events.keys]
    checks = instance.event_log_storage.get_latest_asset_check_execution_by_key(_SHOWN_CHECKS)
    return {event.run_id for event in events if event} | {check.run_id for check in checks.values()}


def _delete_run(instance: dg.DagsterInstance, run: dg.DagsterRun) -> None:
    """Delete the logs and events of a run, then its row.

    `instance.delete_run` deletes the row first. After a crash its events could not be found again.
    """
    from dagster._core.storage.event_log import SqliteEventLogStorage

    instance.compute_log_manager.delete_logs(prefix=[run.run_id])
    events = instance.event_log_storage
    if not isinstance(events, SqliteEventLogStorage):
        events.delete_events(run.run_id)
    elif (file := Path(events.path_for_shard(run.run_id))).exists():  # Dagster has one file for each run, and would only empty it
        events.delete_events(run.run_id)
        for path in (Path(f"{file}-wal"), Path(f"{file}-shm"), file):
            path.unlink(missing_ok=True)
    instance.run_storage.delete_run(run.run_id)


@dg.op
def purge_runs_op(context: dg.OpExecutionContext, platform: dg.ResourceParam[Platform]) -> None:
    with as_dagster_failures():
        retention = platform.settings().dagster_run_retention
    before = platform.now() - retention
    result = purge_runs(context.instance, before)
    context.add_output_metadata(
        {
            "ended before": dg.MetadataValue.timestamp(before.astimezone(UTC)),
            "runs deleted": sum(result.runs.values()),
            "by job": dg.MetadataValue.json(result.runs),
            "old runs kept": result.kept,
            "events deleted": sum(result.events.values()),
            "by kind": dg.MetadataValue.json(result.events),
            "limit reached": result.limit_reached,
        }
    )
    context.log.info("deleted runs %s and events %s from before %s", result.runs, result.events, before)


@dg.job(
    name=PURGE_JOB,
    executor_def=dg.in_process_executor,
    description="Deletes runs that ended DAGSTER_RUN_RETENTION ago or earlier, with their logs, and old events that belong to no run. "
    "Keeps the newest event of each asset and check, and all runs of hours and days. Started by its schedule once an hour.",
)
def purge_old_runs_job() -> None:
    purge_runs_op()


purge_old_runs_hourly = dg.ScheduleDefinition(
    name="purge_old_runs_hourly",
    job=purge_old_runs_job,
    cron_schedule="41 * * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
)
