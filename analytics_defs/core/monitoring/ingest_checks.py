"""Health checks of ingest against thresholds: lag, freshness, ratio of dead letters. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from analytics_defs.core.ingest.planning import PartitionLag
from analytics_defs.core.ledger import BatchRecord, OutcomeCounts
from analytics_defs.core.offsets import TopicPartition


@dataclass(frozen=True, slots=True)
class AlertThresholds:
    """Largest values with which a check passes."""

    max_lag: int = 100_000
    max_commit_age: timedelta = timedelta(minutes=10)
    max_dead_letter_ratio: float = 0.05


@dataclass(frozen=True, slots=True)
class CheckOutcome:
    """Result of one check."""

    passed: bool
    description: str
    """One sentence with the measured value and the threshold."""
    metadata: Mapping[str, int | float | str]


def check_lag(lags: Sequence[PartitionLag], thresholds: AlertThresholds, unavailable: Collection[TopicPartition] = ()) -> CheckOutcome:
    """Compare the records up to the high watermarks of all partitions with MAX_LAG.

    An unavailable partition fails the check, because its lag is not known.
    """
    behind = sum(lag.offsets for lag in lags)
    worst = max(lags, key=lambda lag: lag.offsets, default=None)
    where = f"; most in {worst.topic_partition}: {worst.offsets}" if worst and worst.offsets else ""
    unknown = f"; unknown for {', '.join(map(str, unavailable))}: not available" if unavailable else ""
    return CheckOutcome(
        behind <= thresholds.max_lag and not unavailable,
        f"{behind} records behind, expected at most {thresholds.max_lag} (MAX_LAG){where}{unknown}",
        {
            "lag": behind,
            "partitions behind": sum(lag.offsets > 0 for lag in lags),
            "partitions unavailable": len(unavailable),
        },
    )


def check_freshness(lags: Sequence[PartitionLag], last: BatchRecord | None, now: datetime, thresholds: AlertThresholds) -> CheckOutcome:
    """Compare the time since the last close with MAX_COMMIT_AGE, if records are waiting.

    Records behind an open transaction do not count: they cannot be read. A topic without new records passes.
    """
    waiting = sum(lag.offsets - lag.transaction_lag for lag in lags)
    if not waiting:
        return CheckOutcome(True, "no records are waiting", {"waiting": 0})
    if last is None:
        return CheckOutcome(True, f"{waiting} records are waiting for the first batch", {"waiting": waiting})
    age = now - last.closed_at
    return CheckOutcome(
        age <= thresholds.max_commit_age,
        f"{waiting} records are waiting; the last batch closed {age.total_seconds():.0f} s ago, expected within "
        f"{thresholds.max_commit_age.total_seconds():.0f} s (MAX_COMMIT_AGE)",
        {"waiting": waiting, "seconds since the last batch": round(age.total_seconds(), 1), "last batch": last.batch.id},
    )


def check_dead_letter_ratio(batches: Sequence[BatchRecord], thresholds: AlertThresholds) -> CheckOutcome:
    """Compare the ratio of dead letters in these batches with MAX_DEAD_LETTER_RATIO."""
    outcome_counts = sum((record.outcome_counts for record in batches), OutcomeCounts())
    read = outcome_counts.stored + outcome_counts.duplicates + outcome_counts.dead_letters
    ratio = outcome_counts.dead_letters / read if read else 0.0
    reasons: dict[str, int] = {}
    for record in batches:
        for reason, count in record.reasons.items():
            reasons[reason] = reasons.get(reason, 0) + count
    return CheckOutcome(
        ratio <= thresholds.max_dead_letter_ratio,
        f"{outcome_counts.dead_letters} of {read} records of the last {len(batches)} batches are dead letters ({ratio:.2%}), "
        f"expected at most {thresholds.max_dead_letter_ratio:.2%} (MAX_DEAD_LETTER_RATIO)",
        {
            "ratio": round(ratio, 6),
            "dead letters": outcome_counts.dead_letters,
            **{f"reason {name}": count for name, count in sorted(reasons.items())},
        },
    )
