"""Invariants of readers of an archived hour.

In every state a reader sees each event of a closed batch exactly once, no partial batch, and no event of an open batch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path

from analytics_defs.adapters.memory.parquet_workspace import MemoryParquetWorkspace, memory_workspace
from analytics_defs.core.hours import revision
from analytics_defs.core.offsets import Source
from analytics_defs.core.storage.object_keys import manifest_key, parquet_dir, part_key
from analytics_defs.ports import MergedFile
from tests.proof.agreement import Stores, rows_of

Rows = list[tuple[str, Source]]


def rows_by_ledger(stores: Stores, hour: str) -> Rows | None:
    """Return the rows of the revision's files and of the parts of later closed batches. None if a file is missing."""
    revision = stores.ledger.latest_revision(hour)
    later = set(stores.ledger.batches_of_hour(hour)) - set(revision.known_batches if revision else ())
    return _rows(stores, [*(revision.keys if revision else ()), *(part_key(hour, batch_id) for batch_id in sorted(later))])


def rows_by_manifest(stores: Stores, hour: str) -> Rows | None:
    """Return the rows as a reader without the ledger sees them. None if a file is missing.

    It reads the files that `_SUCCESS.json` names, and the parts of batches that it does not name.
    """
    body = stores.object_store.get(manifest_key(hour))
    manifest = json.loads(body) if body else {"files": [], "batches": []}
    keys = [parquet_dir(hour) + file["name"] for file in manifest["files"]]
    for key in stores.object_store.list_keys(parquet_dir(hour)):
        name = key.rpartition("/")[2]
        if not name.startswith(("archive-", "_")) and name.removesuffix(".parquet") not in manifest["batches"]:
            keys.append(key)
    return _rows(stores, keys)


def _rows(stores: Stores, keys: list[str]) -> Rows | None:
    bodies = [stores.object_store.get(key) for key in keys]
    return None if None in bodies else sorted(row for body in bodies if body is not None for row in rows_of(body))


def faults_of_hour(stores: Stores, hour: str) -> Iterator[str]:
    closed = sum(sum(record.hours.get(hour, {}).values()) for record in stores.records.values())
    for reader, rows in (("the ledger's", rows_by_ledger(stores, hour)), ("the manifest's", rows_by_manifest(stores, hour))):
        if rows is None:
            yield f"{reader} reader misses a file"
            continue
        if len({event_id for event_id, _ in rows}) != len(rows):
            yield f"{reader} reader sees duplicate rows: {rows}"
        pending = 0 if reader == "the ledger's" else len(stores.ledger.snapshot().pending)
        if not closed <= len(rows) <= closed + pending:
            yield f"{reader} reader sees {len(rows)} rows, closed batches hold {closed}"


@contextmanager
def caching_workspace() -> Iterator[MemoryParquetWorkspace]:
    """Yield a workspace that caches summaries and merges by bytes. A search runs equal compactions thousands of times."""
    with memory_workspace() as workspace:
        yield _CachingWorkspace(str(workspace.folder))


class _CachingWorkspace(MemoryParquetWorkspace):
    def summarize(self, paths: Sequence[str]) -> Mapping[str, revision.RowSummary | None]:
        return {path: _summarize(Path(path).read_bytes()) for path in paths}

    def merge(self, paths: Sequence[str], name: str, max_bytes: int) -> Sequence[MergedFile]:
        merged = _merge(tuple(Path(path).read_bytes() for path in paths), max_bytes)
        return [replace(file, path=self.put(f"{name}-{number}", data)) for number, (file, data) in enumerate(merged)]


@cache
def _summarize(data: bytes) -> revision.RowSummary | None:
    with memory_workspace() as workspace:
        path = workspace.put("file", data)
        return workspace.summarize([path])[path]


@cache
def _merge(bodies: tuple[bytes, ...], max_bytes: int) -> list[tuple[MergedFile, bytes]]:
    with memory_workspace() as workspace:
        paths = [workspace.put(f"{number}", body) for number, body in enumerate(bodies)]
        return [(file, Path(file.path).read_bytes()) for file in workspace.merge(paths, "merged", max_bytes)]
