"""Bring a past range back to what its batches recorded. Nothing is claimed anew; no head, no counter, no group offset moves.

    closed batches of the range ──► what is left of one ──► what it has to have ──► compare ──► put back what is missing or different
    ledger                          Kafka, Parquet, JSON    its record decides      stores      items, objects, files; at last archives

Batch by batch, oldest first, each whole. It may end anywhere, and be repeated: every write is what the batch itself wrote. A part whose
rows are in the hour's archive stays gone; an archive that is damaged is compacted again, once the batches are back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, timedelta

from analytics_defs.core.events.event import ValidationRules
from analytics_defs.core.hours.revision import ArchiveRevision
from analytics_defs.core.ledger import Batch, BatchRecord
from analytics_defs.core.offsets import Range
from analytics_defs.core.repair import ComparisonResult, HourRange, StoreKind
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
"""Changes that a report names; it counts them all."""
BATCHES_PER_PAGE = 100


@dataclass(frozen=True, slots=True)
class RepairChange:
    """One thing that is not as its batch left it."""

    batch: str
    store: StoreKind
    state: ComparisonResult
    key: str
    """Of the object; of an item its id."""


@dataclass(slots=True)
class RepairResult:
    """What a replay found, and put back unless it only looked."""

    batches: int = 0
    counts: Counter[tuple[StoreKind, ComparisonResult]] = field(default_factory=Counter)
    changes: list[RepairChange] = field(default_factory=list)
    """The first `NAMED` of them."""
    conflicts: list[str] = field(default_factory=list)
    """Batches of which nothing was changed, and why."""
    lost: list[str] = field(default_factory=list)
    """What no store holds any more. The rest was done."""
    skipped_batches: list[str] = field(default_factory=list)
    """Batches that are not closed yet: whoever works on them finishes them."""
    interrupted_batch: str | None = None
    """What was being put back when it broke off: some of it may be back."""

    @property
    def changed(self) -> int:
        return sum(count for (_, state), count in self.counts.items() if state is not ComparisonResult.IDENTICAL)


@dataclass(frozen=True, slots=True)
class ReplayContext:
    """What a replay works with."""

    ports: Ports
    workspace_factory: StatisticsEngineFactory
    rules: ValidationRules
    """For batches of versions that did not keep theirs."""
    write: bool = True
    """False: only look."""
    progress: ProgressCallback = no_progress
    """Hears of the steps within a batch."""


def repair_range(
    wanted: Range | HourRange,
    means: ReplayContext,
    report: RepairResult | None = None,
    on_batch: Callable[[str], None] = lambda _: None,
    counted: Callable[[int], None] = lambda _: None,
) -> RepairResult:
    """`report` is filled on the way: who hands one in sees what was done before this raised.

    `on_batch` hears each batch that is done, `counted` first how many there are.

    Raises DataExpired where retention took anything of the range, before anything is changed; TakenOver where an hour is compacted again and
    again meanwhile: what was put back stays.
    """
    report = report or RepairResult()
    counted(require_not_expired(batches_in(wanted, means.ports), means.ports))
    means = means if means.write else replace(means, ports=dry_run_overlay(means.ports))
    pending, done = pending_batches_in(wanted, means), set[str]()
    with HourArchives(means.ports, means.workspace_factory) as archives:
        hours = _Hours(archives, means, report)
        later = list[str]()
        for batch_id, is_last in _once_more(batches_in(wanted, means.ports), later):
            try:
                is_done = _replayed(batch_id, hours, means, report, is_last)
            except InconsistentState as error:
                report.conflicts.append(str(error))
                is_done = True
            if not is_done:
                later.append(batch_id)
                continue
            report.batches += 1
            done |= {batch_id} & pending.keys()
            on_batch(batch_id)
    for hour in sorted(hours.damaged) if means.write else ():
        report.interrupted_batch = f"hour {hour}"
        try:
            compact_hour(hour, means.ports, means.workspace_factory)
        except InconsistentState as error:
            report.lost.append(str(error))
        report.interrupted_batch = None
    pending |= pending_batches_in(wanted, means)
    report.skipped_batches += [f"batch {each}: {pending[each]}" for each in sorted(pending.keys() - done)]
    return report


def _once_more(ids: Iterator[str], later: Sequence[str]) -> Iterator[tuple[str, bool]]:
    """Those that were put off come again when all the others are done, and are then done as far as can be."""
    yield from ((each, False) for each in ids)
    yield from ((each, True) for each in later)


# Which batches.


def pending_batches_in(wanted: Range | HourRange, means: ReplayContext) -> dict[str, str]:
    """Batches of the range that are taken and not closed, with what is said of them."""
    found = {}
    for batch in means.ports.ledger.snapshot().pending.values():
        what = f"pending, with {', '.join(map(str, batch.ranges))}"
        if isinstance(wanted, Range):
            if _touches(batch, wanted):
                found[batch.id] = f"{what}. Passed over; replay again when it is closed"
        elif hour_of(batch.time + means.rules.max_future_skew) >= wanted.first:
            found[batch.id] = f"{what}; it may hold events of these hours. Passed over; replay again when it is closed"
    return found


def _touches(batch: Batch, wanted: Range) -> bool:
    ranges = any(
        each.topic_partition == wanted.topic_partition and each.start < wanted.end and wanted.start < each.end for each in batch.ranges
    )
    return ranges or any(map(wanted.holds, batch.redriven_sources))


def batches_in(wanted: Range | HourRange, ports: Ports) -> Iterator[str]:
    """Closed batches of the range, oldest first; after each batch the redrives of its dead letters, where offsets were named."""
    if isinstance(wanted, HourRange):
        yield from _of_hours(wanted, ports)
        return
    at, done = wanted.start, set[str]()
    while found := ports.ledger.closed_ranges_after(wanted.topic_partition, at, BATCHES_PER_PAGE):
        for each in found:
            if each.range.start >= wanted.end:
                return
            yield each.batch_id
            again = _redrives_of(each.batch_id, ports) - done
            done |= again
            yield from sorted(again)
        at = found[-1].range.end


def _redrives_of(batch_id: str, ports: Ports) -> set[str]:
    record = ports.ledger.batch_record(batch_id)
    if record is None or record.dead_letters_key is None:
        return set()
    try:
        kept = dead_letter_files.read_dead_letters(record, ports.object_store.get(record.dead_letters_key))
    except InconsistentState:
        return set()  # it was said of the batch itself
    return set(ports.ledger.redriven_by([each.record.source for each in kept]).values())


def _of_hours(wanted: HourRange, ports: Ports) -> Iterator[str]:
    last = wanted.end
    ids = {
        batch for hour in ports.ledger.hourly_counters(wanted.first, last) if hour < last for batch in ports.ledger.batches_of_hour(hour)
    }
    day, today = date.fromisoformat(wanted.first[:10]), ports.clock.now().date()
    while day <= min(today, date.fromisoformat(last[:10])):
        ids |= {each.batch.id for each in ports.ledger.batches_of_day(day.isoformat()) if wanted.first <= hour_of(each.batch.time) < last}
        day += timedelta(days=1)
    yield from sorted(ids)


# One batch.


def _replayed(batch_id: str, hours: _Hours, means: ReplayContext, report: RepairResult, is_last: bool) -> bool:
    """Looked at again where an hour of it is compacted meanwhile. False, and nothing was done: the items of other batches may decide it."""
    record = means.ports.ledger.batch_record(batch_id)
    if record is None:
        raise InconsistentState(f"batch {batch_id} is closed by a range or an hour of the ledger, and has no record there")
    for _ in range(MAX_HOUR_READS):
        try:
            found = BatchRepair(record, means.ports, hours.archives, means.rules)
            found.compare(means.progress)
            if found.is_undecided and not is_last:
                return False
            for revision in found.revisions.values():
                hours.see(record, revision)
        except ConcurrentCompaction:
            continue
        _tell(found.findings, record, report)
        report.interrupted_batch = f"batch {batch_id}"
        found.repair()
        report.interrupted_batch = None
        return True
    raise Superseded(f"batch {batch_id}: its hours were compacted {MAX_HOUR_READS} times while it was looked at. Try again.")


def _tell(found: Findings, record: BatchRecord, report: RepairResult) -> None:
    report.lost += found.lost
    for store, state, key in found.notes:
        report.counts[store, state] += 1
        if state is not ComparisonResult.IDENTICAL and len(report.changes) < MAX_CHANGES_NAMED:
            report.changes.append(RepairChange(record.batch.id, store, state, key))


class _Hours:
    """Archives and markers of the hours that a replay met, each told once."""

    def __init__(self, archives: HourArchives, means: ReplayContext, report: RepairResult) -> None:
        self.archives, self._means, self._report = archives, means, report
        self.damaged = set[str]()
        """Compacted again at the end, once their batches are back."""
        self._seen = set[tuple[str, int]]()

    def see(self, record: BatchRecord, revision: ArchiveRevision) -> None:
        """Raises Moved where somebody compacts the hour."""
        if (revision.hour, revision.number) in self._seen:
            return
        is_sound, marked = self.archives.is_sound(revision), compare_manifest(revision, self._means.ports)
        self._seen.add((revision.hour, revision.number))
        self._note(
            record,
            ComparisonResult.IDENTICAL if is_sound else ComparisonResult.DIFFERENT,
            next(iter(revision.keys), manifest_key(revision.hour)),
        )
        self._note(record, marked, manifest_key(revision.hour))
        if not is_sound:
            self.damaged.add(revision.hour)
        elif marked is not ComparisonResult.IDENTICAL:
            repair_manifest(revision.hour, self._means.ports)

    def _note(self, record: BatchRecord, state: ComparisonResult, key: str) -> None:
        self._report.counts[StoreKind.ARCHIVE, state] += 1
        if state is not ComparisonResult.IDENTICAL and len(self._report.changes) < MAX_CHANGES_NAMED:
            self._report.changes.append(RepairChange(record.batch.id, StoreKind.ARCHIVE, state, key))
