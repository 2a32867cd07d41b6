"""Sweep over one kind of data: the age limit, the hours before it, their marking as expired, and the report."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from itertools import groupby

from analytics_defs.core.hours.retention import RetentionPolicy, expiry_cutoff, newest_batch_time
from analytics_defs.core.hours.revision import ArchiveRevision, same_content
from analytics_defs.core.storage.object_keys import batch_time, hour_of_key
from analytics_defs.core.timestamps import hour_of, whole_milliseconds
from analytics_defs.errors import DataExpired, InconsistentState, InsufficientResources, Superseded
from analytics_defs.flows.hours.compaction import compact_hour
from analytics_defs.flows.hours.statistics import StatisticsEngineFactory
from analytics_defs.flows.stored.hour_completeness import checkpoints_passed
from analytics_defs.flows.stored.hour_files import MAX_HOUR_READS
from analytics_defs.ports import Ports

DELETE_CHUNK_KEYS = 500
"""Keys in memory at once."""
MAX_EVENT_LEAD = timedelta(days=1)
"""Upper bound of the time by which an event's hour begins after the time of its batch."""
MAX_FOREIGN_NAMED = 100
"""The number of foreign objects that a report names. It counts all of them."""


@dataclass(frozen=True, slots=True)
class RetentionContext:
    """The ports and options of retention."""

    ports: Ports
    engine_factory: StatisticsEngineFactory
    policy: RetentionPolicy
    dry_run: bool = False
    """True: change nothing and report what would be deleted."""


@dataclass(frozen=True, slots=True)
class DeletedObjects:
    """Deleted objects of one hour."""

    tree: str
    """`events`, `parquet`, `dead-letters` or `duplicates`."""
    hour: str
    """The hour of the events. For dead letters and duplicates the hour of the batch."""
    objects: int
    bytes: int


@dataclass(slots=True)
class RetentionReport:
    """Objects that one execution deleted, or would delete in a dry run."""

    deleted: list[DeletedObjects] = field(default_factory=list)
    skipped_hours: list[str] = field(default_factory=list)
    """Hours and files that are old enough and stay, and why."""
    foreign_keys: list[str] = field(default_factory=list)
    """The first `MAX_FOREIGN_NAMED` foreign objects before the age limit. No batch wrote them; they are left alone."""
    foreign_count: int = 0

    @property
    def objects(self) -> int:
        return sum(deleted.objects for deleted in self.deleted)

    @property
    def bytes(self) -> int:
        return sum(deleted.bytes for deleted in self.deleted)


class ExpirySweep:
    """One execution over one kind of data."""

    def __init__(self, context: RetentionContext, report: RetentionReport, on_deleted: Callable[[int], None], age: timedelta) -> None:
        self.ports, self.engine_factory, self.dry_run = context.ports, context.engine_factory, context.dry_run
        self.report, self._on_deleted = report, on_deleted
        pending = self.ports.ledger.snapshot().require_readable().pending.values()
        self.now = whole_milliseconds(self.ports.clock.now())
        self.cutoff = whole_milliseconds(expiry_cutoff(self.now, age, [batch.time for batch in pending]))
        """The newest batch time that is old enough."""
        self._passed: dict[str, bool | None] = {}

    def hours(self, tree: str, folder: Callable[[str], str], until: str) -> Iterator[tuple[str, Iterator[str]]]:
        """Yield each hour up to `until`, in order, with its keys. Keys before it that are in no hour's folder are foreign."""
        for hour, keys in groupby(self.ports.object_store.list_keys(tree), lambda key: _hour_in(key, folder)):
            if hour is None:
                self.record_foreign(keys)
            elif hour > until:
                return
            else:
                yield hour, keys

    @contextmanager
    def skip_on_error(self, hour: str) -> Iterator[None]:
        """Turn an error of one hour into a line of the report, so that other hours continue."""
        try:
            yield
        except (InconsistentState, Superseded, DataExpired, InsufficientResources) as error:
            reason = str(error)
            self.report.skipped_hours.append(reason if hour in reason else f"hour {hour}: {reason}")

    def expirable_through(self, hour: str, batches: Sequence[str]) -> datetime | None:
        """Return the time of the newest of these batches if the whole hour may expire, otherwise None."""
        newest = newest_batch_time(batches)
        if newest is None or newest > self.cutoff:
            return None
        passed = self.is_hour_complete(hour)
        if not passed:
            why = "Kafka does not answer whether every partition has passed it" if passed is None else "not every partition has passed it"
            self.report.skipped_hours.append(f"hour {hour}: old enough, but {why}")
        return newest if passed else None

    def require_expirable(self, revision: ArchiveRevision) -> None:
        """Raise Superseded if a batch that is not old enough has added to the hour since it was found old enough."""
        if young := [batch for batch in revision.batches if batch_time(batch) > self.cutoff]:
            raise Superseded(f"hour {revision.hour}: batch {young[0]} added to it meanwhile. Nothing of it was deleted.")

    def is_hour_complete(self, hour: str) -> bool | None:
        """Return whether every partition has read past the hour. None if Kafka does not answer.

        The newest hour that can be old enough is asked first and once: if it is complete, all earlier hours are.
        """
        for asked in (hour_of(self.cutoff + MAX_EVENT_LEAD), hour):
            if asked not in self._passed and None not in self._passed.values():
                self._passed[asked] = checkpoints_passed(asked, self.ports.ledger.snapshot().require_readable(), self.ports)
            if self._passed.get(asked):
                return True
        return None if None in self._passed.values() else False

    def object_sizes(self, keys: Sequence[str]) -> list[int]:
        """Return the sizes in bytes of the objects that exist."""
        infos = self.ports.task_pool.run_all([partial(self.ports.object_store.head, key) for key in keys])
        return [info.bytes for info in infos if info]

    def record_deleted(self, tree: str, hour: str, sizes: Sequence[int]) -> None:
        if not sizes:
            return
        self.report.deleted.append(DeletedObjects(tree.rstrip("/"), hour, len(sizes), sum(sizes)))
        self._on_deleted(len(sizes))

    def record_foreign(self, keys: Iterable[str]) -> None:
        for key in keys:
            if key in self.report.foreign_keys:  # a subfolder splits the keys of an hour into two groups: each may list the key
                continue
            self.report.foreign_count += 1
            if len(self.report.foreign_keys) < MAX_FOREIGN_NAMED:
                self.report.foreign_keys.append(key)


def mark_expired(hour: str, change: Callable[[ArchiveRevision], ArchiveRevision | None], sweep: ExpirySweep) -> ArchiveRevision:
    """Mark an hour as expired before anything of it is deleted. Return its latest revision.

    The hour is compacted and verified first. `change` makes the next revision, or returns None if nothing has to change.
    """
    for _ in range(MAX_HOUR_READS):
        latest = compact_hour(hour, sweep.ports, sweep.engine_factory).revision
        if latest is None:
            raise InconsistentState(f"hour {hour}: the ledger has batches of this hour, and it has no archive")
        marked = change(latest)
        if marked is None:
            return latest
        stored = sweep.ports.ledger.put_revision(marked)
        if same_content(stored, marked):
            return stored
    raise Superseded(
        f"hour {hour}: its archive changed {MAX_HOUR_READS} times before it was marked as expired. Nothing of it was deleted; try again."
    )


def _hour_in(key: str, folder: Callable[[str], str]) -> str | None:
    """Return the hour whose folder directly contains this key. None for keys in subfolders and elsewhere."""
    hour = hour_of_key(key)
    try:
        return hour if hour and folder(hour) == key[: key.rindex("/") + 1] else None
    except ValueError:
        return None
