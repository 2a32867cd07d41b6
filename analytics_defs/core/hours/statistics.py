"""Exact statistics of an hour and of a day. pyarrow is imported on use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_type_hints

if TYPE_CHECKING:
    import pyarrow as pa

STATUSES = {"ProductCreated": "created", "ProductUpdated": "updated", "ProductDeleted": "deleted", "LowStockWarning": "low_stock"}
"""Product status by event type. The statuses are also column names."""


@dataclass(frozen=True, slots=True)
class PeriodStats:
    """Columns of the statistics of an hour and of a day. No column may have the name of a partition folder, such as `hour`."""

    period: Annotated[str, "UTC hour or day of the events' own timestamps"]
    events: Annotated[int, "distinct stored events"]
    created: Annotated[int, "ProductCreated"]
    updated: Annotated[int, "ProductUpdated"]
    deleted: Annotated[int, "ProductDeleted"]
    low_stock: Annotated[int, "LowStockWarning"]
    products: Annotated[int, "distinct product ids"]
    sellers: Annotated[int, "distinct seller ids"]
    duplicates: Annotated[int, "duplicates in batches of this period's batch time"]
    first_event: Annotated[datetime | None, "earliest timestamp, null without events"]
    last_event: Annotated[datetime | None, "latest timestamp, null without events"]


@dataclass(frozen=True, slots=True)
class HourStats(PeriodStats):
    """Statistics of one hour over all closed batches: a row of `aggregates/hourly`."""

    revision: Annotated[int, "revision of the hour archive, 0 if there is none yet"]
    batches: Annotated[int, "closed batches with events of the hour"]


@dataclass(frozen=True, slots=True)
class DayStats(PeriodStats):
    """Statistics of one day, computed from its hours: a row of `aggregates/daily`."""

    hours: Annotated[int, "hours with events"]


@dataclass(frozen=True, slots=True)
class Minute:
    """Number of events of one type in one minute: a row of `aggregates/hourly_minutes`."""

    minute: Annotated[datetime, "start of the minute, UTC"]
    event_type: Annotated[str, "type of the events"]
    events: Annotated[int, "events of the type in the minute"]


@dataclass(frozen=True, slots=True)
class ProductStats:
    """One product in an hour or a day: a row of `aggregates/hourly_products` or `aggregates/product_activity`."""

    product_id: Annotated[str | None, "null: events without a product"]
    seller_ids: Annotated[tuple[str, ...], "sellers in events of the product, sorted"]
    events: Annotated[int, "events of the product"]
    created: Annotated[int, "ProductCreated"]
    updated: Annotated[int, "ProductUpdated"]
    deleted: Annotated[int, "ProductDeleted"]
    low_stock: Annotated[int, "LowStockWarning"]
    first_price: Annotated[float | None, "first price in the period"]
    last_price: Annotated[float | None, "last price in the period"]
    price_changes: Annotated[int, "prices that differ from the previous one in the period"]
    first_stock: Annotated[float | None, "first stock in the period"]
    last_stock: Annotated[float | None, "last stock in the period"]
    stock_outs: Annotated[int, "times the stock became 0 or below, including a first value of 0 or below"]
    net_stock_change: Annotated[float | None, "last stock minus first stock, null without a stock or beyond float64"]
    out_of_range_numbers: Annotated[int, "prices and stocks beyond float64: they count as missing"]


_KINDS: dict[Any, str] = {
    str: "string",
    str | None: "string",
    int: "int64",
    float | None: "float64",
    datetime: "timestamp",
    datetime | None: "timestamp",
    tuple[str, ...]: "list",
}


def _columns(row: type) -> tuple[tuple[str, str, str], ...]:
    hints = ((name, *get_args(hint)) for name, hint in get_type_hints(row, include_extras=True).items())
    return tuple((name, _KINDS[type_], meaning) for name, type_, meaning in hints)


STATISTICS_COLUMNS: dict[type, tuple[tuple[str, str, str], ...]] = {
    row: _columns(row) for row in (HourStats, Minute, ProductStats, DayStats)
}
"""Name, kind and meaning of each column by class of the rows, in the order of the files."""


def statistics_schema(row: type) -> pa.Schema:
    import pyarrow as pa

    types = {
        "string": pa.string(),
        "int64": pa.int64(),
        "float64": pa.float64(),
        "timestamp": pa.timestamp("us", "UTC"),
        "list": pa.list_(pa.string()),
    }
    return pa.schema([pa.field(name, types[kind]) for name, kind, _ in STATISTICS_COLUMNS[row]])


def to_parquet(row: type, values: Sequence[Any]) -> bytes:
    """Return a Parquet file of these values, all of class `row`. Deterministic."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = statistics_schema(row)
    arrays = [pa.array([_to_arrow(getattr(value, column.name)) for value in values], column.type) for column in schema]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_arrays(arrays, schema=schema), sink, compression="zstd")
    return bytes(sink.getvalue())


def _to_arrow(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def from_parquet(row: type, data: bytes) -> list[Any]:
    """Return the values of class `row` in a file that `to_parquet` wrote."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(pa.BufferReader(data))
    return [row(**{name: tuple(cell) if isinstance(cell, list) else cell for name, cell in cells.items()}) for cells in table.to_pylist()]


def hours_of_day(day: str) -> list[str]:
    """Return the 24 UTC hours of `YYYY-MM-DD`. Raises ValueError for any other text."""
    if len(day) != 10:
        raise ValueError(f"{day!r} is not a day: expected for example 2024-01-15")
    begin = date.fromisoformat(day)
    return [f"{begin.isoformat()}T{hour:02d}" for hour in range(24)]


def day_of(hour: str) -> str:
    return hour.partition("T")[0]


def day_stats(day: str, hours: Sequence[HourStats], products: int, sellers: int) -> DayStats:
    """Add up the hours of a day. `products` and `sellers` are distinct over the whole day, so they are not sums."""

    def total(name: str) -> int:
        return sum(getattr(hour, name) for hour in hours)

    times = [time for hour in hours for time in (hour.first_event, hour.last_event) if time]
    return DayStats(
        period=day,
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
    """Convert event counts by (minute of the hour, event type) to sorted rows."""
    begin = datetime.fromisoformat(f"{hour}:00+00:00")
    return [Minute(begin + timedelta(minutes=minute), event_type, count) for (minute, event_type), count in sorted(counts.items())]
