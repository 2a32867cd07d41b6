"""Reconciliation of the live counters: compare them with the batch records and the archive, then adjust them.

    records of closed batches ──► sum by counter item ──► compare with the live item ──► compare rows by batch ──► adjustments
    ledger                                                 aggregates table               archive                  aggregates table

Ingest continues meanwhile. `compare_counters` only reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby

from analytics_defs.core.counter_adjustments import (
    BATCHES_COUNTER,
    FIRST_BATCH_ID,
    Adjustment,
    AdjustmentIndex,
    CounterItem,
    RecordedCounters,
)
from analytics_defs.core.hours.revision import merge_summaries
from analytics_defs.core.ingest.batch_accounting import sum_counters
from analytics_defs.core.timestamps import whole_milliseconds
from analytics_defs.errors import DataExpired, InconsistentState, Superseded
from analytics_defs.flows.hours.compaction import WorkspaceFactory
from analytics_defs.flows.stored.hour_files import (
    HourFiles,
    batch_records,
    download_verified,
    expected_rows,
    require_all_rows,
    retry_on_compaction,
)
from analytics_defs.ports import MAX_TRANSACT_READS, Ports

MAX_COUNTER_READS = 10

CountersByItem = Mapping[CounterItem, Mapping[str, int]]


@dataclass(frozen=True, slots=True)
class CounterDifference:
    """A counter item that is not the sum of the batch records of its lane. All values are of one moment."""

    target: CounterItem
    live: Mapping[str, int]
    """The live values of the counters that differ, earlier adjustments included."""
    recorded: Mapping[str, int]
    """The values of the same counters by the batch records."""
    over_batches: int
    """The number of closed batches of the lane."""
    number: int
    """The number of the adjustment that would correct it."""
    batches: tuple[str, ...]
    """Ids of the batches of the lane that added to the hour, sorted. Empty for the totals of a lane."""

    @property
    def difference(self) -> dict[str, int]:
        return {name: count - self.recorded[name] for name, count in self.live.items()}

    def adjustment(self, made_at: datetime) -> Adjustment:
        return Adjustment(self.target, self.number, {name: -count for name, count in self.difference.items()}, self.over_batches, made_at)


@dataclass(frozen=True, slots=True)
class ArchiveDifference:
    """A batch with another number of rows in the archive of an hour than in its record."""

    hour: str
    batch: str
    archived: int
    recorded: int


@dataclass(frozen=True, slots=True)
class CounterComparison:
    """The differences between counters, batch records and archive."""

    batches: int
    """The number of batch records that were read."""
    hours: tuple[str, ...]
    """Hours whose archive was read."""
    counters: tuple[CounterDifference, ...]
    archive: tuple[ArchiveDifference, ...]
    expired_hours: tuple[str, ...] = ()
    """Hours whose rows retention deleted. They are not compared with the archive and not adjusted."""

    @property
    def agrees(self) -> bool:
        return not self.counters and not self.archive


def compare_counters(ports: Ports, workspace_factory: WorkspaceFactory, progress: Callable[[int, int], None]) -> CounterComparison:
    """Compare every counter item with the batch records, and every hour's archive with its batch records.

    `progress(done, total)` is called with numbers of hours, first with `done` 0. Raises Superseded if a lane's number of batches never
    equals its number of records while batches close, InconsistentState if a file of a closed batch is missing or damaged.
    """
    recorded = RecordedCounters()
    recorded.add(ports.ledger.batch_records_from(FIRST_BATCH_ID))
    counters = tuple(_counter_differences(recorded, ports))
    hours = sorted({item.hour for item in recorded.items if item.hour})
    archive, expired = list[ArchiveDifference](), list[str]()
    progress(0, len(hours))
    for number, hour in enumerate(hours, 1):
        try:
            archive += _archive_differences(hour, ports, workspace_factory)
        except DataExpired:
            expired.append(hour)
        progress(number, len(hours))
    compared = tuple(hour for hour in hours if hour not in expired)
    return CounterComparison(sum(map(recorded.batches, recorded.lanes)), compared, counters, tuple(archive), tuple(expired))


def apply_adjustments(comparison: CounterComparison, ports: Ports) -> list[Adjustment]:
    """Write one adjustment for each counter item that differs, so that it equals the sum of the batch records.

    Batches may close meanwhile: they change both sides alike. Expired hours are left as they are, because only the records remain as
    evidence. Raises InconsistentState, before anything is written, if archive and records differ: adjusted counters would hide it.
    Raises Superseded if an item was adjusted by another process since it was compared. That item is left alone; earlier ones are adjusted.
    """
    if comparison.archive:
        examples = ", ".join(f"{difference.hour} {difference.batch}" for difference in comparison.archive[:3])
        raise InconsistentState(
            f"{len(comparison.archive)} batches have other rows in the archive than in their records ({examples}): no counter was "
            "adjusted. Repair the archive first: `analytics audit --hour` names the events. Then reconcile again."
        )
    made = list[Adjustment]()
    for difference in comparison.counters:
        if difference.target.hour in comparison.expired_hours:
            continue
        adjustment = difference.adjustment(whole_milliseconds(ports.clock.now()))
        if ports.ledger.put_adjustment(adjustment) != adjustment:
            raise Superseded(
                f"{adjustment.target}: another process made adjustment {adjustment.number}; {len(made)} items were adjusted by this one. "
                "Compare again."
            )
        made.append(adjustment)
    return made


def _counter_differences(recorded: RecordedCounters, ports: Ports) -> Iterator[CounterDifference]:
    adjusted = AdjustmentIndex(ports.ledger.adjustments())
    items = sorted({*recorded.items, *ports.ledger.counter_items()})
    for lane, of_lane in groupby(items, lambda item: item.lane):
        lane_counters = _LaneCounters(CounterItem(lane), adjusted, recorded, ports)
        hours = [item for item in of_lane if item.hour]
        for start in range(0, max(1, len(hours)), MAX_TRANSACT_READS - 1):
            counted = lane_counters.read(hours[start : start + MAX_TRANSACT_READS - 1])
            for item in sorted(counted if start == 0 else counted.keys() - {CounterItem(lane)}):
                yield from _difference(item, counted[item], adjusted, recorded, ports)


class _LaneCounters:
    """Reads of a lane's counters at moments when they contain exactly the batches whose records were read.

    The totals of the lane contain the number of batches. Every record that was read before is in the counters. Equal numbers therefore
    prove that the counters contain no other batch.
    """

    def __init__(self, lane: CounterItem, adjusted: AdjustmentIndex, recorded: RecordedCounters, ports: Ports) -> None:
        self._lane, self._ports, self._recorded = lane, ports, recorded
        self._adjusted = adjusted.counts(lane).get(BATCHES_COUNTER, 0)
        self._idle: Mapping[str, int] | None = None
        """The lane's totals while no batch closed, if their number of batches is wrong. None until then."""

    def read(self, hours: Sequence[CounterItem]) -> CountersByItem:
        items = [self._lane, *hours]
        for _ in range(MAX_COUNTER_READS):
            counted = self._ports.ledger.read_counters_atomically(items)
            if self._fits(counted[self._lane]):
                return counted
            self._recorded.add(self._ports.ledger.batch_records_from(self._recorded.since))
        return self._while_idle(items)

    def _fits(self, totals: Mapping[str, int]) -> bool:
        return totals == self._idle or totals.get(BATCHES_COUNTER, 0) + self._adjusted == self._recorded.batches(self._lane.lane)

    def _while_idle(self, items: Sequence[CounterItem]) -> CountersByItem:
        """Read all records and the counters while no batch closes. Used if the number of batches itself is wrong, or a record came late.

        Weaker than equal numbers: it misses a closed batch whose record DynamoDB's query does not return yet.
        """
        before = self._ports.ledger.read_counters_atomically(items)
        self._recorded.clear()
        self._recorded.add(self._ports.ledger.batch_records_from(FIRST_BATCH_ID))
        pending = sorted(batch.id for batch in self._ports.ledger.snapshot().pending.values() if batch.lane == self._lane.lane)
        counted = self._ports.ledger.read_counters_atomically(items)
        if not self._fits(counted[self._lane]):
            if pending or counted != before:
                held = counted[self._lane].get(BATCHES_COUNTER, 0) + self._adjusted
                records = self._recorded.batches(self._lane.lane)
                raise Superseded(
                    f"{self._lane}: its counters hold {held} batches, and there are {records} records, while batches are closed "
                    f"(pending: {', '.join(pending) or 'none'}). Nothing was changed. "
                    "Stop the sensor, let `analytics ingest` finish what is pending, and try again."
                )
            self._idle = counted[self._lane]
        return counted


