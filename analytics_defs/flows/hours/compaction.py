"""Compact an hour: merge the parts of its closed batches into one sorted archive, and switch readers to it in one step.

    list files ──► download ──► rebuild from JSON objects ──► merge ──► upload ──► put revision ──► write manifest ──► delete inputs
    ledger         verified     missing, damaged files     sorted    new keys   ledger           _SUCCESS.json

A process may crash between any two steps, or continue an hour later:

| crash before   | result                                                                                                  |
|----------------|---------------------------------------------------------------------------------------------------------|
| put revision   | Nothing changed. The new files belong to no revision; the next compaction deletes them.                 |
| write manifest | Readers of the ledger use the new revision. Readers of the manifest use the old one: its files exist.   |
| delete inputs  | All readers use the new revision. The inputs still exist; the next compaction deletes them.             |

A zombie compaction is refused: its revision number exists, and the manifest is newer than its own. The files that it deletes belong to
no current revision. A zombie ingest run can re-create the part of a compacted batch.
It deletes the part when its close is refused. If it dies before, the next compaction or statistics of the hour delete the part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from analytics_defs.core.hours.revision import (
    ArchiveFile,
    ArchiveRevision,
    RevisionOrigin,
    RowSummary,
    merge_summaries,
    next_number,
    next_revision,
    same_content,
)
from analytics_defs.core.storage.content_types import PARQUET_CONTENT_TYPE
from analytics_defs.core.storage.object_keys import archive_key, batch_id_of_part_key, manifest_key, parquet_dir, revision_of_archive_key
from analytics_defs.errors import InconsistentState
from analytics_defs.flows.hours.manifest import was_complete, write_manifest
from analytics_defs.flows.stored.hour_completeness import is_complete
from analytics_defs.flows.stored.hour_files import (
    ConcurrentCompaction,
    HourFiles,
    batch_records,
    damaged_keys,
    download,
    expected_rows,
    require_unchanged,
    retry_on_compaction,
)
from analytics_defs.flows.stored.rows_from_json import rows_from_json
from analytics_defs.ports import ParquetWorkspace, Ports

MAX_FILE_BYTES = 512 * 2**20


class WorkspaceFactory(Protocol):
    """Creates a Parquet workspace. Each job has its own, which is deleted at the end of the block."""

    def __call__(self) -> AbstractContextManager[ParquetWorkspace]: ...


@dataclass(frozen=True, slots=True)
class Compaction:
    """The current archive of an hour, and what this execution changed."""

    hour: str
    revision: ArchiveRevision | None
    """None: no closed batch has an event of this hour."""
    created: bool = False
    """True if this execution created the revision. False if it existed, undamaged, with every closed batch in it."""
    complete: bool | None = None
    """Every partition was read past the hour, now or when the manifest was written. None: Kafka did not answer."""
    rebuilt: tuple[str, ...] = ()
    """Keys of missing or damaged files whose rows were rebuilt from the JSON objects."""
    deleted: int = 0
    foreign_objects: tuple[str, ...] = ()
    """Keys below the hour's prefix that this package never writes. They are not deleted, and a plain glob reads them."""


def compact_hour(hour: str, ports: Ports, workspace_factory: WorkspaceFactory) -> Compaction:
    """Put every closed batch into the hour's archive. Idempotent; concurrent executions create one revision.

    Raises InconsistentState, with nothing changed, if rows are missing and the JSON objects do not hold them either.
    """
    complete = is_complete(hour, ports)
    compaction = retry_on_compaction(hour, ports, lambda files: _revise(files, ports, workspace_factory))
    if compaction.revision is None:
        return Compaction(hour, None, complete=complete)
    write_manifest(compaction.revision, complete, ports)
    if complete is not True and was_complete(compaction.revision, ports):
        complete = True
    deleted, foreign_objects = delete_superseded(compaction.revision, ports)
    return Compaction(hour, compaction.revision, compaction.created, complete, compaction.rebuilt, deleted, foreign_objects)


def _revise(files: HourFiles, ports: Ports, workspace_factory: WorkspaceFactory) -> Compaction:
    """Return the newest revision. Create it if batches are missing or files are damaged.

    Raises ConcurrentCompaction if another executor created the next revision first.
    """
    if not files.keys:
        return Compaction(files.hour, files.revision)
    with workspace_factory() as workspace:
        rows = _gather_rows(files, workspace, ports)
        if not rows.damaged and files.revision and not files.uncompacted_batches:
            return Compaction(files.hour, files.revision)
        archive_files, merged = _merge_and_upload(files, rows, workspace, ports)
    if merged != rows.summary:
        raise InconsistentState(
            f"hour {files.hour}: {rows.summary.count} rows went in (digest {rows.summary.digest}), "
            f"{merged.count} came out ({merged.digest}). Nothing was changed; this is a fault of this version or its libraries."
        )
    rebuilt = sum(merged.by_batch.get(batch, 0) for batch in rows.rebuilt_batches)
    revision = next_revision(files.revision, files.hour, archive_files, merged, RevisionOrigin(ports.clock.now(), rebuilt))
    stored = ports.ledger.put_revision(revision)
    if not same_content(stored, revision):
        raise ConcurrentCompaction(f"hour {files.hour}: another executor made revision {stored.number} first")
    return Compaction(files.hour, stored, created=True, rebuilt=tuple(rows.damaged))


