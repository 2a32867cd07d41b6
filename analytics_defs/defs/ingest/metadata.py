"""Batch records as Dagster metadata: numbers that Dagster plots, and tables by step and by range."""

from collections import Counter
from collections.abc import Mapping, Sequence

import dagster as dg

from analytics_defs.core.ledger import BatchRecord, OutcomeCounts

AssetMetadata = Mapping[str, dg.MetadataValue]


def batch_line(record: BatchRecord) -> str:
    """Return the log line of a closed batch."""
    outcome_counts = record.outcome_counts
    seconds = max(record.duration_ms, 1) / 1000
    others = ", ".join(
        f"{count} {name.replace('_', ' ')}" for name, count in outcome_counts.as_dict().items() if count and name != "stored"
    )
    ranges = " ".join(map(str, record.batch.ranges))
    counts = f"{outcome_counts.stored} stored{', ' + others if others else ''}"
    return f"batch {record.batch.id}: {counts} in {seconds:.2f} s ({outcome_counts.stored / seconds:.0f}/s): {ranges}"


def ingest_metadata(closed: Sequence[BatchRecord]) -> dict[str, AssetMetadata]:
    """Return metadata by asset, upstream assets first, over the batches that one run closed since its last report."""
    outcome_counts = sum((record.outcome_counts for record in closed), OutcomeCounts())
    hours = sorted({hour for record in closed for hour in record.hours})
    types = sum((Counter(record.types) for record in closed), Counter[str]())
    reasons = sum((Counter(record.reasons) for record in closed), Counter[str]())
    seconds = max(1, sum(record.duration_ms for record in closed)) / 1000
    common = {"batches": _int(len(closed)), "wall seconds": dg.MetadataValue.float(round(seconds, 3))}
    return {
        "recent_events": {
            "events": _int(outcome_counts.stored),
            "duplicates": _int(outcome_counts.duplicates),
            "events per second": dg.MetadataValue.float(round(outcome_counts.stored / seconds, 1)),
            **common,
            "record bytes": _int(sum(record.bytes for record in closed)),
            "thread-seconds by step": _thread_seconds(closed),
            "ranges": _ranges(closed),
        },
        "event_json": {
            "events": _int(outcome_counts.stored if all(record.write_event_json for record in closed) else 0),
            "hours": _int(len(hours)),
            "first hour": dg.MetadataValue.text(hours[0] if hours else "none"),
            "last hour": dg.MetadataValue.text(hours[-1] if hours else "none"),
        },
        "dead_letters": {
            "dead letters": _int(outcome_counts.dead_letters),
            "ratio": dg.MetadataValue.float(round(outcome_counts.dead_letters / max(1, outcome_counts.total), 6)),
            "files": dg.MetadataValue.json([record.dead_letters_key for record in closed if record.dead_letters_key]),
            **{f"reason {reason}": _int(count) for reason, count in sorted(reasons.items())},
        },
        "event_counters": {
            "events": _int(outcome_counts.stored),
            "tombstones": _int(outcome_counts.tombstones),
            "gaps": _int(outcome_counts.gaps),
            "lost": _int(outcome_counts.lost),
            "invalid record timestamps": _int(sum(record.invalid_record_timestamps for record in closed)),
            "unaccounted": _int(sum(len(range_) for record in closed for range_ in record.unaccounted)),
            **{name: _int(count) for name, count in sorted(types.items())},
        },
        "committed_offsets": {
            "offsets": _int(sum(len(range_) for record in closed for range_ in record.batch.ranges)),
            "mean seconds from record to close": dg.MetadataValue.float(
                round(sum(record.record_to_close_ms for record in closed) / 1000 / max(1, outcome_counts.stored), 3)
            ),
            "ranges": _ranges(closed),
        },
    }


def _int(value: int) -> dg.MetadataValue:
    return dg.MetadataValue.int(value)


def _thread_seconds(closed: Sequence[BatchRecord]) -> dg.MetadataValue:
    """Return seconds by step. Steps overlap and run in several threads, so their sum exceeds the wall seconds."""
    steps = sum((Counter(record.steps_ms) for record in closed), Counter[str]())
    return dg.MetadataValue.table(
        [dg.TableRecord({"step": step, "thread-seconds": ms / 1000}) for step, ms in steps.most_common()]
        or [dg.TableRecord({"step": "none", "thread-seconds": 0.0})]
    )


def _ranges(closed: Sequence[BatchRecord]) -> dg.MetadataValue:
    rows = [
        dg.TableRecord(
            {
                "batch": record.batch.id,
                "partition": str(range_.topic_partition),
                "start": range_.start,
                "end": range_.end,
                **outcome_counts.as_dict(),
            }
        )
        for record in closed
        for range_, outcome_counts in zip(record.batch.ranges, record.range_outcome_counts, strict=True)
    ]
    return dg.MetadataValue.table(rows[:500])
