"""Sorted rows into Parquet files that are a function of the rows alone: not of how they arrived, nor of who sorted them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from analytics_defs.core.storage import event_parquet
from analytics_defs.ports import MergedFile

GROUP_ROWS = 65_536
GROUP_BYTES = 32 * 2**20
"""Of payloads in one row group: a reader, and this writer, hold one of them in memory."""
_HASHED_AT_ONCE = 2**20


def has_event_schema(path: str) -> bool:
    """Whether it is a Parquet file in the schema of parts, as far as its footer tells."""
    try:
        return bool(pq.read_schema(path).equals(event_parquet.event_schema()))
    except (pa.ArrowException, OSError):
        return False


def write_sorted_rows(batches: Iterable[pa.RecordBatch], path: str, max_bytes: int) -> Iterator[MergedFile]:
    """Files `<path>-0000.parquet` and on: the next one begins when one has passed `max_bytes`. Nothing for no rows."""
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
    """The same rows in tables that are cut after so many rows, or so many bytes of payload, wherever the batches were cut."""
    held: list[pa.Table] = []
    rows = size = 0
    for batch in batches:
        table = pa.Table.from_batches([batch]).cast(event_parquet.event_schema())
        while table.num_rows:
            fits = _fitting(table, GROUP_ROWS - rows, GROUP_BYTES - size)
            held.append(table.slice(0, fits))
            rows, size = rows + fits, size + _payload_bytes(table.slice(0, fits))
            table = table.slice(fits)
            if rows >= GROUP_ROWS or size >= GROUP_BYTES:
                yield _whole(held)
                held, rows, size = [], 0, 0
    if rows:
        yield _whole(held)


def _whole(held: list[pa.Table]) -> pa.Table:
    """In one piece: where pages are cut would follow the pieces otherwise."""
    return pa.concat_tables(held).combine_chunks()


def _fitting(table: pa.Table, rows: int, size: int) -> int:
    """How many rows until one of the limits is reached; the row that reaches it is the last one in."""
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
        while piece := file.read(_HASHED_AT_ONCE):
            digest.update(piece)
    return digest.hexdigest()
