"""Keeps the picture: one probe for each question, shared by everybody who looks."""

from __future__ import annotations

import threading
from concurrent.futures import Future, wait
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

from analytics_defs.core.ingest.planning import Planning, Policy, plan
from analytics_defs.core.ledger import Snapshot
from analytics_defs.core.monitoring.backlog import Pace, Stand, Waiting, paced, standing
from analytics_defs.core.monitoring.health import DYNAMODB, KAFKA, S3, Answer, Figures, Picture, Scheduler, View
from analytics_defs.core.offsets import TopicPartition
from analytics_defs.flows import health_checks
from analytics_defs.flows.health_checks import Doors
from analytics_defs.web.probe import Probe

SERVICE_FRESH = timedelta(seconds=3)
FIGURES_FRESH = timedelta(seconds=5)
WAITING_FRESH = timedelta(seconds=5)
HEADS_LAST = timedelta(seconds=10)
LEDGER_WITHIN = timedelta(milliseconds=500)
SCHEDULER_FRESH = timedelta(seconds=10)


@dataclass(frozen=True, slots=True)
class Identity:
    """Who answers, and by which rules it judges."""

    policy: Policy
    stall_after: timedelta
    version: str
    instance: str


class Watch:
    """Thread-safe. Asks nobody unless somebody looks; a thousand looks a second cost the services no more than one."""

    def __init__(self, doors: Doors, identity: Identity) -> None:
        self._doors = doors
        self._identity = identity
        self._clock = doors.ports.clock
        self._lock = threading.Lock()
        self._stands: dict[TopicPartition, Stand] = {}
        self._pace: Pace | None = None
        self._planned: tuple[View, Planning] | None = None
        self._dynamodb: Probe[Snapshot] = Probe(DYNAMODB, partial(health_checks.ask_dynamodb, doors), self._clock, SERVICE_FRESH)
        self._kafka: Probe[View] = Probe(KAFKA, self._ask_kafka, self._clock, SERVICE_FRESH, self._ledger_first)
        self._s3: Probe[bool] = Probe(S3, partial(health_checks.ask_s3, doors), self._clock, SERVICE_FRESH)
        self._figures: Probe[Figures] = Probe("figures", partial(health_checks.ask_figures, doors), self._clock, FIGURES_FRESH)
        self._waiting: Probe[Waiting] = Probe("waiting records", self._ask_waiting, self._clock, WAITING_FRESH)
        scheduling = doors.scheduling
        self._scheduler: Probe[Scheduler | None] | None = (
            Probe("dagster", scheduling.look, self._clock, SCHEDULER_FRESH) if scheduling else None
        )

    def refresh(self) -> list[Future[None]]:
        """Starts what is due. Answers what is worth a short wait, where the last picture is too old to be called one of now."""
        view, ledger_known = self._kafka.look().value, self._dynamodb.look().value is not None
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

    def picture(self) -> Picture:
        """What is known now. Never waits."""
        now = self._clock.now()
        kafka, dynamodb = self._kafka.look(), self._dynamodb.look()
        view = kafka.value if kafka.ok and not _outdated(kafka, dynamodb) else None
        planning, heads_at = self._plan(view), view.heads_at if view else None
        if planning is not None and heads_at is not None and dynamodb.ok:
            with self._lock:
                self._stands = standing(self._stands, planning.lags, heads_at)
                self._pace = paced(self._pace, planning.lags, now)
        scheduler = self._scheduler.look() if self._scheduler else None
        return Picture(
            at=now,
            stall_after=self._identity.stall_after,
            kafka=kafka,
            dynamodb=dynamodb,
            s3=self._s3.look(),
            figures=self._figures.look(),
            waiting=self._waiting.look(),
            scheduler=_told(scheduler),
            planning=planning,
            stands=self._stands,
            heads_at=heads_at,
            pace=self._pace,
            version=self._identity.version,
            instance=self._identity.instance,
        )

    def _plan(self, view: View | None) -> Planning | None:
        """Made once of each view: it is looked at far more often than it changes."""
        if view is None or view.snapshot is None:
            return None
        with self._lock:
            if self._planned is None or self._planned[0] is not view:
                self._planned = view, plan(view.snapshot, view.topics, self._identity.policy, self._clock.now())
            return self._planned[1]

    def _ledger_first(self) -> None:
        """An old snapshot would show a lag that is long gone."""
        attempt = self._dynamodb.refresh()
        if attempt is not None:
            wait([attempt], LEDGER_WITHIN.total_seconds())

    def _ask_kafka(self) -> View:
        return health_checks.ask_kafka(self._doors, self._dynamodb.look())

    def _ask_waiting(self) -> Waiting:
        return health_checks.ask_waiting(self._doors, self.picture().lags, self._waiting.look().value)


def _outdated(kafka: Answer[View], dynamodb: Answer[Snapshot]) -> bool:
    """Whether heads may have moved on since they were read for this view: the difference to new watermarks is no lag. While the ledger does
    not answer, nobody moves them.
    """
    view, read_at = kafka.value, kafka.succeeded_at
    return dynamodb.ok and view is not None and view.heads_at is not None and read_at is not None and read_at - view.heads_at > HEADS_LAST


def _told(answer: Answer[Scheduler | None] | None) -> Answer[Scheduler] | None:
    """None where there is no instance to ask."""
    if answer is None or (answer.value is None and answer.ok):
        return None
    return Answer(answer.value, answer.error, answer.latency_ms, answer.age_ms, answer.succeeded_at)
