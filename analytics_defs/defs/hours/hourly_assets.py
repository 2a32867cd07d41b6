"""The hourly assets: each one names its partition, calls one flow, and shows what came of it."""

# No postponed annotations here: Dagster reads the types of `context` and resources.

import warnings
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, TypeAlias

import dagster as dg

from analytics_defs.core.hours.statistics import HourStats
from analytics_defs.defs import display
from analytics_defs.defs.asset_specs import HOURLY_PARTITIONS, event_parts
from analytics_defs.defs.resources.platform import Platform
from analytics_defs.errors import AnalyticsError, DataExpired, InsufficientResources, Unavailable
from analytics_defs.flows.hours.compaction import Compaction, compact_hour
from analytics_defs.flows.hours.restore import RestoreResult, restore_hour
from analytics_defs.flows.hours.statistics import HourlyResult, compute_hourly_stats

HOURLY_POOL = "hourly"
"""Of the instance's pools: how many of these runs go on at once is set there, and micro-batches keep their slots."""
BACKFILL_POLICY = dg.BackfillPolicy.multi_run(6)
"""Partitions in one run of a backfill."""

AUTOMATION_TAGS = "dagster/from_automation_condition"
"""Tag of runs that nobody asked for. One that fails is asked for again every ten minutes, and a frozen hour stays frozen: there the stored
statistics count as its newest, and say so. Whoever asks by hand is refused."""
C = dg.AutomationCondition
DEPENDENCY_UPDATED = C.any_deps_match(C.newly_updated())
PARTS_CHANGED = DEPENDENCY_UPDATED.since(C.newly_requested() & ~DEPENDENCY_UPDATED)
"""Remembered until it is asked for. In `since` the reset wins: without the second half, what arrives between a request and the tick
after it would be forgotten."""
RETRY_DUE = C.execution_failed() & C.cron_tick_passed("*/10 * * * *")
"""A run that died has made its request: nothing else would ask for its hour again."""
HOURLY_CONDITION = (PARTS_CHANGED | RETRY_DUE) & ~C.in_progress() & ~C.any_deps_missing() & ~C.in_latest_time_window(timedelta(hours=25))
"""The open hour, and those to come, wait: the partitions end 25 hours from now."""


