"""The job `repair`: it brings a past range back to what its batches recorded. An operator starts it."""

# No postponed annotations here: Dagster reads the types of `context` and resources.

from functools import partial

import dagster as dg
from pydantic import Field

from analytics_defs.core.repair import parse_repair_range
from analytics_defs.defs.resources.platform import Platform, as_dagster_failures
from analytics_defs.flows.repair.repair_range import RepairContext, RepairResult, repair_range


class RepairConfig(dg.Config):
    """The range to repair, and whether to only report changes."""

    first: str = Field(alias="from", description="First source (topic/partition/offset) or hour (YYYY-MM-DDTHH, UTC).")
    end: str = Field(alias="to", description="Source or hour after the last one, exclusive.")
    dry_run: bool = Field(True, description="Report what would change, and change nothing.")


def repair_metadata(result: RepairResult) -> dict[str, dg.MetadataValue]:
    counts = [
        dg.TableRecord({"store": str(store), "state": str(state), "objects": count})
        for (store, state), count in sorted(result.counts.items())
    ]
    changes = [
        dg.TableRecord({"store": str(change.store), "state": str(change.state), "key": change.key, "batch": change.batch})
        for change in result.changes[:500]
    ]
    metadata: dict[str, dg.MetadataValue] = {
        "batches": dg.MetadataValue.int(result.batches),
        "changes": dg.MetadataValue.int(result.changed),
    }
    if counts:
        metadata["by store"] = dg.MetadataValue.table(counts)
    if result.skipped_batches:
        metadata["skipped batches"] = dg.MetadataValue.text("\n".join(result.skipped_batches))
    if result.interrupted_batch:
        metadata["interrupted batch"] = dg.MetadataValue.text(result.interrupted_batch)
    if changes:
        metadata["changed objects"] = dg.MetadataValue.table(changes)
    return metadata


@dg.op(name="repair_range")
def repair_range_op(context: dg.OpExecutionContext, config: RepairConfig, platform: dg.ResourceParam[Platform]) -> dg.Output[None]:
    """Repair the range.

    Records that contradict the ledger, and events that no store holds, fail the run after everything else is repaired.
    """
    try:
        wanted = parse_repair_range(config.first, config.end)
    except ValueError as error:
        raise dg.Failure(description=str(error), allow_retries=False) from error
    result = RepairResult()
    with as_dagster_failures(partial(repair_metadata, result)):
        repair_context = RepairContext(
            platform.verified_ports(),
            platform.statistics_engine_factory(),
            platform.ingest_options(context.run.run_id).validation_rules,
            dry_run=config.dry_run,
        )
        repair_range(wanted, repair_context, result, lambda batch: context.log.info("batch %s", batch))
    for reason in result.skipped_batches:
        context.log.warning(reason)
    if problems := [*result.conflicts, *result.lost]:
        raise dg.Failure(description="\n".join(problems), metadata=repair_metadata(result), allow_retries=False)
    return dg.Output(None, metadata=repair_metadata(result))


@dg.job(
    name="repair",
    executor_def=dg.in_process_executor,
    description="Brings a past range back to what its batches recorded. Config: from, to (exclusive), dry_run. Claims no new ids and "
    "changes no checkpoint and no counter.",
)
def repair_job() -> None:
    repair_range_op()
