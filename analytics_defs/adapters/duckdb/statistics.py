"""Exact statistics in SQL: for the rows of an hour, and for products over several hours."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.parquet as pq

from analytics_defs.adapters import parquet_files
from analytics_defs.adapters.duckdb.workspace import DuckDBWorkspace, duckdb_connection, translate_duckdb_errors
from analytics_defs.core.hours import statistics
from analytics_defs.core.hours.statistics import ProductStats
from analytics_defs.core.offsets import NO_TIMESTAMP, Source
from analytics_defs.ports import HourCounts, StoredRow

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ROWS_PER_CHUNK = 2_000
_NUMBERS = ("first_price", "last_price", "first_stock", "last_stock")
_ROW_ORDER = 'us, event_id, topic, partition, "offset"'


def _finite(value: str) -> str:
    """Return SQL that is null for NaN and infinite numbers: JSON and Dagster have neither."""
    return f"CASE WHEN isfinite({value}) THEN {value} END"


_COUNT_ROWS = """
SELECT date_part('minute', make_timestamp(epoch_us(timestamp))), event_type, count(*), min(epoch_us(timestamp)), max(epoch_us(timestamp))
FROM read_parquet($1) GROUP BY ALL
"""
_COUNT_DISTINCT = "SELECT count(DISTINCT product_id), count(DISTINCT seller_id) FROM read_parquet($1)"

_PRODUCT_STATS = f"""
WITH events AS (
    SELECT event_id, event_type, product_id, seller_id, epoch_us(timestamp) AS us, topic, partition, "offset",
           CASE WHEN event_type <> 'ProductDeleted' AND json_valid(payload) THEN json_extract_string(payload, [
               '$.product.price', '$.product.stock', '$.product.quantity', '$.currentStock', '$.quantity']) END AS fields
    FROM read_parquet($1)
), texts AS (
    SELECT *, fields[1] AS price_text, coalesce(fields[2], fields[3], fields[4], fields[5]) AS stock_text FROM events
), seen AS (
    SELECT *, {_finite("try_cast(price_text AS DOUBLE)")} AS price, {_finite("try_cast(stock_text AS DOUBLE)")} AS stock FROM texts
), prices AS (
    SELECT product_id, arg_min(price, place) AS first_price, arg_max(price, place) AS last_price,
           count(*) FILTER (before IS NOT NULL AND before <> price) AS price_changes
    FROM (SELECT product_id, price, row_number() OVER timeline AS place, lag(price) OVER timeline AS before
          FROM seen WHERE price IS NOT NULL WINDOW timeline AS (PARTITION BY product_id ORDER BY {_ROW_ORDER}))
    GROUP BY product_id
), stocks AS (
    SELECT product_id, arg_min(stock, place) AS first_stock, arg_max(stock, place) AS last_stock,
           count(*) FILTER (stock <= 0 AND (before IS NULL OR before > 0)) AS stock_outs
    FROM (SELECT product_id, stock, row_number() OVER timeline AS place, lag(stock) OVER timeline AS before
          FROM seen WHERE stock IS NOT NULL WINDOW timeline AS (PARTITION BY product_id ORDER BY {_ROW_ORDER}))
    GROUP BY product_id
), counted AS (
    SELECT product_id, list_sort(list(DISTINCT seller_id) FILTER (seller_id IS NOT NULL)) AS seller_ids, count(*) AS events,
           count(*) FILTER (event_type = 'ProductCreated') AS created, count(*) FILTER (event_type = 'ProductUpdated') AS updated,
           count(*) FILTER (event_type = 'ProductDeleted') AS deleted, count(*) FILTER (event_type = 'LowStockWarning') AS low_stock,
           count(*) FILTER (price IS NULL AND price_text IS NOT NULL) + count(*) FILTER (stock IS NULL AND stock_text IS NOT NULL)
               AS out_of_range_numbers
    FROM seen GROUP BY product_id
)
SELECT counted.product_id, coalesce(seller_ids, []::VARCHAR[]) AS seller_ids, events, created, updated, deleted, low_stock,
       first_price, last_price, coalesce(price_changes, 0) AS price_changes,
       first_stock, last_stock, coalesce(stock_outs, 0) AS stock_outs, {_finite("last_stock - first_stock")} AS net_stock_change,
       out_of_range_numbers
