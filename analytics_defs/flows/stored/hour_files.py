"""The files that hold the rows of an hour: those of its newest revision, and the parts of closed batches not yet compacted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from analytics_defs.core.hours.revision import ArchiveRevision, ExpiredData, RowSummary
from analytics_defs.core.ledger import BatchRecord
from analytics_defs.core.storage.object_keys import batch_id_of_part_key, part_key
from analytics_defs.errors import DataExpired, InconsistentState, Superseded, Unavailable
from analytics_defs.flows.conflict_retry import Conflict, retry_on_conflict
from analytics_defs.ports import ParquetWorkspace, Ports

_T = TypeVar("_T")
MAX_HOUR_READS = 10


class ConcurrentCompaction(Conflict):
    """The newest revision of the hour changed during the read."""


@dataclass(frozen=True, slots=True)
class HourFiles:
    """The files of one hour, as the ledger names them."""

    hour: str
    revision: ArchiveRevision | None
    uncompacted_batches: tuple[str, ...]
    """Closed batches whose rows are still in their own parts, sorted."""

    @property
    def keys(self) -> tuple[str, ...]:
        """Keys of the files that together hold every row of every closed batch exactly once."""
        return (
            *(self.revision.keys if self.revision else ()),
            *(part_key(self.hour, batch_id) for batch_id in self.uncompacted_batches),
        )

    @property
    def batches(self) -> tuple[str, ...]:
        """Closed batches with rows in the hour, sorted. Batches whose rows have expired are included."""
        return tuple(sorted({*(self.revision.known_batches if self.revision else ()), *self.uncompacted_batches}))

    @property
    def expired(self) -> ExpiredData:
        """Data of the hour that retention has removed."""
        return self.revision.expired if self.revision else ExpiredData()

    @property
    def version(self) -> str:
        """Version of the rows that an exact reader sees. It changes with every batch and every revision."""
        return f"{self.revision.number if self.revision else 0}+{len(self.uncompacted_batches)}"


def hour_files(hour: str, ports: Ports) -> HourFiles:
    """Read which files hold the hour. The revision is read before the batches, so no batch is counted in both."""
    revision = ports.ledger.latest_revision(hour)
    known = revision.known_batches if revision else frozenset[str]()
    uncompacted = tuple(batch_id for batch_id in sorted(ports.ledger.batches_of_hour(hour)) if batch_id not in known)
    return HourFiles(hour, revision, uncompacted)


def retry_on_compaction(hour: str, ports: Ports, read: Callable[[HourFiles], _T]) -> _T:
    """Return `read(files of the hour)`. If `read` raises ConcurrentCompaction, call it again with the new files.

    A compaction replaces and deletes files while they are read. Raises Superseded after `MAX_HOUR_READS` compactions.
    """
    return retry_on_conflict(
        lambda: read(hour_files(hour, ports)),
        MAX_HOUR_READS,
        Superseded(f"hour {hour}: its archive was compacted {MAX_HOUR_READS} times while it was read. Nothing was changed; try again."),
    )


def require_unchanged(files: HourFiles, ports: Ports) -> None:
    """Raise ConcurrentCompaction if the hour has a newer revision. Called when a file is missing or damaged."""
    current = ports.ledger.latest_revision(files.hour)
    if (current.number if current else 0) != (files.revision.number if files.revision else 0):
        raise ConcurrentCompaction(f"hour {files.hour}: another executor made revision {current.number if current else 0}")


def require_all_rows(files: HourFiles) -> None:
    """Raise DataExpired if retention has removed rows of the hour. Called by flows that count every row."""
    if files.expired.expired_batches:
        raise DataExpired(
            f"hour {files.hour} has expired data: {files.expired}, and {len(files.uncompacted_batches)} later batches added to it. "
            "The remaining rows would give smaller numbers than were stored. Nothing was changed; the stored numbers stay."
        )


def live_counters(hour: str, ports: Ports, is_consistent: Callable[[Mapping[str, int]], bool]) -> Mapping[str, int]:
    """Return the counters of the hour. If they are not consistent, read them once more.

    A reader can see the record of a closing batch before its counters.
    """
    counters = ports.ledger.hourly_counters(hour, hour).get(hour, {})
    return counters if is_consistent(counters) else ports.ledger.hourly_counters(hour, hour).get(hour, {})


def download(keys: Sequence[str], workspace: ParquetWorkspace, ports: Ports) -> dict[str, str]:
    """Download the objects that exist. Return their local paths by key."""
    paths = {key: workspace.path(key) for key in keys}
    exists = ports.task_pool.run_all([partial(ports.object_store.download, key, path) for key, path in paths.items()])
    return {key: path for (key, path), is_found in zip(paths.items(), exists, strict=True) if is_found}


def download_all(files: HourFiles, workspace: ParquetWorkspace, ports: Ports) -> list[str]:
    """Download every file of the hour. Return local paths in the order of `files.keys`.

    Raises ConcurrentCompaction if a file was compacted meanwhile, InconsistentState if it is missing without a compaction.
    """
    paths = download(files.keys, workspace, ports)
    missing = [key for key in files.keys if key not in paths]
    if missing:
        require_unchanged(files, ports)
        raise _unreadable_files(files, missing, "not there")
    return list(paths.values())


def download_verified(files: HourFiles, workspace: ParquetWorkspace, ports: Ports) -> list[str]:
    """Download every file of the hour, as `download_all`. Raise InconsistentState if one is damaged."""
    paths = download_all(files, workspace, ports)
    require_undamaged(files, paths, workspace)
    return paths


@contextmanager
def report_damage(files: HourFiles, paths: Sequence[str], workspace: ParquetWorkspace) -> Iterator[None]:
    """If reading fails in the block, check the files and raise an InconsistentState that names the damaged ones."""
    try:
        yield
    except (Unavailable, InconsistentState) as error:
        require_undamaged(files, paths, workspace)
        raise error from None


def require_undamaged(files: HourFiles, paths: Sequence[str], workspace: ParquetWorkspace) -> None:
    """Raise InconsistentState if one of the downloaded files is damaged. `paths` has the order of `files.keys`."""
    summaries = workspace.summarize(paths)
    damaged = [key for key, path in zip(files.keys, paths, strict=True) if summaries[path] is None]
    if damaged:
        raise _unreadable_files(files, damaged, "damaged")


def _unreadable_files(files: HourFiles, keys: Sequence[str], state: str) -> InconsistentState:
    return InconsistentState(
        f"hour {files.hour}: {', '.join(keys[:3])}{' and more' if keys[3:] else ''} is {state}, and closed batches have rows in it. "
        f"Materialize event_archive for {files.hour} (`analytics compact {files.hour}`): it is rebuilt from the JSON objects."
    )


def batch_records(batches: Sequence[str], ports: Ports) -> dict[str, BatchRecord]:
    """Return the records of closed batches by id. Raise InconsistentState if one has no record."""
    reads = [partial(ports.ledger.batch_record, batch_id) for batch_id in batches]
    records = dict(zip(batches, ports.task_pool.run_all(reads), strict=True))
    if missing := [batch_id for batch_id, record in records.items() if record is None]:
        raise InconsistentState(f"{', '.join(missing[:3])} have an hour entry, and no record in the ledger")
    return {batch_id: record for batch_id, record in records.items() if record is not None}


def expected_rows(hour: str, records: Mapping[str, BatchRecord]) -> dict[str, int]:
    """Return the number of rows of each batch in the hour, as its record says."""
    return {batch_id: sum(record.hours.get(hour, {}).values()) for batch_id, record in records.items()}


def damaged_keys(files: HourFiles, summaries: Mapping[str, RowSummary | None], rows: Mapping[str, int]) -> Iterator[str]:
    """Yield keys of files that are missing, damaged, or do not hold the rows they should.

    `summaries` holds the content by key, `rows` the expected rows by batch.
    """
    for key in files.keys:
        summary, batch_id = summaries.get(key), batch_id_of_part_key(key)
        if summary is None or (batch_id is not None and dict(summary.by_batch) != {batch_id: rows[batch_id]}):
            yield key
