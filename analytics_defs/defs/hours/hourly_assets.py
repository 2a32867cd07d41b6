"""The hourly assets. Each calls one flow for each partition and reports its result as metadata."""

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
from analytics_defs.defs.resources.statistics_io_manager import STATISTICS_IO_MANAGER
from analytics_defs.errors import AnalyticsError, DataExpired, InsufficientResources, Unavailable
from analytics_defs.flows.hours.compaction import Compaction, compact_hour
from analytics_defs.flows.hours.restore import RestoreResult, restore_hour
from analytics_defs.flows.hours.statistics import HourlyResult, compute_hourly_stats

HOURLY_POOL = "hourly"
"""Pool of these runs. dagster.yaml limits it, so that slots are left for micro-batches."""
BACKFILL_POLICY = dg.BackfillPolicy.multi_run(6)
"""Partitions in one run of a backfill."""

AUTOMATION_TAG = "dagster/from_automation_condition"
"""Tag of runs that the automation requested.

Automation requests a failed hour again every ten minutes, and an expired hour cannot be computed again. Such a run therefore succeeds with
the stored statistics and says so. A run that an operator requested is refused.
"""
C = dg.AutomationCondition
DEPENDENCY_UPDATED = C.any_deps_match(C.newly_updated())
PARTS_CHANGED = DEPENDENCY_UPDATED.since(C.newly_requested() & ~DEPENDENCY_UPDATED)
"""True from an update of a dependency until the request. In `since` the reset wins: without the second half, an update between a request
and the next tick would be lost."""
RETRY_DUE = C.execution_failed() & C.cron_tick_passed("*/10 * * * *")
"""A failed run has used up its request, and no other condition requests its hour again."""
HOURLY_CONDITION = (PARTS_CHANGED | RETRY_DUE) & ~C.in_progress() & ~C.any_deps_missing() & ~C.in_latest_time_window(timedelta(hours=25))
"""Excludes the open hour and future hours: the partitions end 25 hours from now."""


