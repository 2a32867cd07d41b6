"""What one kind's walk shares: the age that counts, the hours in front of it, what became of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from itertools import groupby

from analytics_defs.core.hours.retention import RetentionPolicy, expiry_cutoff, newest_batch_time
from analytics_defs.core.hours.revision import ArchiveRevision
from analytics_defs.core.storage.object_keys import batch_time, hour_of_key
from analytics_defs.core.timestamps import hour_of, whole_milliseconds
from analytics_defs.errors import DataExpired, InconsistentState, InsufficientResources, Superseded
from analytics_defs.flows.hours.statistics import StatisticsEngineFactory
from analytics_defs.flows.retention.report import MAX_FOREIGN_NAMED, DeletedObjects, RetentionReport
from analytics_defs.flows.stored.hour_completeness import checkpoints_passed
from analytics_defs.ports import Ports

DELETE_CHUNK_KEYS = 500
"""Keys in memory at once."""
MAX_EVENT_LEAD = timedelta(days=1)
"""No batch stores an event of an hour that begins later than this after its time."""


@dataclass(frozen=True, slots=True)
class RetentionContext:
    """What retention works with."""

    ports: Ports
    workspace_factory: StatisticsEngineFactory
    policy: RetentionPolicy
    write: bool = True
    """False: only look."""


class ExpirySweep:
    """One kind's walk: what is old enough in it, and what became of it."""

    def __init__(self, means: RetentionContext, report: RetentionReport, on_gone: Callable[[int], None], age: timedelta) -> None:
        self.ports, self.workspace_factory, self.write = means.ports, means.workspace_factory, means.write
        self.report, self._on_gone = report, on_gone
        pending = self.ports.ledger.snapshot().require_readable().pending.values()
        self.now = whole_milliseconds(self.ports.clock.now())
        self.cutoff = whole_milliseconds(expiry_cutoff(self.now, age, [batch.time for batch in pending]))
        """Batches up to this time are old enough."""
        self._passed: dict[str, bool | None] = {}

    def hours(self, tree: str, folder: Callable[[str], str], until: str) -> Iterator[tuple[str, Iterator[str]]]:
        """The keys of each hour up to that one, in order. What lies in front of it and in no hour's folder is foreign."""
        for hour, group in groupby(self.ports.object_store.list_keys(tree), lambda key: _hour_in(key, folder)):
            if hour is None:
                self.record_foreign(group)
            elif hour > until:
                return
            else:
                yield hour, group

    @contextmanager
    def skip_on_error(self, hour: str) -> Iterator[None]:
        """What one hour waits for keeps no other one."""
        try:
            yield
        except (InconsistentState, Superseded, DataExpired, InsufficientResources) as fault:
            said = str(fault)
            self.report.skipped_hours.append(said if hour in said else f"hour {hour}: {said}")

    def expirable_through(self, hour: str, batches: Sequence[str]) -> datetime | None:
        """The time of the newest of these batches of the hour, where the hour may go as a whole."""
        found = newest_batch_time(batches)
        if found is None or found > self.cutoff:
            return None
        passed = self.is_complete(hour)
        if not passed:
            why = "Kafka does not answer whether every partition has passed it" if passed is None else "not every partition has passed it"
            self.report.skipped_hours.append(f"hour {hour}: old enough, but {why}")
        return found if passed else None

    def require_expirable(self, found: ArchiveRevision) -> None:
        """Asked of what is to be frozen. Raises Superseded where a batch made the hour young since it was found old enough."""
        if young := [batch for batch in found.batches if batch_time(batch) > self.cutoff]:
            raise Superseded(f"hour {found.hour}: batch {young[0]} added to it meanwhile. Nothing of it was taken.")

    def is_complete(self, hour: str) -> bool | None:
        """Asked once for the newest hour that may be old enough: what has passed that has passed all before it."""
        for each in (hour_of(self.cutoff + MAX_EVENT_LEAD), hour):
            if each not in self._passed and None not in self._passed.values():
                self._passed[each] = checkpoints_passed(each, self.ports.ledger.snapshot().require_readable(), self.ports)
            if self._passed.get(each):
                return True
        return None if None in self._passed.values() else False

    def object_sizes(self, keys: Sequence[str]) -> list[int]:
        found = self.ports.task_pool.run_all([partial(self.ports.object_store.head, key) for key in keys])
        return [each.bytes for each in found if each]

    def record_deleted(self, tree: str, hour: str, sizes: Sequence[int]) -> None:
        if not sizes:
            return
        self.report.deleted.append(DeletedObjects(tree.rstrip("/"), hour, len(sizes), sum(sizes)))
        self._on_gone(len(sizes))

    def record_foreign(self, keys: Iterator[str] | Sequence[str]) -> None:
        for key in keys:
            if key in self.report.foreign_keys:  # a folder below an hour parts its keys in two, and each half looks
                continue
            self.report.foreign_count += 1
            if len(self.report.foreign_keys) < MAX_FOREIGN_NAMED:
                self.report.foreign_keys.append(key)


def _hour_in(key: str, folder: Callable[[str], str]) -> str | None:
    """The hour whose own folder this key lies in, and in no folder below."""
    hour = hour_of_key(key)
    try:
        return hour if hour and folder(hour) == key[: key.rindex("/") + 1] else None
    except ValueError:
        return None
