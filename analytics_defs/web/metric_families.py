"""The metric families of `/metrics` as values. Names begin with `analytics_`, units are base units, labels are bounded. Pure.

Counters are read from the ledger, so a restart does not reset them. They never decrease: dead letters removed by a redrive,
and adjustments of counters, are separate series. An unknown or infinite value has no sample; it is never reported as 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from math import isfinite

from analytics_defs.core.counter_adjustments import ADJUSTMENT_LANE
from analytics_defs.core.ingest.batch_accounting import sum_counters
from analytics_defs.core.ledger import REDRIVE_LANE, BatchKind
from analytics_defs.core.monitoring.health import HealthSnapshot, LedgerStatistics
from analytics_defs.core.monitoring.partition_health import PartitionHealth
from analytics_defs.web.health_json import CREATED, DELETED, REASON, events_by_type, percentile, with_prefix


class MetricKind(StrEnum):
    """Types of Prometheus that are used here."""

    COUNTER = "counter"
    GAUGE = "gauge"


COUNTER, GAUGE = MetricKind.COUNTER, MetricKind.GAUGE


@dataclass(frozen=True, slots=True)
class Sample:
    """One value of a family."""

    value: float
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class MetricFamily:
    """All samples of one metric name."""

    name: str
    """Without the suffix `_total` of a counter, which the format adds."""
    kind: MetricKind
    help: str
    samples: tuple[Sample, ...]


def metric_families(snapshot: HealthSnapshot) -> list[MetricFamily]:
    """Return the families that have a sample, in the order of this module. NaN and infinite values have no sample."""
    families = [
        *_health(snapshot),
        *_services(snapshot),
        *_partitions(snapshot.partitions),
        *_scheduler(snapshot),
    ]
    statistics = snapshot.ledger_statistics.value
    if statistics is not None:
        families += [*_counters(statistics), *_batches(statistics)]
    finite = [replace(family, samples=tuple(sample for sample in family.samples if isfinite(sample.value))) for family in families]
    return [family for family in finite if family.samples]


def _single(name: str, kind: MetricKind, help_: str, value: float | None) -> MetricFamily:
    return MetricFamily(name, kind, help_, () if value is None else (Sample(value, {}),))


def _labelled(name: str, kind: MetricKind, help_: str, label: str, values: Mapping[str, float | None]) -> MetricFamily:
    samples = tuple(Sample(value, {label: key}) for key, value in values.items() if value is not None)
    return MetricFamily(name, kind, help_, samples)


def _health(snapshot: HealthSnapshot) -> Iterator[MetricFamily]:
    ledger = snapshot.dynamodb.value if snapshot.dynamodb.ok else None
    age_ms = snapshot.ledger_read_age_ms
    version = (Sample(1, {"version": snapshot.version}),)
    yield MetricFamily("analytics_build_info", GAUGE, "Always 1; the label is the version.", version)
    yield _single("analytics_healthy", GAUGE, "1 if /health answers 200, else 0.", float(snapshot.status.healthy))
    yield _single(
        "analytics_unaccounted_offsets",
        GAUGE,
        "Closed offsets without an outcome. Always 0, unless data or software is damaged.",
        snapshot.unaccounted_offsets,
    )
    yield _single("analytics_pending_batches", GAUGE, "Batches begun and not closed.", len(ledger.pending) if ledger else None)
    yield _single(
        "analytics_ledger_read_age_seconds",
        GAUGE,
        "Time since the counters were last read from the ledger.",
        None if age_ms is None else age_ms / 1000,
    )


def _services(snapshot: HealthSnapshot) -> Iterator[MetricFamily]:
    results = snapshot.services
    yield _labelled(
        "analytics_service_up",
        GAUGE,
        "1 if the service answers, else 0.",
        "service",
        {name: float(result.ok) for name, result in results.items()},
    )
    yield _labelled(
        "analytics_service_latency_seconds",
        GAUGE,
        "Duration of the newest check of the service.",
        "service",
        {name: None if result.latency_ms is None else result.latency_ms / 1000 for name, result in results.items()},
    )
    yield _labelled(
        "analytics_service_last_success_timestamp_seconds",
        GAUGE,
        "Time of the newest successful check of the service.",
        "service",
        {name: result.succeeded_at.timestamp() if result.succeeded_at else None for name, result in results.items()},
    )


_PARTITION_GAUGES: tuple[tuple[str, str, Callable[[PartitionHealth], float | None]], ...] = (
    ("analytics_partition_lag_offsets", "Offsets that are not closed, up to the high watermark.", lambda partition: partition.lag),
    (
        "analytics_partition_transaction_lag_offsets",
        "Offsets of the lag that are behind an open transaction.",
        lambda partition: partition.transaction_lag,
    ),
    ("analytics_partition_lag_seconds", "Age of the oldest waiting record.", lambda partition: partition.lag_seconds),
    (
        "analytics_partition_seconds_until_data_loss",
        "Time until retention removes the oldest waiting record, by its age or by the size of its log. No sample: never, or not known.",
        lambda partition: partition.seconds_until_data_loss,
    ),
    (
        "analytics_partition_stalled_seconds",
        "Time without a commit while records are waiting.",
        lambda partition: partition.stalled_seconds,
    ),
    ("analytics_partition_next_offset", "The next offset to read.", lambda partition: partition.next_offset),
    ("analytics_partition_log_start_offset", "The oldest offset that the broker still has.", lambda partition: partition.log_start_offset),
    (
        "analytics_partition_halted",
        "1 if an operator has to decide before ingestion of the partition continues, else 0.",
        lambda partition: partition.halted_reason is not None,
    ),
)


def _partitions(partitions: Sequence[PartitionHealth]) -> Iterator[MetricFamily]:
    for name, help_, measure in _PARTITION_GAUGES:
        samples = [
            Sample(float(value), {"topic": partition.topic_partition.topic, "partition": str(partition.topic_partition.partition)})
            for partition in partitions
            if (value := measure(partition)) is not None
        ]
        yield MetricFamily(name, GAUGE, help_, tuple(samples))


def _scheduler(snapshot: HealthSnapshot) -> Iterator[MetricFamily]:
    result = snapshot.scheduler
    if result is None:
        return
    yield _single("analytics_dagster_up", GAUGE, "1 if Dagster's instance answers, else 0.", float(result.ok))
    scheduler = result.value if result.ok else None
    if scheduler is not None:
        yield _single(
            "analytics_sensor_running",
            GAUGE,
            "0 if the sensor kafka_micro_batches is stopped, else 1.",
            float(not scheduler.sensor_stopped),
        )
        yield _single(
            "analytics_daemon_heartbeat_timestamp_seconds",
            GAUGE,
            "Time of the newest heartbeat of Dagster's sensor daemon.",
            scheduler.heartbeat.timestamp() if scheduler.heartbeat else None,
        )


_TOTALS = (
    ("duplicates", "analytics_duplicates", "Events whose id another record owns."),
    ("tombstones", "analytics_tombstones", "Records with a null value."),
    ("gaps", "analytics_gap_offsets", "Offsets that hold no record, for a known reason."),
    ("lost", "analytics_data_loss_offsets", "Offsets that retention removed before they were read."),
    (
        "invalid_record_timestamps",
        "analytics_invalid_record_timestamps",
        "Stored events whose record timestamp is not a date. It is null in Parquet.",
    ),
    ("batches", "analytics_batches", "Closed batches."),
    ("bytes", "analytics_record_bytes", "Bytes of keys, values and headers of closed records."),
)


def _counters(statistics: LedgerStatistics) -> Iterator[MetricFamily]:
    ingested = sum_counters([counts for lane, counts in statistics.lanes.items() if lane not in (REDRIVE_LANE, ADJUSTMENT_LANE)])
    adjusted = dict(statistics.lanes.get(ADJUSTMENT_LANE, {}))
    redriven = dict(statistics.lanes.get(REDRIVE_LANE, {}))
    # A redrive counts dead letters with a negative sign, which would lower the counter.
    redriven_increments = {name: count for name, count in redriven.items() if not name.startswith((REASON, "dead_letters"))}
    totals = sum_counters([ingested, redriven_increments])
    yield _labelled("analytics_events", COUNTER, "Stored events by type.", "type", _floats(events_by_type(totals)))
    yield _labelled(
        "analytics_dead_letters",
        COUNTER,
        "Records that are not valid events, by rejection reason.",
        "reason",
        _floats(with_prefix(ingested, REASON)),
    )
    yield _labelled(
        "analytics_dead_letters_redriven",
        COUNTER,
        "Dead letters that a redrive stored as events, by their former rejection reason.",
        "reason",
        {reason: float(-count) for reason, count in with_prefix(redriven, REASON).items()},
    )
    for counter, name, help_ in _TOTALS:
        yield _single(name, COUNTER, help_, float(totals.get(counter, 0)))
    yield _single("analytics_batch_duration_seconds", COUNTER, "Duration of closed batches, summed.", totals.get("duration_ms", 0) / 1000)
    yield _single(
        "analytics_end_to_end_latency_seconds",
        COUNTER,
        "Time from the record's timestamp to the close of its batch, summed over stored events.",
        totals.get("record_to_close_ms", 0) / 1000,
    )
    yield _labelled(
        "analytics_counter_adjustments",
        GAUGE,
        "Sum of the adjustments of a counter. The counters themselves are shown without them.",
        "counter",
        _floats(adjusted),
    )
    types = events_by_type(sum_counters([totals, adjusted]))
    yield _single("analytics_products", GAUGE, "Products created and not deleted.", float(max(0, types[CREATED] - types[DELETED])))


def _batches(statistics: LedgerStatistics) -> Iterator[MetricFamily]:
    ingested = [record for record in statistics.batches if record.batch.kind is BatchKind.INGEST]
    durations = sorted(record.duration_ms / 1000 for record in ingested)
    yield _labelled(
        "analytics_recent_batch_duration_seconds",
        GAUGE,
        "Duration of the newest batches, by percentile.",
        "percentile",
        {str(percent): percentile(durations, percent) for percent in (50, 95)},
    )
    last = max((record.closed_at.timestamp() for record in ingested), default=None)
    yield _single("analytics_last_commit_timestamp_seconds", GAUGE, "Time when a batch was last closed and committed.", last)


def _floats(counts: Mapping[str, int]) -> dict[str, float | None]:
    return {name: float(count) for name, count in counts.items()}
