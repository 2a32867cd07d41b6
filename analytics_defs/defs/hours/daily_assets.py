"""The daily roll-ups of the hourly statistics."""

# No postponed annotations here: Dagster reads the types of `context` and resources.

from datetime import UTC, datetime, timedelta

import dagster as dg

from analytics_defs.config import archive_start_at_load
from analytics_defs.core.hours.statistics import DayStats, ProductStats
from analytics_defs.defs import display
from analytics_defs.defs.hours.hourly_assets import CHANGED, FAILED, C, Shown, counted_asset, each_hour, hourly_event_stats
from analytics_defs.defs.resources.platform import Platform
from analytics_defs.flows.hours.statistics import Activity, Daily, daily_stats
from analytics_defs.flows.hours.statistics import product_activity as count_products

_START = datetime.strptime(archive_start_at_load(), "%Y-%m-%dT%H").replace(tzinfo=UTC)
DAYS = dg.DailyPartitionsDefinition((_START + timedelta(hours=23)).replace(hour=0), timezone="UTC", end_offset=1)
"""From the first day that has all its hours."""
DAILY = (CHANGED | FAILED) & ~C.in_progress() & ~C.in_latest_time_window()
"""Without `any_deps_missing`: one hour without events would block its day. Today waits."""


@counted_asset(
    DAYS,
    deps=[hourly_event_stats],
    automation_condition=DAILY.with_label("after its hours changed"),
    description="A day from the statistics of its hours: events by type, distinct products and sellers, repeats.",
    kinds={"parquet", "duckdb", "pandas"},
    io_manager_key="frames",
    metadata={"dagster/column_schema": display.stats_schema(DayStats)},
)
def daily_event_stats(context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform]) -> Shown:
    bucket = platform.settings().archive_bucket_name
    yield from each_hour(context, lambda day: _daily_metadata(daily_stats(day, platform.sealed_ports(), platform.bench()), bucket))


def _daily_metadata(done: Daily, bucket: str) -> display.Metadata:
    stats = done.stats
    return {
        "dagster/partition_row_count": 1,
        **display.counts(stats),
        "hours with events": stats.hours,
        "hours behind": dg.MetadataValue.json(list(done.behind)),
        "frozen hours with late events": dg.MetadataValue.json(list(done.frozen)),
        "events per hour": display.hours_chart(stats.day, done.hours),
        **display.links(bucket, done.keys),
    }


@counted_asset(
    DAYS,
    deps=[hourly_event_stats],
    automation_condition=DAILY.with_label("after its hours changed"),
    description="Every product of a day: events by type, net stock change, price changes, stock-outs.",
    kinds={"parquet", "duckdb", "pandas"},
    io_manager_key="frames",
    metadata={"dagster/column_schema": display.stats_schema(ProductStats)},
)
def product_activity(context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform]) -> Shown:
    bucket = platform.settings().archive_bucket_name
    yield from each_hour(context, lambda day: _activity_metadata(count_products(day, platform.sealed_ports(), platform.bench()), bucket))


def _activity_metadata(done: Activity, bucket: str) -> display.Metadata:
    return {
        "dagster/partition_row_count": done.products,
        "products": done.products,
        "sellers": done.sellers,
        "busiest": display.busiest_table(done.busiest),
        "busiest products": display.busiest_chart(f"{done.day} UTC", done.busiest),
        **display.links(bucket, done.keys),
    }
