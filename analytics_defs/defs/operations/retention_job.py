"""The job `apply_retention`, once a day: what is older than its age leaves the archive."""

# No postponed annotations here: Dagster reads the types of `context` and resources.

import dagster as dg

from analytics_defs.config import is_retention_enabled_at_load
from analytics_defs.defs.hours.hourly_assets import HOURLY_POOL
from analytics_defs.defs.resources.platform import Platform, as_dagster_failures
from analytics_defs.flows.retention.apply import apply_retention
from analytics_defs.flows.retention.sweep import RetentionContext, RetentionReport

RETENTION_JOB = "apply_retention"


def retention_metadata(found: RetentionReport) -> dict[str, dg.MetadataValue]:
    rows = [dg.TableRecord({"tree": each.tree, "hour": each.hour, "objects": each.objects, "bytes": each.bytes}) for each in found.deleted]
    metadata: dict[str, dg.MetadataValue] = {
        "objects removed": dg.MetadataValue.int(found.objects),
        "bytes removed": dg.MetadataValue.int(found.bytes),
        "hours that wait": dg.MetadataValue.int(len(found.skipped_hours)),
        "foreign objects": dg.MetadataValue.int(found.foreign_count),
    }
    if rows:
        metadata["by hour"] = dg.MetadataValue.table(rows[:500])
    if found.skipped_hours:
        metadata["why they wait"] = dg.MetadataValue.text("\n".join(found.skipped_hours[:100]))
    if found.foreign_keys:
        metadata["foreign, left alone"] = dg.MetadataValue.json(found.foreign_keys)
    return metadata


@dg.op(pool=HOURLY_POOL)
def apply_retention_op(context: dg.OpExecutionContext, platform: dg.ResourceParam[Platform]) -> dg.Output[None]:
    """A store that fails ends it; what was removed by then is told, and the next one goes on."""
    found = RetentionReport()
    try:
        with as_dagster_failures():
            apply_retention(
                RetentionContext(platform.verified_ports(), platform.workspace_factory(), platform.settings().retention_policy()), found
            )
    except dg.Failure as fault:
        told = {**fault.metadata, **retention_metadata(found)}
        raise dg.Failure(description=fault.description, metadata=told, allow_retries=fault.allow_retries) from fault
    for line in found.skipped_hours:
        context.log.warning(line)
    return dg.Output(None, metadata=retention_metadata(found))


@dg.job(
    name=RETENTION_JOB,
    executor_def=dg.in_process_executor,
    tags={"dagster/max_retries": "0"},
    description="Removes from the archive what is older than EVENT_JSON_RETENTION, PARQUET_RETENTION and DEAD_LETTER_RETENTION say, whole "
    "hours at a time, each frozen in the ledger before. Removes nothing where none is set.",
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
"""Stopped where nothing goes: a run for nothing each day."""
