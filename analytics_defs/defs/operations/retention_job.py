"""The job `forget_old_archive`, once a day: what is older than its age leaves the archive."""

# No postponed annotations here: Dagster reads the types of `context` and resources.

import dagster as dg

from analytics_defs.config import anything_goes_at_load
from analytics_defs.defs.hours.hourly_assets import POOL
from analytics_defs.defs.resources.platform import Platform, failures
from analytics_defs.flows.retention.apply import Means, Retention, retain

NAME = "forget_old_archive"


def metadata_of(found: Retention) -> dict[str, dg.MetadataValue]:
    rows = [dg.TableRecord({"tree": each.tree, "hour": each.hour, "objects": each.objects, "bytes": each.bytes}) for each in found.gone]
    metadata: dict[str, dg.MetadataValue] = {
        "objects removed": dg.MetadataValue.int(found.objects),
        "bytes removed": dg.MetadataValue.int(found.bytes),
        "hours that wait": dg.MetadataValue.int(len(found.waiting)),
        "foreign objects": dg.MetadataValue.int(found.foreigners),
    }
    if rows:
        metadata["by hour"] = dg.MetadataValue.table(rows[:500])
    if found.waiting:
        metadata["why they wait"] = dg.MetadataValue.text("\n".join(found.waiting[:100]))
    if found.foreign:
        metadata["foreign, left alone"] = dg.MetadataValue.json(found.foreign)
    return metadata


@dg.op(pool=POOL)
def take_what_is_old(context: dg.OpExecutionContext, platform: dg.ResourceParam[Platform]) -> dg.Output[None]:
    """A store that fails ends it; what was removed by then is told, and the next one goes on."""
    found = Retention()
    try:
        with failures():
            retain(Means(platform.sealed_ports(), platform.bench(), platform.settings().ages()), found)
    except dg.Failure as fault:
        told = {**fault.metadata, **metadata_of(found)}
        raise dg.Failure(description=fault.description, metadata=told, allow_retries=fault.allow_retries) from fault
    for line in found.waiting:
        context.log.warning(line)
    return dg.Output(None, metadata=metadata_of(found))


@dg.job(
    name=NAME,
    executor_def=dg.in_process_executor,
    tags={"dagster/max_retries": "0"},
    description="Removes from the archive what is older than EVENT_OBJECTS_KEPT_FOR, PARQUET_KEPT_FOR and DEAD_LETTERS_KEPT_FOR say, whole "
    "hours at a time, each frozen in the ledger before. Removes nothing where none is set.",
)
def forget_old_archive() -> None:
    take_what_is_old()


forget_daily = dg.ScheduleDefinition(
    name=f"{NAME}_daily",
    job=forget_old_archive,
    cron_schedule="11 4 * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING if anything_goes_at_load() else dg.DefaultScheduleStatus.STOPPED,
)
"""Stopped where nothing goes: a run for nothing each day."""
