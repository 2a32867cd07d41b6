"""From verdicts and claims to the account of a batch, and from the account to every counter. Pure, and the only place that counts."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from analytics_defs.core.events.event import ClassifiedRecord, Event, Rejection, Tombstone
from analytics_defs.core.ingest.batch_builder import StagedBatch, single_offset_range, uncovered_ranges
from analytics_defs.core.ledger import Batch, BatchKind, BatchRecord, OutcomeCounts, RedrivenRecord
from analytics_defs.core.offsets import Range, Source, TopicPartition
from analytics_defs.errors import InconsistentState


@dataclass(frozen=True, slots=True)
class WriteResult:
    """What the stores confirmed of one batch."""

    duplicates: Mapping[Source, Source]
    """For each repeat the source that holds its id."""
    parts: Mapping[str, str]
    dead_letters_key: str | None
    duplicates_key: str | None
    dead_letters_digest: str | None = None
    """SHA-256 of the dead-letter file."""
    duplicates_digest: str | None = None
    """SHA-256 of the duplicates file."""


@dataclass(frozen=True, slots=True)
class BatchTimings:
    """How the executor that closes the batch spent its time."""

    closed_at: datetime
    duration_ms: int
    steps_ms: Mapping[str, int] = field(default_factory=dict)
    code_version: str = ""


def build_batch_record(batch: Batch, staged: StagedBatch, stored: WriteResult, effort: BatchTimings) -> BatchRecord:
    """The batch's record. Raises InconsistentState where the staging file and the batch's ranges do not fit together."""
    kept = [event for event in staged.events if event.record.source not in stored.duplicates]
    hours: dict[str, Counter[str]] = {}
    for event in kept:
        hours.setdefault(event.hour, Counter())[event.type] += 1
    tallies, unaccounted = _tallies(batch, staged, stored.duplicates)
    return BatchRecord(
        batch=batch,
        closed_at=effort.closed_at,
        tallies=tallies,
        types=dict(Counter(event.type for event in kept)),
        hours={hour: dict(by_type) for hour, by_type in sorted(hours.items())},
        reasons=dict(Counter(str(rejection.reason) for rejection in staged.rejections)),
        gaps=staged.gaps,
        lost=staged.lost,
        tombstones=staged.tombstones,
        unaccounted=unaccounted,
        redriven=_redriven(batch, staged, stored.duplicates),
        write_event_json=staged.write_event_json,
        parts=stored.parts,
        dead_letters_key=stored.dead_letters_key,
        dead_letters_digest=stored.dead_letters_digest,
        duplicates_key=stored.duplicates_key,
        duplicates_digest=stored.duplicates_digest,
        steps_ms=effort.steps_ms,
        duration_ms=effort.duration_ms,
        bytes=sum(verdict.record.size for verdict in staged.records),
        record_to_close_ms=sum(_waited_ms(event, effort.closed_at) for event in kept),
        code_version=effort.code_version,
    )


def _waited_ms(event: Event, closed_at: datetime) -> int:
    """Never below 0: a producer's clock may be ahead of ours."""
    if event.record.timestamp_ms < 0:
        return 0
    return max(0, int(closed_at.timestamp() * 1000) - event.record.timestamp_ms)


def _tallies(batch: Batch, staged: StagedBatch, repeats: Mapping[Source, Source]) -> tuple[tuple[OutcomeCounts, ...], tuple[Range, ...]]:
    """One outcome for each offset. What stands twice in the staging file counts twice, and does not fit."""
    counts: defaultdict[TopicPartition, Counter[str]] = defaultdict(Counter)
    for verdict in staged.records:
        counts[verdict.record.source.topic_partition][_outcome(verdict, repeats)] += 1
    if batch.kind is BatchKind.REDRIVE:
        return (OutcomeCounts(**sum(counts.values(), Counter())),), ()
    for gap in staged.gaps:
        counts[gap.range.topic_partition]["gaps"] += len(gap.range)
    for lost in staged.lost:
        counts[lost.topic_partition]["lost"] += len(lost)
    covered = [single_offset_range(each.record.source) for each in staged.records] + [gap.range for gap in staged.gaps] + list(staged.lost)
    unaccounted = uncovered_ranges(batch.ranges, covered)
    tallies = tuple(OutcomeCounts(**counts.pop(each.topic_partition, Counter())) for each in batch.ranges)
    for whole, tally in zip(batch.ranges, tallies, strict=True):
        missing = sum(len(hole) for hole in unaccounted if hole.topic_partition == whole.topic_partition)
        if tally.total + missing != len(whole) or counts:
            raise InconsistentState(
                f"batch {batch.id}: its staging file does not fit {whole}: {tally.total} outcomes and {missing} offsets without one, "
                f"expected {len(whole)} together, and nothing outside its ranges (found {sorted(map(str, counts))}). "
                "The batch stays pending; run `analytics trace` on its offsets."
            )
    return tallies, unaccounted


