"""Keeps the picture: one probe for each question, shared by everybody who looks."""

from __future__ import annotations

import threading
from concurrent.futures import Future, wait
from dataclasses import dataclass
from datetime import timedelta
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
    ProbeResult,
    SchedulerStatus,
)
from analytics_defs.core.offsets import TopicPartition
from analytics_defs.flows import health_checks
from analytics_defs.flows.health_checks import HealthClients
from analytics_defs.web.probe import Probe

SERVICE_PROBE_TTL = timedelta(seconds=3)
STATISTICS_TTL = timedelta(seconds=5)
BACKLOG_TTL = timedelta(seconds=5)
CHECKPOINTS_TTL = timedelta(seconds=10)
LEDGER_TIMEOUT = timedelta(milliseconds=500)
SCHEDULER_TTL = timedelta(seconds=10)


@dataclass(frozen=True, slots=True)
class MonitorSettings:
    """Who answers, and by which rules it judges."""

    policy: PlanningPolicy
    stall_timeout: timedelta
    version: str
    instance: str


class HealthMonitor:
    """Thread-safe. Asks nobody unless somebody looks; a thousand looks a second cost the services no more than one."""

    def __init__(self, doors: HealthClients, identity: MonitorSettings) -> None:
        self._doors = doors
        self._identity = identity
        self._clock = doors.ports.clock
        self._lock = threading.Lock()
        self._stands: dict[TopicPartition, StalledSince] = {}
        self._pace: GrowthRate | None = None
        self._planned: tuple[KafkaState, PlanningResult] | None = None
        self._dynamodb: Probe[LedgerSnapshot] = Probe(
            DYNAMODB, partial(health_checks.probe_dynamodb, doors), self._clock, SERVICE_PROBE_TTL
        )
        self._kafka: Probe[KafkaState] = Probe(KAFKA, self._ask_kafka, self._clock, SERVICE_PROBE_TTL, self._ledger_first)
        self._s3: Probe[bool] = Probe(S3, partial(health_checks.probe_object_store, doors), self._clock, SERVICE_PROBE_TTL)
        self._figures: Probe[LedgerStatistics] = Probe(
            "figures", partial(health_checks.read_ledger_statistics, doors), self._clock, STATISTICS_TTL
        )
        self._waiting: Probe[Backlog] = Probe("waiting records", self._ask_waiting, self._clock, BACKLOG_TTL)
        scheduling = doors.scheduling
        self._scheduler: Probe[SchedulerStatus | None] | None = (
            Probe("dagster", scheduling.scheduler_status, self._clock, SCHEDULER_TTL) if scheduling else None
        )

    def refresh(self) -> list[Future[None]]:
        """Starts what is due. Answers what is worth a short wait, where the last picture is too old to be called one of now."""
        view, ledger_known = self._kafka.result().value, self._dynamodb.result().value is not None
        due: list[tuple[Probe[Any], Future[None] | None]] = [
            (self._dynamodb, self._dynamodb.refresh()),
            (self._kafka, self._kafka.refresh(again=view is not None and view.snapshot is None and ledger_known)),
            (self._s3, self._s3.refresh()),
            (self._figures, self._figures.refresh()),
        ]
        if view is not None and view.snapshot is not None:
            self._waiting.refresh()
        if self._scheduler:
            self._scheduler.refresh()
        return [attempt for probe, attempt in due if attempt is not None and probe.is_old()]

    def snapshot(self) -> HealthSnapshot:
        """What is known now. Never waits."""
        now = self._clock.now()
        kafka, dynamodb = self._kafka.result(), self._dynamodb.result()
        view = kafka.value if kafka.ok and not _outdated(kafka, dynamodb) else None
        planning, heads_at = self._plan(view), view.checkpoints_read_at if view else None
        if planning is not None and heads_at is not None and dynamodb.ok:
            with self._lock:
                self._stands = track_stalls(self._stands, planning.lags, heads_at)
                self._pace = track_growth(self._pace, planning.lags, now)
        scheduler = self._scheduler.result() if self._scheduler else None
        return HealthSnapshot(
            taken_at=now,
            stall_timeout=self._identity.stall_timeout,
            kafka=kafka,
            dynamodb=dynamodb,
            s3=self._s3.result(),
            ledger_statistics=self._figures.result(),
            backlog=self._waiting.result(),
            scheduler=_told(scheduler),
            planning=planning,
            stalled_since=self._stands,
            checkpoints_read_at=heads_at,
            growth_rate=self._pace,
            version=self._identity.version,
            instance=self._identity.instance,
        )

    def _plan(self, view: KafkaState | None) -> PlanningResult | None:
        """Made once of each view: it is looked at far more often than it changes."""
        if view is None or view.snapshot is None:
            return None
        with self._lock:
            if self._planned is None or self._planned[0] is not view:
                self._planned = view, make_plans(view.snapshot, view.topics, self._identity.policy, self._clock.now())
            return self._planned[1]

    def _ledger_first(self) -> None:
        """An old snapshot would show a lag that is long gone."""
        attempt = self._dynamodb.refresh()
        if attempt is not None:
            wait([attempt], LEDGER_TIMEOUT.total_seconds())

    def _ask_kafka(self) -> KafkaState:
        return health_checks.probe_kafka(self._doors, self._dynamodb.result())

    def _ask_waiting(self) -> Backlog:
        return health_checks.read_backlog(self._doors, self.snapshot().lags, self._waiting.result().value)


def _outdated(kafka: ProbeResult[KafkaState], dynamodb: ProbeResult[LedgerSnapshot]) -> bool:
    """Whether heads may have moved on since they were read for this view: the difference to new watermarks is no lag. While the ledger does
    not answer, nobody moves them.
    """
    view, read_at = kafka.value, kafka.succeeded_at
    return (
        dynamodb.ok
        and view is not None
        and view.checkpoints_read_at is not None
        and read_at is not None
        and read_at - view.checkpoints_read_at > CHECKPOINTS_TTL
    )


def _told(answer: ProbeResult[SchedulerStatus | None] | None) -> ProbeResult[SchedulerStatus] | None:
    """None where there is no instance to ask."""
    if answer is None or (answer.value is None and answer.ok):
        return None
    return ProbeResult(answer.value, answer.error, answer.latency_ms, answer.age_ms, answer.succeeded_at)
