"""Batch records are summed once even if they are read again; adjustments are numbered by counter item."""

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
    """Return batch records of three lanes, sorted by batch id."""
    return [all_stored(batch(Range(ONE, minute, minute + 1 + minute % 7), minute=minute, lane=minute % 3)) for minute in sorted(minutes)]


@given(MINUTES, MINUTES)
def test_records_that_are_read_again_are_summed_once(first: list[int], later: list[int]) -> None:
    recorded = RecordedCounters()
    recorded.add(records(first))
    since = recorded.since
    all_records = records(sorted({*first, *later}))
    recorded.add(record for record in all_records if record.batch.id >= since)
    added = [record for record in all_records if record.batch.id >= since or record in records(first)]
    for lane in range(3):
        in_lane = [record for record in added if record.batch.lane == lane]
        assert recorded.counts(CounterItem(lane)) == sum_counters([counter_increments(record) for record in in_lane])
        assert recorded.counts(CounterItem(lane, HOUR)) == sum_counters([hourly_increments(record)[HOUR] for record in in_lane])
        assert recorded.batches(lane) == len(in_lane)
    assert recorded.lanes == sorted({record.batch.lane for record in added})


@given(MINUTES.filter(bool))
def test_incremental_reads_start_an_hour_before_the_newest_batch_and_keep_its_ids(minutes: list[int]) -> None:
    recorded = RecordedCounters()
    recorded.add(records(minutes))
    oldest = TIME + timedelta(minutes=max(minutes)) - LATE_CLOSE_WINDOW
    assert batch_id(oldest - timedelta(milliseconds=1), ()) < recorded.since < batch_id(oldest, ())
    assert recorded._seen == {record.batch.id for record in records(minutes) if record.batch.time >= oldest}


def test_reading_starts_at_the_first_batch_initially_and_after_clear() -> None:
    recorded = RecordedCounters()
    assert recorded.since == FIRST_BATCH_ID < batch_id(datetime.min.replace(tzinfo=UTC), ())
    recorded.add(records([1]))
    recorded.clear()
    assert (recorded.since, recorded.items) == (FIRST_BATCH_ID, [])
    recorded.add(records([1]))
    assert recorded.items == [CounterItem(1), CounterItem(1, HOUR)]


def test_adjustments_of_an_item_are_summed_and_the_next_number_follows() -> None:
    lane, hour = CounterItem(0), CounterItem(0, HOUR)
    index = AdjustmentIndex([Adjustment(lane, 1, {"events": 2}, 5, TIME), Adjustment(lane, 2, {"events": -3, "bytes": 1}, 6, TIME)])
    assert (index.counts(lane), index.next_number(lane)) == ({"events": -1, "bytes": 1}, 3)
    assert (index.counts(hour), index.next_number(hour)) == ({}, 1)
