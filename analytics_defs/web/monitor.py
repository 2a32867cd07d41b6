"""The health monitor: one cached probe for each query, and the snapshot of their results."""

from __future__ import annotations

import threading
from concurrent.futures import Future, wait
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from analytics_defs.core.ingest.planning import PlanningPolicy, PlanningResult, make_plans
from analytics_defs.core.ledger import LedgerSnapshot
from analytics_defs.core.monitoring.backlog import Backlog, GrowthRate, StalledSince, track_growth, track_stalls
from analytics_defs.core.monitoring.health import (
    DYNAMODB,
    KAFKA,
    S3,
    HealthSnapshot,
    KafkaState,
    LedgerStatistics,
    SchedulerStatus,
)
from analytics_defs.core.monitoring.partition_health import PartitionReadings, assess_partitions
from analytics_defs.core.monitoring.probe_result import ProbeResult
from analytics_defs.core.offsets import TopicPartition
from analytics_defs.flows import health_probes
from analytics_defs.flows.health_probes import HealthClients
from analytics_defs.web.probe import Probe

SERVICE_PROBE_TTL = timedelta(seconds=3)
STATISTICS_TTL = timedelta(seconds=5)
BACKLOG_TTL = timedelta(seconds=5)
CHECKPOINTS_TTL = timedelta(seconds=10)
LEDGER_TIMEOUT = timedelta(milliseconds=500)
SCHEDULER_TTL = timedelta(seconds=10)


@dataclass(frozen=True, slots=True)
class MonitorSettings:
    """Identity of this process, and the rules of planning and stalls."""

    policy: PlanningPolicy
    stall_timeout: timedelta
    version: str
    instance: str


