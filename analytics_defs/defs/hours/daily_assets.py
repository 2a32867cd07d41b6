"""The daily roll-ups of the hourly statistics."""

# No postponed annotations here: Dagster reads the types of `context` and resources.

from datetime import UTC, datetime, timedelta

import dagster as dg

from analytics_defs.config import partitions_start_at_load
from analytics_defs.core.hours.statistics import DayStats, ProductStats
from analytics_defs.defs import display
from analytics_defs.defs.hours.hourly_assets import (
    PARTS_CHANGED,
    RETRY_DUE,
    C,
    MetadataOf,
    hourly_event_stats,
    materialize_each_partition,
    partitioned_asset,
)
from analytics_defs.defs.resources.platform import Platform
from analytics_defs.flows.hours.statistics import ActivityResult, DailyResult, compute_daily_stats
from analytics_defs.flows.hours.statistics import compute_product_activity as count_products

_START = datetime.strptime(partitions_start_at_load(), "%Y-%m-%dT%H").replace(tzinfo=UTC)
DAILY_PARTITIONS = dg.DailyPartitionsDefinition((_START + timedelta(hours=23)).replace(hour=0), timezone="UTC", end_offset=1)
"""From the first day that has all its hours."""
DAILY_CONDITION = (PARTS_CHANGED | RETRY_DUE) & ~C.in_progress() & ~C.in_latest_time_window()
"""Without `any_deps_missing`: one hour without events would block its day. Today waits."""


@partitioned_asset(
    DAILY_PARTITIONS,
    deps=[hourly_event_stats],
    automation_condition=DAILY_CONDITION.with_label("after its hours changed"),
    description="A day from the statistics of its hours: events by type, distinct products and sellers, repeats.",
    kinds={"parquet", "duckdb", "pandas"},
    io_manager_key="frames",
    metadata={"dagster/column_schema": display.stats_schema(DayStats)},
)
def daily_event_stats(context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform]) -> MetadataOf:
    bucket = platform.settings().archive_bucket_name
    yield from materialize_each_partition(
        context, lambda day: _daily_metadata(compute_daily_stats(day, platform.verified_ports(), platform.workspace_factory()), bucket)
    )


def _daily_metadata(done: DailyResult, bucket: str) -> display.Metadata:
    stats = done.stats
    return {
        "dagster/partition_row_count": 1,
        **display.int_metadata(stats),
        "hours with events": stats.hours,
        "hours behind": dg.MetadataValue.json(list(done.stale_hours)),
        "frozen hours with late events": dg.MetadataValue.json(list(done.expired_hours)),
        "events per hour": display.events_per_hour_chart(stats.day, done.hours),
        **display.links(bucket, done.keys),
    }


@partitioned_asset(
    DAILY_PARTITIONS,
    deps=[hourly_event_stats],
    automation_condition=DAILY_CONDITION.with_label("after its hours changed"),
    description="Every product of a day: events by type, net stock change, price changes, stock-outs.",
    kinds={"parquet", "duckdb", "pandas"},
    io_manager_key="frames",
    metadata={"dagster/column_schema": display.stats_schema(ProductStats)},
)
def product_activity(context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform]) -> MetadataOf:
    bucket = platform.settings().archive_bucket_name
    yield from materialize_each_partition(
        context, lambda day: _activity_metadata(count_products(day, platform.verified_ports(), platform.workspace_factory()), bucket)
    )


def _activity_metadata(done: ActivityResult, bucket: str) -> display.Metadata:
    return {
        "dagster/partition_row_count": done.products,
        "products": done.products,
        "sellers": done.sellers,
        "busiest": display.top_products_table(done.top_products),
        "busiest products": display.top_products_chart(f"{done.day} UTC", done.top_products),
        **display.links(bucket, done.keys),
    }
