"""The metric families of `/metrics`, as values. Names `analytics_*`, base units, bounded labels. Pure.

Counters come from the ledger, so a restart does not reset them, and they never go down: what a redrive takes away from the dead
letters, and what adjustments add to any counter, are series of their own. What is not known has no sample; it is never 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from analytics_defs.core.counter_adjustments import ADJUSTMENT_LANE
from analytics_defs.core.ingest.batch_accounting import sum_counters
from analytics_defs.core.ingest.planning import PartitionLag
from analytics_defs.core.ledger import REDRIVE_LANE, BatchKind
from analytics_defs.core.monitoring.health import (
    HealthSnapshot,
    LedgerStatistics,
    evaluate_health,
    lag_seconds,
    seconds_stalled,
    seconds_until_data_loss,
)
from analytics_defs.web.health_json import REASON, by_type, percentile, unaccounted, with_prefix


class MetricKind(StrEnum):
    COUNTER = "counter"
    GAUGE = "gauge"


@dataclass(frozen=True, slots=True)
class Sample:
    value: float
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class MetricFamily:
    name: str
    """Of a counter without its `_total`, which the format adds."""
    kind: MetricKind
    help: str
    samples: tuple[Sample, ...]


def metric_families(picture: HealthSnapshot) -> list[MetricFamily]:
    """Those that have a sample, in the order of this page."""
    made = [*_health(picture), *_services(picture), *_partitions(picture), *_scheduler(picture)]
    if picture.ledger_statistics.value is not None:
        made += [*_counters(picture.ledger_statistics.value), *_batches(picture.ledger_statistics.value)]
    return [family for family in made if family.samples]


def _one(name: str, kind: MetricKind, help: str, value: float | None) -> MetricFamily:
    return MetricFamily(name, kind, help, () if value is None else (Sample(value, {}),))


def _by(name: str, kind: MetricKind, help: str, label: str, values: Mapping[str, float | None]) -> MetricFamily:
    return MetricFamily(name, kind, help, tuple(Sample(value, {label: key}) for key, value in values.items() if value is not None))


def _health(picture: HealthSnapshot) -> Iterator[MetricFamily]:
    known = picture.dynamodb.value if picture.dynamodb.ok else None
    yield MetricFamily(
        "analytics_build_info", MetricKind.GAUGE, "Always 1; the label names the version.", (Sample(1, {"version": picture.version}),)
    )
    yield _one("analytics_healthy", MetricKind.GAUGE, "1 where /health answers 200.", float(evaluate_health(picture).healthy))
    yield _one(
        "analytics_unaccounted_offsets",
        MetricKind.GAUGE,
        "Closed offsets without an outcome: 0, or somebody has to look.",
        unaccounted(picture),
    )
    yield _one("analytics_pending_batches", MetricKind.GAUGE, "Batches taken and not closed yet.", len(known.pending) if known else None)
    age = picture.ledger_read_age_ms
    yield _one(
        "analytics_ledger_read_age_seconds", MetricKind.GAUGE, "Age of what was read from the ledger.", None if age is None else age / 1000
    )


def _services(picture: HealthSnapshot) -> Iterator[MetricFamily]:
    answers = picture.services
    yield _by(
        "analytics_service_up",
        MetricKind.GAUGE,
        "1 where the service answers.",
        "service",
        {name: float(each.ok) for name, each in answers.items()},
    )
    yield _by(
        "analytics_service_latency_seconds",
        MetricKind.GAUGE,
        "How long the newest check took.",
        "service",
        {name: None if each.latency_ms is None else each.latency_ms / 1000 for name, each in answers.items()},
    )
    yield _by(
        "analytics_service_last_success_timestamp_seconds",
        MetricKind.GAUGE,
        "When the service last answered.",
        "service",
        {name: each.succeeded_at.timestamp() if each.succeeded_at else None for name, each in answers.items()},
    )


def _partitions(picture: HealthSnapshot) -> Iterator[MetricFamily]:
    stopped = picture.planning.halted if picture.planning else {}

    def family(name: str, help: str, values: Mapping[PartitionLag, float | None], kind: MetricKind = MetricKind.GAUGE) -> MetricFamily:
        samples = (
            Sample(value, {"topic": lag.topic_partition.topic, "partition": str(lag.topic_partition.partition)})
            for lag, value in values.items()
            if value is not None
        )
        return MetricFamily(name, kind, help, tuple(samples))

    lags = picture.lags
    yield family(
        "analytics_partition_lag_offsets", "Offsets not closed yet, up to the high watermark.", {lag: float(lag.offsets) for lag in lags}
    )
    yield family(
        "analytics_partition_transaction_lag_offsets",
        "Those of them behind an open transaction.",
        {lag: float(lag.transaction_lag) for lag in lags},
    )
    yield family(
        "analytics_partition_lag_seconds", "Age of the oldest record that waits.", {lag: lag_seconds(lag, picture) for lag in lags}
    )
    yield family(
        "analytics_partition_seconds_until_data_loss",
        "Until retention removes the oldest record that waits, by its age or by the size of its log.",
        {lag: seconds_until_data_loss(lag, picture) for lag in lags},
    )
    yield family(
        "analytics_partition_stalled_seconds",
        "How long nothing of what waits was committed.",
        {lag: seconds_stalled(lag, picture) for lag in lags},
    )
    yield family("analytics_partition_next_offset", "The next offset to read.", {lag: float(lag.next_offset) for lag in lags})
    yield family(
        "analytics_partition_log_start_offset",
        "The oldest offset the broker still has.",
        {lag: float(lag.log_start_offset) for lag in lags},
    )
    yield family(
        "analytics_partition_halted",
        "1 where the partition waits for a person.",
        {lag: float(lag.topic_partition in stopped) for lag in lags},
    )


def _scheduler(picture: HealthSnapshot) -> Iterator[MetricFamily]:
    told = picture.scheduler
    if told is not None:
        yield _one("analytics_dagster_up", MetricKind.GAUGE, "1 where Dagster's instance answers.", float(told.ok))
    found = told.value if told is not None and told.ok else None
    if found is not None:
        yield _one("analytics_sensor_running", MetricKind.GAUGE, "0 where the sensor is stopped.", float(not found.sensor_stopped))
        yield _one(
            "analytics_daemon_heartbeat_timestamp_seconds",
            MetricKind.GAUGE,
            "The newest sign of life of Dagster's sensor daemon.",
            found.heartbeat.timestamp() if found.heartbeat else None,
        )


_TOTALS = (
    ("duplicates", "analytics_duplicates", "Events whose id another record holds."),
    ("tombstones", "analytics_tombstones", "Records with a null value."),
    ("gaps", "analytics_gap_offsets", "Offsets without a record, explained."),
    ("lost", "analytics_data_loss_offsets", "Offsets that retention removed before they were read."),
    ("batches", "analytics_batches", "Closed batches."),
    ("bytes", "analytics_record_bytes", "Bytes of keys, values and headers of closed records."),
)


def _counters(figures: LedgerStatistics) -> Iterator[MetricFamily]:
    grown = sum_counters([counts for lane, counts in figures.lanes.items() if lane not in (REDRIVE_LANE, ADJUSTMENT_LANE)])
    adjusted = dict(figures.lanes.get(ADJUSTMENT_LANE, {}))
    redriven = dict(figures.lanes.get(REDRIVE_LANE, {}))
    everything = sum_counters([grown, {name: count for name, count in redriven.items() if not name.startswith((REASON, "dead_letters"))}])
    yield _by("analytics_events", MetricKind.COUNTER, "Stored events by type.", "type", _floats(by_type(everything)))
    yield _by(
        "analytics_dead_letters",
        MetricKind.COUNTER,
        "Records that are no events, by reason.",
        "reason",
        _floats(with_prefix(grown, REASON)),
    )
    yield _by(
        "analytics_dead_letters_redriven",
        MetricKind.COUNTER,
        "Those of them that a redrive made events of, by their former reason.",
        "reason",
        {reason: float(-count) for reason, count in with_prefix(redriven, REASON).items()},
    )
    for name, metric, help in _TOTALS:
        yield _one(metric, MetricKind.COUNTER, help, float(everything.get(name, 0)))
    yield _one(
        "analytics_batch_duration_seconds", MetricKind.COUNTER, "Seconds that closed batches took.", everything.get("duration_ms", 0) / 1000
    )
    yield _one(
        "analytics_end_to_end_latency_seconds",
        MetricKind.COUNTER,
        "Seconds from record to commit, summed over stored events.",
        everything.get("record_to_close_ms", 0) / 1000,
    )
    yield _by(
        "analytics_counter_adjustments",
        MetricKind.GAUGE,
        "What adjustments add to the counters, which are shown without them.",
        "counter",
        _floats(adjusted),
    )
    types = by_type(sum_counters([everything, adjusted]))
    created, deleted = types["ProductCreated"], types["ProductDeleted"]
    yield _one("analytics_products", MetricKind.GAUGE, "Products created and not deleted.", float(max(0, created - deleted)))


def _batches(figures: LedgerStatistics) -> Iterator[MetricFamily]:
    seconds = sorted(each.duration_ms / 1000 for each in figures.batches if each.batch.kind is BatchKind.INGEST)
    yield _by(
        "analytics_recent_batch_duration_seconds",
        MetricKind.GAUGE,
        "Seconds of the newest batches, by percentile.",
        "percentile",
        {str(each): percentile(seconds, each) for each in (50, 95)},
    )
    committed = [each.closed_at.timestamp() for each in figures.batches if each.batch.kind is BatchKind.INGEST]
    last = max(committed, default=None)
    yield _one("analytics_last_commit_timestamp_seconds", MetricKind.GAUGE, "When a batch was last closed and committed.", last)


def _floats(counts: Mapping[str, int]) -> dict[str, float | None]:
    return {name: float(count) for name, count in counts.items()}
