"""Batch records have one outcome for each offset, and all counters are derived from them."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics_defs.core.events.event import ClassifiedRecord
from analytics_defs.core.ingest.batch_accounting import (
    checkpoint_changes,
    counter_increments,
    hourly_increments,
    recent_hours,
    sum_counters,
)
from analytics_defs.core.ingest.batch_builder import StagedBatch, single_offset_range
from analytics_defs.core.ledger import Gap, GapReason, OutcomeCounts, RedrivenRecord
from analytics_defs.core.offsets import Range, Source
from analytics_defs.errors import InconsistentState
from tests.core.events.made_events import NOW, reproducibly
from tests.core.ingest.batches import AT, BESIDE, batch, batch_record, classified, event, redrive, rejection, source, tombstone

ELEVEN = "2024-01-15T11:00:00Z"


def test_every_outcome_is_counted_in_the_batch_record() -> None:
    staged = StagedBatch(
        (event(0), event(1, "x"), event(2, "x"), rejection(3), tombstone(4), event(0, at=BESIDE, timestamp=ELEVEN)),
        gaps=(Gap(Range(AT, 5, 8), GapReason.ABORTED),),
        lost=(Range(AT, 8, 10),),
    )
    record = batch_record(batch(Range(AT, 0, 11), Range(BESIDE, 0, 1)), staged, {source(2): source(1)})
    assert record.range_outcome_counts == (OutcomeCounts(2, 1, 1, 1, 3, 2), OutcomeCounts(stored=1))
    assert record.unaccounted == (Range(AT, 10, 11),)
    assert record.tombstones == (source(4),)
    assert record.types == {"ProductDeleted": 3}
    assert record.hours == {"2024-01-15T10": {"ProductDeleted": 2}, "2024-01-15T11": {"ProductDeleted": 1}}
    assert record.reasons == {"not_json": 1}


@reproducibly
@given(st.lists(st.sampled_from(["event", "duplicate", "rejection", "tombstone", "gap", "lost", "nothing"]), max_size=30))
def test_outcomes_and_unaccounted_offsets_add_up_to_the_length_of_the_range(kinds: list[str]) -> None:
    records: list[ClassifiedRecord] = []
    gaps, lost = [], []
    duplicates: dict[Source, Source] = {}
    for offset, kind in enumerate(kinds):
        match kind:
            case "event" | "duplicate":
                records.append(event(offset))
                duplicates |= {source(offset): source(99)} if kind == "duplicate" else {}
            case "rejection":
                records.append(rejection(offset))
            case "tombstone":
                records.append(tombstone(offset))
            case "gap":
                gaps.append(Gap(single_offset_range(source(offset)), GapReason.CONTROL))
            case "lost":
                lost.append(single_offset_range(source(offset)))
    record = batch_record(batch(Range(AT, 0, len(kinds))), StagedBatch(tuple(records), tuple(gaps), tuple(lost)), duplicates)
    assert record.outcome_counts.total + sum(map(len, record.unaccounted)) == len(kinds)
    assert record.outcome_counts == OutcomeCounts(
        *(kinds.count(kind) for kind in ("event", "duplicate", "rejection", "tombstone", "gap", "lost"))
    )
    assert sum(map(len, record.unaccounted)) == kinds.count("nothing")


@pytest.mark.parametrize(
    "staged",
    [
        pytest.param(StagedBatch((event(0), event(0))), id="a source twice"),
        pytest.param(StagedBatch((event(0), event(5))), id="an offset outside of the range"),
        pytest.param(StagedBatch((event(0), event(0, at=BESIDE))), id="another partition"),
        pytest.param(StagedBatch((event(0),), gaps=(Gap(Range(AT, 0, 1), GapReason.CONTROL),)), id="a record in a gap"),
        pytest.param(StagedBatch((event(0),), lost=(Range(BESIDE, 0, 1),)), id="lost offsets of another partition"),
    ],
)
def test_a_staging_file_that_does_not_match_its_batch_raises(staged: StagedBatch) -> None:
    with pytest.raises(InconsistentState, match="does not match ProductDeleted/3"):
        batch_record(batch(Range(AT, 0, 3)), staged)


def test_counter_increments_have_every_counter_and_no_zeros() -> None:
    staged = StagedBatch((event(0), event(1), rejection(2), tombstone(3)))
    record = batch_record(batch(Range(AT, 0, 5)), staged, {source(1): source(0)}, NOW)
    counts = counter_increments(record)
    assert counts == {
        "events": 1,
        "type.ProductDeleted": 1,
        "duplicates": 1,
        "dead_letters": 1,
        "reason.not_json": 1,
        "tombstones": 1,
        "unaccounted": 1,
        "batches": 1,
        "bytes": sum(classified_record.record.size for classified_record in staged.records),
        "duration_ms": 7,
        "record_to_close_ms": record.record_to_close_ms,
    }


def test_hourly_increments_count_events_and_types() -> None:
    record = batch_record(batch(Range(AT, 0, 2)), StagedBatch((event(0), event(1, timestamp=ELEVEN))))
    assert hourly_increments(record) == {hour: {"events": 1, "type.ProductDeleted": 1} for hour in ("2024-01-15T10", "2024-01-15T11")}


def test_checkpoint_changes_are_the_outcomes_of_their_ranges() -> None:
    record = batch_record(batch(Range(AT, 0, 2), Range(BESIDE, 0, 1)), StagedBatch((event(0), rejection(1), event(0, at=BESIDE))))
    assert checkpoint_changes(record) == {AT: OutcomeCounts(stored=1, dead_letters=1), BESIDE: OutcomeCounts(stored=1)}


def test_a_redriven_record_moves_from_dead_letters_to_its_new_outcome() -> None:
    events = (event(3), event(7, "x"), event(1, at=BESIDE))
    record = batch_record(redrive(events, ["too_large", "schema", "schema"]), StagedBatch(events), {source(7): source(0)})
    assert record.redriven == (
        RedrivenRecord(source(3), "too_large", "stored"),
        RedrivenRecord(source(7), "schema", "duplicates"),
        RedrivenRecord(source(1, BESIDE), "schema", "stored"),
    )
    assert checkpoint_changes(record) == {
        AT: OutcomeCounts(stored=1, duplicates=1, dead_letters=-2),
        BESIDE: OutcomeCounts(stored=1, dead_letters=-1),
    }
    counts = counter_increments(record)
    assert {name: counts[name] for name in ("events", "duplicates", "dead_letters", "reason.too_large", "reason.schema")} == {
        "events": 2,
        "duplicates": 1,
        "dead_letters": -3,
        "reason.too_large": -1,
        "reason.schema": -2,
    }


def test_latency_and_invalid_timestamps_are_summed_over_stored_events() -> None:
    closed_at = NOW + timedelta(seconds=10)
    now_ms = int(NOW.timestamp() * 1000)
    value = event(0).record.value
    records = [
        classified(0, value, timestamp_ms=now_ms),
        classified(1, value, timestamp_ms=-1),
        classified(2, value, timestamp_ms=now_ms + 60_000),
        classified(3, value, timestamp_ms=now_ms),
        classified(4, value, timestamp_ms=-(2**63)),
        classified(5, value, timestamp_ms=2**63 - 1),
        classified(6, value, timestamp_ms=2**63 - 1),
    ]
    duplicates = {source(offset): source(0) for offset in (3, 6)}
    record = batch_record(batch(Range(AT, 0, 7)), StagedBatch(tuple(records)), duplicates, closed_at)
    assert (record.record_to_close_ms, record.invalid_record_timestamps) == (10_000, 2)
    assert counter_increments(record)["invalid_record_timestamps"] == 2


def test_counters_of_several_lanes_are_added_by_name() -> None:
    assert sum_counters([{"events": 1, "duplicates": 2}, {"events": 3}, {}]) == {"events": 4, "duplicates": 2}


def test_recent_hours_end_with_the_current_utc_hour() -> None:
    assert recent_hours(NOW, 3) == ["2024-01-15T10", "2024-01-15T11", "2024-01-15T12"]
