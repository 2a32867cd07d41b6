"""Vital signs of ingest, judged: lag, freshness, share of dead letters. Pure: numbers in, a verdict with its numbers out."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from analytics_defs.core.ingest.planning import PartitionLag
from analytics_defs.core.ledger import BatchRecord, OutcomeCounts
from analytics_defs.core.offsets import TopicPartition


@dataclass(frozen=True, slots=True)
class AlertThresholds:
    """From where on a sign is bad."""

    max_lag: int = 100_000
    max_commit_age: timedelta = timedelta(minutes=10)
    max_dead_letter_ratio: float = 0.05


@dataclass(frozen=True, slots=True)
class CheckOutcome:
    """One verdict."""

    passed: bool
    description: str
    """One sentence, with what was found and where the bound is."""
    metadata: Mapping[str, int | float | str]


def check_lag(lags: Sequence[PartitionLag], bounds: AlertThresholds, silent: Collection[TopicPartition] = ()) -> CheckOutcome:
    """Records behind, to the high watermark, over all partitions. Not well while one of them does not answer: nobody knows."""
    behind = sum(each.offsets for each in lags)
    worst = max(lags, key=lambda each: each.offsets, default=None)
    where = f"; most in {worst.topic_partition}: {worst.offsets}" if worst and worst.offsets else ""
    unknown = f"; not known of {', '.join(map(str, silent))}: no answer" if silent else ""
    return CheckOutcome(
        behind <= bounds.max_lag and not silent,
        f"{behind} records behind, expected at most {bounds.max_lag} (MAX_LAG){where}{unknown}",
        {"lag": behind, "partitions behind": sum(each.offsets > 0 for each in lags), "partitions without answer": len(silent)},
    )


def check_freshness(lags: Sequence[PartitionLag], last: BatchRecord | None, now: datetime, bounds: AlertThresholds) -> CheckOutcome:
    """Whether something is committed while there is something to commit. A quiet topic is no stale one.

    What an open transaction holds back nobody can commit.
    """
    waiting = sum(each.offsets - each.transaction_lag for each in lags)
    if not waiting:
        return CheckOutcome(True, "nothing waits", {"waiting": 0})
    if last is None:
        return CheckOutcome(True, f"{waiting} records wait for the first batch", {"waiting": waiting})
    silent = now - last.closed_at
    return CheckOutcome(
        silent <= bounds.max_commit_age,
        f"{waiting} records wait; the last batch closed {silent.total_seconds():.0f} s ago, expected within "
        f"{bounds.max_commit_age.total_seconds():.0f} s (MAX_COMMIT_AGE)",
        {"waiting": waiting, "seconds since the last batch": round(silent.total_seconds(), 1), "last batch": last.batch.id},
    )


def check_dead_letter_ratio(batches: Sequence[BatchRecord], bounds: AlertThresholds) -> CheckOutcome:
    """Share of dead letters in what these batches read."""
    tally = sum((record.tally for record in batches), OutcomeCounts())
    read = tally.stored + tally.duplicates + tally.dead_letters
    share = tally.dead_letters / read if read else 0.0
    reasons: dict[str, int] = {}
    for record in batches:
        for reason, count in record.reasons.items():
            reasons[reason] = reasons.get(reason, 0) + count
    return CheckOutcome(
        share <= bounds.max_dead_letter_ratio,
        f"{tally.dead_letters} of {read} records of the last {len(batches)} batches are dead letters ({share:.2%}), expected at most "
        f"{bounds.max_dead_letter_ratio:.2%} (MAX_DEAD_LETTER_RATIO)",
        {
            "share": round(share, 6),
            "dead letters": tally.dead_letters,
            **{f"reason {name}": count for name, count in sorted(reasons.items())},
        },
    )
