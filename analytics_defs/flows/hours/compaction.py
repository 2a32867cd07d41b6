"""Compact an hour: the parts of its closed batches become one sorted archive, and readers go over to it in one step.

    look ──► bring the files here ──► mend from the JSON tree ──► merge ──► upload ──► revise ──► mark ──► sweep
    ledger   inputs, verified         what is missing, damaged    sorted    new names  ledger     _SUCCESS  inputs

A process may die between any two lines, or wake up an hour later and go on:

| it died, or slept, before | then                                                                                                  |
|---------------------------|-------------------------------------------------------------------------------------------------------|
| revise                    | nothing changed; new files lie under names of a revision that never counted, and are swept             |
| mark                      | the ledger's readers see the new revision, the marker's readers the old one, whose files are all there |
| sweep                     | both see the new one; the inputs are still there, and are swept by whoever comes next                  |

A late riser puts its revision under a number that is taken, and is refused; its marker is older than the one there, and is refused;
what it sweeps is below a revision that somebody moved. A part that a late riser of ingest writes again is of a batch that is in: swept.
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
    manifest_bytes,
    may_replace_manifest,
    merge_summaries,
    next_number,
    next_revision,
    parse_manifest,
    same_content,
)
from analytics_defs.core.storage.content_types import JSON_CONTENT_TYPE, PARQUET_CONTENT_TYPE
from analytics_defs.core.storage.object_keys import archive_key, batch_id_of_part_key, manifest_key, parquet_dir, revision_of_archive_key
from analytics_defs.errors import InconsistentState
from analytics_defs.flows.stored.hour_completeness import is_complete
from analytics_defs.flows.stored.hour_files import (
    ConcurrentCompaction,
    HourFiles,
    batch_records,
    damaged_keys,
    download,
    expected_rows,
    read_consistently,
    require_unchanged,
)
from analytics_defs.flows.stored.rows_from_json import rows_from_json
from analytics_defs.ports import ParquetWorkspace, Ports, StoredObject

MAX_FILE_BYTES = 512 * 2**20


class WorkspaceFactory(Protocol):
    """Where tables come from: each job has its own, for the length of a block."""

    def __call__(self) -> AbstractContextManager[ParquetWorkspace]: ...


@dataclass(frozen=True, slots=True)
class Compaction:
    """What an hour's archive is now, and what this execution did for it."""

    hour: str
    revision: ArchiveRevision | None
    """None: no closed batch has an event of this hour."""
    created: bool = False
    """Whether this execution made the revision. Otherwise it was there, sound, with everything in it."""
    complete: bool | None = None
    """Whether every partition's head has passed the hour, now or when the revision was marked so. None: Kafka could not be asked."""
    rebuilt: tuple[str, ...] = ()
    """Files that were missing or damaged, and whose rows came from the JSON tree."""
    deleted: int = 0
    foreign_objects: tuple[str, ...] = ()
    """Objects below the hour's prefix that nobody here writes. They are left alone; a plain glob reads them."""


def compact_hour(hour: str, ports: Ports, bench: WorkspaceFactory) -> Compaction:
    """Make the hour's archive hold every closed batch. Repeating it changes nothing; two at once make one revision.

    Raises InconsistentState, and changes nothing, where rows are missing and the JSON tree does not hold them either.
    """
    complete = is_complete(hour, ports)
    compaction = read_consistently(hour, ports, lambda account: _revised(account, ports, bench))
    if compaction.revision is None:
        return Compaction(hour, None, complete=complete)
    write_manifest(compaction.revision, complete, ports)
    if complete is not True and _was_complete(compaction.revision, ports):
        complete = True
    swept, strangers = delete_superseded(compaction.revision, ports)
    return Compaction(hour, compaction.revision, compaction.created, complete, compaction.rebuilt, swept, strangers)


def _revised(account: HourFiles, ports: Ports, bench: WorkspaceFactory) -> Compaction:
    """The newest revision, made here where it has to be. Raises Moved where somebody else was first."""
    if not account.keys:
        return Compaction(account.hour, account.revision)
    with bench() as table:
        found = _gathered(account, table, ports)
        if not found.broken and account.revision and not account.uncompacted_batches:
            return Compaction(account.hour, account.revision)
        files, after = _merged(account, found, table, ports)
    if after != found.rows:
        raise InconsistentState(
            f"hour {account.hour}: {found.rows.count} rows went in (digest {found.rows.digest}), {after.count} came out ({after.digest}). "
            "Nothing was changed; this is a fault of this version or its libraries."
        )
    rebuilt = sum(after.by_batch.get(batch, 0) for batch in found.lost)
    ours = next_revision(account.revision, account.hour, files, after, RevisionOrigin(ports.clock.now(), rebuilt))
    counts = ports.ledger.put_revision(ours)
    if not same_content(counts, ours):
        raise ConcurrentCompaction(f"hour {account.hour}: another executor made revision {counts.number} first")
    return Compaction(account.hour, counts, created=True, rebuilt=tuple(found.broken))


@dataclass(frozen=True, slots=True)
class _Gathered:
    """Every row of an hour, as local files."""

    paths: tuple[str, ...]
    inputs: tuple[str, ...]
    """What names the archive: keys of the files, and batches whose rows came from the JSON tree."""
    rows: RowSummary
    broken: tuple[str, ...]
    lost: tuple[str, ...]
    """Batches whose rows came from the JSON tree."""


