"""How fast the newest batches were."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from analytics_defs.core.ingest.batch_builder import StagedBatch
from analytics_defs.core.ledger import BatchRecord
from analytics_defs.core.offsets import Range
from analytics_defs.web.health_json import processing_json
from tests.core.events.made_events import NOW
from tests.core.ingest import batches


def closed(after_seconds: float, took_seconds: float) -> BatchRecord:
    """A batch of ten events."""
    staged = StagedBatch(tuple(batches.event(offset) for offset in range(10)))
    record = batches.batch_record(batches.batch(Range(batches.AT, 0, 10)), staged)
    return replace(record, closed_at=NOW + timedelta(seconds=after_seconds), duration_ms=int(took_seconds * 1000))


def test_lanes_that_work_at_the_same_time_are_that_much_faster() -> None:
    one_after_the_other = [closed(20, 5), closed(10, 5)]
    assert processing_json(one_after_the_other)["eventsPerSecond"] == 2.0
    side_by_side = [closed(10, 5), closed(10, 5), closed(9, 3), closed(11, 2)]  # busy from 5 to 11
    assert processing_json(side_by_side)["eventsPerSecond"] == round(40 / 6, 1)
    assert processing_json(side_by_side)["batchSeconds"] == {"p50": 3.0, "p95": 5.0}


def test_what_was_not_measured_is_not_told() -> None:
    assert processing_json([]) == {
        "recentBatches": 0,
        "eventsPerSecond": None,
        "batchSeconds": {"p50": None, "p95": None},
        "recordToCommitSeconds": None,
        "lastCommit": None,
    }
