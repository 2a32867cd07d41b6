"""The double of `ports.ParquetWorkspace`: pyarrow in memory, files in a temporary folder. For small hours."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from analytics_defs.adapters import parquet_files
from analytics_defs.core.hours.revision import RowSummary, merge_summaries, row_digest
from analytics_defs.core.storage.event_parquet import EVENT_COLUMNS, with_integer_times
from analytics_defs.core.storage.staging_file import from_microseconds
from analytics_defs.ports import MergedFile


@contextmanager
def memory_workspace() -> Iterator[MemoryParquetWorkspace]:
    with tempfile.TemporaryDirectory(prefix="analytics-") as folder:
        yield MemoryParquetWorkspace(folder)


class MemoryParquetWorkspace:
    """Workspace in memory: see `ports.ParquetWorkspace`."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def path(self, name: str) -> str:
        return str(self.folder / name.replace("/", "+"))

    def put(self, name: str, data: bytes) -> str:
        path = self.path(name)
        Path(path).write_bytes(data)
        return path

    def summarize(self, paths: Sequence[str]) -> Mapping[str, RowSummary | None]:
        return {path: self._summarize(path) for path in paths}

    def _summarize(self, path: str) -> RowSummary | None:
        readable = parquet_files.readable_copy(path)
        if readable is None:
            return None
        try:
            return merge_summaries(_summarize_row(row) for row in with_integer_times(pq.read_table(readable)).to_pylist())
        except (pa.ArrowException, OSError):
            return None

    def merge(self, paths: Sequence[str], name: str, max_bytes: int) -> Sequence[MergedFile]:
        if not paths:
            return []
        order = [(key, "ascending") for key in ("timestamp", "event_id", "topic", "partition", "offset")]
        table = pa.concat_tables([pq.read_table(path) for path in parquet_files.readable_copies(paths)]).sort_by(order)
        return list(parquet_files.write_sorted_rows(table.to_batches(), self.path(name), max_bytes))


def _summarize_row(row: dict[str, object]) -> RowSummary:
    texts = {name: _text(row[name], kind) for name, kind, _ in EVENT_COLUMNS if name != "record_timestamp"}
    digest = hashlib.md5("\x1f".join(texts.values()).encode(), usedforsecurity=False).hexdigest()
    time = from_microseconds(int(texts["timestamp"]))
    offset = int(texts["offset"])
    return RowSummary(
        {texts["batch_id"]: 1},
        row_digest(int(digest[:16], 16), int(digest[16:], 16)),
        {texts["event_type"]: 1},
        {f"{texts['topic']}/{texts['partition']}": (offset, offset)},
        time,
        time,
    )


def _text(value: object, kind: str) -> str:
    if value is None:
        return "\x01"
    return str(value * 1000) if kind.startswith("timestamp[ms") and isinstance(value, int) else str(value)