def partitioned_asset(partitions: dg.PartitionsDefinition, **options: Any) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    """Return `dg.asset` with the options that all of these assets share.

    Dagster calls `backfill_policy` beta. It is pinned with Dagster and covered by tests, so the warning is suppressed.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Parameter `backfill_policy`")
        decorator: Callable[[Callable[..., Any]], dg.AssetsDefinition] = dg.asset(
            partitions_def=partitions,
            backfill_policy=BACKFILL_POLICY,
            group_name="hourly",
            owners=["team:analytics"],
            pool=HOURLY_POOL,
            code_version="1",
            **options,
        )
    return decorator


MaterializedPartitions: TypeAlias = Iterator[dg.MaterializeResult[None] | dg.AssetMaterialization]


def materialize_each_partition(context: dg.AssetExecutionContext, compute: Callable[[str], display.Metadata]) -> MaterializedPartitions:
    """Compute and report every partition of the run, in order. Then fail the run if partitions failed.

    A failed partition does not stop the others: otherwise automation would request the same partitions together again. If a store is
    unavailable, the remaining partitions are left to the next run.
    """
    results, errors = dict[str, display.Metadata](), dict[str, AnalyticsError]()
    for partition in context.partition_keys:
        try:
            results[partition] = compute(partition)
        except AnalyticsError as error:
            errors[partition] = error
            if isinstance(error, Unavailable) and not isinstance(error, InsufficientResources):
                break
    if not errors:
        for partition, metadata in results.items():
            context.add_asset_metadata(metadata, partition_key=partition)
        yield dg.MaterializeResult()
        return
    for partition, metadata in results.items():
        yield dg.AssetMaterialization(context.asset_key, metadata=metadata, partition=partition)
    first_error = next(iter(errors.values()))
    raise dg.Failure(
        description="\n".join(dict.fromkeys(map(str, errors.values()))),
        metadata={"error": type(first_error).__name__, "failed": dg.MetadataValue.json(list(errors))},
        allow_retries=all(error.retryable for error in errors.values()),
    ) from first_error


@partitioned_asset(
    HOURLY_PARTITIONS,
    deps=[event_parts],
    automation_condition=HOURLY_CONDITION.with_label("after its parts changed"),
    description="Every event of an hour in one sorted Parquet archive, made from the parts of closed batches. If a part is missing, its "
    "rows come from the JSON objects. The manifest `_SUCCESS.json` names the files that count. Materializing it again is idempotent.",
    kinds={"s3", "parquet"},
    metadata={"dagster/column_schema": display.ROWS_SCHEMA},
)
def event_archive(context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform]) -> MaterializedPartitions:
    bucket = platform.settings().archive_bucket_name
    yield from materialize_each_partition(
        context, lambda hour: _archive_metadata(compact_hour(hour, platform.verified_ports(), platform.statistics_engine_factory()), bucket)
    )


def _archive_metadata(result: Compaction, bucket: str) -> display.Metadata:
    revision = result.revision
    if revision is None:
        return {"dagster/partition_row_count": 0, "revision": 0, "events added": 0}
    return {
        "dagster/partition_row_count": revision.rows,
        "revision": revision.number,
        "new revision": result.created,
        "events added": revision.added if result.created else 0,
        "batches": len(revision.batches),
        "bytes": sum(file.bytes for file in revision.files),
        "digest": revision.digest,
        "complete": "unknown, Kafka did not answer" if result.complete is None else result.complete,
        "rows from JSON objects": revision.rebuilt if result.created else 0,
        "files rebuilt": dg.MetadataValue.json(list(result.rebuilt)),
        "objects deleted": result.deleted,
        "foreign objects": dg.MetadataValue.json(list(result.foreign_objects)),
        **({"expired": str(revision.expired)} if revision.expired else {}),
        "types": dg.MetadataValue.json(dict(revision.types)),
        "offsets": dg.MetadataValue.json({name: list(bounds) for name, bounds in revision.offsets.items()}),
        **display.links(bucket, revision.keys),
    }


@partitioned_asset(
    HOURLY_PARTITIONS,
    deps=[event_archive],
    automation_condition=HOURLY_CONDITION.with_label("after its archive changed"),
    description="Exact statistics of an hour: events by type and minute, product status, distinct products and sellers, duplicates. "
    "Counted from every row, and compared with batch records and counters before they are written.",
    kinds={"parquet", "duckdb", "pandas"},
    io_manager_key=STATISTICS_IO_MANAGER,
    metadata={"dagster/column_schema": display.stats_schema(HourStats)},
)
def hourly_event_stats(context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform]) -> MaterializedPartitions:
    bucket = platform.settings().archive_bucket_name

    def compute(hour: str) -> display.Metadata:
        try:
            return _stats_metadata(compute_hourly_stats(hour, platform.verified_ports(), platform.statistics_engine_factory()), bucket)
        except DataExpired as error:
            if AUTOMATION_TAG not in context.run.tags:
                raise
            context.log.warning(str(error))
            return {"expired": str(error)}

    yield from materialize_each_partition(context, compute)


def _stats_metadata(result: HourlyResult, bucket: str) -> display.Metadata:
    stats = result.stats
    return {
        "dagster/partition_row_count": 1,
        **display.int_metadata(stats),
        "first event": stats.first_event.isoformat() if stats.first_event else "none",
        "last event": stats.last_event.isoformat() if stats.last_event else "none",
        "archive revision": stats.revision,
        "events per minute": display.events_per_minute_chart(stats.period, result.minutes),
        "low-stock warnings": display.low_stock_chart(stats.period, result.minutes),
        "busiest products": display.top_products_chart(f"{stats.period} UTC", result.top_products),
        **display.links(bucket, result.keys),
    }


@partitioned_asset(
    HOURLY_PARTITIONS,
    deps=[event_archive],
    description="The events of an hour, restored into RecentEvents with their original creation time, TTL and source. Leaves out events "
    "whose TTL has passed. Overwrites an item only if it belongs to a later reuse of the id. No automation: materialize it by hand.",
    kinds={"dynamodb"},
)
def restored_recent_events(context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform]) -> MaterializedPartitions:
    yield from materialize_each_partition(
        context, lambda hour: _restore_metadata(restore_hour(hour, platform.verified_ports(), platform.statistics_engine_factory()))
    )


def _restore_metadata(result: RestoreResult) -> display.Metadata:
    return {
        "dagster/partition_row_count": result.restored,
        "restored": result.restored,
        "already present": result.already_present,
        "owned by other sources": result.owned_by_other_sources,
        "TTL passed": result.past_ttl,
        "expired by retention": result.expired_rows,
    }


hourly_automation = dg.AutomationConditionSensorDefinition(
    "hourly_automation",
    target=dg.AssetSelection.assets("event_archive", "hourly_event_stats", "daily_event_stats", "product_activity"),
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=60,
    run_tags={"dagster/priority": "-1"},  # runs that an operator requests have priority 0 and begin first
    description="Requests the archive of an hour after its parts changed, its statistics after its archive, and its day after them.",
)
