"""What closes have added is summed once, however often records are read; adjustments are numbered by item."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from analytics_defs.core.counter_adjustments import (
    FIRST_BATCH_ID,
    LATE_CLOSE_WINDOW,
    Adjustment,
    AdjustmentIndex,
    CounterItem,
    RecordedCounters,
)
from analytics_defs.core.ingest.batch_accounting import counter_increments, hourly_increments, sum_counters
from analytics_defs.core.ledger import BatchRecord
from analytics_defs.core.offsets import Range
from analytics_defs.core.storage.object_keys import batch_id
from tests.contracts.ledger_fixtures import HOUR, ONE, TIME, all_stored, batch

MINUTES = st.lists(st.integers(0, 300), unique=True, max_size=12)


def records(minutes: list[int]) -> list[BatchRecord]:
    """In the order of their ids, in three lanes."""
    return [all_stored(batch(Range(ONE, each, each + 1 + each % 7), minute=each, lane=each % 3)) for each in sorted(minutes)]


@given(MINUTES, MINUTES)
def test_records_that_are_read_again_are_summed_once(first: list[int], later: list[int]) -> None:
    found = RecordedCounters()
    found.add(records(first))
    since = found.since
    everything = records(sorted({*first, *later}))
    found.add(each for each in everything if each.batch.id >= since)
    known = [each for each in everything if each.batch.id >= since or each in records(first)]
    for lane in range(3):
        of_lane = [each for each in known if each.batch.lane == lane]
        assert found.counts(CounterItem(lane)) == sum_counters([counter_increments(each) for each in of_lane])
        assert found.counts(CounterItem(lane, HOUR)) == sum_counters([hourly_increments(each)[HOUR] for each in of_lane])
        assert found.batches(lane) == len(of_lane)
    assert found.lanes == sorted({each.batch.lane for each in known})


@given(MINUTES.filter(bool))
def test_incremental_reads_start_an_hour_before_the_newest_batch_and_keep_its_ids(minutes: list[int]) -> None:
    found = RecordedCounters()
    found.add(records(minutes))
    edge = TIME + timedelta(minutes=max(minutes)) - LATE_CLOSE_WINDOW
    assert batch_id(edge - timedelta(milliseconds=1), ()) < found.since < batch_id(edge, ())
    assert found._seen == {each.batch.id for each in records(minutes) if each.batch.time >= edge}


def test_reading_starts_at_the_first_batch_initially_and_after_clear() -> None:
    found = RecordedCounters()
    assert found.since == FIRST_BATCH_ID < batch_id(datetime.min.replace(tzinfo=UTC), ())
    found.add(records([1]))
    found.clear()
    assert (found.since, found.items) == (FIRST_BATCH_ID, [])
    found.add(records([1]))
    assert found.items == [CounterItem(1), CounterItem(1, HOUR)]


def test_adjustments_of_an_item_are_summed_and_the_next_number_follows() -> None:
    lane, hour = CounterItem(0), CounterItem(0, HOUR)
    made = AdjustmentIndex([Adjustment(lane, 1, {"events": 2}, 5, TIME), Adjustment(lane, 2, {"events": -3, "bytes": 1}, 6, TIME)])
    assert (made.counts(lane), made.next_number(lane)) == ({"events": -1, "bytes": 1}, 3)
    assert (made.counts(hour), made.next_number(hour)) == ({}, 1)
