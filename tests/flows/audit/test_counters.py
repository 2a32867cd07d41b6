"""Every changed counter is found and adjusted once, while batches close and other processes adjust too."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analytics_defs.adapters.memory import MemoryLedger
from analytics_defs.adapters.memory.parquet_workspace import memory_workspace
from analytics_defs.core.counter_adjustments import FIRST_BATCH_ID, CounterItem
from analytics_defs.core.ingest.batch_accounting import counter_increments, hourly_increments, sum_counters
from analytics_defs.core.ingest.planning import PlanningPolicy
from analytics_defs.core.ledger import Batch, BatchRecord, OutcomeCounts
from analytics_defs.core.offsets import Range, TopicPartition
from analytics_defs.core.storage.object_keys import part_key
from analytics_defs.errors import InconsistentState, Superseded
from analytics_defs.flows.audit.counters import MAX_COUNTER_READS, CounterComparison, apply_adjustments, compare_counters
from analytics_defs.flows.hours.compaction import compact_hour
from analytics_defs.ports import MAX_TRANSACT_READS, Ports
from tests.contracts.ledger_fixtures import all_stored, batch
from tests.flows.hours.test_compaction import lose
from tests.proof.world import HOUR, SECOND, World, event

EARLIER = "2024-01-15T09"
LANE, LANE_HOUR, LANE_EARLIER = CounterItem(0), CounterItem(0, HOUR), CounterItem(0, EARLIER)


def a_world() -> World:
    """Two batches: events of two hours, a duplicate, a dead letter, a tombstone."""
    world = World()
    world.create()
    world.produce(event("a"), event("b"), b"{", None)
    world.settle()
    world.produce(event("a"), event("c", "2024-01-15T09:00:00Z"))
    world.settle()
    return world


def compared(world: World, ports: Ports | None = None) -> CounterComparison:
    return compare_counters(ports or world.ports, memory_workspace, lambda *_: None)


def item(ledger: MemoryLedger, of: CounterItem) -> dict[str, int]:
    """Return the ledger's own mutable counters of an item."""
    return ledger._hourly.setdefault((of.hour, of.lane), {}) if of.hour else ledger._totals.setdefault(of.lane, {})


def corrupt(ledger: MemoryLedger, of: CounterItem, **changes: int) -> None:
    item(ledger, of).update({name: item(ledger, of).get(name, 0) + change for name, change in changes.items()})


def equals_records(ledger: MemoryLedger) -> bool:
    """Return whether all counters that readers see are the sum of the batch records."""
    records = list(ledger._records.values())
    hours = Counter(
        (hour, name) for record in records for hour, counts in hourly_increments(record).items() for name in Counter(counts).elements()
    )
    seen = Counter(
        {(hour, name): count for hour, counts in ledger.hourly_counters("0000", "9999").items() for name, count in counts.items()}
    )
    return seen == hours and Counter(ledger.counters()) == Counter(sum_counters([counter_increments(record) for record in records]))


class Meddling:
    """A ledger that calls `meddle` before each call and between any two records.

    Batch records are read one by one, as by DynamoDB's paged query: each page shows the ledger of that moment, after the last record.
    """

    READS = ("read_counters_atomically", "counter_items", "adjustments", "snapshot", "batch_record", "latest_revision", "batches_of_hour")

    def __init__(self, ledger: MemoryLedger, meddle: Callable[[str], object], writes: bool = False) -> None:
        self._ledger, self._meddle = ledger, meddle
        self._known = (*self.READS, "put_adjustment") if writes else self.READS
        self.read_from = list[str]()
        self.records_read = 0

    def batch_records_from(self, batch_id: str) -> Iterator[BatchRecord]:
        self.read_from.append(batch_id)
        last = batch_id
        while True:
            self._meddle("batch_records_from")
            record = next((record for record in self._ledger.batch_records_from(last) if record.batch.id != last), None)
            if record is None:
                return
            self.records_read += 1
            yield record
            last = record.batch.id

    def __getattr__(self, name: str) -> Any:
        assert name in self._known, f"{name} is not a read"
        self._meddle(name)
        return getattr(self._ledger, name)


