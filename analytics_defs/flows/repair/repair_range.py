"""Repair of a past range: bring the stores back to what the closed batches of the range recorded.

    closed batches of the range ──► surviving copies ──► expected contents ──► compare ──► write what is missing or different
    ledger                          Kafka, Parquet, JSON  batch record         stores      items, objects, files; then archives

A repair claims no new id and moves no checkpoint, no counter and no group offset. Batches are repaired one by one, oldest first. A repair
can stop anywhere and run again: every write is what the batch itself wrote. A part whose rows are in the archive of its hour is not
restored. A damaged archive is compacted again after its batches are repaired.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile

from analytics_defs.core.events.event import ValidationRules
from analytics_defs.core.hours.revision import ArchiveRevision
from analytics_defs.core.ledger import Batch, BatchRecord
from analytics_defs.core.offsets import Range
from analytics_defs.core.repair import ComparisonResult, HourRange, StoredKind
from analytics_defs.core.storage import dead_letter_files
from analytics_defs.core.storage.object_keys import manifest_key
from analytics_defs.core.timestamps import hour_of
from analytics_defs.errors import InconsistentState, Superseded
from analytics_defs.flows.hours.compaction import compact_hour
from analytics_defs.flows.hours.statistics import StatisticsEngineFactory
from analytics_defs.flows.progress import ProgressCallback, no_progress
from analytics_defs.flows.repair.dry_run import dry_run_overlay
from analytics_defs.flows.repair.findings import Findings
from analytics_defs.flows.repair.repair_batch import BatchRepair
from analytics_defs.flows.repair.surviving_records import HourArchives, compare_manifest, repair_manifest
from analytics_defs.flows.stored.expired_data import require_not_expired
from analytics_defs.flows.stored.hour_files import MAX_HOUR_READS, ConcurrentCompaction
from analytics_defs.ports import Ports

MAX_CHANGES_NAMED = 1_000
"""The number of changes that a result names. It counts all of them."""
BATCHES_PER_PAGE = 100


@dataclass(frozen=True, slots=True)
class RepairChange:
    """One item, object or file that is not as its batch wrote it."""

    batch: str
    store: StoredKind
    state: ComparisonResult
    key: str
    """The object key, or the event id of an item."""


@dataclass(slots=True)
class RepairResult:
    """Differences that a repair found, and wrote unless it was a dry run."""

    batches: int = 0
    counts: Counter[tuple[StoredKind, ComparisonResult]] = field(default_factory=Counter)
    changes: list[RepairChange] = field(default_factory=list)
    """The first `MAX_CHANGES_NAMED` changes."""
    conflicts: list[str] = field(default_factory=list)
    """Batches that were not changed, and why."""
    lost: list[str] = field(default_factory=list)
    """Data that no store holds any more. The rest of its batch was repaired."""
    skipped_batches: list[str] = field(default_factory=list)
    """Pending batches. Ingest finishes them."""
    interrupted_batch: str | None = None
    """The batch or hour that was being written when an error was raised. It may be partly repaired."""

    @property
    def changed(self) -> int:
        return sum(count for (_, result), count in self.counts.items() if result is not ComparisonResult.IDENTICAL)


@dataclass(frozen=True, slots=True)
class RepairContext:
    """The ports and options of a repair."""

    ports: Ports
    engine_factory: StatisticsEngineFactory
    rules: ValidationRules
    """Rules for batches of older versions, which did not record their own."""
    dry_run: bool = False
    """True: change nothing and report what would be deleted."""
    progress: ProgressCallback = no_progress
    """Called for the steps within a batch."""


def repair_range(
    wanted: Range | HourRange,
    context: RepairContext,
    result: RepairResult | None = None,
    on_batch: Callable[[str], None] = lambda _: None,
    on_count: Callable[[int], None] = lambda _: None,
) -> RepairResult:
    """Repair every closed batch of the range. Idempotent.

    `result` is filled on the way, so that a caller can show it after an error. `on_count` is called first, with the number of batches,
    then `on_batch` with the id of each batch that is done.

    Raises DataExpired, before anything is changed, if retention has deleted data of the range. Raises Superseded if an hour is compacted
    again and again meanwhile; completed repairs stay.
    """
    result = result or RepairResult()
    on_count(require_not_expired(batches_in(wanted, context.ports), context.ports))
    context = context if not context.dry_run else replace(context, ports=dry_run_overlay(context.ports))
    pending, done = pending_batches_in(wanted, context), set[str]()
    with HourArchives(context.ports, context.engine_factory) as archives:
        hours = _HourComparison(archives, context, result)
        postponed = list[str]()
        for batch_id, is_last in _with_postponed(batches_in(wanted, context.ports), postponed):
            try:
                is_done = _repair_batch(batch_id, hours, context, result, is_last)
            except InconsistentState as error:
                result.conflicts.append(str(error))
                is_done = True
            if not is_done:
                postponed.append(batch_id)
                continue
            result.batches += 1
            done |= {batch_id} & pending.keys()
            on_batch(batch_id)
    for hour in sorted(hours.damaged) if not context.dry_run else ():
        result.interrupted_batch = f"hour {hour}"
        try:
            compact_hour(hour, context.ports, context.engine_factory)
        except InconsistentState as error:
            result.lost.append(str(error))
        result.interrupted_batch = None
    pending |= pending_batches_in(wanted, context)
    result.skipped_batches += [f"batch {batch_id}: {pending[batch_id]}" for batch_id in sorted(pending.keys() - done)]
    return result


def _with_postponed(batch_ids: Iterator[str], postponed: Sequence[str]) -> Iterator[tuple[str, bool]]:
    """Yield each batch with False, then each postponed batch with True. The caller adds to `postponed` meanwhile."""
    yield from ((batch_id, False) for batch_id in batch_ids)
    yield from ((batch_id, True) for batch_id in postponed)


# Selection of batches.


def pending_batches_in(wanted: Range | HourRange, context: RepairContext) -> dict[str, str]:
    """Return the pending batches that may belong to the range, with a description of each."""
    descriptions = {}
    for batch in context.ports.ledger.snapshot().pending.values():
        pending = f"pending, with {', '.join(map(str, batch.ranges))}"
        if isinstance(wanted, Range):
            if _overlaps(batch, wanted):
                descriptions[batch.id] = f"{pending}. Skipped; repair again when it is closed"
        elif hour_of(batch.time + context.rules.max_future_skew) >= wanted.first:
            descriptions[batch.id] = f"{pending}; it may hold events of these hours. Skipped; repair again when it is closed"
    return descriptions


def _overlaps(batch: Batch, wanted: Range) -> bool:
    has_offsets = any(
        range_.topic_partition == wanted.topic_partition and range_.start < wanted.end and wanted.start < range_.end
        for range_ in batch.ranges
    )
    return has_offsets or any(map(wanted.contains, batch.redriven_sources))


def batches_in(wanted: Range | HourRange, ports: Ports) -> Iterator[str]:
    """Yield the ids of the closed batches of the range, oldest first. In a range of offsets, each is followed by its redrives."""
    if isinstance(wanted, HourRange):
        yield from _batches_of_hours(wanted, ports)
        return
    start, yielded = wanted.start, set[str]()
    while closed_ranges := ports.ledger.closed_ranges_after(wanted.topic_partition, start, BATCHES_PER_PAGE):
        for closed in closed_ranges:
            if closed.range.start >= wanted.end:
                return
            yield closed.batch_id
            redrives = _redrives_of(closed.batch_id, ports) - yielded
            yielded |= redrives
            yield from sorted(redrives)
        start = closed_ranges[-1].range.end


def _redrives_of(batch_id: str, ports: Ports) -> set[str]:
    record = ports.ledger.batch_record(batch_id)
    if record is None or record.dead_letters_key is None:
        return set()
    try:
        dead_letters = dead_letter_files.read_dead_letters(record, ports.object_store.get(record.dead_letters_key))
    except InconsistentState:
        return set()  # the comparison of the batch itself reports its dead-letter file
    return set(ports.ledger.redriven_by([letter.record.source for letter in dead_letters]).values())


def _batches_of_hours(wanted: HourRange, ports: Ports) -> Iterator[str]:
    counters = ports.ledger.hourly_counters(wanted.first, wanted.end)
    batch_ids = {batch_id for hour in counters if hour < wanted.end for batch_id in ports.ledger.batches_of_hour(hour)}
    records = ports.ledger.batch_records_from(wanted.first.replace("-", ""))  # the beginning of the ids of that hour
    batch_ids |= {record.batch.id for record in takewhile(lambda record: hour_of(record.batch.time) < wanted.end, records)}
    yield from sorted(batch_ids)


# Repair of one batch.


def _repair_batch(batch_id: str, hours: _HourComparison, context: RepairContext, result: RepairResult, is_last: bool) -> bool:
    """Repair one batch. Start again if one of its hours is compacted meanwhile.

    Return False, with nothing changed, if an outcome is undecided and the batch can be postponed: the items of other batches, once they
    are restored, may prove it.
    """
    record = context.ports.ledger.batch_record(batch_id)
    if record is None:
        raise InconsistentState(f"batch {batch_id} is closed by a range or an hour of the ledger, and has no record there")
    for _ in range(MAX_HOUR_READS):
        try:
            batch_repair = BatchRepair(record, context.ports, hours.archives, context.rules)
            batch_repair.compare(context.progress)
            if batch_repair.is_undecided and not is_last:
                return False
            for revision in batch_repair.revisions.values():
                hours.compare(record, revision)
        except ConcurrentCompaction:
            continue
        _add_findings(batch_repair.findings, record, result)
        result.interrupted_batch = f"batch {batch_id}"
        batch_repair.repair()
        result.interrupted_batch = None
        return True
    raise Superseded(f"batch {batch_id}: its hours were compacted {MAX_HOUR_READS} times while it was compared. Try again.")


def _add_findings(findings: Findings, record: BatchRecord, result: RepairResult) -> None:
    result.lost += findings.lost
    for store, state, key in findings.notes:
        _count(result, RepairChange(record.batch.id, store, state, key))


def _count(result: RepairResult, change: RepairChange) -> None:
    result.counts[change.store, change.state] += 1
    if change.state is not ComparisonResult.IDENTICAL and len(result.changes) < MAX_CHANGES_NAMED:
        result.changes.append(change)


class _HourComparison:
    """Comparison of the archives and manifests of the hours of a repair. Each revision is compared and counted once."""

    def __init__(self, archives: HourArchives, context: RepairContext, result: RepairResult) -> None:
        self.archives, self._context, self._result = archives, context, result
        self.damaged = set[str]()
        """Hours to compact again once their batches are repaired."""
        self._compared = set[tuple[str, int]]()

    def compare(self, record: BatchRecord, revision: ArchiveRevision) -> None:
        """Compare the archive of an hour, and write its manifest again. Raises ConcurrentCompaction."""
        if (revision.hour, revision.number) in self._compared:
            return
        is_sound, manifest = self.archives.is_sound(revision), compare_manifest(revision, self._context.ports)
        self._compared.add((revision.hour, revision.number))
        archive = ComparisonResult.IDENTICAL if is_sound else ComparisonResult.DIFFERENT
        first_key = next(iter(revision.keys), manifest_key(revision.hour))
        _count(self._result, RepairChange(record.batch.id, StoredKind.ARCHIVE, archive, first_key))
        _count(self._result, RepairChange(record.batch.id, StoredKind.ARCHIVE, manifest, manifest_key(revision.hour)))
        if not is_sound:
            self.damaged.add(revision.hour)
        elif manifest is not ComparisonResult.IDENTICAL:
            repair_manifest(revision.hour, self._context.ports)
