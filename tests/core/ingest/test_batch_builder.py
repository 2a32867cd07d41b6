"""Where a batch is cut, what its ranges leave uncovered, and which event of an id is the first."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics_defs.core.events.event import classify
from analytics_defs.core.ingest.batch_builder import (
    MAX_HOURS_PER_BATCH,
    MAX_RANGES_PER_BATCH,
    BatchBuilder,
    BatchLimits,
    StagedBatch,
    deduplicate,
    single_offset_range,
    uncovered_ranges,
)
from analytics_defs.core.offsets import Range, Record
from tests.core.events.made_events import DELETED, NOW, RULES, reproducibly, stamped, text
from tests.core.ingest.batches import AT, BESIDE, event, rejection, source, tombstone


def admitted(limits: BatchLimits, records: Sequence[Record], start: int = 0) -> list[int]:
    """Offsets of the batch that this reading becomes."""
    cut = BatchBuilder(limits, lambda each: classify(each, RULES, NOW), {AT: start, BESIDE: start})
    return [each.source.offset for each in records if cut.admit(each)]


def records(*offsets: int, value: bytes = b"12345678") -> list[Record]:
    return [Record(source(offset), -1, None, value) for offset in offsets]


def test_a_batch_ends_at_max_records() -> None:
    assert admitted(BatchLimits(max_records=3), records(*range(5))) == [0, 1, 2]


def test_a_batch_ends_at_max_bytes() -> None:
    assert admitted(BatchLimits(max_bytes=20), records(*range(5))) == [0, 1]


def test_the_first_record_is_admitted_at_any_size() -> None:
    assert admitted(BatchLimits(max_records=1, max_bytes=1, max_hours=0, max_uncovered_ranges=0), records(7, 8)) == [7]


def test_a_batch_ends_at_max_hours_and_rejections_have_no_hour() -> None:
    hours = [text(DELETED | {"timestamp": f"2024-01-15T{hour:02}:00:00Z"}) for hour in (1, 2, 1, 2, 3)]
    values = [hours[0], b"broken", hours[1], b"broken", hours[2], hours[3], hours[4]]
    assert admitted(BatchLimits(max_hours=2), [Record(source(offset), -1, None, value) for offset, value in enumerate(values)]) == [
        0,
        1,
        2,
        3,
        4,
        5,
    ]


def test_a_batch_ends_at_max_uncovered_ranges() -> None:
    assert admitted(BatchLimits(max_uncovered_ranges=2), records(2, 3, 9, 10, 20, 21)) == [2, 3, 9, 10]
    assert admitted(BatchLimits(max_uncovered_ranges=2), records(0, 1, 5, 9, 12)) == [0, 1, 5, 9]


def test_the_close_of_a_full_batch_fits_into_one_transaction() -> None:
    assert 2 * MAX_RANGES_PER_BATCH + 2 * MAX_HOURS_PER_BATCH + 3 <= 100
    assert (BatchLimits().max_ranges, BatchLimits().max_hours) == (MAX_RANGES_PER_BATCH, MAX_HOURS_PER_BATCH)


def test_records_of_interleaved_partitions_are_sorted_by_source() -> None:
    cut = BatchBuilder(BatchLimits(), lambda each: classify(each, RULES, NOW), {AT: 0, BESIDE: 0})
    for each in (event(0, at=BESIDE), event(0), event(1, at=BESIDE), event(1)):
        assert cut.admit(each.record)
    assert [each.record.source for each in cut.sorted()] == [source(0), source(1), source(0, BESIDE), source(1, BESIDE)]


def test_a_staged_batch_returns_its_events_rejections_and_tombstones() -> None:
    staged = StagedBatch((event(0), rejection(1), tombstone(2), event(3)))
    assert staged.events == (event(0), event(3))
    assert staged.rejections == (rejection(1),)
    assert staged.tombstones == (source(2),)


@reproducibly
@given(st.integers(0, 20), st.integers(0, 20), st.lists(st.tuples(st.integers(0, 25), st.integers(0, 5)), max_size=8))
def test_uncovered_ranges_are_exactly_the_offsets_that_nothing_covers(start: int, length: int, covered: list[tuple[int, int]]) -> None:
    whole = Range(AT, start, start + length)
    inside = [
        Range(AT, max(low, start), min(low + size, whole.end)) for low, size in covered if max(low, start) <= min(low + size, whole.end)
    ]
    found = uncovered_ranges([whole], inside)
    expected = set(range(whole.start, whole.end)) - {offset for each in inside for offset in range(each.start, each.end)}
    assert {offset for each in found for offset in range(each.start, each.end)} == expected
    assert sum(map(len, found)) == len(expected)
    assert all(found)


def test_a_range_of_one_partition_does_not_cover_another_partition() -> None:
    assert uncovered_ranges([Range(AT, 0, 2), Range(BESIDE, 0, 2)], [single_offset_range(source(0)), Range(BESIDE, 0, 2)]) == (
        Range(AT, 1, 2),
    )


def test_later_events_of_an_id_refer_to_the_first_one() -> None:
    first, other, second, third = event(0, "x"), event(1, "y"), event(2, "x", more=1), event(3, "x")
    assert deduplicate([first, other, second, third]) == ((first, other), {source(2): source(0), source(3): source(0)})


@pytest.mark.parametrize("timestamp", ["2024-01-15T10:59:59.999999Z", "2024-01-15T12:59:59+02:00"])
def test_an_events_hour_is_utc(timestamp: str) -> None:
    assert event(0, timestamp=stamped(timestamp)["timestamp"]).hour == "2024-01-15T10"
