"""The contract of counters and their adjustments, for the memory double, moto, and a real DynamoDB."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from analytics_defs.core.counter_adjustments import ADJUSTMENT_LANE, FIRST_BATCH_ID, Adjustment, CounterItem
from analytics_defs.core.ledger import REDRIVE_LANE
from analytics_defs.core.offsets import Range, TopicPartition
from analytics_defs.errors import InconsistentState
from analytics_defs.ports import MAX_TRANSACT_READS, Ledger
from tests.contracts.ledger_fixtures import HOUR, LEDGERS, ONE, TIME, TWO, batch, close

PARALLEL = ["memory", pytest.param("real", marks=pytest.mark.real)]
LANE, LANE_HOUR = CounterItem(3), CounterItem(3, HOUR)


@pytest.fixture(params=["memory", "moto", pytest.param("real", marks=pytest.mark.real)])
def ledger(request: pytest.FixtureRequest) -> Iterator[Ledger]:
    with LEDGERS[request.param]() as ledger_under_test:
        yield ledger_under_test


def adjustment(number: int, target: CounterItem = LANE, **counts: int) -> Adjustment:
    return Adjustment(target, number, counts or {"events": -4, "type.ProductDeleted": 2}, 7, TIME)


def test_an_empty_ledger_has_no_records_counters_or_adjustments(ledger: Ledger) -> None:
    assert (list(ledger.batch_records_from(FIRST_BATCH_ID)), ledger.counter_items(), ledger.adjustments()) == ([], [], [])
    assert ledger.read_counters_atomically([LANE, LANE_HOUR]) == {LANE: {}, LANE_HOUR: {}}


def test_records_are_read_in_order_from_an_id(ledger: Ledger) -> None:
    records = [close(ledger, batch(Range(ONE, number, number + 1), minute=number * 700)) for number in range(5)]
    assert list(ledger.batch_records_from(FIRST_BATCH_ID)) == records
    assert list(ledger.batch_records_from(records[2].batch.id)) == records[2:]
    assert list(ledger.batch_records_from(records[2].batch.id.partition("-")[0])) == records[2:]
    assert list(ledger.batch_records_from(f"{records[2].batch.id}~")) == records[3:]


def test_each_lane_has_a_totals_item_and_one_item_per_hour(ledger: Ledger) -> None:
    close(ledger, batch(Range(ONE, 0, 10), lane=3))
    close(ledger, batch(Range(TWO, 0, 7), lane=REDRIVE_LANE))
    assert ledger.counter_items() == [CounterItem(REDRIVE_LANE), CounterItem(REDRIVE_LANE, HOUR), LANE, LANE_HOUR]
    assert ledger.read_counters_atomically([LANE_HOUR, CounterItem(REDRIVE_LANE), CounterItem(4)]) == {
        LANE_HOUR: {"events": 10, "type.ProductDeleted": 10},
        CounterItem(REDRIVE_LANE): {"events": 7, "type.ProductDeleted": 7, "batches": 1},
        CounterItem(4): {},
    }


def test_an_atomic_read_may_name_max_transact_reads_items(ledger: Ledger) -> None:
    close(ledger, batch(Range(ONE, 0, 10), lane=3))
    wanted = [LANE, LANE_HOUR, *(CounterItem(3, f"2024-02-01T{hour:02d}") for hour in range(23))]
    assert len(wanted) == MAX_TRANSACT_READS
    counts = ledger.read_counters_atomically(wanted)
    assert [item for item in wanted if counts[item]] == [LANE, LANE_HOUR]


def test_an_adjustment_changes_every_counter_and_no_counter_item(ledger: Ledger) -> None:
    close(ledger, batch(Range(ONE, 0, 10), lane=3))
    before, items = ledger.read_counters_atomically([LANE, LANE_HOUR]), ledger.counter_items()
    made_adjustments = [adjustment(1), adjustment(2, events=1), adjustment(1, LANE_HOUR, events=5)]
    assert [ledger.put_adjustment(made_adjustment) for made_adjustment in made_adjustments] == made_adjustments
    assert sorted(ledger.adjustments(), key=str) == sorted(made_adjustments, key=str)
    assert ledger.counters() == {"events": 7, "type.ProductDeleted": 12, "batches": 1}
    assert ledger.counters_by_lane() == {3: before[LANE], ADJUSTMENT_LANE: {"events": -3, "type.ProductDeleted": 2}}
    assert ledger.hourly_counters(HOUR, HOUR) == {HOUR: {"events": 15, "type.ProductDeleted": 10}}
    assert ledger.hourly_counters("2024-01-15T11", "2024-01-15T12") == {}
    assert (ledger.read_counters_atomically([LANE, LANE_HOUR]), ledger.counter_items()) == (before, items)


def test_a_missing_counter_item_can_be_adjusted(ledger: Ledger) -> None:
    ledger.put_adjustment(adjustment(1, LANE_HOUR, events=5))
    ledger.put_adjustment(adjustment(1, events=5))
    assert (ledger.counters(), ledger.hourly_counters("0000", "9999"), ledger.counter_items()) == ({"events": 5}, {HOUR: {"events": 5}}, [])


def test_adjustments_are_read_in_the_order_of_their_numbers(ledger: Ledger) -> None:
    for number in range(1, 13):
        ledger.put_adjustment(adjustment(number, events=number))
        ledger.put_adjustment(adjustment(number, CounterItem(31), events=number))
    for lane in (3, 31):
        assert [stored.number for stored in ledger.adjustments() if stored.target == CounterItem(lane)] == list(range(1, 13))


def test_an_adjustment_is_idempotent_and_the_first_with_a_number_wins(ledger: Ledger) -> None:
    assert ledger.put_adjustment(adjustment(1)) == adjustment(1)
    assert ledger.put_adjustment(adjustment(1)) == adjustment(1)
    assert ledger.put_adjustment(adjustment(1, events=99)) == adjustment(1)
    assert (ledger.adjustments(), ledger.counters()) == ([adjustment(1)], adjustment(1).counts)


def test_an_adjustment_without_its_predecessor_raises(ledger: Ledger) -> None:
    ledger.put_adjustment(adjustment(1, CounterItem(4)))
    with pytest.raises(InconsistentState, match="lane 3: "):
        ledger.put_adjustment(adjustment(2))
    assert ledger.adjustments() == [adjustment(1, CounterItem(4))]


@pytest.mark.parametrize("ledger", PARALLEL, indirect=True)
def test_exactly_one_of_concurrent_adjustments_gets_the_number(ledger: Ledger) -> None:
    rivals = [replace(adjustment(1), batches=number) for number in range(8)]
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(ledger.put_adjustment, rivals))
    assert ledger.adjustments() == answers[:1]
    assert all(answer == answers[0] for answer in answers)


@pytest.mark.parametrize("ledger", PARALLEL, indirect=True)
def test_an_atomic_read_sees_whole_closes_and_all_whose_records_were_read(ledger: Ledger) -> None:
    hours = [f"2024-01-15T{hour:02d}" for hour in range(20)]
    items, closing = [*(CounterItem(3, hour) for hour in hours), LANE], threading.Event()

    def close_many() -> None:
        closing.set()
        for number in range(60):
            partitions = (TopicPartition("ProductDeleted", 0, partition) for partition in range(4))
            by_hour = {hour: {"ProductDeleted": 1} for hour in hours}
            close(ledger, batch(*(Range(partition, number, number + 1) for partition in partitions), minute=number, lane=3), hours=by_hour)

    with ThreadPoolExecutor(1) as threads:
        writer = threads.submit(close_many)
        closing.wait()
        batch_counts = list[int]()
        while not writer.done() or not batch_counts:
            records_read = sum(1 for _ in ledger.batch_records_from(FIRST_BATCH_ID))
            counts = ledger.read_counters_atomically(items)
            batches = counts[LANE].get("batches", 0)
            assert {counts[item].get("events", 0) for item in items[:-1]} == {batches}
            assert records_read <= batches
            batch_counts.append(batches)
        writer.result()
    assert batch_counts == sorted(batch_counts)