FROM counted LEFT JOIN prices ON counted.product_id IS NOT DISTINCT FROM prices.product_id
             LEFT JOIN stocks ON counted.product_id IS NOT DISTINCT FROM stocks.product_id
ORDER BY counted.product_id NULLS FIRST
"""  # noqa: S608 - only constants

_PRODUCT_ACTIVITY = f"""
WITH files AS (
    SELECT * FROM read_parquet($1, filename = true, union_by_name = true)
    UNION ALL BY NAME SELECT 0 AS out_of_range_numbers WHERE false  -- a column that files of older versions do not have
), spans AS (
    SELECT * REPLACE ({", ".join(f"{_finite(name)} AS {name}" for name in _NUMBERS)}), list_position($1, filename) AS place FROM files
), priced AS (
    SELECT product_id, place, first_price, last_price, lag(last_price) OVER timeline AS before
    FROM spans WHERE first_price IS NOT NULL WINDOW timeline AS (PARTITION BY product_id ORDER BY place)
), prices AS (
    SELECT product_id, arg_min(first_price, place) AS first_price, arg_max(last_price, place) AS last_price,
           count(*) FILTER (before IS NOT NULL AND before <> first_price) AS between_spans
    FROM priced GROUP BY product_id
), stocked AS (
    SELECT product_id, place, first_stock, last_stock, lag(last_stock) OVER timeline AS before
    FROM spans WHERE first_stock IS NOT NULL WINDOW timeline AS (PARTITION BY product_id ORDER BY place)
), stocks AS (
    SELECT product_id, arg_min(first_stock, place) AS first_stock, arg_max(last_stock, place) AS last_stock,
           count(*) FILTER (before <= 0 AND first_stock <= 0) AS still_out
    FROM stocked GROUP BY product_id
), counted AS (
    SELECT product_id, list_sort(list_distinct(flatten(list(seller_ids)))) AS seller_ids, sum(events)::BIGINT AS events,
           sum(created)::BIGINT AS created, sum(updated)::BIGINT AS updated, sum(deleted)::BIGINT AS deleted,
           sum(low_stock)::BIGINT AS low_stock, sum(price_changes)::BIGINT AS price_changes, sum(stock_outs)::BIGINT AS stock_outs,
           coalesce(sum(out_of_range_numbers), 0)::BIGINT AS out_of_range_numbers
    FROM spans GROUP BY product_id
)
SELECT counted.product_id, seller_ids, events, created, updated, deleted, low_stock,
       prices.first_price, prices.last_price, price_changes + coalesce(between_spans, 0) AS price_changes,
       stocks.first_stock, stocks.last_stock, stock_outs - coalesce(still_out, 0) AS stock_outs,
       {_finite("stocks.last_stock - stocks.first_stock")} AS net_stock_change, out_of_range_numbers
FROM counted LEFT JOIN prices ON counted.product_id IS NOT DISTINCT FROM prices.product_id
             LEFT JOIN stocks ON counted.product_id IS NOT DISTINCT FROM stocks.product_id
