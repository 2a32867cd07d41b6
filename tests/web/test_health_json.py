"""Throughput and latency of the newest batches."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from analytics_defs.core.ingest.batch_builder import StagedBatch
from analytics_defs.core.ledger import BatchRecord
from analytics_defs.core.offsets import Range
from analytics_defs.web.health_json import processing_json
from tests.core.events.made_events import NOW
from tests.core.ingest import batches


def closed(after_seconds: float, duration_seconds: float) -> BatchRecord:
    """Return the record of a batch of ten events."""
    staged = StagedBatch(tuple(batches.event(offset) for offset in range(10)))
    record = batches.accounted(batches.batch(Range(batches.AT, 0, 10)), staged)
    return replace(record, closed_at=NOW + timedelta(seconds=after_seconds), duration_ms=int(duration_seconds * 1000))


def test_throughput_counts_the_time_of_parallel_lanes_once() -> None:
    sequential = [closed(20, 5), closed(10, 5)]
    assert processing_json(sequential)["eventsPerSecond"] == 2.0
    parallel = [closed(10, 5), closed(10, 5), closed(9, 3), closed(11, 2)]  # busy from 5 to 11
    assert processing_json(parallel)["eventsPerSecond"] == round(40 / 6, 1)
    assert processing_json(parallel)["batchSeconds"] == {"p50": 3.0, "p95": 5.0}


def test_values_without_a_measurement_are_null() -> None:
    assert processing_json([]) == {
        "recentBatches": 0,
        "eventsPerSecond": None,
        "batchSeconds": {"p50": None, "p95": None},
        "recordToCommitSeconds": None,
        "lastCommit": None,
    }
