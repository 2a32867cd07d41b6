"""Exact statistics of an hour and of a day: what the files hold. Values and schemas only; pyarrow is imported on use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

STATUSES = {"ProductCreated": "created", "ProductUpdated": "updated", "ProductDeleted": "deleted", "LowStockWarning": "low_stock"}
"""Product status by event type, as columns of statistics."""


@dataclass(frozen=True, slots=True)
class HourStats:
    """One hour, from every closed batch. The columns of `aggregates/hourly`."""

    hour: str
    events: int
    created: int
    updated: int
    deleted: int
    low_stock: int
    products: int
    """Distinct ids."""
    sellers: int
    duplicates: int
    """Events that were sent again, of batches cut in this hour: a repeat has no hour of its own."""
    first_event: datetime | None
    last_event: datetime | None
    revision: int
    """Of the archive; 0 where there is none yet."""
    batches: int
    """Closed batches with events of the hour."""


@dataclass(frozen=True, slots=True)
class Minute:
    """The columns of `aggregates/hourly_minutes`."""

    minute: datetime
    event_type: str
    events: int


@dataclass(frozen=True, slots=True)
class ProductStats:
    """One product in an hour or in a day. The columns of `aggregates/hourly_products` and `aggregates/product_activity`."""

    product_id: str | None
    """None: events that name no product."""
    seller_ids: tuple[str, ...]
    """Sorted."""
    events: int
    created: int
    updated: int
    deleted: int
    low_stock: int
    first_price: float | None
    last_price: float | None
    price_changes: int
    """Prices that differ from the one seen before in the same span."""
    first_stock: float | None
    last_stock: float | None
    stock_outs: int
    """How often the stock was seen at 0 or below, and had not been so before in the same span."""

    net_stock_change: float | None
    """Last stock seen less the first one seen in the span; None where none was seen."""


@dataclass(frozen=True, slots=True)
class DayStats:
    """One day, from its hours. The columns of `aggregates/daily`."""

    day: str
    events: int
    created: int
    updated: int
    deleted: int
    low_stock: int
    products: int
    sellers: int
    duplicates: int
    first_event: datetime | None
    last_event: datetime | None
    hours: int
    """Hours of the day that have statistics with events."""


STATISTICS_COLUMNS: dict[type, tuple[tuple[str, str, str], ...]] = {
    HourStats: (
        ("hour", "string", "UTC hour of the events' own timestamps"),
        ("events", "int64", "distinct stored events"),
        ("created", "int64", "ProductCreated"),
        ("updated", "int64", "ProductUpdated"),
        ("deleted", "int64", "ProductDeleted"),
        ("low_stock", "int64", "LowStockWarning"),
        ("products", "int64", "distinct product ids"),
        ("sellers", "int64", "distinct seller ids"),
        ("duplicates", "int64", "events sent again, of batches cut in this hour"),
        ("first_event", "timestamp", "earliest timestamp, null where there is none"),
        ("last_event", "timestamp", "latest timestamp, null where there is none"),
        ("revision", "int64", "of the hour's archive, 0 without one"),
        ("batches", "int64", "closed batches with events of the hour"),
    ),
    Minute: (
        ("minute", "timestamp", "start of the minute, UTC"),
        ("event_type", "string", "type of the events"),
        ("events", "int64", "events of the type in the minute"),
    ),
    ProductStats: (
        ("product_id", "string", "null: events that name no product"),
        ("seller_ids", "list", "sellers named with it, sorted"),
        ("events", "int64", "events of the product"),
        ("created", "int64", "ProductCreated"),
        ("updated", "int64", "ProductUpdated"),
        ("deleted", "int64", "ProductDeleted"),
        ("low_stock", "int64", "LowStockWarning"),
        ("first_price", "float64", "first price seen"),
        ("last_price", "float64", "last price seen"),
        ("price_changes", "int64", "prices that differ from the one seen before"),
        ("first_stock", "float64", "first stock seen"),
        ("last_stock", "float64", "last stock seen"),
        ("stock_outs", "int64", "times the stock came to 0 or below"),
        ("net_stock_change", "float64", "last stock seen less the first"),
    ),
    DayStats: (
        ("day", "string", "UTC day"),
        ("events", "int64", "distinct stored events"),
        ("created", "int64", "ProductCreated"),
        ("updated", "int64", "ProductUpdated"),
        ("deleted", "int64", "ProductDeleted"),
        ("low_stock", "int64", "LowStockWarning"),
        ("products", "int64", "distinct product ids"),
        ("sellers", "int64", "distinct seller ids"),
        ("duplicates", "int64", "events sent again, of batches cut on this day"),
        ("first_event", "timestamp", "earliest timestamp"),
        ("last_event", "timestamp", "latest timestamp"),
        ("hours", "int64", "hours with events"),
    ),
}
"""Name, kind and meaning, in the order of the files."""


def statistics_schema(kind: type) -> pa.Schema:
    import pyarrow as pa

    types = {
        "string": pa.string(),
        "int64": pa.int64(),
        "float64": pa.float64(),
        "timestamp": pa.timestamp("us", "UTC"),
        "list": pa.list_(pa.string()),
    }
    return pa.schema([pa.field(name, types[arrow]) for name, arrow, _ in STATISTICS_COLUMNS[kind]])


def to_parquet(kind: type, rows: Sequence[Any]) -> bytes:
    """A Parquet file of values of one of these classes. The same values give the same bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = [each.name for each in fields(kind)]
    arrays = [
        pa.array([_plain(getattr(row, name)) for row in rows], field.type)
        for name, field in zip(names, statistics_schema(kind), strict=True)
    ]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_arrays(arrays, schema=statistics_schema(kind)), sink, compression="zstd")
    return bytes(sink.getvalue())


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def from_parquet(kind: type, data: bytes) -> list[Any]:
    """The values in such a file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(pa.BufferReader(data))
    return [kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in row.items()}) for row in table.to_pylist()]


def hours_of_day(day: str) -> list[str]:
    """The 24 UTC hours of `YYYY-MM-DD`. Raises ValueError where it is no day."""
    if len(day) != 10:
        raise ValueError(f"{day!r} is not a day: expected for example 2024-01-15")
    begin = date.fromisoformat(day)
    return [f"{begin.isoformat()}T{hour:02d}" for hour in range(24)]


def day_of(hour: str) -> str:
    return hour.partition("T")[0]


def day_stats(day: str, hours: Sequence[HourStats], products: int, sellers: int) -> DayStats:
    """From the hours of the day; `products` and `sellers` are distinct over all of them."""

    def total(name: str) -> int:
        return sum(getattr(hour, name) for hour in hours)

    times = [time for hour in hours for time in (hour.first_event, hour.last_event) if time]
    return DayStats(
        day=day,
        events=total("events"),
        created=total("created"),
        updated=total("updated"),
        deleted=total("deleted"),
        low_stock=total("low_stock"),
        products=products,
        sellers=sellers,
        duplicates=total("duplicates"),
        first_event=min(times, default=None),
        last_event=max(times, default=None),
        hours=sum(hour.events > 0 for hour in hours),
    )


def minutes_of(hour: str, counts: Mapping[tuple[int, str], int]) -> list[Minute]:
    """From events by minute of the hour and type."""
    begin = datetime.fromisoformat(f"{hour}:00+00:00")
    return [Minute(begin + timedelta(minutes=minute), kind, count) for (minute, kind), count in sorted(counts.items())]
