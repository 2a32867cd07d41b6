"""The daily assets: roll-ups of the hourly statistics."""

# No postponed annotations here: Dagster reads the types of `context` and resources.

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import dagster as dg

from analytics_defs.config import partitions_start_at_load
from analytics_defs.core.hours.statistics import DayStats, ProductStats
from analytics_defs.defs import display
from analytics_defs.defs.hours.hourly_assets import (
    PARTS_CHANGED,
    RETRY_DUE,
    C,
    MaterializedPartitions,
    hourly_event_stats,
    materialize_each_partition,
    partitioned_asset,
)
from analytics_defs.defs.resources.platform import Platform
from analytics_defs.defs.resources.statistics_io_manager import STATISTICS_IO_MANAGER
from analytics_defs.flows.hours.statistics import ActivityResult, DailyResult, compute_daily_stats, compute_product_activity

_START = datetime.strptime(partitions_start_at_load(), "%Y-%m-%dT%H").replace(tzinfo=UTC)
DAILY_PARTITIONS = dg.DailyPartitionsDefinition((_START + timedelta(hours=23)).replace(hour=0), timezone="UTC", end_offset=1)
"""Days of which all hours are hourly partitions."""
DAILY_CONDITION = (PARTS_CHANGED | RETRY_DUE) & ~C.in_progress() & ~C.in_latest_time_window()
"""Without `any_deps_missing`, because one hour without events would block its day. Today waits until it is over."""


def _daily_asset(
    name: str, description: str, schema: dg.TableSchema, compute: Callable[[str, Platform], display.Metadata]
) -> dg.AssetsDefinition:
    """Return an asset that computes each requested day by one flow. `compute` returns the metadata of a day."""

    @partitioned_asset(
        DAILY_PARTITIONS,
        name=name,
        deps=[hourly_event_stats],
        automation_condition=DAILY_CONDITION.with_label("after its hours changed"),
        description=description,
        kinds={"parquet", "duckdb", "pandas"},
        io_manager_key=STATISTICS_IO_MANAGER,
        metadata={"dagster/column_schema": schema},
    )
    def daily_asset(context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform]) -> MaterializedPartitions:
        yield from materialize_each_partition(context, lambda day: compute(day, platform))

    return daily_asset


def _compute_daily_stats(day: str, platform: Platform) -> display.Metadata:
    result: DailyResult = compute_daily_stats(day, platform.verified_ports(), platform.statistics_engine_factory())
    return {
        "dagster/partition_row_count": 1,
        **display.int_metadata(result.stats),
        "hours with events": result.stats.hours,
        "stale hours": dg.MetadataValue.json(list(result.stale_hours)),
        "expired hours with late events": dg.MetadataValue.json(list(result.expired_hours)),
        "events per hour": display.events_per_hour_chart(result.stats.period, result.hours),
        **display.links(platform.settings().archive_bucket_name, result.keys),
    }


def _compute_product_activity(day: str, platform: Platform) -> display.Metadata:
    result: ActivityResult = compute_product_activity(day, platform.verified_ports(), platform.statistics_engine_factory())
    return {
        "dagster/partition_row_count": result.products,
        "products": result.products,
        "sellers": result.sellers,
        "busiest": display.top_products_table(result.top_products),
        "busiest products": display.top_products_chart(f"{result.day} UTC", result.top_products),
        **display.links(platform.settings().archive_bucket_name, result.keys),
    }


daily_event_stats = _daily_asset(
    "daily_event_stats",
    "Statistics of a day, from those of its hours: events by type, distinct products and sellers, duplicates.",
    display.stats_schema(DayStats),
    _compute_daily_stats,
)
product_activity = _daily_asset(
    "product_activity",
    "Every product of a day: events by type, net stock change, price changes, stock-outs.",
    display.stats_schema(ProductStats),
    _compute_product_activity,
)