def ports_of(world: World, ledger: object) -> Ports:
    return replace(world.ports, ledger=ledger)  # type: ignore[arg-type]


# Comparison.


@pytest.mark.parametrize("compacted", [False, True])
def test_unchanged_counters_agree_and_nothing_is_written(compacted: bool) -> None:
    world = a_world()
    if compacted:
        compact_hour(HOUR, world.ports, memory_workspace)
    before = dict(world.object_store.objects)
    progress = list[tuple[int, int]]()
    found = compare_counters(
        ports_of(world, Meddling(world.ledger, lambda _: None)), memory_workspace, lambda done, total: progress.append((done, total))
    )
    assert found == CounterComparison(2, (EARLIER, HOUR), (), ())
    assert progress == [(0, 2), (1, 2), (2, 2)]
    assert world.object_store.objects == before


WORLD = a_world()
NAMES = [*sorted(WORLD.ledger.counters_by_lane()[0]), "reason.too_large"]
CHANGES = st.dictionaries(
    st.tuples(st.sampled_from([LANE, LANE_HOUR, LANE_EARLIER, CounterItem(0, "2024-01-15T23"), CounterItem(7)]), st.sampled_from(NAMES)),
    st.integers(-9, 9).filter(bool),
    min_size=1,
    max_size=6,
)


@settings(max_examples=40, deadline=None)
@given(CHANGES)
def test_every_changed_counter_is_found_and_adjusted_by_its_difference(changes: dict[tuple[CounterItem, str], int]) -> None:
    world = World(object_store=WORLD.object_store, ledger=MemoryLedger(), clock=WORLD.clock)
    world.ledger.__dict__.update({name: value.copy() for name, value in WORLD.ledger.__dict__.items() if isinstance(value, dict)})
    world.ledger._totals = {lane: dict(counts) for lane, counts in WORLD.ledger._totals.items()}
    world.ledger._hourly = {key: dict(counts) for key, counts in WORLD.ledger._hourly.items()}
    for (of, name), change in changes.items():
        corrupt(world.ledger, of, **{name: change})
    found = compared(world)
    assert {(difference.target, name): change for difference in found.counters for name, change in difference.difference.items()} == changes
    made = apply_adjustments(found, world.ports)
    assert {(adjustment.target, name): -change for adjustment in made for name, change in adjustment.counts.items()} == changes
    assert equals_records(world.ledger)
    assert compared(world).agrees
    assert apply_adjustments(compared(world), world.ports) == []


def test_a_changed_hour_names_its_lane_and_its_batches() -> None:
    world = World(policy=PlanningPolicy(lanes=2))
    world.create(partitions=2)
    world.produce(event("a"), partition=0)
    world.produce(event("b"), partition=1)
    world.settle()
    lanes = {record.batch.lane: batch_id for batch_id, record in world.ledger._records.items()}
    assert len(lanes) == 2
    corrupt(world.ledger, CounterItem(1, HOUR), events=5)
    (found,) = compared(world).counters
    assert (found.target, found.live, found.recorded, found.over_batches) == (CounterItem(1, HOUR), {"events": 6}, {"events": 1}, 1)
    assert found.batches == (lanes[1],)


def test_more_hours_than_fit_in_one_read_are_all_compared() -> None:
    world = World()
    hours = [f"2024-01-{day:02d}T{hour:02d}" for day in (1, 2) for hour in range(24)]
    assert len(hours) > MAX_TRANSACT_READS
    for hour in hours:
        corrupt(world.ledger, CounterItem(0, hour), events=1)
    assert [difference.target.hour for difference in compared(world).counters] == hours


def test_no_counter_is_adjusted_if_a_part_has_other_rows_than_its_record() -> None:
    world = a_world()
    (batch_id,) = world.ledger.batches_of_hour(HOUR)
    world.ledger._records[batch_id] = replace(world.ledger._records[batch_id], hours={HOUR: {"ProductDeleted": 3}})
    found = compared(world)
    (difference,) = found.archive
    assert (difference.hour, difference.batch, difference.archived, difference.recorded) == (HOUR, batch_id, 2, 3)
    assert found.counters
    with pytest.raises(InconsistentState, match=f"1 batches have other rows in the archive than in their records .*{batch_id}"):
        apply_adjustments(found, world.ports)
    assert world.ledger.adjustments() == []