def partitioned_asset(partitions: dg.PartitionsDefinition, **more: Any) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    """`dg.asset` as all of these have it. Dagster calls `backfill_policy` beta; it is pinned with Dagster and held by tests."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Parameter `backfill_policy`")
        made: Callable[[Callable[..., Any]], dg.AssetsDefinition] = dg.asset(
            partitions_def=partitions,
            backfill_policy=BACKFILL_POLICY,
            group_name="hourly",
            owners=["team:analytics"],
            pool=HOURLY_POOL,
            code_version="1",
            **more,
        )
    return made


MetadataOf: TypeAlias = Iterator[dg.MaterializeResult[None] | dg.AssetMaterialization]


def materialize_each_partition(context: dg.AssetExecutionContext, work: Callable[[str], display.Metadata]) -> MetadataOf:
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
            if isinstance(fault, Unavailable) and not isinstance(fault, InsufficientResources):
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


@partitioned_asset(
    HOURLY_PARTITIONS,
    deps=[event_parts],
    automation_condition=HOURLY_CONDITION.with_label("after its parts changed"),
    description="Every event of an hour in one sorted Parquet archive, made from the parts of closed batches, or from the JSON tree where "
    "one is missing. `_SUCCESS.json` beside it names the files that count. Materializing it again changes nothing.",
    kinds={"s3", "parquet"},
    metadata={"dagster/column_schema": display.ROWS_SCHEMA},
)
def event_archive(context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform]) -> MetadataOf:
    bucket = platform.settings().archive_bucket_name
    yield from materialize_each_partition(
        context, lambda hour: _archive_metadata(compact_hour(hour, platform.verified_ports(), platform.workspace_factory()), bucket)
    )


def _archive_metadata(done: Compaction, bucket: str) -> display.Metadata:
    revision = done.revision
    if revision is None:
        return {"dagster/partition_row_count": 0, "revision": 0, "events added": 0}
    return {
        "dagster/partition_row_count": revision.rows,
        "revision": revision.number,
        "made now": done.created,
        "events added": revision.added if done.created else 0,
        "batches": len(revision.batches),
        "bytes": sum(each.bytes for each in revision.files),
        "digest": revision.digest,
        "complete": "unknown, Kafka did not answer" if done.complete is None else done.complete,
        "rows from the JSON tree": revision.rebuilt if done.created else 0,
        "files mended": dg.MetadataValue.json(list(done.rebuilt)),
        "objects swept": done.deleted,
        "foreign objects": dg.MetadataValue.json(list(done.foreign_objects)),
        **({"expired": str(revision.expired)} if revision.expired else {}),
        "types": dg.MetadataValue.json(dict(revision.types)),
        "offsets": dg.MetadataValue.json({name: list(bounds) for name, bounds in revision.offsets.items()}),
        **display.links(bucket, revision.keys),
    }


@partitioned_asset(
    HOURLY_PARTITIONS,
    deps=[event_archive],
    automation_condition=HOURLY_CONDITION.with_label("after its archive changed"),
    description="Exact statistics of an hour: events by type and minute, product status, distinct products and sellers, repeats. Counted "
    "from every row, and compared with batch records and live counters before it materializes.",
    kinds={"parquet", "duckdb", "pandas"},
    io_manager_key="frames",
    metadata={"dagster/column_schema": display.stats_schema(HourStats)},
)
def hourly_event_stats(context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform]) -> MetadataOf:
    bucket = platform.settings().archive_bucket_name

    def counted(hour: str) -> display.Metadata:
        try:
            return _stats_metadata(compute_hourly_stats(hour, platform.verified_ports(), platform.workspace_factory()), bucket)
        except DataExpired as fault:
            if AUTOMATION_TAGS not in context.run.tags:
                raise
            context.log.warning(str(fault))
            return {"expired": str(fault)}

    yield from materialize_each_partition(context, counted)


def _stats_metadata(done: HourlyResult, bucket: str) -> display.Metadata:
    stats = done.stats
    return {
        "dagster/partition_row_count": 1,
        **display.int_metadata(stats),
        "first event": stats.first_event.isoformat() if stats.first_event else "none",
        "last event": stats.last_event.isoformat() if stats.last_event else "none",
        "revision of the archive": stats.revision,
        "events per minute": display.events_per_minute_chart(stats.hour, done.minutes),
        "low-stock warnings": display.low_stock_chart(stats.hour, done.minutes),
        "busiest products": display.top_products_chart(f"{stats.hour} UTC", done.top_products),
        **display.links(bucket, done.keys),
    }


@partitioned_asset(
    HOURLY_PARTITIONS,
    deps=[event_archive],
    description="An hour's events put back into RecentEvents with their original creation time, expiry and source. What has expired is "
    "left out, what is there stays as it is. Only by hand: nothing asks for it.",
    kinds={"dynamodb"},
)
def restored_recent_events(context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform]) -> MetadataOf:
    yield from materialize_each_partition(
        context, lambda hour: _restored_metadata(restore_hour(hour, platform.verified_ports(), platform.workspace_factory()))
    )


def _restored_metadata(done: RestoreResult) -> display.Metadata:
    return {
        "dagster/partition_row_count": done.restored,
        "restored": done.restored,
        "there already": done.already_present,
        "held by others": done.owned_by_other_sources,
        "expired": done.expired,
        "taken by retention": done.expired_rows,
    }


hourly_automation = dg.AutomationConditionSensorDefinition(
    "hourly_automation",
    target=dg.AssetSelection.assets("event_archive", "hourly_event_stats", "daily_event_stats", "product_activity"),
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=60,
    run_tags={"dagster/priority": "-1"},  # what somebody asks for by hand goes first
    description="Asks for the archive of an hour after its parts changed, its statistics after its archive, its day after those.",
)
