"""What a run tells Dagster while it works, and what it asks it: whether another run waits for a place."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, timedelta
from functools import partial

import dagster as dg

from analytics_defs.core.ledger import BatchRecord
from analytics_defs.defs.checks.ingest_health import evaluate_all_checks
from analytics_defs.defs.ingest.metadata import batch_line, ingest_metadata
from analytics_defs.defs.resources.platform import Platform
from analytics_defs.flows.ingest.planning import plan_lanes
from analytics_defs.ports import Ports

REPORT_INTERVAL = timedelta(seconds=20)
"""Between two reports of one run: each is a handful of rows in Dagster's storage."""
QUEUE_CHECK_INTERVAL = timedelta(seconds=5)
"""Between two questions to Dagster's storage."""
QUEUE_PATIENCE = timedelta(seconds=10)
"""A run that has not begun for so long waits for somebody's place: a process of its own begins within 2 to 4 s."""
NOT_STARTED_STATUSES = [dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTING]


class RunReporter:
    """Of one run. What was closed is kept until it was told."""

    def __init__(self, context: dg.AssetExecutionContext, platform: Platform, ports: Ports) -> None:
        self._context, self._platform, self._ports = context, platform, ports
        self._untold: list[BatchRecord] = []
        self._asked_ms = ports.clock.elapsed_ms()
        self._told_ms = self._asked_ms - _ms(REPORT_INTERVAL)  # what the plan itself brought is told at once
        self.has_reported = False

    def on_batch_closed(self, record: BatchRecord) -> None:
        self._untold.append(record)
        self._context.log.info(batch_line(record))

    def should_continue(self) -> bool:
        """For `Following`: tells what is due, and says no where another run of the job waits for a place.

        Dagster's storage may be away for a moment: the records go on all the same, and what it missed is told later.
        """
        now_ms = self._ports.clock.elapsed_ms()
        try:
            if self._untold and now_ms - self._told_ms >= _ms(REPORT_INTERVAL):
                self._told_ms = now_ms
                self._tell()
            if now_ms - self._asked_ms >= _ms(QUEUE_CHECK_INTERVAL):
                self._asked_ms = now_ms
                return not self._others_wait()
        except Exception as error:  # noqa: BLE001 - in whatever words the storage's driver has
            self._context.log.info("Dagster's storage did not answer this run, which goes on: %s", error)
        return True

    def remaining_results(self) -> Iterator[dg.MaterializeResult]:  # type: ignore[type-arg]
        """At the run's end: what was not told yet, as its results."""
        if self._untold:
            for name, metadata in ingest_metadata(self._untold).items():
                yield dg.MaterializeResult(asset_key=name, metadata=metadata)
            self._all_told()

    def _tell(self) -> None:
        for name, metadata in ingest_metadata(self._untold).items():
            self._context.log_event(dg.AssetMaterialization(name, metadata=metadata))
        self._all_told()

    def _all_told(self) -> None:
        """The UI shows a check as not evaluated once its asset is materialized again: so the run evaluates them too, after that."""
        self._untold, self.has_reported = [], True
        settings = self._platform.settings()
        planning = partial(plan_lanes, settings.kafka_topics, settings.planning_policy(), self._ports)
        for evaluation in evaluate_all_checks(planning, self._ports, settings, self._context.log):
            self._context.log_event(evaluation)

    def _others_wait(self) -> bool:
        waiting = self._context.instance.get_run_records(dg.RunsFilter(job_name=self._context.run.job_name, statuses=NOT_STARTED_STATUSES))
        now = self._ports.clock.now()
        late = [record.dagster_run.run_id for record in waiting if now - record.create_timestamp.replace(tzinfo=UTC) > QUEUE_PATIENCE]
        if late:
            self._context.log.info("run %s waits for a place: this one ends", late[0])
        return bool(late)


def _ms(duration: timedelta) -> int:
    return duration // timedelta(milliseconds=1)
