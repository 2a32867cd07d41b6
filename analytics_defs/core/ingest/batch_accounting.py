"""Batch records from classified records and claims, and counter increments from batch records. All counting happens here."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from analytics_defs.core.events.event import ClassifiedRecord, Event, Rejection, Tombstone
from analytics_defs.core.ingest.batch_builder import StagedBatch, covered_ranges, uncovered_ranges
from analytics_defs.core.ledger import Batch, BatchKind, BatchRecord, OutcomeCounts, RedrivenRecord
from analytics_defs.core.offsets import Range, Source, TopicPartition
from analytics_defs.errors import InconsistentState


@dataclass(frozen=True, slots=True)
class WriteResult:
    """Writes of one batch that the stores confirmed."""

    duplicates: Mapping[Source, Source]
    """For each duplicate, the source that owns its id."""
    parts: Mapping[str, str]
    """Key of the Parquet part, by hour."""
    dead_letters_key: str | None
    duplicates_key: str | None
    dead_letters_digest: str | None = None
    """SHA-256 of the dead-letter file."""
    duplicates_digest: str | None = None
    """SHA-256 of the duplicates file."""


@dataclass(frozen=True, slots=True)
class BatchTimings:
    """Time measurements of the executor that closes the batch."""

    closed_at: datetime
    duration_ms: int
    steps_ms: Mapping[str, int] = field(default_factory=dict)
    code_version: str = ""


def build_batch_record(batch: Batch, staged: StagedBatch, written: WriteResult, timings: BatchTimings) -> BatchRecord:
    """Return the record of the batch. Raises InconsistentState if its staging file does not match its ranges."""
    stored = [event for event in staged.events if event.record.source not in written.duplicates]
    hours: dict[str, Counter[str]] = {}
    for event in stored:
        hours.setdefault(event.hour, Counter())[event.type] += 1
    range_outcome_counts, unaccounted = _count_outcomes(batch, staged, written.duplicates)
    return BatchRecord(
        batch=batch,
        closed_at=timings.closed_at,
        range_outcome_counts=range_outcome_counts,
        types=dict(Counter(event.type for event in stored)),
        hours={hour: dict(by_type) for hour, by_type in sorted(hours.items())},
        reasons=dict(Counter(str(rejection.reason) for rejection in staged.rejections)),
        gaps=staged.gaps,
        lost=staged.lost,
        tombstones=staged.tombstones,
        unaccounted=unaccounted,
        redriven=_redriven(batch, staged, written.duplicates),
        write_event_json=staged.write_event_json,
        parts=written.parts,
        dead_letters_key=written.dead_letters_key,
        dead_letters_digest=written.dead_letters_digest,
        duplicates_key=written.duplicates_key,
        duplicates_digest=written.duplicates_digest,
        steps_ms=timings.steps_ms,
        duration_ms=timings.duration_ms,
        bytes=sum(classified.record.size for classified in staged.records),
        record_to_close_ms=sum(_latency_ms(event, timings.closed_at) for event in stored),
        invalid_record_timestamps=sum(event.record.has_invalid_timestamp for event in stored),
        code_version=timings.code_version,
    )


def _latency_ms(event: Event, closed_at: datetime) -> int:
    """Return the milliseconds from record timestamp to close. At least 0, because the producer's clock may be ahead."""
    timestamp_ms = event.record.valid_timestamp_ms
    return 0 if timestamp_ms is None else max(0, int(closed_at.timestamp() * 1000) - timestamp_ms)


def _count_outcomes(
    batch: Batch, staged: StagedBatch, duplicates: Mapping[Source, Source]
) -> tuple[tuple[OutcomeCounts, ...], tuple[Range, ...]]:
    """Return the outcomes of each range and the unaccounted offsets.

    An offset that is staged twice counts twice, so that the check of the range's length fails.
    """
    counts: defaultdict[TopicPartition, Counter[str]] = defaultdict(Counter)
    for classified in staged.records:
        counts[classified.record.source.topic_partition][_outcome(classified, duplicates)] += 1
    if batch.kind is BatchKind.REDRIVE:
        return (OutcomeCounts(**sum(counts.values(), Counter())),), ()
    for gap in staged.gaps:
        counts[gap.range.topic_partition]["gaps"] += len(gap.range)
    for lost in staged.lost:
        counts[lost.topic_partition]["lost"] += len(lost)
    unaccounted = uncovered_ranges(batch.ranges, covered_ranges(staged))
    range_outcome_counts = tuple(OutcomeCounts(**counts.pop(range_.topic_partition, Counter())) for range_ in batch.ranges)
    _require_complete_ranges(batch, range_outcome_counts, unaccounted, sorted(map(str, counts)))
    return range_outcome_counts, unaccounted


