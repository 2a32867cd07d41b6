"""Dagster's own storage does not grow for ever: old runs of the jobs that a clock starts go, and old events that belong to no run.

Dagster forgets ticks by itself (`retention` in dagster.yaml), and nothing else. What a page of the UI shows as newest stays, however old
it is; so does what decides the sensor's next request. Runs of hours and days (backfills, automation) are never touched: each holds the
materialization of a partition, and without it the partition would count as missing.
"""

# No postponed annotations here: Dagster reads the types of `context` and resources.

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg

from analytics_defs.defs.checks.balance import BALANCE_ASSET, BALANCE_CHECK
from analytics_defs.defs.checks.ingest_health import HEALTH_CHECKS, PARTS, stores_consistency_check_job
from analytics_defs.defs.ingest.job import LANE_TAG, MICRO_BATCH_JOB, ingest_events
from analytics_defs.defs.observability import endpoint
from analytics_defs.defs.operations import retention_job
from analytics_defs.defs.operations.purge_events import purge_events
from analytics_defs.defs.resources.platform import Platform, as_dagster_failures

PURGE_JOB = "purge_old_runs"
JOBS = (MICRO_BATCH_JOB, stores_consistency_check_job.name, endpoint.ENDPOINT_JOB, retention_job.RETENTION_JOB, PURGE_JOB)
MAX_RUNS_PER_PURGE = 2_000
"""Runs, and events of each kind, that one run removes at most; the next hour goes on. 48,000 a day: one every 5 s makes 17,280."""
_PAGE = 100
_FINISHED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]
_SHOWN_CHECKS = [
    dg.AssetCheckKey(BALANCE_ASSET, BALANCE_CHECK),
    dg.AssetCheckKey(PARTS, "stores_consistent"),
    *(dg.AssetCheckKey(asset, name) for asset, name, _ in HEALTH_CHECKS),
]


@dataclass(slots=True)
class PurgeResult:
    """What went."""

    runs: dict[str, int]
    """By job."""
    kept: int
    """Old runs that were met and stay."""
    events: dict[str, int]
    """By kind, of those that belong to no run."""

    @property
    def full(self) -> bool:
        """Whether the slice was used up, so that more may be old."""
        return max(sum(self.runs.values()), *self.events.values()) >= MAX_RUNS_PER_PURGE


def purge_runs(instance: dg.DagsterInstance, before: datetime, most: int = MAX_RUNS_PER_PURGE) -> PurgeResult:
    """Removes at most `most` runs that ended before that time, oldest first, and as many events of each kind. May be repeated and may die
    anywhere: a run's row goes last, so that what is left of it is found again.
    """
    kept, runs = _newest_shown(instance), dict.fromkeys(JOBS, 0)
    met: set[str] = set()
    for job in JOBS:
        for run in _old_runs(instance, job, before, kept, met):
            if sum(runs.values()) >= most:
                break
            _forget_run(instance, run)
            runs[job] += 1
    return PurgeResult(runs, len(met), purge_events(instance, before, most))


def _old_runs(instance: dg.DagsterInstance, job: str, before: datetime, kept: set[str], met: set[str]) -> Iterator[dg.DagsterRun]:
    """Oldest first. Whoever takes one removes it before the next: pages start at the front each time, since a cursor names a run
    that must still be there.

    The newest run of a lane stays, and goes into `kept`: its run key and end are what the sensor counts attempts and backoff by.
    """
    lanes: set[str] = set()
    while True:
        wanted = dg.RunsFilter(job_name=job, statuses=_FINISHED, updated_before=before)
        page = [each.dagster_run for each in instance.get_run_records(wanted, limit=_PAGE + len(kept), ascending=True)]
        for run in page:
            lane = run.tags.get(LANE_TAG)
            if lane is not None and lane not in lanes:
                lanes.add(lane)
                kept |= _newest_of_lane(instance, job, lane)
        met.update(run.run_id for run in page if run.run_id in kept)
        old = [run for run in page if run.run_id not in kept]
        if not old:
            return
        yield from old


def _newest_of_lane(instance: dg.DagsterInstance, job: str, lane: str) -> set[str]:
    newest = instance.get_run_records(dg.RunsFilter(job_name=job, tags={LANE_TAG: lane}), limit=1)
    return {each.dagster_run.run_id for each in newest}


def _newest_shown(instance: dg.DagsterInstance) -> set[str]:
    """Runs that hold the newest materialization of an asset, or the newest evaluation of a check."""
    events = [instance.get_latest_materialization_event(key) for key in ingest_events.keys]
    checks = instance.event_log_storage.get_latest_asset_check_execution_by_key(_SHOWN_CHECKS)
    return {event.run_id for event in events if event} | {each.run_id for each in checks.values()}


def _forget_run(instance: dg.DagsterInstance, run: dg.DagsterRun) -> None:
    """`instance.delete_run` removes the row first, and a process that dies behind it leaves events that nobody finds again."""
    from dagster._core.storage.event_log import SqliteEventLogStorage

    instance.compute_log_manager.delete_logs(prefix=[run.run_id])
    events = instance.event_log_storage
    if not isinstance(events, SqliteEventLogStorage):
        events.delete_events(run.run_id)
    elif (file := Path(events.path_for_shard(run.run_id))).exists():  # one for each run, which Dagster would only empty
        events.delete_events(run.run_id)
        for each in (Path(f"{file}-wal"), Path(f"{file}-shm"), file):
            each.unlink(missing_ok=True)
    instance.run_storage.delete_run(run.run_id)


@dg.op
def purge_runs_op(context: dg.OpExecutionContext, platform: dg.ResourceParam[Platform]) -> None:
    with as_dagster_failures():
        kept_for = platform.settings().dagster_run_retention
    before = platform.now() - kept_for
    found = purge_runs(context.instance, before)
    context.add_output_metadata(
        {
            "ended before": dg.MetadataValue.timestamp(before.astimezone(UTC)),
            "runs removed": sum(found.runs.values()),
            "by job": dg.MetadataValue.json(found.runs),
            "old runs kept": found.kept,
            "events removed": sum(found.events.values()),
            "by kind": dg.MetadataValue.json(found.events),
            "more may be left for the next hour": found.full,
        }
    )
    context.log.info("removed %s runs and %s events that ended before %s", found.runs, found.events, before)


@dg.job(
    name=PURGE_JOB,
    executor_def=dg.in_process_executor,
    tags={"dagster/max_retries": "0"},
    description="Removes runs that ended DAGSTER_RUN_RETENTION ago or earlier, with their logs, and old events of no run. Never what is "
    "shown as newest, and never the runs of hours and days. Started by its schedule, once an hour.",
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