class HealthMonitor:
    """The source of health snapshots.

    Thread-safe. Probes run on demand and are cached, so the load on Kafka, DynamoDB and S3 does not grow with the request rate.
    """

    def __init__(self, clients: HealthClients, settings: MonitorSettings) -> None:
        self._clients = clients
        self._settings = settings
        self._clock = clients.ports.clock
        self._lock = threading.Lock()
        self._stalled_since: dict[TopicPartition, StalledSince] = {}
        self._growth_rate: GrowthRate | None = None
        self._planned: tuple[KafkaState, PlanningResult] | None = None
        self._dynamodb: Probe[LedgerSnapshot] = Probe(
            DYNAMODB, partial(health_probes.probe_dynamodb, clients), self._clock, SERVICE_PROBE_TTL
        )
        self._kafka: Probe[KafkaState] = Probe(KAFKA, self._probe_kafka, self._clock, SERVICE_PROBE_TTL, self._refresh_ledger)
        self._s3: Probe[bool] = Probe(S3, partial(health_probes.probe_object_store, clients), self._clock, SERVICE_PROBE_TTL)
        self._statistics: Probe[LedgerStatistics] = Probe(
            "ledger statistics", partial(health_probes.read_ledger_statistics, clients), self._clock, STATISTICS_TTL
        )
        self._backlog: Probe[Backlog] = Probe("backlog", self._read_backlog, self._clock, BACKLOG_TTL)
        scheduler = clients.scheduler
        self._scheduler: Probe[SchedulerStatus | None] | None = (
            Probe("dagster", scheduler.scheduler_status, self._clock, SCHEDULER_TTL) if scheduler else None
        )

    def refresh(self) -> list[Future[None]]:
        """Start every probe that is due. Return the attempts worth a short wait, because the known result is stale."""
        state, ledger_known = self._kafka.result().value, self._dynamodb.result().value is not None
        without_ledger = state is not None and state.ledger_snapshot is None
        attempts: list[tuple[Probe[Any], Future[None] | None]] = [
            (self._dynamodb, self._dynamodb.refresh()),
            (self._kafka, self._kafka.refresh(force=without_ledger and ledger_known)),
            (self._s3, self._s3.refresh()),
            (self._statistics, self._statistics.refresh()),
        ]
        if state is not None and not without_ledger:
            self._backlog.refresh()
        if self._scheduler:
            self._scheduler.refresh()
        return [attempt for probe, attempt in attempts if attempt is not None and probe.is_stale()]

    def snapshot(self) -> HealthSnapshot:
        """Return what is known now, without waiting."""
        now, kafka, dynamodb = self._clock.now(), self._kafka.result(), self._dynamodb.result()
        readings = self._partition_readings(kafka, dynamodb, now)
        return HealthSnapshot(
            taken_at=now,
            stall_timeout=self._settings.stall_timeout,
            kafka=kafka,
            dynamodb=dynamodb,
            s3=self._s3.result(),
            ledger_statistics=self._statistics.result(),
            scheduler=_if_configured(self._scheduler.result() if self._scheduler else None),
            planning=readings.planning if readings else None,
            partitions=assess_partitions(readings) if readings else (),
            version=self._settings.version,
            instance=self._settings.instance,
        )

    def _partition_readings(
        self, kafka: ProbeResult[KafkaState], dynamodb: ProbeResult[LedgerSnapshot], now: datetime
    ) -> PartitionReadings | None:
        """Return the inputs of the partitions' health, or None if the lag is not known. Note movements of the checkpoints."""
        state = kafka.value if kafka.ok and not _checkpoints_outdated(kafka, dynamodb) else None
        if state is None or state.ledger_snapshot is None:
            return None
        statistics = self._statistics.result().value
        with self._lock:
            if self._planned is None or self._planned[0] is not state:  # a state is requested far more often than it changes
                self._planned = state, make_plans(state.ledger_snapshot, state.topics, self._settings.policy, now)
            planning = self._planned[1]
            if state.checkpoints_read_at is not None and dynamodb.ok:
                self._stalled_since = track_stalls(self._stalled_since, planning.lags, state.checkpoints_read_at)
                self._growth_rate = track_growth(self._growth_rate, planning.lags, now)
            return PartitionReadings(
                now=now,
                planning=planning,
                checkpoints_read_at=state.checkpoints_read_at,
                stalled_since=self._stalled_since,
                growth_rate=self._growth_rate,
                backlog=self._backlog.result(),
                recent_batches=statistics.batches if statistics else (),
            )

    def _refresh_ledger(self) -> None:
        """Read the checkpoints before the offsets, if they are due: old checkpoints would show a lag that no longer exists."""
        attempt = self._dynamodb.refresh()
        if attempt is not None:
            wait([attempt], LEDGER_TIMEOUT.total_seconds())

    def _probe_kafka(self) -> KafkaState:
        return health_probes.probe_kafka(self._clients, self._dynamodb.result())

    def _read_backlog(self) -> Backlog:
        readings = self._partition_readings(self._kafka.result(), self._dynamodb.result(), self._clock.now())
        lags = readings.planning.lags if readings else ()
        return health_probes.read_backlog(self._clients, lags, self._backlog.result().value)


def _checkpoints_outdated(kafka: ProbeResult[KafkaState], dynamodb: ProbeResult[LedgerSnapshot]) -> bool:
    """Return whether checkpoints may have moved between their reading and that of the offsets: the difference is no lag then.

    While the ledger does not answer, checkpoints cannot move.
    """
    state, read_at = kafka.value, kafka.succeeded_at
    return (
        dynamodb.ok
        and state is not None
        and state.checkpoints_read_at is not None
        and read_at is not None
        and read_at - state.checkpoints_read_at > CHECKPOINTS_TTL
    )


def _if_configured(result: ProbeResult[SchedulerStatus | None] | None) -> ProbeResult[SchedulerStatus] | None:
    """Return None if no Dagster instance is configured."""
    if result is None or (result.value is None and result.ok):
        return None
    return ProbeResult(result.value, result.error, result.latency_ms, result.age_ms, result.succeeded_at)
