"""The JSON bodies of `/health` and `/metrics`. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any

from analytics_defs.core.events.schema import EVENT_TYPES
from analytics_defs.core.ingest.batch_accounting import recent_hours, sum_counters
from analytics_defs.core.ledger import BatchKind, BatchRecord
from analytics_defs.core.monitoring.health import KAFKA, HealthSnapshot
from analytics_defs.core.monitoring.partition_health import PartitionHealth
from analytics_defs.core.monitoring.probe_result import ProbeResult
from analytics_defs.core.timestamps import iso_milliseconds

RECENT_HOURS = 24
CREATED, UPDATED, DELETED, LOW_STOCK = "ProductCreated", "ProductUpdated", "ProductDeleted", "LowStockWarning"
TYPE, REASON = "type.", "reason."
"""Prefixes of counter names."""


def health_json(snapshot: HealthSnapshot) -> dict[str, Any]:
    """Return the body of `/health`."""
    services = {name: service_json(result) for name, result in snapshot.services.items()}
    services[KAFKA] |= _lag_json(snapshot)
    status = snapshot.status
    return {
        "status": _status(status.healthy),
        "timestamp": iso_milliseconds(snapshot.taken_at),
        "reasons": list(status.reasons),
        "services": services,
        "metrics": metrics_json(snapshot),
        "version": snapshot.version,
    }


def service_json(result: ProbeResult[object]) -> dict[str, Any]:
    return {
        "status": _status(result.ok),
        "latencyMs": result.latency_ms,
        "checkedAgoMs": result.age_ms,
        "error": result.error if result.error or result.ok else "no answer yet",
    }


def _status(healthy: bool) -> str:
    return "healthy" if healthy else "unhealthy"


def _lag_json(snapshot: HealthSnapshot) -> dict[str, Any]:
    if snapshot.planning is None:
        return {"lag": None}
    return {
        "lag": sum(partition.lag for partition in snapshot.partitions),
        "partitions": {str(partition.topic_partition): _partition_json(partition) for partition in snapshot.partitions},
        "notes": list(snapshot.planning.notes),
    }


def _partition_json(partition: PartitionHealth) -> dict[str, Any]:
    seconds = partition.lag_seconds
    return {
        "lag": partition.lag,
        "transactionLag": partition.transaction_lag,
        "next": partition.next_offset,
        "lagSeconds": None if seconds is None else round(seconds, 1),
    }


def metrics_json(snapshot: HealthSnapshot) -> dict[str, Any] | None:
    """Return the body of `/metrics` without its timestamp, or None until the ledger has been read once."""
    statistics = snapshot.ledger_statistics.value
    if statistics is None:
        return None
    counters = sum_counters(list(statistics.lanes.values()))
    types = events_by_type(counters)
    created, deleted = types.get(CREATED, 0), types.get(DELETED, 0)
    hours = recent_hours(snapshot.taken_at, RECENT_HOURS)
    return {
        "totalEvents": counters.get("events", 0),
        "totalProducts": max(0, created - deleted),
        "eventsByType": types,
        "productsByStatus": {"created": created, "updated": types.get(UPDATED, 0), "deleted": deleted, "lowStock": types.get(LOW_STOCK, 0)},
        "hourlyStats": {hour: statistics.hours.get(hour, {}).get("events", 0) for hour in hours},
        "hourlyStatsByType": {hour: with_prefix(counts, TYPE) for hour, counts in sorted(statistics.hours.items())},
        "processing": {"batches": counters.get("batches", 0)} | processing_json(statistics.batches),
        "duplicates": counters.get("duplicates", 0),
        "deadLetters": counters.get("dead_letters", 0),
        "deadLettersByReason": with_prefix(counters, REASON),
        "invalidRecordTimestamps": counters.get("invalid_record_timestamps", 0),
        "tombstones": counters.get("tombstones", 0),
        "gaps": counters.get("gaps", 0),
        "lost": counters.get("lost", 0),
        "unaccounted": snapshot.unaccounted_offsets,
        "ageMs": snapshot.ledger_read_age_ms,
    }


def events_by_type(counters: Mapping[str, int]) -> dict[str, int]:
    """Return the events by type. The known types are always included."""
    return dict.fromkeys(EVENT_TYPES, 0) | with_prefix(counters, TYPE)


def with_prefix(counters: Mapping[str, int], prefix: str) -> dict[str, int]:
    """Return the counters that have the prefix and are not 0, by the rest of their name."""
    return {name.removeprefix(prefix): count for name, count in sorted(counters.items()) if name.startswith(prefix) and count}


def processing_json(batches: Sequence[BatchRecord]) -> dict[str, Any]:
    """Return throughput and latency of the ingested batches among these. Values without a measurement are None."""
    ingested = [record for record in batches if record.batch.kind is BatchKind.INGEST]
    durations = sorted(record.duration_ms / 1000 for record in ingested)
    busy_seconds, stored = _busy_seconds(ingested), sum(record.outcome_counts.stored for record in ingested)
    latency_ms = sum(record.record_to_close_ms for record in ingested)
    return {
        "recentBatches": len(ingested),
        "eventsPerSecond": round(stored / busy_seconds, 1) if busy_seconds else None,
        "batchSeconds": {"p50": percentile(durations, 50), "p95": percentile(durations, 95)},
        "recordToCommitSeconds": round(latency_ms / stored / 1000, 3) if stored else None,
        "lastCommit": iso_milliseconds(max(record.closed_at for record in ingested)) if ingested else None,
    }


def _busy_seconds(batches: Sequence[BatchRecord]) -> float:
    """Return the time in which at least one batch was processed. Lanes work in parallel, so durations cannot be summed."""
    busy, until = 0.0, float("-inf")
    spans = ((record.closed_at.timestamp() - record.duration_ms / 1000, record.closed_at.timestamp()) for record in batches)
    for begin, end in sorted(spans):
        busy += max(0.0, end - max(begin, until))
        until = max(until, end)
    return busy


def percentile(ordered: Sequence[float], percent: int) -> float | None:
    """Return the percentile by nearest rank, so that it is always a measured value."""
    return ordered[max(0, ceil(len(ordered) * percent / 100) - 1)] if ordered else None
