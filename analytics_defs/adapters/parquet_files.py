"""Deterministic Parquet files of sorted rows: equal rows give equal bytes, whatever the batch sizes and the sorting engine."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from analytics_defs.core.offsets import MAX_TIMESTAMP_MS
from analytics_defs.core.storage import event_parquet
from analytics_defs.ports import MergedFile

GROUP_ROWS = 65_536
GROUP_BYTES = 32 * 2**20
"""Payload bytes of one row group. Readers and this writer hold one row group in memory."""
_HASH_CHUNK_BYTES = 2**20
_RECORD_TIMESTAMP = [name for name, _, _ in event_parquet.EVENT_COLUMNS].index("record_timestamp")


def readable_copy(path: str) -> str | None:
    """Return the path of a Parquet file with the schema of parts, whose record timestamps are dates. None if the file is damaged.

    Only the footer is read, and `path` itself is returned. Parts of older versions can hold record timestamps that are no dates, and
    DuckDB cannot read them: for these a copy is written beside the file, with null for each of these timestamps.
    """
    try:
        with pq.ParquetFile(path) as file:
            if not file.schema_arrow.equals(event_parquet.event_schema()):
                return None
            if all(_has_valid_timestamps(file.metadata.row_group(number)) for number in range(file.num_row_groups)):
                return path
            copy = f"{path}.valid"
            with event_parquet.writer(copy) as writer:
                for number in range(file.num_row_groups):
                    writer.write_table(_with_valid_timestamps(file.read_row_group(number)))
            return copy
    except (pa.ArrowException, OSError):
        return None


def readable_copies(paths: Sequence[str]) -> list[str]:
    """Return `readable_copy` of each file. The path of a damaged file is returned unchanged: reading it fails."""
    return [readable_copy(path) or path for path in paths]


def _has_valid_timestamps(row_group: Any) -> bool:
    """Return whether the footer proves that every record timestamp is null or a date."""
    statistics = row_group.column(_RECORD_TIMESTAMP).statistics
    if statistics is None:
        return False
    return not statistics.has_min_max or (statistics.min_raw >= 0 and statistics.max_raw <= MAX_TIMESTAMP_MS)


def _with_valid_timestamps(table: pa.Table) -> pa.Table:
    column = table.column(_RECORD_TIMESTAMP)
    raw = column.cast(pa.int64())
    is_valid = pc.and_(pc.greater_equal(raw, 0), pc.less_equal(raw, MAX_TIMESTAMP_MS))
    return table.set_column(_RECORD_TIMESTAMP, table.schema.field(_RECORD_TIMESTAMP), pc.if_else(is_valid, column, None))


def write_sorted_rows(batches: Iterable[pa.RecordBatch], path: str, max_bytes: int) -> Iterator[MergedFile]:
    """Write the files `<path>-0000.parquet`, `-0001` and so on. Yield each when it is complete. No rows give no file.

    A new file starts once the current one reaches `max_bytes`.
    """
    groups = row_groups(batches)
    group = next(groups, None)
    number = 0
    while group is not None:
        target = f"{path}-{number:04d}.parquet"
        rows = 0
        with Path(target).open("wb") as sink, event_parquet.writer(sink) as writer:
            while group is not None and (not rows or sink.tell() < max_bytes):
                writer.write_table(group, row_group_size=group.num_rows)
                rows += group.num_rows
                group = next(groups, None)
        yield MergedFile(target, rows, Path(target).stat().st_size, _sha256(target))
        number += 1


def row_groups(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Yield the rows in tables of at most `GROUP_ROWS` rows and about `GROUP_BYTES` of payload, independent of the batch sizes."""
    pending: list[pa.Table] = []
    rows = size = 0
    for batch in batches:
        table = pa.Table.from_batches([batch]).cast(event_parquet.event_schema())
        while table.num_rows:
            count = _fitting_rows(table, GROUP_ROWS - rows, GROUP_BYTES - size)
            pending.append(table.slice(0, count))
            rows, size = rows + count, size + _payload_bytes(table.slice(0, count))
            table = table.slice(count)
            if rows >= GROUP_ROWS or size >= GROUP_BYTES:
                yield _combine(pending)
                pending, rows, size = [], 0, 0
    if rows:
        yield _combine(pending)


def _combine(tables: list[pa.Table]) -> pa.Table:
    """Return one contiguous table. The page boundaries in the file would depend on the chunks otherwise."""
    return pa.concat_tables(tables).combine_chunks()


def _fitting_rows(table: pa.Table, rows: int, size: int) -> int:
    """Return the number of rows until a limit is reached. The row that reaches the byte limit is included."""
    sums = pc.cumulative_sum(pc.cast(pc.binary_length(table["payload"]), pa.int64()))
    below = _integer(pc.sum(pc.cast(pc.less(sums, size), pa.int64())))
    return min(int(table.num_rows), rows, below + 1)


def _payload_bytes(table: pa.Table) -> int:
    return _integer(pc.sum(pc.binary_length(table["payload"])))


def _integer(scalar: Any) -> int:
    return int(scalar.as_py() or 0)


def _sha256(path: str) -> str:
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while chunk := file.read(_HASH_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
