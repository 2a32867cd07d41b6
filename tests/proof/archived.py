"""What readers of an archived hour must see in every state: each event of a closed batch once, half of nothing, nothing of open batches."""

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
    """The files of the revision, and the parts of closed batches that are not in it. None where one is gone."""
    revision = stores.ledger.latest_revision(hour)
    later = set(stores.ledger.batches_of_hour(hour)) - set(revision.known_batches if revision else ())
    return _rows(stores, [*(revision.keys if revision else ()), *(part_key(hour, each) for each in sorted(later))])


def rows_by_marker(stores: Stores, hour: str) -> Rows | None:
    """Without the ledger: the files that `_SUCCESS.json` names, and the parts of batches that it does not name. None where one is gone."""
    held = stores.archive.get(manifest_key(hour))
    said = json.loads(held) if held else {"files": [], "batches": []}
    keys = [parquet_dir(hour) + each["name"] for each in said["files"]]
    for key in stores.archive.list_keys(parquet_dir(hour)):
        name = key.rpartition("/")[2]
        if not name.startswith(("archive-", "_")) and name.removesuffix(".parquet") not in said["batches"]:
            keys.append(key)
    return _rows(stores, keys)


def _rows(stores: Stores, keys: list[str]) -> Rows | None:
    bodies = [stores.archive.get(key) for key in keys]
    return None if None in bodies else sorted(row for body in bodies if body is not None for row in rows_of(body))


def faults_of_hour(stores: Stores, hour: str) -> Iterator[str]:
    closed = sum(sum(record.hours.get(hour, {}).values()) for record in stores.records.values())
    for reader, rows in (("the ledger's", rows_by_ledger(stores, hour)), ("the marker's", rows_by_marker(stores, hour))):
        if rows is None:
            yield f"{reader} reader finds a file gone"
            continue
        if len({event_id for event_id, _ in rows}) != len(rows):
            yield f"{reader} reader sees rows twice: {rows}"
        pending = 0 if reader == "the ledger's" else len(stores.ledger.snapshot().pending)
        if not closed <= len(rows) <= closed + pending:
            yield f"{reader} reader sees {len(rows)} rows, closed batches hold {closed}"


@contextmanager
def remembering_table() -> Iterator[MemoryParquetWorkspace]:
    """A search runs the same compaction thousands of times: what was looked at and merged once is remembered by its bytes."""
    with memory_workspace() as table:
        yield _Remembering(str(table.folder))


class _Remembering(MemoryParquetWorkspace):
    def summarize(self, paths: Sequence[str]) -> Mapping[str, revision.RowSummary | None]:
        return {path: _look(Path(path).read_bytes()) for path in paths}

    def merge(self, paths: Sequence[str], name: str, max_bytes: int) -> Sequence[MergedFile]:
        found = _merge(tuple(Path(path).read_bytes() for path in paths), max_bytes)
        return [replace(each, path=self.put(f"{name}-{number}", data)) for number, (each, data) in enumerate(found)]


@cache
def _look(data: bytes) -> revision.RowSummary | None:
    with memory_workspace() as table:
        path = table.put("file", data)
        return table.summarize([path])[path]


@cache
def _merge(bodies: tuple[bytes, ...], max_bytes: int) -> list[tuple[MergedFile, bytes]]:
    with memory_workspace() as table:
        paths = [table.put(f"{number}", body) for number, body in enumerate(bodies)]
        return [(each, Path(each.path).read_bytes()) for each in table.merge(paths, "merged", max_bytes)]
