"""Metadata of the hourly and daily assets: charts, tables, schemas, links."""

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

from analytics_defs.core.hours import statistics
from analytics_defs.core.hours.statistics import HourStats, Minute, PeriodStats, ProductStats
from analytics_defs.core.storage import event_parquet

Metadata = dict[str, Any]
_MINUTES = [f":{minute:02d}" for minute in range(60)]


def column_schema(columns: Sequence[tuple[str, str, str]]) -> dg.TableSchema:
    """Return the schema of (name, type, description) columns."""
    return dg.TableSchema([dg.TableColumn(name, kind, description=meaning) for name, kind, meaning in columns])


ROWS_SCHEMA = column_schema(event_parquet.EVENT_COLUMNS)


def stats_schema(kind: type) -> dg.TableSchema:
    return column_schema(statistics.STATISTICS_COLUMNS[kind])


def links(bucket: str, keys: Sequence[str]) -> Metadata:
    """Return the URIs of the objects. Dagster shows the first one as a link."""
    if not keys:
        return {}
    return {
        "dagster/uri": f"s3://{bucket}/{keys[0]}",
        "objects": dg.MetadataValue.json([f"s3://{bucket}/{key}" for key in keys]),
    }


def int_metadata(stats: PeriodStats) -> Metadata:
    return {
        "events": stats.events,
        "created": stats.created,
        "updated": stats.updated,
        "deleted": stats.deleted,
        "low stock": stats.low_stock,
        "products": stats.products,
        "sellers": stats.sellers,
        "duplicates": stats.duplicates,
    }


def events_per_minute_chart(hour: str, minutes: Sequence[Minute]) -> dg.MarkdownMetadataValue:
    from analytics_defs.adapters.charts import stacked

    series = {kind: [0] * 60 for kind in statistics.STATUSES}
    for count in minutes:
        series.setdefault(count.event_type, [0] * 60)[count.minute.minute] = count.events
    return _image(stacked(_MINUTES, series, f"Events per minute, {hour} UTC", "minute"), "events per minute")


def low_stock_chart(hour: str, minutes: Sequence[Minute]) -> dg.MarkdownMetadataValue:
    from analytics_defs.adapters.charts import stacked

    counts = [0] * 60
    for count in minutes:
        if count.event_type == "LowStockWarning":
            counts[count.minute.minute] = count.events
    title = f"Low-stock warnings per minute, {hour} UTC"
    return _image(stacked(_MINUTES, {"LowStockWarning": counts}, title, "minute"), "low-stock warnings")


def events_per_hour_chart(day: str, hours: Sequence[HourStats]) -> dg.MarkdownMetadataValue:
    from analytics_defs.adapters.charts import stacked

    by_hour = {stats.period[-2:]: stats for stats in hours}
    labels = [f"{hour:02d}" for hour in range(24)]
    series = {
        kind: [getattr(by_hour[label], name) if label in by_hour else 0 for label in labels] for kind, name in statistics.STATUSES.items()
    }
    return _image(stacked(labels, series, f"Events per hour, {day} UTC", "hour"), "events per hour")


def top_products_chart(period: str, products: Sequence[ProductStats]) -> dg.MarkdownMetadataValue:
    from analytics_defs.adapters.charts import ranked

    values = [
        (product.product_id or "", {kind: getattr(product, name) for kind, name in statistics.STATUSES.items()}) for product in products
    ]
    return _image(ranked(values, f"Busiest products, {period}"), "busiest products")


def top_products_table(products: Sequence[ProductStats]) -> dg.TableMetadataValue:
    rows: list[Mapping[str, Any]] = [
        {
            "product": product.product_id or "",
            "events": product.events,
            "net stock change": product.net_stock_change,
            "price changes": product.price_changes,
            "stock-outs": product.stock_outs,
            "out-of-range numbers": product.out_of_range_numbers,
        }
        for product in products
    ]
    columns = [
        dg.TableColumn("product", "string"),
        dg.TableColumn("events", "int"),
        dg.TableColumn("net stock change", "float"),
        dg.TableColumn("price changes", "int"),
        dg.TableColumn("stock-outs", "int"),
        dg.TableColumn("out-of-range numbers", "int"),
    ]
    return dg.MetadataValue.table([dg.TableRecord(dict(row)) for row in rows], schema=dg.TableSchema(columns))


def _image(png: bytes, alt_text: str) -> dg.MarkdownMetadataValue:
    return dg.MetadataValue.md(f"![{alt_text}](data:image/png;base64,{base64.b64encode(png).decode()})")