ORDER BY counted.product_id NULLS FIRST
"""  # noqa: S608 - only constants

_ROWS = """
SELECT topic, partition, "offset", payload, epoch_ms(record_timestamp) AS ms, batch_id
FROM read_parquet($1) WHERE $2::VARCHAR IS NULL OR batch_id = $2 ORDER BY batch_id, topic, partition, "offset"
"""


@contextmanager
def duckdb_statistics(memory_mb: int, threads: int = 2) -> Iterator[DuckDBStatisticsEngine]:
    """Yield an engine in a temporary folder, which is deleted at the end of the block."""
    with tempfile.TemporaryDirectory(prefix="analytics-") as folder, duckdb_connection(folder, memory_mb, threads) as connection:
        yield DuckDBStatisticsEngine(connection, folder)


class DuckDBStatisticsEngine(DuckDBWorkspace):
    """Statistics engine on DuckDB: see `ports.StatisticsEngine`."""

    def count_rows(self, paths: Sequence[str]) -> HourCounts:
        if not paths:
            return HourCounts({}, 0, 0, None, None)
        with translate_duckdb_errors():
            counts = self.connection.execute(_COUNT_ROWS, [list(paths)]).fetchall()
            products, sellers = self.connection.execute(_COUNT_DISTINCT, [list(paths)]).fetchall()[0]
        times = [_EPOCH + timedelta(microseconds=us) for *_, first, last in counts for us in (first, last)]
        minutes = {(minute, event_type): count for minute, event_type, count, _, _ in counts}
        return HourCounts(minutes, products, sellers, min(times, default=None), max(times, default=None))

    def write_product_stats(self, paths: Sequence[str], name: str) -> str:
        return self._write_query(_PRODUCT_STATS, paths, name)

    def write_product_activity(self, paths: Sequence[str], name: str) -> str:
        return self._write_query(_PRODUCT_ACTIVITY, paths, name)

    def _write_query(self, query: str, paths: Sequence[str], name: str) -> str:
        path, schema = self.path(name), statistics.statistics_schema(ProductStats)
        with translate_duckdb_errors(), pq.ParquetWriter(path, schema, compression="zstd") as writer:
            if paths:
                for group in _fixed_size_tables(self.connection.sql(query, params=[list(paths)]).to_arrow_reader(16_384), schema):
                    writer.write_table(group)
        return path

    def count_products_and_sellers(self, path: str) -> tuple[int, int]:
        with translate_duckdb_errors():
            query = "SELECT count(product_id), (SELECT count(DISTINCT s) FROM (SELECT unnest(seller_ids) AS s FROM read_parquet($1)))"
            products, sellers = self.connection.execute(f"{query} FROM read_parquet($1)", [path]).fetchall()[0]
        return products, sellers

    def top_products(self, path: str, limit: int) -> Sequence[ProductStats]:
        query = "SELECT * FROM read_parquet($1) WHERE product_id IS NOT NULL ORDER BY events DESC, product_id LIMIT $2"
        with translate_duckdb_errors():
            rows = self.connection.execute(query, [path, limit]).fetchall()
        return [ProductStats(row[0], tuple(row[1]), *row[2:]) for row in rows]

    def read_rows(self, paths: Sequence[str], batch_id: str | None = None) -> Iterator[Sequence[StoredRow]]:
        if not paths:
            return
        with translate_duckdb_errors():
            params = [parquet_files.readable_copies(paths), batch_id]
            for batch in self.connection.sql(_ROWS, params=params).to_arrow_reader(_ROWS_PER_CHUNK):
                yield [
                    StoredRow(
                        Source.parse(f"{row['topic']}/{row['partition']}/{row['offset']}"),
                        row["payload"].encode(),
                        NO_TIMESTAMP if row["ms"] is None else row["ms"],
                        row["batch_id"],
                    )
                    for row in batch.to_pylist()
                ]


def _fixed_size_tables(batches: pa.RecordBatchReader, schema: pa.Schema, rows: int = 65_536) -> Iterator[pa.Table]:
    """Yield the rows in tables of `rows` rows, independent of the batch sizes. Equal rows then give an equal file."""
    pending = pa.Table.from_batches([], schema)
    for batch in batches:
        pending = pa.concat_tables([pending, pa.Table.from_batches([batch]).cast(schema)])
        while pending.num_rows >= rows:
            yield pending.slice(0, rows).combine_chunks()
            pending = pending.slice(rows)
    if pending.num_rows:
        yield pending.combine_chunks()