def test_a_lost_part_is_an_error_that_names_it() -> None:
    world = a_world()
    lose(world, part_key(HOUR, world.ledger.batches_of_hour(HOUR)[0]))
    with pytest.raises(InconsistentState, match="is not there, and closed batches have rows in it"):
        compared(world)


# Concurrent closes.


def closing(world: World, when: str, times: int) -> Meddling:
    """Return a ledger in which a batch closes before each of the first `times` calls of this method."""
    left = iter(range(times))

    def close_one(call: str) -> None:
        if call == when and (number := next(left, None)) is not None:
            world.produce(event(f"late-{number}"))
            world.settle()

    return Meddling(world.ledger, close_one)


@pytest.mark.parametrize("call", ["batch_records_from", "adjustments", "counter_items", "read_counters_atomically"])
def test_batches_that_close_between_two_reads_are_no_difference(call: str) -> None:
    world = a_world()
    corrupt(world.ledger, LANE_HOUR, events=5)
    ledger = closing(world, call, 5)
    found = compared(world, ports_of(world, ledger))
    assert [(difference.target, difference.difference) for difference in found.counters] == [(LANE_HOUR, {"events": 5})]
    assert found.batches == len(world.ledger._records) > 2


def test_a_closed_batch_does_not_make_all_records_be_read_again() -> None:
    world = a_world()
    for number in range(50):
        begun = no_events(number, minute=-3000 + number)
        assert world.ledger.begin_batch(begun)
        assert world.ledger.close_batch(duplicates_only(begun))
    ledger = closing(world, "read_counters_atomically", 3)
    assert compared(world, ports_of(world, ledger)).agrees
    assert ledger.read_from[0] == FIRST_BATCH_ID
    assert FIRST_BATCH_ID not in ledger.read_from[1:]
    assert ledger.records_read <= 52 + 2 + 3 + 4 + 5


def no_events(offset: int, minute: float) -> Batch:
    return batch(Range(TopicPartition("Quiet", 0, 0), offset, offset + 1), minute=minute)


def duplicates_only(begun: Batch) -> BatchRecord:
    return all_stored(begun, range_outcome_counts=(OutcomeCounts(duplicates=1),), types={}, hours={})


def test_a_batch_that_closes_days_after_it_was_begun_is_no_difference() -> None:
    world = a_world()
    late = no_events(0, minute=-9000)
    world.ledger.begin_batch(late)
    calls = list[str]()

    def close_it(call: str) -> None:
        calls.append(call)
        if call == "read_counters_atomically" and calls.count(call) == 1:
            assert world.ledger.close_batch(duplicates_only(late))

    assert compared(world, ports_of(world, Meddling(world.ledger, close_it))).agrees
    assert calls.count("read_counters_atomically") > MAX_COUNTER_READS


def test_a_wrong_number_of_batches_is_found_and_adjusted_in_an_idle_lane() -> None:
    world = a_world()
    corrupt(world.ledger, LANE, batches=-1, events=2)
    found = compared(world)
    assert [(difference.target, difference.difference, difference.over_batches) for difference in found.counters] == [
        (LANE, {"batches": -1, "events": 2}, 2)
    ]
    assert [adjustment.counts for adjustment in apply_adjustments(found, world.ports)] == [{"batches": 1, "events": -2}]
    ledger = closing(world, "read_counters_atomically", 3)
    assert compared(world, ports_of(world, ledger)).agrees
    assert FIRST_BATCH_ID not in ledger.read_from[1:]


def test_a_wrong_number_of_batches_makes_all_records_be_read_once_more() -> None:
    world = a_world()
    corrupt(world.ledger, LANE, batches=1)
    for hour in range(3 * MAX_TRANSACT_READS):
        corrupt(world.ledger, CounterItem(0, f"2024-01-{1 + hour // 24:02d}T{hour % 24:02d}"), events=1)
    ledger = Meddling(world.ledger, lambda _: None)
    assert len(compared(world, ports_of(world, ledger)).counters) == 1 + 3 * MAX_TRANSACT_READS
    assert ledger.read_from.count(FIRST_BATCH_ID) == 2


