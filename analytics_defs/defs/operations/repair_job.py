"""The job `replay`: a past range back to what its batches recorded, started by a person."""

# No postponed annotations here: Dagster reads the types of `context` and resources.

import dagster as dg
from pydantic import Field

from analytics_defs.core.repair import parse_repair_range
from analytics_defs.defs.resources.platform import Platform, as_dagster_failures
from analytics_defs.flows.repair.repair_range import RepairContext, RepairResult, repair_range


class RepairConfig(dg.Config):
    """Which range, and whether only to look."""

    first: str = Field(alias="from", description="First source (topic/partition/offset), or hour (YYYY-MM-DDTHH, UTC).")
    end: str = Field(alias="to", description="The one after the last: it is not included.")
    dry_run: bool = Field(True, description="Only say what would change.")


def repair_metadata(found: RepairResult) -> dict[str, dg.MetadataValue]:
    counts = [
        dg.TableRecord({"store": str(store), "found": str(state), "objects": count})
        for (store, state), count in sorted(found.counts.items())
    ]
    changes = [
        dg.TableRecord({"store": str(each.store), "was": str(each.state), "key": each.key, "batch": each.batch})
        for each in found.changes[:500]
    ]
    metadata: dict[str, dg.MetadataValue] = {"batches": dg.MetadataValue.int(found.batches), "changes": dg.MetadataValue.int(found.changed)}
    if counts:
        metadata["by store"] = dg.MetadataValue.table(counts)
    if found.skipped_batches:
        metadata["passed over"] = dg.MetadataValue.text("\n".join(found.skipped_batches))
    if found.interrupted_batch:
        metadata["unfinished"] = dg.MetadataValue.text(found.interrupted_batch)
    if changes:
        metadata["what changes"] = dg.MetadataValue.table(changes)
    return metadata


@dg.op(name="replay_range")
def repair_range_op(context: dg.OpExecutionContext, config: RepairConfig, platform: dg.ResourceParam[Platform]) -> dg.Output[None]:
    """Fails where records contradict the ledger, or something is in no store any more; the rest is done then, and told in the log."""
    try:
        wanted = parse_repair_range(config.first, config.end)
    except ValueError as fault:
        raise dg.Failure(description=str(fault), allow_retries=False) from fault
    found = RepairResult()
    try:
        with as_dagster_failures():
            means = RepairContext(
                platform.verified_ports(),
                platform.workspace_factory(),
                platform.ingest_options(context.run.run_id).validation_rules,
                write=not config.dry_run,
            )
            repair_range(wanted, means, found, lambda batch: context.log.info("batch %s", batch))
    except dg.Failure as fault:
        told = {**fault.metadata, **repair_metadata(found)}
        raise dg.Failure(description=fault.description, metadata=told, allow_retries=fault.allow_retries) from fault
    for line in found.skipped_batches:
        context.log.warning(line)
    if problems := [*found.conflicts, *found.lost]:
        raise dg.Failure(description="\n".join(problems), metadata=repair_metadata(found), allow_retries=False)
    return dg.Output(None, metadata=repair_metadata(found))


@dg.job(
    name="repair",
    executor_def=dg.in_process_executor,
    tags={"dagster/max_retries": "0"},
    description="Bring a past range back to what its batches recorded: from, to (not included), dry_run. It claims nothing anew and moves "
    "no head, no counter.",
)
def repair_job() -> None:
    repair_range_op()
