"""The JSON of throughput and latency, and the same partition health in JSON, metrics and page."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from analytics_defs.core.ingest.batch_builder import StagedBatch
from analytics_defs.core.ingest.planning import PlanningResult
from analytics_defs.core.ledger import BatchRecord, LedgerSnapshot
from analytics_defs.core.monitoring.health import HealthSnapshot
from analytics_defs.core.monitoring.partition_health import PartitionHealth
from analytics_defs.core.offsets import Range, TopicPartition
from analytics_defs.web.health_json import health_json, processing_json
from analytics_defs.web.metric_families import metric_families
from analytics_defs.web.status_page import render_status_page
from tests.core.events.made_events import NOW
from tests.core.ingest import batches

GAUGES = {
    "lag_offsets": 6,
    "transaction_lag_offsets": 2,
    "lag_seconds": 61.25,
    "seconds_until_data_loss": 3600,
    "stalled_seconds": 7,
    "next_offset": 10,
    "log_start_offset": 4,
    "halted": 1,
}


def closed(after_seconds: float, duration_seconds: float) -> BatchRecord:
    """Return the record of a batch of ten events."""
    staged = StagedBatch(tuple(batches.event(offset) for offset in range(10)))
    record = batches.batch_record(batches.batch(Range(batches.AT, 0, 10)), staged)
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


def test_json_metrics_and_page_format_the_partition_health_of_the_snapshot() -> None:
    at = TopicPartition("T", 0, 3)
    partition = PartitionHealth(at, 10, 4, 6, 2, 61.25, 7.0, 3600.0, "created again")
    planning = PlanningResult(LedgerSnapshot({}, {}), (), (), notes=("a note",))
    snapshot = HealthSnapshot(NOW, timedelta(minutes=5), planning=planning, partitions=(partition,))
    assert health_json(snapshot)["services"]["kafka"] == {
        "status": "unhealthy",
        "latencyMs": None,
        "checkedAgoMs": None,
        "error": "no answer yet",
        "lag": 6,
        "partitions": {"T/3": {"lag": 6, "transactionLag": 2, "next": 10, "lagSeconds": 61.2}},
        "notes": ["a note"],
    }
    families = {family.name.removeprefix("analytics_partition_"): family for family in metric_families(snapshot)}
    samples = {name: [sample.value for sample in family.samples] for name, family in families.items() if name in GAUGES}
    assert samples == {name: [value] for name, value in GAUGES.items()}
    page = bytes(render_status_page(snapshot, None).body).decode()
    assert '<td>T/3 <span class="unhealthy">halted</span></td><td class="number">6</td><td class="number">1 min 1 s</td>' in page
    assert '<td class="number">1 h</td><td class="number">10</td>' in page