@dataclass(frozen=True, slots=True)
class _GatheredRows:
    """Every row of an hour, in local files."""

    paths: tuple[str, ...]
    inputs: tuple[str, ...]
    """Names of the archive's inputs: keys of the files, and batches whose rows came from the JSON objects."""
    summary: RowSummary
    damaged: tuple[str, ...]
    """Keys of missing or damaged files."""
    rebuilt_batches: tuple[str, ...]
    """Batches whose rows came from the JSON objects."""


def _gather_rows(files: HourFiles, workspace: ParquetWorkspace, ports: Ports) -> _GatheredRows:
    """Download the files of the hour, and rebuild the rows of missing or damaged ones from the JSON objects.

    Raises ConcurrentCompaction if a file is missing because another executor compacted the hour.
    """
    rows_by_batch = expected_rows(files.hour, batch_records(files.uncompacted_batches, ports))
    paths = download(files.keys, workspace, ports)
    summaries = _summarize(workspace, paths)
    damaged = _damaged_files(files, summaries, rows_by_batch)
    if damaged:
        require_unchanged(files, ports)
    intact = {key: summary for key in files.keys if key not in damaged and (summary := summaries[key])}
    batches = _batches_in(damaged, files)
    rebuilt = rows_from_json(files.hour, _rows_to_rebuild(batches, rows_by_batch, files, ports), workspace, ports)
    return _GatheredRows(
        paths=(*(paths[key] for key in intact), *rebuilt),
        inputs=(*intact, *(f"json:{batch}" for batch in batches)),
        summary=merge_summaries([*intact.values(), *_readable(workspace.summarize(rebuilt))]),
        damaged=tuple(damaged),
        rebuilt_batches=tuple(batches),
    )


def _summarize(workspace: ParquetWorkspace, paths: Mapping[str, str]) -> dict[str, RowSummary | None]:
    """Return the content of the local files by key. None: the file is damaged."""
    by_path = workspace.summarize(list(paths.values()))
    return {key: by_path[path] for key, path in paths.items()}


def _damaged_files(files: HourFiles, summaries: Mapping[str, RowSummary | None], rows: Mapping[str, int]) -> list[str]:
    """Return the keys of files whose rows must be rebuilt. If one file of a revision is damaged, all of its files are."""
    damaged, revision = set(damaged_keys(files, summaries, rows)), files.revision
    if revision is not None:
        merged = merge_summaries(summary for key in revision.keys if (summary := summaries.get(key)))
        if damaged & set(revision.keys) or (merged.count, merged.digest) != (revision.rows, revision.digest):
            damaged |= set(revision.keys)
    return sorted(damaged)


def _batches_in(damaged: Sequence[str], files: HourFiles) -> list[str]:
    """Return the batches whose rows the damaged files held. A file of a revision stands for all batches of that revision."""
    batches = {batch for key in damaged if (batch := batch_id_of_part_key(key))}
    if files.revision and set(damaged) & set(files.revision.keys):
        batches |= set(files.revision.batches)
    return sorted(batches)


def _rows_to_rebuild(batches: Sequence[str], rows: Mapping[str, int], files: HourFiles, ports: Ports) -> dict[str, int]:
    """Return the number of rows by batch. `rows` holds the batches that are not compacted; the ledger is read for the others."""
    compacted = [batch for batch in batches if batch not in rows]
    return {batch: rows[batch] for batch in batches if batch in rows} | expected_rows(files.hour, batch_records(compacted, ports))


def _readable(summaries: Mapping[str, RowSummary | None]) -> list[RowSummary]:
    return [summary for summary in summaries.values() if summary is not None]


def _merge_and_upload(
    files: HourFiles, rows: _GatheredRows, workspace: ParquetWorkspace, ports: Ports
) -> tuple[list[ArchiveFile], RowSummary]:
    """Merge the rows into sorted files, summarize these, and upload them under keys of the next revision."""
    number = next_number(files.revision)
    merged = workspace.merge(rows.paths, "merged", MAX_FILE_BYTES)
    summary = merge_summaries(_readable(workspace.summarize([file.path for file in merged])))
    archive_files = []
    for index, file in enumerate(merged):
        key = archive_key(files.hour, number, rows.inputs, index)
        ports.object_store.upload(key, file.path, PARQUET_CONTENT_TYPE)
        archive_files.append(ArchiveFile(key, file.rows, file.bytes, file.sha256))
    return archive_files, summary


def delete_superseded(revision: ArchiveRevision, ports: Ports) -> tuple[int, tuple[str, ...]]:
    """Delete files that this revision or an earlier one replaced. Return their number, and the keys of foreign objects.

    Called after the manifest is written, when its readers use the new files. Only files that no reader can use again
    are deleted: parts of compacted batches, and archive files of this or an earlier revision that the revision does not name.
    """
    superseded, foreign_objects = superseded_files(revision, list(ports.object_store.list_keys(parquet_dir(revision.hour))))
    ports.object_store.delete(superseded)
    return len(superseded), foreign_objects


def superseded_files(revision: ArchiveRevision, keys: Sequence[str]) -> tuple[list[str], tuple[str, ...]]:
    """Select superseded files and foreign objects from the keys below the hour's prefix."""
    batches, named = revision.known_batches, {*revision.keys, manifest_key(revision.hour)}
    superseded, foreign_objects = [], []
    for key in keys:
        is_directly_below = "/" not in key.removeprefix(parquet_dir(revision.hour))  # a copy in a subfolder is a foreign object
        batch, number = (batch_id_of_part_key(key), revision_of_archive_key(key)) if is_directly_below else (None, None)
        if batch in batches or (number is not None and number <= revision.number and key not in named):
            superseded.append(key)
        elif batch is None and number is None and key not in named:
            foreign_objects.append(key)
    return superseded, tuple(foreign_objects)
