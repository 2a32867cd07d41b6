"""The numbers of `/health` and `/metrics` as JSON has them, in the names of their specification. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any

from analytics_defs.core.events.schema import EVENT_TYPES
from analytics_defs.core.ingest.batch_accounting import recent_hours, sum_counters
from analytics_defs.core.ingest.planning import PartitionLag
from analytics_defs.core.ledger import REDRIVE_CHECKPOINT, BatchKind, BatchRecord
from analytics_defs.core.monitoring.health import KAFKA, HealthSnapshot, ProbeResult, evaluate_health, lag_seconds
from analytics_defs.core.timestamps import iso_milliseconds

RECENT_HOURS = 24
CREATED, UPDATED, DELETED, LOW_STOCK = EVENT_TYPES
TYPE, REASON = "type.", "reason."


def health_json(picture: HealthSnapshot) -> dict[str, Any]:
    """The body of `/health`."""
    found = evaluate_health(picture)
    return {
        "status": "healthy" if found.healthy else "unhealthy",
        "timestamp": iso_milliseconds(picture.taken_at),
        "reasons": list(found.reasons),
        "services": {name: service_json(each) | (_kafka(picture) if name == KAFKA else {}) for name, each in picture.services.items()},
        "metrics": metrics_json(picture),
        "version": picture.version,
    }


def service_json(answer: ProbeResult[object]) -> dict[str, Any]:
    return {
        "status": "healthy" if answer.ok else "unhealthy",
        "latencyMs": answer.latency_ms,
        "checkedAgoMs": answer.age_ms,
        "error": answer.error if answer.error or answer.ok else "no answer yet",
    }


def _kafka(picture: HealthSnapshot) -> dict[str, Any]:
    if picture.planning is None:
        return {"lag": None}
    return {
        "lag": sum(lag.offsets for lag in picture.lags),
        "partitions": {str(lag.topic_partition): _partition(lag, picture) for lag in picture.lags},
        "notes": list(picture.planning.notes),
    }


def _partition(lag: PartitionLag, picture: HealthSnapshot) -> dict[str, Any]:
    seconds = lag_seconds(lag, picture)
    return {
        "lag": lag.offsets,
        "transactionLag": lag.transaction_lag,
        "next": lag.next_offset,
        "lagSeconds": seconds if seconds is None else round(seconds, 1),
    }


def metrics_json(picture: HealthSnapshot) -> dict[str, Any] | None:
    """None until the ledger was read once. Afterwards the newest that was read, with its age."""
    found = picture.ledger_statistics.value
    if found is None:
        return None
    counters = sum_counters(list(found.lanes.values()))
    types = by_type(counters)
    created, deleted = types.get(CREATED, 0), types.get(DELETED, 0)
    return {
        "totalEvents": counters.get("events", 0),
        "totalProducts": max(0, created - deleted),
        "eventsByType": types,
        "productsByStatus": {"created": created, "updated": types.get(UPDATED, 0), "deleted": deleted, "lowStock": types.get(LOW_STOCK, 0)},
        "hourlyStats": {hour: found.hours.get(hour, {}).get("events", 0) for hour in recent_hours(picture.taken_at, RECENT_HOURS)},
        "hourlyStatsByType": {hour: with_prefix(counts, TYPE) for hour, counts in sorted(found.hours.items())},
        "processing": {"batches": counters.get("batches", 0)} | processing_json(found.batches),
        "duplicates": counters.get("duplicates", 0),
        "deadLetters": counters.get("dead_letters", 0),
        "deadLettersByReason": with_prefix(counters, REASON),
        "tombstones": counters.get("tombstones", 0),
        "gaps": counters.get("gaps", 0),
        "lost": counters.get("lost", 0),
        "unaccounted": unaccounted(picture),
        "ageMs": picture.ledger_read_age_ms,
    }


def by_type(counters: Mapping[str, int]) -> dict[str, int]:
    """Events by type; the four that are known are always there."""
    return dict.fromkeys(EVENT_TYPES, 0) | with_prefix(counters, TYPE)


def with_prefix(counters: Mapping[str, int], prefix: str) -> dict[str, int]:
    return {name.removeprefix(prefix): count for name, count in sorted(counters.items()) if name.startswith(prefix) and count}


def unaccounted(picture: HealthSnapshot) -> int | None:
    """Offsets that the heads have passed and no outcome explains; None where the heads cannot be read."""
    snapshot = picture.dynamodb.value
    if snapshot is None or not picture.dynamodb.ok:
        return None
    return sum(abs(head.unaccounted) for each, head in snapshot.checkpoints.items() if each != REDRIVE_CHECKPOINT)


def processing_json(batches: Sequence[BatchRecord]) -> dict[str, Any]:
    """How fast the newest batches were. None where there is nothing to measure."""
    ingested = [each for each in batches if each.batch.kind is BatchKind.INGEST]
    seconds = sorted(each.duration_ms / 1000 for each in ingested)
    worked, stored = _busy_seconds(ingested), sum(each.tally.stored for each in ingested)
    return {
        "recentBatches": len(ingested),
        "eventsPerSecond": round(stored / worked, 1) if worked else None,
        "batchSeconds": {"p50": percentile(seconds, 50), "p95": percentile(seconds, 95)},
        "recordToCommitSeconds": round(sum(each.record_to_close_ms for each in ingested) / stored / 1000, 3) if stored else None,
        "lastCommit": iso_milliseconds(max(each.closed_at for each in ingested)) if ingested else None,
    }


def _busy_seconds(batches: Sequence[BatchRecord]) -> float:
    """How long at least one of them was at work: lanes work at the same time."""
    busy, until = 0.0, float("-inf")
    spans = ((each.closed_at.timestamp() - each.duration_ms / 1000, each.closed_at.timestamp()) for each in batches)
    for begin, end in sorted(spans):
        busy += max(0.0, end - max(begin, until))
        until = max(until, end)
    return busy


def percentile(ordered: Sequence[float], percent: int) -> float | None:
    """By nearest rank: always a value that was measured."""
    return ordered[max(0, ceil(len(ordered) * percent / 100) - 1)] if ordered else None
