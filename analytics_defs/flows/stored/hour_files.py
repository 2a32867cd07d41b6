"""An hour as exact readers see it: the files of its newest revision, and the parts of the closed batches that are not in it yet."""

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
from analytics_defs.ports import ParquetWorkspace, Ports

T = TypeVar("T")
MAX_HOUR_READS = 10


class ConcurrentCompaction(Superseded):
    """The hour's archive has another revision than a moment ago."""


@dataclass(frozen=True, slots=True)
class HourFiles:
    """What the ledger says of an hour."""

    hour: str
    revision: ArchiveRevision | None
    uncompacted_batches: tuple[str, ...]
    """Closed batches whose rows are still in parts of their own, sorted."""

    @property
    def keys(self) -> tuple[str, ...]:
        """The files that hold every row of a closed batch, once."""
        return (*(self.revision.keys if self.revision else ()), *(part_key(self.hour, each) for each in self.uncompacted_batches))

    @property
    def batches(self) -> tuple[str, ...]:
        """Also those whose rows retention took."""
        return tuple(sorted({*(self.revision.known_batches if self.revision else ()), *self.uncompacted_batches}))

    @property
    def expired(self) -> ExpiredData:
        return self.revision.expired if self.revision else ExpiredData()

    @property
    def version(self) -> str:
        """Of what an exact reader sees: it changes with every row."""
        return f"{self.revision.number if self.revision else 0}+{len(self.uncompacted_batches)}"


def hour_files(hour: str, ports: Ports) -> HourFiles:
    """The revision is read first: a batch closed later is then among the later ones, and never in both."""
    revision = ports.ledger.latest_revision(hour)
    known = revision.known_batches if revision else frozenset[str]()
    return HourFiles(hour, revision, tuple(each for each in sorted(ports.ledger.batches_of_hour(hour)) if each not in known))


def read_consistently(hour: str, ports: Ports, read: Callable[[HourFiles], T]) -> T:
    """What `read` makes of the hour, while nobody compacts it: read again where it raises Moved.

    Raises Superseded where the hour moves every time.
    """
    for _ in range(MAX_HOUR_READS):
        try:
            return read(hour_files(hour, ports))
        except ConcurrentCompaction:
            continue
    raise Superseded(f"hour {hour}: its archive moved {MAX_HOUR_READS} times while it was read. Nothing was changed; try again.")


def require_unchanged(account: HourFiles, ports: Ports) -> None:
    """Asked after a file was not there or not sound. Raises Moved where somebody else has compacted the hour meanwhile."""
    now = ports.ledger.latest_revision(account.hour)
    if (now.number if now else 0) != (account.revision.number if account.revision else 0):
        raise ConcurrentCompaction(f"hour {account.hour}: another executor made revision {now.number if now else 0}")


def require_all_rows(account: HourFiles) -> None:
    """Asked by who counts every row of an hour. Raises DataExpired where retention took some."""
    if account.expired.expired_batches:
        raise DataExpired(
            f"hour {account.hour} is frozen: {account.expired}, and {len(account.uncompacted_batches)} later batches added to it. What is left would make "
            "smaller numbers than were stored. Nothing was changed; what was stored stays."
        )


def live_counters(hour: str, ports: Ports, fit: Callable[[Mapping[str, int]], bool]) -> Mapping[str, int]:
    """Of the hour. Asked for once more where they do not fit: a close may be seen by half, in its records and not yet here."""
    counts = ports.ledger.hourly_counters(hour, hour).get(hour, {})
    return counts if fit(counts) else ports.ledger.hourly_counters(hour, hour).get(hour, {})


def download(keys: Sequence[str], table: ParquetWorkspace, ports: Ports) -> dict[str, str]:
    """Local copies of those objects that are there, by key."""
    paths = {key: table.path(key) for key in keys}
    there = ports.task_pool.run_all([partial(ports.object_store.download, key, path) for key, path in paths.items()])
    return {key: path for (key, path), found in zip(paths.items(), there, strict=True) if found}


def download_all(account: HourFiles, table: ParquetWorkspace, ports: Ports) -> list[str]:
    """Local copies of the whole hour. Raises Moved, or Contradiction where a file is gone and nobody compacted."""
    found = download(account.keys, table, ports)
    missing = [key for key in account.keys if key not in found]
    if missing:
        require_unchanged(account, ports)
        raise _beyond_reading(account, missing, "not there")
    return list(found.values())


def download_verified(account: HourFiles, table: ParquetWorkspace, ports: Ports) -> list[str]:
    """`download_all`, and none of the files is damaged. Raises InconsistentState where one is."""
    paths = download_all(account, table, ports)
    require_undamaged(account, paths, table)
    return paths


@contextmanager
def report_damage(account: HourFiles, paths: Sequence[str], table: ParquetWorkspace) -> Iterator[None]:
    """Where reading these files of the hour fails inside, and one of them is damaged, that is said: trying again would not help."""
    try:
        yield
    except Unavailable as error:
        require_undamaged(account, paths, table)
        raise error from None


def require_undamaged(account: HourFiles, paths: Sequence[str], table: ParquetWorkspace) -> None:
    """Raises InconsistentState where one of these files of the hour is damaged."""
    seen = table.summarize(paths)
    damaged = [key for key, path in zip(account.keys, paths, strict=True) if seen[path] is None]
    if damaged:
        raise _beyond_reading(account, damaged, "damaged")


def _beyond_reading(account: HourFiles, keys: Sequence[str], what: str) -> InconsistentState:
    return InconsistentState(
        f"hour {account.hour}: {', '.join(keys[:3])}{' and more' if keys[3:] else ''} is {what}, and closed batches have rows in it. "
        f"Materialize event_archive for {account.hour} (`analytics compact {account.hour}`): it is rebuilt from the JSON tree."
    )


def batch_records(batches: Sequence[str], ports: Ports) -> dict[str, BatchRecord]:
    """Raises InconsistentState where a batch that is marked closed has no record."""
    found = dict(zip(batches, ports.task_pool.run_all([partial(ports.ledger.batch_record, each) for each in batches]), strict=True))
    if missing := [batch for batch, record in found.items() if record is None]:
        raise InconsistentState(f"{', '.join(missing[:3])} marked an hour, and have no record in the ledger")
    return {batch: record for batch, record in found.items() if record is not None}


def expected_rows(hour: str, records: Mapping[str, BatchRecord]) -> dict[str, int]:
    """Rows by batch, as their records have them."""
    return {batch: sum(record.hours.get(hour, {}).values()) for batch, record in records.items()}


def damaged_keys(account: HourFiles, seen: Mapping[str, RowSummary | None], rows: Mapping[str, int]) -> Iterator[str]:
    """Keys whose file is missing, damaged, or holds other rows than it should. `seen`: what each key's file holds."""
    for key in account.keys:
        found, batch = seen.get(key), batch_id_of_part_key(key)
        if found is None or (batch is not None and dict(found.by_batch) != {batch: rows[batch]}):
            yield key
