"""Work on hours that are larger than memory: DuckDB sorts and counts in a temporary folder and spills to disk.

It reads local files only. It installs and loads no extension, and uses no network.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from analytics_defs.adapters import parquet_files
from analytics_defs.core.hours.revision import RowSummary, merge_summaries, row_digest
from analytics_defs.core.storage.event_parquet import EVENT_COLUMNS
from analytics_defs.errors import InconsistentState, InsufficientResources
from analytics_defs.ports import MergedFile

DIGEST_COLUMNS = tuple(name for name, _, _ in EVENT_COLUMNS if name != "record_timestamp")
_RESOURCE_ERRORS = (
    duckdb.ConnectionException,
    duckdb.InterruptException,
    duckdb.OutOfMemoryException,  # of memory, and of the temporary folder
    duckdb.ResourceInUseException,
    MemoryError,
)
_RESOURCE_TEXTS = re.compile("Out of Memory Error|No space left on device|Too many open files|Could not write")
"""Texts of the same conditions in DuckDB's and Arrow's errors of input and output, which damaged files raise too."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ROW_ORDER = 'timestamp, event_id, topic, partition, "offset"'


@contextmanager
def duckdb_workspace(memory_mb: int, threads: int = 2) -> Iterator[DuckDBWorkspace]:
    """Yield a workspace in a temporary folder, which is deleted at the end of the block."""
    with tempfile.TemporaryDirectory(prefix="analytics-") as folder, duckdb_connection(folder, memory_mb, threads) as connection:
        yield DuckDBWorkspace(connection, folder)


@contextmanager
def duckdb_connection(folder: str, memory_mb: int, threads: int) -> Iterator[duckdb.DuckDBPyConnection]:
    """Yield a connection to an in-memory database that spills into the folder."""
    config: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": f"{memory_mb}MB",
        "threads": threads,
        "temp_directory": f"{folder}/spilled",
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
    }
    with duckdb.connect(":memory:", config=config) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute("SET enable_progress_bar = false")
        yield connection


class DuckDBWorkspace:
    """Workspace on DuckDB and local files: see `ports.ParquetWorkspace`."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, folder: str) -> None:
        self.connection = connection
        self._folder = Path(folder)

    def path(self, name: str) -> str:
        return str(self._folder / name.replace("/", "+"))

    def put(self, name: str, data: bytes) -> str:
        path = self.path(name)
        Path(path).write_bytes(data)
        return path

    def summarize(self, paths: Sequence[str]) -> Mapping[str, RowSummary | None]:
        originals = {copy: path for path in paths if (copy := parquet_files.readable_copy(path))}
        summaries = self._summarize(list(originals))
        return dict.fromkeys(paths) | {originals[copy]: summary for copy, summary in summaries.items()}

    def _summarize(self, paths: Sequence[str]) -> dict[str, RowSummary | None]:
        """Summarize all files in one query. If one of them is damaged, search for it by halving."""
        if not paths:
            return {}
        try:
            return _summary_by_file(self.connection.execute(_SUMMARY, [list(paths)]).fetchall(), paths)
        except (duckdb.Error, MemoryError) as error:
            if _lacks_resources(error):
                raise _to_insufficient_resources(error) from error
            if len(paths) == 1:
                return {paths[0]: None}
            half = len(paths) // 2
            return self._summarize(paths[:half]) | self._summarize(paths[half:])

    def merge(self, paths: Sequence[str], name: str, max_bytes: int) -> Sequence[MergedFile]:
        if not paths:
            return []
        names = ", ".join(f'"{column}"' for column, _, _ in EVENT_COLUMNS)
        query = f"SELECT {names} FROM read_parquet($1) ORDER BY {_ROW_ORDER}"  # noqa: S608 - only constants
        with translate_duckdb_errors():
            reader = self.connection.sql(query, params=[parquet_files.readable_copies(paths)]).to_arrow_reader(16_384)
            return list(parquet_files.write_sorted_rows(reader, self.path(name), max_bytes))


@contextmanager
def translate_duckdb_errors() -> Iterator[None]:
    """Raise errors in the block as InsufficientResources if memory or disk ran out, otherwise as InconsistentState."""
    try:
        yield
    except (duckdb.Error, pa.ArrowException, OSError, OverflowError, MemoryError) as error:
        if _lacks_resources(error):
            raise _to_insufficient_resources(error) from error
        raise InconsistentState(
            f"sorting and counting met data that cannot be read: {str(error).partition(chr(10))[0]}. Nothing was changed, and trying again "
            "does not help. `analytics audit --hour` names damaged rows, and `analytics stats` writes damaged statistics again."
        ) from error


def _lacks_resources(error: Exception) -> bool:
    """Return whether this machine caused the error. Errors of damaged files have no errno."""
    has_errno = isinstance(error, OSError) and error.errno is not None
    return isinstance(error, _RESOURCE_ERRORS) or has_errno or _RESOURCE_TEXTS.search(str(error)) is not None


def _to_insufficient_resources(error: Exception) -> InsufficientResources:
    return InsufficientResources(
        f"sorting and counting on this machine failed: {str(error).partition(chr(10))[0]}. Nothing was changed. It needs the memory of "
        "DUCKDB_MEMORY_LIMIT_MB, and on the disk of TMPDIR about ten times the size of the hour's Parquet files."
    )


_TEXT = ", ".join(
    f"coalesce({f'epoch_us({name})' if kind.startswith('timestamp') else chr(34) + name + chr(34)}::VARCHAR, chr(1))"
    for name, kind, _ in EVENT_COLUMNS
    if name in DIGEST_COLUMNS
)
_SUMMARY = f"""
WITH seen AS (
    SELECT filename, batch_id, event_type, topic, partition, "offset", epoch_us(timestamp) AS us, record_timestamp,
           md5(concat_ws(chr(31), {_TEXT})) AS digest
    FROM read_parquet($1, filename = true)
)
SELECT filename, batch_id, event_type, topic, partition, count(*), min("offset"), max("offset"), min(us), max(us), count(record_timestamp),
       sum(('0x' || digest[1:16])::UBIGINT), sum(('0x' || digest[17:32])::UBIGINT)
FROM seen GROUP BY ALL ORDER BY ALL
"""  # noqa: S608 - only constants


def _summary_by_file(rows: Sequence[tuple[Any, ...]], paths: Sequence[str]) -> dict[str, RowSummary | None]:
    by_file: dict[str, list[RowSummary]] = {path: [] for path in paths}
    for filename, batch_id, event_type, topic, partition, count, first, last, first_us, last_us, _, high, low in rows:
        by_file[filename].append(
            RowSummary(
                {batch_id: count},
                row_digest(int(high), int(low)),
                {event_type: count},
                {f"{topic}/{partition}": (first, last)},
                _EPOCH + timedelta(microseconds=first_us),
                _EPOCH + timedelta(microseconds=last_us),
            )
        )
    return {path: merge_summaries(summaries) for path, summaries in by_file.items()}