def _require_complete_ranges(
    batch: Batch, range_outcome_counts: Sequence[OutcomeCounts], unaccounted: Sequence[Range], foreign: Sequence[str]
) -> None:
    for range_, outcome_counts in zip(batch.ranges, range_outcome_counts, strict=True):
        missing = sum(len(uncovered_range) for uncovered_range in unaccounted if uncovered_range.topic_partition == range_.topic_partition)
        if outcome_counts.total + missing != len(range_) or foreign:
            raise InconsistentState(
                f"batch {batch.id}: its staging file does not match {range_}: {outcome_counts.total} outcomes and {missing} "
                f"offsets without one, expected {len(range_)} together, and nothing outside its ranges (found {list(foreign)}). "
                "The batch stays pending; run `analytics trace` on its offsets."
            )


def _outcome(classified: ClassifiedRecord, duplicates: Mapping[Source, Source]) -> str:
    match classified:
        case Event():
            return "duplicates" if classified.record.source in duplicates else "stored"
        case Rejection():
            return "dead_letters"
        case Tombstone():
            return "tombstones"


def _redriven(batch: Batch, staged: StagedBatch, duplicates: Mapping[Source, Source]) -> tuple[RedrivenRecord, ...]:
    if batch.kind is not BatchKind.REDRIVE:
        return ()
    reasons = dict(zip(batch.redriven_sources, batch.redrive_reasons, strict=True))
    sources = [event.record.source for event in staged.events]
    return tuple(RedrivenRecord(source, reasons[source], "duplicates" if source in duplicates else "stored") for source in sources)


def counter_increments(record: BatchRecord) -> dict[str, int]:
    """Return what the closing transaction adds to the totals of the lane, by stored counter name. Zeros are omitted."""
    outcome_counts = record.outcome_counts
    counts = {
        "events": outcome_counts.stored,
        **{f"type.{name}": count for name, count in record.types.items()},
        **{name: count for name, count in outcome_counts.as_dict().items() if name != "stored"},
        **{f"reason.{reason}": count for reason, count in record.reasons.items()},
        "unaccounted": sum(map(len, record.unaccounted)),
        "batches": 1,
        "bytes": record.bytes,
        "duration_ms": record.duration_ms,
        "record_to_close_ms": record.record_to_close_ms,
        "invalid_record_timestamps": record.invalid_record_timestamps,
    }
    for redriven in record.redriven:
        counts["dead_letters"] -= 1
        counts[f"reason.{redriven.reason}"] = counts.get(f"reason.{redriven.reason}", 0) - 1
    return {name: count for name, count in counts.items() if count}


def hourly_increments(record: BatchRecord) -> dict[str, dict[str, int]]:
    """Return what the closing transaction adds to the counters of each hour of the lane."""
    return {
        hour: {"events": sum(by_type.values()), **{f"type.{name}": count for name, count in by_type.items()}}
        for hour, by_type in record.hours.items()
    }


def checkpoint_changes(record: BatchRecord) -> dict[TopicPartition, OutcomeCounts]:
    """Return what the closing transaction adds to the totals of each checkpoint.

    A redriven record is subtracted from the dead letters and added to its new outcome.
    """
    if record.batch.kind is BatchKind.INGEST:
        return {
            range_.topic_partition: outcome_counts
            for range_, outcome_counts in zip(record.batch.ranges, record.range_outcome_counts, strict=True)
        }
    changes: defaultdict[TopicPartition, OutcomeCounts] = defaultdict(OutcomeCounts)
    for redriven in record.redriven:
        new_outcome = OutcomeCounts(duplicates=1) if redriven.outcome == "duplicates" else OutcomeCounts(stored=1)
        changes[redriven.source.topic_partition] += OutcomeCounts(dead_letters=-1) + new_outcome
    return dict(changes)


def require_distinct_redrives(record: BatchRecord) -> None:
    """Raise InconsistentState if a source is redriven twice in the batch: it would be counted twice."""
    counts = Counter(redriven.source for redriven in record.redriven)
    if repeated := [str(source) for source, count in counts.items() if count > 1]:
        raise InconsistentState(f"batch {record.batch.id}: {', '.join(repeated)} redriven twice in one batch. Nothing was changed.")


def sum_counters(counts: Sequence[Mapping[str, int]]) -> dict[str, int]:
    """Add up counters by name."""
    total: Counter[str] = Counter()
    for counters in counts:
        total.update(counters)
    return dict(total)


def recent_hours(now: datetime, hours: int) -> list[str]:
    """Return the last `hours` UTC hours, oldest first, including the current one."""
    return [(now - timedelta(hours=back)).strftime("%Y-%m-%dT%H") for back in reversed(range(hours))]
