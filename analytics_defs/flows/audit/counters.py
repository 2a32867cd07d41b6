"""The live counters against the archive, closed batch by closed batch, and their mending.

records of closed batches ──► each counter item, at one moment, against their sum ──► rows by batch against the records ──► adjustments

Ingest goes on meanwhile. `compare` only reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby

from analytics_defs.core.counter_adjustments import BATCHES, FIRST, Adjusted, Adjustment, CounterItem, Recorded
from analytics_defs.core.hours.revision import together
from analytics_defs.core.ingest.batch_accounting import added
from analytics_defs.core.timestamps import whole_milliseconds
from analytics_defs.errors import Contradiction, Frozen, TakenOver
from analytics_defs.flows.hours.compaction import Bench
from analytics_defs.flows.stored.hour_files import Account, bring_sound, exactly, expected, records_of, whole
from analytics_defs.ports import AT_ONCE, Ports

READINGS = 10

Counted = Mapping[CounterItem, Mapping[str, int]]


@dataclass(frozen=True, slots=True)
class CounterDifference:
    """A counter item that is not the sum of its lane's batch records, at one moment."""

    of: CounterItem
    live: Mapping[str, int]
    """The counters that differ, with the adjustments that were made; and no others."""
    recorded: Mapping[str, int]
    """The same counters, from the records."""
    over: int
    """Closed batches of the lane at that moment."""
    number: int
    """Of the adjustment that would mend it."""
    batches: tuple[str, ...]
    """Of an hour: those of the lane that changed it, sorted."""

    @property
    def difference(self) -> dict[str, int]:
        return {name: count - self.recorded[name] for name, count in self.live.items()}

    def adjustment(self, made_at: datetime) -> Adjustment:
        return Adjustment(self.of, self.number, {name: -count for name, count in self.difference.items()}, self.over, made_at)


@dataclass(frozen=True, slots=True)
class ArchiveDifference:
    """One batch of which an hour's archive holds other rows than its record says."""

    hour: str
    batch: str
    archived: int
    recorded: int


@dataclass(frozen=True, slots=True)
class Recomputed:
    batches: int
    hours: tuple[str, ...]
    """Those whose archive was read."""
    counters: tuple[CounterDifference, ...]
    archive: tuple[ArchiveDifference, ...]
    frozen: tuple[str, ...] = ()
    """Hours whose rows retention took: neither compared with the archive nor mended."""

    @property
    def agrees(self) -> bool:
        return not self.counters and not self.archive


def compare(ports: Ports, bench: Bench, done: Callable[[int, int], None]) -> Recomputed:
    """`done` hears how many hours of how many were read, first that it is none.

    Raises TakenOver where a lane's count of batches fits its records at no moment and the lane is not idle, Contradiction where a file
    of a closed batch is missing or damaged.
    """
    recorded = Recorded()
    recorded.add(ports.ledger.records_from(FIRST))
    counters = tuple(_counter_differences(recorded, ports))
    hours = sorted({item.hour for item in recorded.items if item.hour})
    archive, frozen = list[ArchiveDifference](), list[str]()
    done(0, len(hours))
    for number, hour in enumerate(hours, 1):
        try:
            archive += _archive_differences(hour, ports, bench)
        except Frozen:
            frozen.append(hour)
        done(number, len(hours))
    read = tuple(hour for hour in hours if hour not in set(frozen))
    return Recomputed(sum(map(recorded.batches, recorded.lanes)), read, counters, tuple(archive), tuple(frozen))


def mend(found: Recomputed, ports: Ports) -> list[Adjustment]:
    """One adjustment for each counter item that differs, once, whatever closes meanwhile: from then on counters are the sum of the records.

    Frozen hours are left as they are: nothing but the records is left to say what their counters should be.

    Raises Contradiction where archive and records differ, before anything is written: mended counters would hide it. Raises TakenOver
    where somebody else adjusted an item since it was compared: that one is left alone, those before it are mended.
    """
    if found.archive:
        named = ", ".join(f"{each.hour} {each.batch}" for each in found.archive[:3])
        raise Contradiction(
            f"{len(found.archive)} batches have other rows in the archive than in their records ({named}): no counter was adjusted. "
            "Bring the archive back first, `analytics audit --hour` names the events; then apply again."
        )
    made = list[Adjustment]()
    for each in found.counters:
        if each.of.hour in found.frozen:
            continue
        ours = each.adjustment(whole_milliseconds(ports.clock.now()))
        if ports.ledger.adjust(ours) != ours:
            raise TakenOver(f"{ours.of}: somebody else made adjustment {ours.number}; {len(made)} items were adjusted here. Compare again.")
        made.append(ours)
    return made


