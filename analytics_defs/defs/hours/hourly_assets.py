"""The hourly assets: each one names its partition, calls one flow, and shows what came of it."""

# No postponed annotations here: Dagster reads the types of `context` and resources.

import warnings
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, TypeAlias

import dagster as dg

from analytics_defs.core.hours.statistics import HourStats
from analytics_defs.defs import display
from analytics_defs.defs.asset_specs import HOURS, event_parts
from analytics_defs.defs.resources.platform import Platform
from analytics_defs.errors import AnalyticsError, Frozen, TooSmall, Unavailable
from analytics_defs.flows.hours.compaction import Compaction, compact
from analytics_defs.flows.hours.restore import Restored, restore
from analytics_defs.flows.hours.statistics import Hourly, hourly_stats

POOL = "hourly"
"""Of the instance's pools: how many of these runs go on at once is set there, and micro-batches keep their slots."""
SIX_AT_ONCE = dg.BackfillPolicy.multi_run(6)
"""Partitions in one run of a backfill."""

BY_AUTOMATION = "dagster/from_automation_condition"
"""Tag of runs that nobody asked for. One that fails is asked for again every ten minutes, and a frozen hour stays frozen: there the stored
statistics count as its newest, and say so. Whoever asks by hand is refused."""
C = dg.AutomationCondition
UPDATED = C.any_deps_match(C.newly_updated())
CHANGED = UPDATED.since(C.newly_requested() & ~UPDATED)
"""Remembered until it is asked for. In `since` the reset wins: without the second half, what arrives between a request and the tick
after it would be forgotten."""
FAILED = C.execution_failed() & C.cron_tick_passed("*/10 * * * *")
"""A run that died has made its request: nothing else would ask for its hour again."""
HOURLY = (CHANGED | FAILED) & ~C.in_progress() & ~C.any_deps_missing() & ~C.in_latest_time_window(timedelta(hours=25))
"""The open hour, and those to come, wait: the partitions end 25 hours from now."""