def _gathered(account: HourFiles, table: ParquetWorkspace, ports: Ports) -> _Gathered:
    """Raises Moved where an input vanished because somebody else has compacted the hour; what is gone otherwise is mended."""
    wanted = expected_rows(account.hour, batch_records(account.uncompacted_batches, ports))
    paths = download(account.keys, table, ports)
    seen = _seen(table, paths)
    broken = _broken(account, seen, wanted)
    if broken:
        require_unchanged(account, ports)
    sound = {key: held for key in account.keys if key not in broken and (held := seen[key])}
    lost = _batches_in(broken, account)
    mended = rows_from_json(account.hour, _wanted(lost, wanted, account, ports), table, ports)
    return _Gathered(
        paths=(*(paths[key] for key in sound), *mended),
        inputs=(*sound, *(f"json:{batch}" for batch in lost)),
        rows=merge_summaries([*sound.values(), *_sound(table.summarize(mended))]),
        broken=tuple(broken),
        lost=tuple(lost),
    )


def _seen(table: ParquetWorkspace, paths: Mapping[str, str]) -> dict[str, RowSummary | None]:
    found = table.summarize(list(paths.values()))
    return {key: found[path] for key, path in paths.items()}


def _broken(account: HourFiles, seen: Mapping[str, RowSummary | None], rows: Mapping[str, int]) -> list[str]:
    """Files whose rows have to come from elsewhere. The files of a revision stand and fall together: they are what it says, or not."""
    broken, revision = set(damaged_keys(account, seen, rows)), account.revision
    if revision is not None:
        found = merge_summaries(held for key in revision.keys if (held := seen.get(key)))
        if broken & set(revision.keys) or (found.count, found.digest) != (revision.rows, revision.digest):
            broken |= set(revision.keys)
    return sorted(broken)


def _batches_in(broken: Sequence[str], account: HourFiles) -> list[str]:
    """Batches whose rows cannot be taken from where they should be. One file of a revision stands for the rows of all its batches."""
    lost = {batch for key in broken if (batch := batch_id_of_part_key(key))}
    if account.revision and set(broken) & set(account.revision.keys):
        lost |= set(account.revision.batches)
    return sorted(lost)


def _wanted(lost: Sequence[str], rows: Mapping[str, int], account: HourFiles, ports: Ports) -> dict[str, int]:
    archived = [batch for batch in lost if batch not in rows]
    return {batch: rows[batch] for batch in lost if batch in rows} | expected_rows(account.hour, batch_records(archived, ports))


def _sound(seen: Mapping[str, RowSummary | None]) -> list[RowSummary]:
    return [rows for rows in seen.values() if rows is not None]


def _merged(account: HourFiles, found: _Gathered, table: ParquetWorkspace, ports: Ports) -> tuple[list[ArchiveFile], RowSummary]:
    """Sorted, looked at again, and uploaded under the names of the next revision."""
    number = next_number(account.revision)
    merged = table.merge(found.paths, "merged", MAX_FILE_BYTES)
    after = merge_summaries(_sound(table.summarize([each.path for each in merged])))
    files = []
    for place, each in enumerate(merged):
        key = archive_key(account.hour, number, found.inputs, place)
        ports.object_store.upload(key, each.path, PARQUET_CONTENT_TYPE)
        files.append(ArchiveFile(key, each.rows, each.bytes, each.sha256))
    return files, after


def write_manifest(revision: ArchiveRevision, complete: bool | None, ports: Ports) -> bool:
    """Write `_SUCCESS.json`, unless a later revision has written its own."""
    key = manifest_key(revision.hour)
    blob = StoredObject(key, manifest_bytes(revision, complete), JSON_CONTENT_TYPE, {})
    return ports.object_store.put_if(blob, lambda held: may_replace_manifest(held, revision.number, complete, key))


def _was_complete(revision: ArchiveRevision, ports: Ports) -> bool:
    """Whether its marker says so: a marker does not go back, and what is read meanwhile makes another revision."""
    held = ports.object_store.get(manifest_key(revision.hour))
    there = parse_manifest(held, manifest_key(revision.hour)) if held is not None else None
    return there is not None and there.revision == revision.number and there.complete is True


def delete_superseded(revision: ArchiveRevision, ports: Ports) -> tuple[int, tuple[str, ...]]:
    """Delete what went into the revision or one before it; after the marker, so that its readers have gone over. Answers strangers too.

    Only what can never count again: parts of batches that are in, files made for this revision or an earlier one and not named by it.
    """
    swept, strangers = superseded_files(revision, list(ports.object_store.list_keys(parquet_dir(revision.hour))))
    ports.object_store.delete(swept)
    return len(swept), strangers


def superseded_files(revision: ArchiveRevision, keys: Sequence[str]) -> tuple[list[str], tuple[str, ...]]:
    """Of what lies below the hour, what can never count again; and what nobody here writes."""
    batches, named = revision.known_batches, {*revision.keys, manifest_key(revision.hour)}
    swept, strangers = [], []
    for key in keys:
        is_here = "/" not in key.removeprefix(parquet_dir(revision.hour))  # a copy in a folder below is somebody's
        batch, number = (batch_id_of_part_key(key), revision_of_archive_key(key)) if is_here else (None, None)
        if batch in batches or (number is not None and number <= revision.number and key not in named):
            swept.append(key)
        elif batch is None and number is None and key not in named:
            strangers.append(key)
    return swept, tuple(strangers)