def _counter_differences(recorded: Recorded, ports: Ports) -> Iterator[CounterDifference]:
    adjusted = Adjusted(ports.ledger.adjustments())
    items = sorted({*recorded.items, *ports.ledger.counter_items()})
    for lane, of_lane in groupby(items, lambda item: item.lane):
        moments = _Moments(CounterItem(lane), adjusted, recorded, ports)
        hours = [item for item in of_lane if item.hour]
        for start in range(0, max(1, len(hours)), AT_ONCE - 1):
            counted = moments.read(hours[start : start + AT_ONCE - 1])
            for item in sorted(counted if start == 0 else counted.keys() - {CounterItem(lane)}):
                yield from _difference(item, counted[item], adjusted, recorded, ports)


class _Moments:
    """Moments at which a lane's counters hold exactly the batches whose records were read.

    The totals of the lane say how many they hold. The records are read before: each of them is then in the counters, so the number alone
    proves that there are no others.
    """

    def __init__(self, lane: CounterItem, adjusted: Adjusted, recorded: Recorded, ports: Ports) -> None:
        self._lane, self._ports, self._recorded = lane, ports, recorded
        self._adjusted = adjusted.counts(lane).get(BATCHES, 0)
        self._idle: Mapping[str, int] | None = None
        """The lane's totals while nothing closed, where the number of batches in them is wrong."""

    def read(self, hours: Sequence[CounterItem]) -> Counted:
        items = [self._lane, *hours]
        for _ in range(READINGS):
            counted = self._ports.ledger.counters_at_once(items)
            if self._fits(counted[self._lane]):
                return counted
            self._recorded.add(self._ports.ledger.records_from(self._recorded.since))
        return self._while_idle(items)

    def _fits(self, totals: Mapping[str, int]) -> bool:
        return totals == self._idle or totals.get(BATCHES, 0) + self._adjusted == self._recorded.batches(self._lane.lane)

    def _while_idle(self, items: Sequence[CounterItem]) -> Counted:
        """The number of batches is itself what differs, or a record came late: all of them are read, and nothing may close meanwhile.

        Weaker than a number that fits: a close that is done, and whose record DynamoDB's query does not show yet, is missed.
        """
        before = self._ports.ledger.counters_at_once(items)
        self._recorded.clear()
        self._recorded.add(self._ports.ledger.records_from(FIRST))
        pending = sorted(each.id for each in self._ports.ledger.snapshot().pending.values() if each.lane == self._lane.lane)
        counted = self._ports.ledger.counters_at_once(items)
        if not self._fits(counted[self._lane]):
            if pending or counted != before:
                held, records = counted[self._lane].get(BATCHES, 0) + self._adjusted, self._recorded.batches(self._lane.lane)
                raise TakenOver(
                    f"{self._lane}: its counters hold {held} batches, and there are {records} records, while batches are closed "
                    f"(pending: {', '.join(pending) or 'none'}). Nothing was changed. "
                    "Stop the sensor, let `analytics ingest` finish what is pending, and try again."
                )
            self._idle = counted[self._lane]
        return counted


def _difference(
    item: CounterItem, counted: Mapping[str, int], adjusted: Adjusted, recorded: Recorded, ports: Ports
) -> Iterator[CounterDifference]:
    live, expected_counts = added([counted, adjusted.counts(item)]), recorded.counts(item)
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
    records = records_of(ports.ledger.batches_of_hour(item.hour), ports)
    return sorted(batch for batch, record in records.items() if record.batch.lane == item.lane)


def _archive_differences(hour: str, ports: Ports, bench: Bench) -> list[ArchiveDifference]:
    def read(account: Account) -> list[ArchiveDifference]:
        whole(account)
        with bench() as table:
            paths = bring_sound(account, table, ports)
            archived = together(rows for rows in table.look(paths).values() if rows is not None).by_batch
        recorded = expected(hour, records_of(account.batches, ports))
        return [
            ArchiveDifference(hour, batch, archived.get(batch, 0), recorded.get(batch, 0))
            for batch in sorted({*archived, *recorded})
            if archived.get(batch, 0) != recorded.get(batch, 0)
        ]

    return exactly(hour, ports, read)
