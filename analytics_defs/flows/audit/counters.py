"""The live counters against the archive, closed batch by closed batch, and their mending.

records of closed batches ──► each counter item, at one moment, against their sum ──► rows by batch against the records ──► adjustments

Ingest goes on meanwhile. `compare` only reads.
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

CounterName = Mapping[CounterItem, Mapping[str, int]]


@dataclass(frozen=True, slots=True)
class CounterDifference:
    """A counter item that is not the sum of its lane's batch records, at one moment."""

    target: CounterItem
    live: Mapping[str, int]
    """The counters that differ, with the adjustments that were made; and no others."""
    recorded: Mapping[str, int]
    """The same counters, from the records."""
    over_batches: int
    """Closed batches of the lane at that moment."""
    number: int
    """Of the adjustment that would mend it."""
    batches: tuple[str, ...]
    """Of an hour: those of the lane that changed it, sorted."""

    @property
    def difference(self) -> dict[str, int]:
        return {name: count - self.recorded[name] for name, count in self.live.items()}

    def adjustment(self, made_at: datetime) -> Adjustment:
        return Adjustment(self.target, self.number, {name: -count for name, count in self.difference.items()}, self.over_batches, made_at)


@dataclass(frozen=True, slots=True)
class ArchiveDifference:
    """One batch of which an hour's archive holds other rows than its record says."""

    hour: str
    batch: str
    archived: int
    recorded: int


@dataclass(frozen=True, slots=True)
class CounterComparison:
    batches: int
    hours: tuple[str, ...]
    """Those whose archive was read."""
    counters: tuple[CounterDifference, ...]
    archive: tuple[ArchiveDifference, ...]
    expired_hours: tuple[str, ...] = ()
    """Hours whose rows retention took: neither compared with the archive nor mended."""

    @property
    def agrees(self) -> bool:
        return not self.counters and not self.archive


def compare_counters(ports: Ports, bench: WorkspaceFactory, done: Callable[[int, int], None]) -> CounterComparison:
    """`done` hears how many hours of how many were read, first that it is none.

    Raises Superseded where a lane's count of batches fits its records at no moment and the lane is not idle, Contradiction where a file
    of a closed batch is missing or damaged.
    """
    recorded = RecordedCounters()
    recorded.add(ports.ledger.batch_records_from(FIRST_BATCH_ID))
    counters = tuple(_counter_differences(recorded, ports))
    hours = sorted({item.hour for item in recorded.items if item.hour})
    archive, frozen = list[ArchiveDifference](), list[str]()
    done(0, len(hours))
    for number, hour in enumerate(hours, 1):
        try:
            archive += _archive_differences(hour, ports, bench)
        except DataExpired:
            frozen.append(hour)
        done(number, len(hours))
    read = tuple(hour for hour in hours if hour not in set(frozen))
    return CounterComparison(sum(map(recorded.batches, recorded.lanes)), read, counters, tuple(archive), tuple(frozen))


def apply_adjustments(found: CounterComparison, ports: Ports) -> list[Adjustment]:
    """One adjustment for each counter item that differs, once, whatever closes meanwhile: from then on counters are the sum of the records.

    Frozen hours are left as they are: nothing but the records is left to say what their counters should be.

    Raises InconsistentState where archive and records differ, before anything is written: mended counters would hide it. Raises Superseded
    where somebody else adjusted an item since it was compared: that one is left alone, those before it are mended.
    """
    if found.archive:
        named = ", ".join(f"{each.hour} {each.batch}" for each in found.archive[:3])
        raise InconsistentState(
            f"{len(found.archive)} batches have other rows in the archive than in their records ({named}): no counter was adjusted. "
            "Bring the archive back first, `analytics audit --hour` names the events; then apply again."
        )
    made = list[Adjustment]()
    for each in found.counters:
        if each.target.hour in found.expired_hours:
            continue
        ours = each.adjustment(whole_milliseconds(ports.clock.now()))
        if ports.ledger.put_adjustment(ours) != ours:
            raise Superseded(
                f"{ours.target}: somebody else made adjustment {ours.number}; {len(made)} items were adjusted here. Compare again."
            )
        made.append(ours)
    return made


