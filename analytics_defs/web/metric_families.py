"""The metric families of `/metrics`, as values. Names `analytics_*`, base units, bounded labels. Pure.

Counters come from the ledger, so a restart does not reset them, and they never go down: what a redrive takes away from the dead
letters, and what adjustments add to any counter, are series of their own. What is not known has no sample; it is never 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from analytics_defs.core.counter_adjustments import ADJUSTING_LANE
from analytics_defs.core.ingest.batch_accounting import added
from analytics_defs.core.ingest.planning import Lag
from analytics_defs.core.ledger import REDRIVE_LANE, BatchKind
from analytics_defs.core.monitoring.health import Figures, Picture, lag_seconds, seconds_standing, seconds_to_loss, verdict
from analytics_defs.web.health_json import REASON, by_type, named, percentile, unaccounted


class Kind(StrEnum):
    COUNTER = "counter"
    GAUGE = "gauge"


@dataclass(frozen=True, slots=True)
class Sample:
    value: float
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Family:
    name: str
    """Of a counter without its `_total`, which the format adds."""
    kind: Kind
    help: str
    samples: tuple[Sample, ...]


def families(picture: Picture) -> list[Family]:
    """Those that have a sample, in the order of this page."""
    made = [*_health(picture), *_services(picture), *_partitions(picture), *_scheduler(picture)]
    if picture.figures.value is not None:
        made += [*_counters(picture.figures.value), *_batches(picture.figures.value)]
    return [family for family in made if family.samples]


def _one(name: str, kind: Kind, help: str, value: float | None) -> Family:
    return Family(name, kind, help, () if value is None else (Sample(value, {}),))


def _by(name: str, kind: Kind, help: str, label: str, values: Mapping[str, float | None]) -> Family:
    return Family(name, kind, help, tuple(Sample(value, {label: key}) for key, value in values.items() if value is not None))


def _health(picture: Picture) -> Iterator[Family]:
    known = picture.dynamodb.value if picture.dynamodb.ok else None
    yield Family("analytics_build_info", Kind.GAUGE, "Always 1; the label names the version.", (Sample(1, {"version": picture.version}),))
    yield _one("analytics_healthy", Kind.GAUGE, "1 where /health answers 200.", float(verdict(picture).healthy))
    yield _one(
        "analytics_unaccounted_offsets", Kind.GAUGE, "Closed offsets without an outcome: 0, or somebody has to look.", unaccounted(picture)
    )
    yield _one("analytics_pending_batches", Kind.GAUGE, "Batches taken and not closed yet.", len(known.pending) if known else None)
    age = picture.figures_age_ms
    yield _one("analytics_figures_age_seconds", Kind.GAUGE, "Age of what was read from the ledger.", None if age is None else age / 1000)


def _services(picture: Picture) -> Iterator[Family]:
    answers = picture.services
    yield _by(
        "analytics_service_up",
        Kind.GAUGE,
        "1 where the service answers.",
        "service",
        {name: float(each.ok) for name, each in answers.items()},
    )
    yield _by(
        "analytics_service_latency_seconds",
        Kind.GAUGE,
        "How long the newest check took.",
        "service",
        {name: None if each.latency_ms is None else each.latency_ms / 1000 for name, each in answers.items()},
    )
    yield _by(
        "analytics_service_last_success_timestamp_seconds",
        Kind.GAUGE,
        "When the service last answered.",
        "service",
        {name: each.succeeded_at.timestamp() if each.succeeded_at else None for name, each in answers.items()},
    )


def _partitions(picture: Picture) -> Iterator[Family]:
    stopped = picture.planning.stopped if picture.planning else {}

    def family(name: str, help: str, values: Mapping[Lag, float | None], kind: Kind = Kind.GAUGE) -> Family:
        samples = (
            Sample(value, {"topic": lag.topic_partition.topic, "partition": str(lag.topic_partition.partition)})
            for lag, value in values.items()
            if value is not None
        )
        return Family(name, kind, help, tuple(samples))

    lags = picture.lags
    yield family(
        "analytics_partition_lag_offsets", "Offsets not closed yet, up to the high watermark.", {lag: float(lag.offsets) for lag in lags}
    )
    yield family(
        "analytics_partition_held_back_offsets", "Those of them behind an open transaction.", {lag: float(lag.held_back) for lag in lags}
    )
    yield family(
        "analytics_partition_lag_seconds", "Age of the oldest record that waits.", {lag: lag_seconds(lag, picture) for lag in lags}
    )
    yield family(
        "analytics_partition_data_loss_seconds",
        "Until retention removes the oldest record that waits, by its age or by the size of its log.",
        {lag: seconds_to_loss(lag, picture) for lag in lags},
    )
    yield family(
        "analytics_partition_standing_seconds",
        "How long nothing of what waits was committed.",
        {lag: seconds_standing(lag, picture) for lag in lags},
    )
    yield family("analytics_partition_next_offset", "The next offset to read.", {lag: float(lag.next) for lag in lags})
    yield family("analytics_partition_low_offset", "The oldest offset the broker still has.", {lag: float(lag.low) for lag in lags})
    yield family(
        "analytics_partition_stopped",
        "1 where the partition waits for a person.",
        {lag: float(lag.topic_partition in stopped) for lag in lags},
    )


def _scheduler(picture: Picture) -> Iterator[Family]:
    told = picture.scheduler
    if told is not None:
        yield _one("analytics_dagster_up", Kind.GAUGE, "1 where Dagster's instance answers.", float(told.ok))
    found = told.value if told is not None and told.ok else None
    if found is not None:
        yield _one("analytics_sensor_running", Kind.GAUGE, "0 where the sensor is stopped.", float(not found.sensor_stopped))
        yield _one(
            "analytics_daemon_heartbeat_timestamp_seconds",
            Kind.GAUGE,
            "The newest sign of life of Dagster's sensor daemon.",
            found.heartbeat.timestamp() if found.heartbeat else None,
        )


_TOTALS = (
    ("repeats", "analytics_repeats", "Events whose id another record holds."),
    ("tombstones", "analytics_tombstones", "Records with a null value."),
    ("gaps", "analytics_gap_offsets", "Offsets without a record, explained."),
    ("lost", "analytics_lost_offsets", "Offsets that retention removed before they were read."),
    ("batches", "analytics_batches", "Closed batches."),
    ("bytes", "analytics_record_bytes", "Bytes of keys, values and headers of closed records."),
)


def _counters(figures: Figures) -> Iterator[Family]:
    grown = added([counts for lane, counts in figures.lanes.items() if lane not in (REDRIVE_LANE, ADJUSTING_LANE)])
    adjusted = dict(figures.lanes.get(ADJUSTING_LANE, {}))
    redriven = dict(figures.lanes.get(REDRIVE_LANE, {}))
    everything = added([grown, {name: count for name, count in redriven.items() if not name.startswith((REASON, "dead_letters"))}])
    yield _by("analytics_events", Kind.COUNTER, "Stored events by type.", "type", _floats(by_type(everything)))
    yield _by("analytics_dead_letters", Kind.COUNTER, "Records that are no events, by reason.", "reason", _floats(named(grown, REASON)))
    yield _by(
        "analytics_dead_letters_redriven",
        Kind.COUNTER,
        "Those of them that a redrive made events of, by their former reason.",
        "reason",
        {reason: float(-count) for reason, count in named(redriven, REASON).items()},
    )
    for name, metric, help in _TOTALS:
        yield _one(metric, Kind.COUNTER, help, float(everything.get(name, 0)))
    yield _one("analytics_batch_seconds", Kind.COUNTER, "Seconds that closed batches took.", everything.get("duration_ms", 0) / 1000)
    yield _one(
        "analytics_record_to_commit_seconds",
        Kind.COUNTER,
        "Seconds from record to commit, summed over stored events.",
        everything.get("record_to_close_ms", 0) / 1000,
    )
    yield _by(
        "analytics_counter_adjustments",
        Kind.GAUGE,
        "What adjustments add to the counters, which are shown without them.",
        "counter",
        _floats(adjusted),
    )
    types = by_type(added([everything, adjusted]))
    created, deleted = types["ProductCreated"], types["ProductDeleted"]
    yield _one("analytics_products", Kind.GAUGE, "Products created and not deleted.", float(max(0, created - deleted)))


def _batches(figures: Figures) -> Iterator[Family]:
    seconds = sorted(each.duration_ms / 1000 for each in figures.batches if each.batch.kind is BatchKind.INGEST)
    yield _by(
        "analytics_recent_batch_seconds",
        Kind.GAUGE,
        "Seconds of the newest batches, by percentile.",
        "percentile",
        {str(each): percentile(seconds, each) for each in (50, 95)},
    )
    committed = [each.closed_at.timestamp() for each in figures.batches if each.batch.kind is BatchKind.INGEST]
    last = max(committed, default=None)
    yield _one("analytics_last_commit_timestamp_seconds", Kind.GAUGE, "When a batch was last closed and committed.", last)


def _floats(counts: Mapping[str, int]) -> dict[str, float | None]:
    return {name: float(count) for name, count in counts.items()}
