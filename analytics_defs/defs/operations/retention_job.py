"""The job `apply_retention`: it deletes expired hours of the archive once a day."""

# No postponed annotations here: Dagster reads the types of `context` and resources.

from functools import partial

import dagster as dg

from analytics_defs.config import is_retention_enabled_at_load
from analytics_defs.defs.hours.hourly_assets import HOURLY_POOL
from analytics_defs.defs.resources.platform import Platform, as_dagster_failures
from analytics_defs.flows.retention.apply import apply_retention
from analytics_defs.flows.retention.expiry_sweep import RetentionContext, RetentionReport

RETENTION_JOB = "apply_retention"


def retention_metadata(report: RetentionReport) -> dict[str, dg.MetadataValue]:
    rows = [
        dg.TableRecord({"tree": deleted.tree, "hour": deleted.hour, "objects": deleted.objects, "bytes": deleted.bytes})
        for deleted in report.deleted
    ]
    metadata: dict[str, dg.MetadataValue] = {
        "objects deleted": dg.MetadataValue.int(report.objects),
        "bytes deleted": dg.MetadataValue.int(report.bytes),
        "skipped hours": dg.MetadataValue.int(len(report.skipped_hours)),
        "foreign objects": dg.MetadataValue.int(report.foreign_count),
    }
    if rows:
        metadata["by hour"] = dg.MetadataValue.table(rows[:500])
    if report.skipped_hours:
        metadata["skip reasons"] = dg.MetadataValue.text("\n".join(report.skipped_hours[:100]))
    if report.foreign_keys:
        metadata["foreign object keys"] = dg.MetadataValue.json(report.foreign_keys)
    return metadata


@dg.op(pool=HOURLY_POOL)
def apply_retention_op(context: dg.OpExecutionContext, platform: dg.ResourceParam[Platform]) -> dg.Output[None]:
    """Delete expired hours. If a store fails, report what was deleted until then. The next run continues."""
    report = RetentionReport()
    with as_dagster_failures(partial(retention_metadata, report)):
        policy = platform.settings().retention_policy()
        apply_retention(RetentionContext(platform.verified_ports(), platform.statistics_engine_factory(), policy), report)
    for reason in report.skipped_hours:
        context.log.warning(reason)
    return dg.Output(None, metadata=retention_metadata(report))


@dg.job(
    name=RETENTION_JOB,
    executor_def=dg.in_process_executor,
    description="Deletes objects older than EVENT_JSON_RETENTION, PARQUET_RETENTION and DEAD_LETTER_RETENTION from the archive bucket. "
    "Records the expiry in the ledger first. Deletes nothing if none of the three is set.",
)
def apply_retention_job() -> None:
    apply_retention_op()


retention_schedule = dg.ScheduleDefinition(
    name=f"{RETENTION_JOB}_daily",
    job=apply_retention_job,
    cron_schedule="11 4 * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING if is_retention_enabled_at_load() else dg.DefaultScheduleStatus.STOPPED,
)
"""Stopped by default if no retention is set, because its runs would do nothing."""
