"""What every ledger promises to whoever compares its counters and adjusts them: the memory double, moto, and a real DynamoDB."""

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
    with LEDGERS[request.param]() as found:
        yield found


def adjustment(number: int, of: CounterItem = LANE, **counts: int) -> Adjustment:
    return Adjustment(of, number, counts or {"events": -4, "type.ProductDeleted": 2}, 7, TIME)


def test_an_empty_ledger_has_nothing_to_compare(ledger: Ledger) -> None:
    assert (list(ledger.batch_records_from(FIRST_BATCH_ID)), ledger.counter_items(), ledger.adjustments()) == ([], [], [])
    assert ledger.read_counters_atomically([LANE, LANE_HOUR]) == {LANE: {}, LANE_HOUR: {}}


def test_records_come_from_an_id_on_in_order(ledger: Ledger) -> None:
    records = [close(ledger, batch(Range(ONE, each, each + 1), minute=each * 700)) for each in range(5)]
    assert list(ledger.batch_records_from(FIRST_BATCH_ID)) == records
    assert list(ledger.batch_records_from(records[2].batch.id)) == records[2:]
    assert list(ledger.batch_records_from(records[2].batch.id.partition("-")[0])) == records[2:]
    assert list(ledger.batch_records_from(f"{records[2].batch.id}~")) == records[3:]


def test_counter_items_are_those_of_lanes_and_of_hours_in_lanes(ledger: Ledger) -> None:
    close(ledger, batch(Range(ONE, 0, 10), lane=3))
    close(ledger, batch(Range(TWO, 0, 7), lane=REDRIVE_LANE))
    assert ledger.counter_items() == [CounterItem(REDRIVE_LANE), CounterItem(REDRIVE_LANE, HOUR), LANE, LANE_HOUR]
    assert ledger.read_counters_atomically([LANE_HOUR, CounterItem(REDRIVE_LANE), CounterItem(4)]) == {
        LANE_HOUR: {"events": 10, "type.ProductDeleted": 10},
        CounterItem(REDRIVE_LANE): {"events": 7, "type.ProductDeleted": 7, "batches": 1},
        CounterItem(4): {},
    }


def test_as_many_items_as_are_promised_are_read_at_once(ledger: Ledger) -> None:
    close(ledger, batch(Range(ONE, 0, 10), lane=3))
    wanted = [LANE, LANE_HOUR, *(CounterItem(3, f"2024-02-01T{hour:02d}") for hour in range(23))]
    assert len(wanted) == MAX_TRANSACT_READS
    found = ledger.read_counters_atomically(wanted)
    assert [each for each in wanted if found[each]] == [LANE, LANE_HOUR]


def test_an_adjustment_shows_in_every_counter_and_not_in_the_items(ledger: Ledger) -> None:
    close(ledger, batch(Range(ONE, 0, 10), lane=3))
    before, items = ledger.read_counters_atomically([LANE, LANE_HOUR]), ledger.counter_items()
    made = [adjustment(1), adjustment(2, events=1), adjustment(1, LANE_HOUR, events=5)]
    assert [ledger.put_adjustment(each) for each in made] == made
    assert sorted(ledger.adjustments(), key=str) == sorted(made, key=str)
    assert ledger.counters() == {"events": 7, "type.ProductDeleted": 12, "batches": 1}
    assert ledger.counters_by_lane() == {3: before[LANE], ADJUSTMENT_LANE: {"events": -3, "type.ProductDeleted": 2}}
    assert ledger.hourly_counters(HOUR, HOUR) == {HOUR: {"events": 15, "type.ProductDeleted": 10}}
    assert ledger.hourly_counters("2024-01-15T11", "2024-01-15T12") == {}
    assert (ledger.read_counters_atomically([LANE, LANE_HOUR]), ledger.counter_items()) == (before, items)


def test_an_item_that_is_not_there_can_be_adjusted(ledger: Ledger) -> None:
    ledger.put_adjustment(adjustment(1, LANE_HOUR, events=5))
    ledger.put_adjustment(adjustment(1, events=5))
    assert (ledger.counters(), ledger.hourly_counters("0000", "9999"), ledger.counter_items()) == ({"events": 5}, {HOUR: {"events": 5}}, [])


def test_adjustments_come_in_the_order_of_their_numbers(ledger: Ledger) -> None:
    for number in range(1, 13):
        ledger.put_adjustment(adjustment(number, events=number))
        ledger.put_adjustment(adjustment(number, CounterItem(31), events=number))
    for lane in (3, 31):
        assert [each.number for each in ledger.adjustments() if each.target == CounterItem(lane)] == list(range(1, 13))


def test_an_adjustment_made_twice_counts_once_and_a_number_stays_with_whoever_was_first(ledger: Ledger) -> None:
    assert ledger.put_adjustment(adjustment(1)) == adjustment(1)
    assert ledger.put_adjustment(adjustment(1)) == adjustment(1)
    assert ledger.put_adjustment(adjustment(1, events=99)) == adjustment(1)
    assert (ledger.adjustments(), ledger.counters()) == ([adjustment(1)], adjustment(1).counts)


def test_an_adjustment_follows_only_the_one_before_it(ledger: Ledger) -> None:
    ledger.put_adjustment(adjustment(1, CounterItem(4)))
    with pytest.raises(InconsistentState, match="lane 3: "):
        ledger.put_adjustment(adjustment(2))
    assert ledger.adjustments() == [adjustment(1, CounterItem(4))]


@pytest.mark.parametrize("ledger", PARALLEL, indirect=True)
def test_of_many_who_adjust_at_once_one_gets_the_number(ledger: Ledger) -> None:
    rivals = [replace(adjustment(1), batches=number) for number in range(8)]
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(ledger.put_adjustment, rivals))
    assert ledger.adjustments() == answers[:1]
    assert all(each == answers[0] for each in answers)


@pytest.mark.parametrize("ledger", PARALLEL, indirect=True)
def test_a_close_is_seen_whole_or_not_at_all_and_whole_where_its_record_was_seen(ledger: Ledger) -> None:
    hours = [f"2024-01-15T{hour:02d}" for hour in range(20)]
    items, closing = [*(CounterItem(3, hour) for hour in hours), LANE], threading.Event()

    def close_many() -> None:
        closing.set()
        for number in range(60):
            partitions = (TopicPartition("ProductDeleted", 0, each) for each in range(4))
            by_hour = {hour: {"ProductDeleted": 1} for hour in hours}
            close(ledger, batch(*(Range(each, number, number + 1) for each in partitions), minute=number, lane=3), hours=by_hour)

    with ThreadPoolExecutor(1) as threads:
        writer = threads.submit(close_many)
        closing.wait()
        readings = list[int]()
        while not writer.done() or not readings:
            seen = sum(1 for _ in ledger.batch_records_from(FIRST_BATCH_ID))
            found = ledger.read_counters_atomically(items)
            batches = found[LANE].get("batches", 0)
            assert {found[each].get("events", 0) for each in items[:-1]} == {batches}
            assert seen <= batches
            readings.append(batches)
        writer.result()
    assert readings == sorted(readings)