def _counter_differences(recorded: RecordedCounters, ports: Ports) -> Iterator[CounterDifference]:
    adjusted = AdjustmentIndex(ports.ledger.adjustments())
    items = sorted({*recorded.items, *ports.ledger.counter_items()})
    for lane, of_lane in groupby(items, lambda item: item.lane):
        moments = _Moments(CounterItem(lane), adjusted, recorded, ports)
        hours = [item for item in of_lane if item.hour]
        for start in range(0, max(1, len(hours)), MAX_TRANSACT_READS - 1):
            counted = moments.read(hours[start : start + MAX_TRANSACT_READS - 1])
            for item in sorted(counted if start == 0 else counted.keys() - {CounterItem(lane)}):
                yield from _difference(item, counted[item], adjusted, recorded, ports)


class _Moments:
    """Moments at which a lane's counters hold exactly the batches whose records were read.

    The totals of the lane say how many they hold. The records are read before: each of them is then in the counters, so the number alone
    proves that there are no others.
    """

    def __init__(self, lane: CounterItem, adjusted: AdjustmentIndex, recorded: RecordedCounters, ports: Ports) -> None:
        self._lane, self._ports, self._recorded = lane, ports, recorded
        self._adjusted = adjusted.counts(lane).get(BATCHES_COUNTER, 0)
        self._idle: Mapping[str, int] | None = None
        """The lane's totals while nothing closed, where the number of batches in them is wrong."""

    def read(self, hours: Sequence[CounterItem]) -> CounterName:
        items = [self._lane, *hours]
        for _ in range(MAX_COUNTER_READS):
            counted = self._ports.ledger.read_counters_atomically(items)
            if self._fits(counted[self._lane]):
                return counted
            self._recorded.add(self._ports.ledger.batch_records_from(self._recorded.since))
        return self._while_idle(items)

    def _fits(self, totals: Mapping[str, int]) -> bool:
        return totals == self._idle or totals.get(BATCHES_COUNTER, 0) + self._adjusted == self._recorded.batches(self._lane.lane)

    def _while_idle(self, items: Sequence[CounterItem]) -> CounterName:
        """The number of batches is itself what differs, or a record came late: all of them are read, and nothing may close meanwhile.

        Weaker than a number that fits: a close that is done, and whose record DynamoDB's query does not show yet, is missed.
        """
        before = self._ports.ledger.read_counters_atomically(items)
        self._recorded.clear()
        self._recorded.add(self._ports.ledger.batch_records_from(FIRST_BATCH_ID))
        pending = sorted(each.id for each in self._ports.ledger.snapshot().pending.values() if each.lane == self._lane.lane)
        counted = self._ports.ledger.read_counters_atomically(items)
        if not self._fits(counted[self._lane]):
            if pending or counted != before:
                held, records = counted[self._lane].get(BATCHES_COUNTER, 0) + self._adjusted, self._recorded.batches(self._lane.lane)
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


def _archive_differences(hour: str, ports: Ports, bench: WorkspaceFactory) -> list[ArchiveDifference]:
    def read(account: HourFiles) -> list[ArchiveDifference]:
        require_all_rows(account)
        with bench() as table:
            paths = download_verified(account, table, ports)
            archived = merge_summaries(rows for rows in table.summarize(paths).values() if rows is not None).by_batch
        recorded = expected_rows(hour, batch_records(account.batches, ports))
        return [
            ArchiveDifference(hour, batch, archived.get(batch, 0), recorded.get(batch, 0))
            for batch in sorted({*archived, *recorded})
            if archived.get(batch, 0) != recorded.get(batch, 0)
        ]

    return retry_on_compaction(hour, ports, read)