def _outcome(verdict: ClassifiedRecord, repeats: Mapping[Source, Source]) -> str:
    match verdict:
        case Event():
            return "duplicates" if verdict.record.source in repeats else "stored"
        case Rejection():
            return "dead_letters"
        case Tombstone():
            return "tombstones"


def _redriven(batch: Batch, staged: StagedBatch, repeats: Mapping[Source, Source]) -> tuple[RedrivenRecord, ...]:
    if batch.kind is not BatchKind.REDRIVE:
        return ()
    reasons = dict(zip(batch.redriven_sources, batch.redrive_reasons, strict=True))
    return tuple(
        RedrivenRecord(event.record.source, reasons[event.record.source], "duplicates" if event.record.source in repeats else "stored")
        for event in staged.events
    )


def counter_increments(record: BatchRecord) -> dict[str, int]:
    """What the closing transaction adds to the lane's totals. Names of counters as stored; zeros are left out."""
    tally = record.tally
    counts = {
        "events": tally.stored,
        **{f"type.{name}": count for name, count in record.types.items()},
        **{name: count for name, count in tally.as_dict().items() if name != "stored"},
        **{f"reason.{reason}": count for reason, count in record.reasons.items()},
        "unaccounted": sum(map(len, record.unaccounted)),
        "batches": 1,
        "bytes": record.bytes,
        "duration_ms": record.duration_ms,
        "record_to_close_ms": record.record_to_close_ms,
    }
    for each in record.redriven:
        counts["dead_letters"] -= 1
        counts[f"reason.{each.reason}"] = counts.get(f"reason.{each.reason}", 0) - 1
    return {name: count for name, count in counts.items() if count}


def hourly_increments(record: BatchRecord) -> dict[str, dict[str, int]]:
    """What it adds to the counters of each hour."""
    return {
        hour: {"events": sum(by_type.values()), **{f"type.{name}": count for name, count in by_type.items()}}
        for hour, by_type in record.hours.items()
    }


def checkpoint_changes(record: BatchRecord) -> dict[TopicPartition, OutcomeCounts]:
    """What it adds to the totals of each head: a redriven record leaves the dead letters and counts once, under its new outcome."""
    if record.batch.kind is BatchKind.INGEST:
        return {each.topic_partition: tally for each, tally in zip(record.batch.ranges, record.tallies, strict=True)}
    moves: dict[TopicPartition, OutcomeCounts] = {}
    for each in record.redriven:
        move = OutcomeCounts(dead_letters=-1) + (OutcomeCounts(duplicates=1) if each.outcome == "duplicates" else OutcomeCounts(stored=1))
        moves[each.source.topic_partition] = moves.get(each.source.topic_partition, OutcomeCounts()) + move
    return moves


def require_distinct_redrives(record: BatchRecord) -> None:
    """Raises InconsistentState where a redriven source stands twice in the record: it would count twice, and has one mark."""
    doubled = [str(source) for source, count in Counter(each.source for each in record.redriven).items() if count > 1]
    if doubled:
        raise InconsistentState(f"batch {record.batch.id}: {', '.join(doubled)} redriven twice in one batch. Nothing was changed.")


def sum_counters(counts: Sequence[Mapping[str, int]]) -> dict[str, int]:
    """Counters of several lanes as one."""
    total: Counter[str] = Counter()
    for each in counts:
        total.update(each)
    return dict(total)


def recent_hours(now: datetime, hours: int) -> list[str]:
    """The UTC hours up to now, oldest first, as keys."""
    return [(now - timedelta(hours=back)).strftime("%Y-%m-%dT%H") for back in reversed(range(hours))]