def counted_asset(partitions: dg.PartitionsDefinition, **more: Any) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    """`dg.asset` as all of these have it. Dagster calls `backfill_policy` beta; it is pinned with Dagster and held by tests."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Parameter `backfill_policy`")
        made: Callable[[Callable[..., Any]], dg.AssetsDefinition] = dg.asset(
            partitions_def=partitions,
            backfill_policy=SIX_AT_ONCE,
            group_name="hourly",
            owners=["team:analytics"],
            pool=POOL,
            code_version="1",
            **more,
        )
    return made


Shown: TypeAlias = Iterator[dg.MaterializeResult[None] | dg.AssetMaterialization]


def each_hour(context: dg.AssetExecutionContext, work: Callable[[str], display.Metadata]) -> Shown:
    """Hour by hour, in order: one that cannot be done keeps no other one from being done and shown, and then the run fails with its fault.

    A run of several hours would fail them all otherwise, and automation would ask for the same ones together, again and again. Where a
    store does not answer, the hours after it are left to the next run.
    """
    done, faults = dict[str, display.Metadata](), dict[str, AnalyticsError]()
    for hour in context.partition_keys:
        try:
            done[hour] = work(hour)
        except AnalyticsError as fault:
            faults[hour] = fault
            if isinstance(fault, Unavailable) and not isinstance(fault, TooSmall):
                break
    if not faults:
        for hour, metadata in done.items():
            context.add_asset_metadata(metadata, partition_key=hour)
        yield dg.MaterializeResult()
        return
    for hour, metadata in done.items():
        yield dg.AssetMaterialization(context.asset_key, metadata=metadata, partition=hour)
    raise dg.Failure(
        description="\n".join(dict.fromkeys(map(str, faults.values()))),
        metadata={"error": type(next(iter(faults.values()))).__name__, "failed": dg.MetadataValue.json(list(faults))},
        allow_retries=all(fault.retryable for fault in faults.values()),
    ) from next(iter(faults.values()))


@counted_asset(
    HOURS,
    deps=[event_parts],
    automation_condition=HOURLY.with_label("after its parts changed"),
    description="Every event of an hour in one sorted Parquet archive, made from the parts of closed batches, or from the JSON tree where "
    "one is missing. `_SUCCESS.json` beside it names the files that count. Materializing it again changes nothing.",
    kinds={"s3", "parquet"},
    metadata={"dagster/column_schema": display.ROWS_SCHEMA},
)
def event_archive(context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform]) -> Shown:
    bucket = platform.settings().archive_bucket_name
    yield from each_hour(context, lambda hour: _archive_metadata(compact(hour, platform.sealed_ports(), platform.bench()), bucket))


def _archive_metadata(done: Compaction, bucket: str) -> display.Metadata:
    revision = done.revision
    if revision is None:
        return {"dagster/partition_row_count": 0, "revision": 0, "events added": 0}
    return {
        "dagster/partition_row_count": revision.rows,
        "revision": revision.number,
        "made now": done.made,
        "events added": revision.added if done.made else 0,
        "batches": len(revision.batches),
        "bytes": sum(each.bytes for each in revision.files),
        "digest": revision.digest,
        "complete": "unknown, Kafka did not answer" if done.complete is None else done.complete,
        "rows from the JSON tree": revision.rebuilt if done.made else 0,
        "files mended": dg.MetadataValue.json(list(done.mended)),
        "objects swept": done.swept,
        "foreign objects": dg.MetadataValue.json(list(done.strangers)),
        **({"frozen": str(revision.taken)} if revision.taken else {}),
        "types": dg.MetadataValue.json(dict(revision.types)),
        "offsets": dg.MetadataValue.json({name: list(bounds) for name, bounds in revision.offsets.items()}),
        **display.links(bucket, revision.keys),
    }


@counted_asset(
    HOURS,
    deps=[event_archive],
    automation_condition=HOURLY.with_label("after its archive changed"),
    description="Exact statistics of an hour: events by type and minute, product status, distinct products and sellers, repeats. Counted "
    "from every row, and compared with batch records and live counters before it materializes.",
    kinds={"parquet", "duckdb", "pandas"},
    io_manager_key="frames",
    metadata={"dagster/column_schema": display.stats_schema(HourStats)},
)
def hourly_event_stats(context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform]) -> Shown:
    bucket = platform.settings().archive_bucket_name

    def counted(hour: str) -> display.Metadata:
        try:
            return _stats_metadata(hourly_stats(hour, platform.sealed_ports(), platform.bench()), bucket)
        except Frozen as fault:
            if BY_AUTOMATION not in context.run.tags:
                raise
            context.log.warning(str(fault))
            return {"frozen": str(fault)}

    yield from each_hour(context, counted)


def _stats_metadata(done: Hourly, bucket: str) -> display.Metadata:
    stats = done.stats
    return {
        "dagster/partition_row_count": 1,
        **display.counts(stats),
        "first event": stats.first_event.isoformat() if stats.first_event else "none",
        "last event": stats.last_event.isoformat() if stats.last_event else "none",
        "revision of the archive": stats.revision,
        "events per minute": display.minutes_chart(stats.hour, done.minutes),
        "low-stock warnings": display.low_stock_chart(stats.hour, done.minutes),
        "busiest products": display.busiest_chart(f"{stats.hour} UTC", done.busiest),
        **display.links(bucket, done.keys),
    }


@counted_asset(
    HOURS,
    deps=[event_archive],
    description="An hour's events put back into RecentEvents with their original creation time, expiry and source. What has expired is "
    "left out, what is there stays as it is. Only by hand: nothing asks for it.",
    kinds={"dynamodb"},
)
def restored_recent_events(context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform]) -> Shown:
    yield from each_hour(context, lambda hour: _restored_metadata(restore(hour, platform.sealed_ports(), platform.bench())))


def _restored_metadata(done: Restored) -> display.Metadata:
    return {
        "dagster/partition_row_count": done.restored,
        "restored": done.restored,
        "there already": done.there,
        "held by others": done.held_by_others,
        "expired": done.expired,
        "taken by retention": done.taken,
    }


hourly_automation = dg.AutomationConditionSensorDefinition(
    "hourly_automation",
    target=dg.AssetSelection.assets("event_archive", "hourly_event_stats", "daily_event_stats", "product_activity"),
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=60,
    run_tags={"dagster/priority": "-1"},  # what somebody asks for by hand goes first
    description="Asks for the archive of an hour after its parts changed, its statistics after its archive, its day after those.",
)