def test_a_wrong_number_of_batches_beside_a_pending_batch_is_an_error() -> None:
    world = a_world()
    corrupt(world.ledger, LANE, batches=1)
    pending = no_events(0, minute=0)
    world.ledger.begin_batch(pending)
    with pytest.raises(Superseded, match=rf"lane 0: its counters hold 3 batches, and there are 2 records.*{pending.id}.*Stop the sensor"):
        compared(world)
    world.ledger.close_batch(duplicates_only(pending))
    assert [difference.difference for difference in compared(world).counters] == [{"batches": 1}]


def test_a_wrong_number_of_batches_while_batches_close_is_an_error() -> None:
    world = a_world()
    corrupt(world.ledger, LANE, batches=1)
    with pytest.raises(Superseded, match="while batches are closed"):
        compared(world, ports_of(world, closing(world, "read_counters_atomically", MAX_COUNTER_READS + 2)))


def test_lost_counters_are_restored() -> None:
    world = a_world()
    world.ledger._totals.clear()
    world.ledger._hourly.clear()
    assert len(apply_adjustments(compared(world), world.ports)) == 3
    assert equals_records(world.ledger)
    world.produce(event("late"))
    world.settle()
    assert equals_records(world.ledger)
    assert compared(world).agrees


# Idempotence.


def test_a_comparison_that_is_applied_twice_adjusts_once() -> None:
    world = a_world()
    corrupt(world.ledger, LANE_HOUR, events=5)
    found = compared(world)
    made = apply_adjustments(found, world.ports)
    world.clock.advance(SECOND)
    with pytest.raises(Superseded, match=r"lane 0: another process made adjustment 1; 0 items were adjusted by this one"):
        apply_adjustments(found, world.ports)
    assert world.ledger.adjustments() == made
    assert equals_records(world.ledger)


def test_a_later_error_is_corrected_by_the_next_adjustment() -> None:
    world = a_world()
    for number, change in enumerate((5, -3, 4), 1):
        corrupt(world.ledger, LANE_HOUR, events=change)
        (made,) = apply_adjustments(compared(world), world.ports)
        assert (made.number, made.counts) == (number, {"events": -change})
    assert equals_records(world.ledger)


CORRUPTIONS = st.dictionaries(
    st.tuples(st.sampled_from([LANE, LANE_HOUR, LANE_EARLIER]), st.sampled_from(["events", "type.ProductDeleted"])),
    st.integers(-9, 9).filter(bool),
    min_size=1,
)


@settings(max_examples=30, deadline=None)
@given(st.data(), CORRUPTIONS)
def test_closes_and_rivals_at_any_moment_leave_each_counter_adjusted_once(
    data: st.DataObject, corruptions: dict[tuple[CounterItem, str], int]
) -> None:
    world, busy = a_world(), [False]
    for (of, name), change in corruptions.items():
        corrupt(world.ledger, of, **{name: change})
    interruptions = iter(data.draw(st.lists(st.sampled_from(["", "", "", "close", "close earlier", "rival"]), max_size=25)))

    def meddle(_: str) -> None:
        if busy[0] or not (interruption := next(interruptions, "")):
            return
        busy[0] = True
        if interruption == "rival":
            world.clock.advance(SECOND)
            apply_adjustments(compared(world), world.ports)
        else:
            number = len(world.values)
            world.produce(event(f"late-{number}", f"{EARLIER if interruption == 'close earlier' else HOUR}:30:00Z"))
            world.settle()
        busy[0] = False

    ports = ports_of(world, Meddling(world.ledger, meddle, writes=True))
    for _ in range(3):
        try:
            apply_adjustments(compared(world, ports), ports)
        except Superseded:
            continue
    apply_adjustments(compared(world), world.ports)
    assert equals_records(world.ledger)
    adjusted = Counter[tuple[CounterItem, str]]()
    for adjustment in world.ledger.adjustments():
        assert adjustment.number == 1, "no item needs a second adjustment"
        adjusted.update({(adjustment.target, name): -count for name, count in adjustment.counts.items()})
    assert adjusted == corruptions