def _difference(
    item: CounterItem, counted: Mapping[str, int], adjusted: AdjustmentIndex, recorded: RecordedCounters, ports: Ports
) -> Iterator[CounterDifference]:
    live, expected_counts = sum_counters([counted, adjusted.counts(item)]), recorded.counts(item)
    names = [name for name in sorted({*live, *expected_counts}) if live.get(name, 0) != expected_counts.get(name, 0)]
    if names:
        yield CounterDifference(
            item,
            {name: live.get(name, 0) for name in names},
            {name: expected_counts.get(name, 0) for name in names},
            recorded.batches(item.lane),
            adjusted.next_number(item),
            tuple(_batches(item, ports)) if item.hour else (),
        )


def _batches(item: CounterItem, ports: Ports) -> list[str]:
    records = batch_records(ports.ledger.batches_of_hour(item.hour), ports)
    return sorted(batch for batch, record in records.items() if record.batch.lane == item.lane)


def _archive_differences(hour: str, ports: Ports, workspace_factory: WorkspaceFactory) -> list[ArchiveDifference]:
    def read(files: HourFiles) -> list[ArchiveDifference]:
        require_all_rows(files)
        with workspace_factory() as workspace:
            paths = download_verified(files, workspace, ports)
            archived = merge_summaries(rows for rows in workspace.summarize(paths).values() if rows is not None).by_batch
        recorded = expected_rows(hour, batch_records(files.batches, ports))
        return [
            ArchiveDifference(hour, batch, archived.get(batch, 0), recorded.get(batch, 0))
            for batch in sorted({*archived, *recorded})
            if archived.get(batch, 0) != recorded.get(batch, 0)
        ]

    return retry_on_compaction(hour, ports, read)
