"""Reports of a run to Dagster while it works, and its check for queued runs."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, timedelta
from functools import partial

import dagster as dg

from analytics_defs.core.ledger import BatchRecord
from analytics_defs.defs.checks.ingest_health import CHECK_INTERVAL, evaluate_all_checks
from analytics_defs.defs.ingest.metadata import batch_line, ingest_metadata
from analytics_defs.defs.resources.platform import Platform
from analytics_defs.flows.ingest.planning import plan_lanes
from analytics_defs.ports import Ports

REPORT_INTERVAL = timedelta(seconds=20)
"""Time between two reports of one run. Each report adds five rows to Dagster's event log."""
QUEUE_CHECK_INTERVAL = timedelta(seconds=5)
"""Time between two queries for queued runs."""
MAX_QUEUED_TIME = timedelta(seconds=10)
"""Age at which a run that has not begun counts as queued. A run with a free slot begins within 2 to 4 s."""
NOT_STARTED_STATUSES = [dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTING]


class RunReporter:
    """Reports of one run. It keeps the records of closed batches until they are reported."""

    def __init__(self, context: dg.AssetExecutionContext, platform: Platform, ports: Ports) -> None:
        self._context, self._platform, self._ports = context, platform, ports
        self._unreported: list[BatchRecord] = []
        self._queue_checked_ms = ports.clock.elapsed_ms()
        self._reported_ms = self._queue_checked_ms - _ms(REPORT_INTERVAL)  # the batches of the plan are reported at once
        self._evaluated_ms: int | None = None
        self._has_unevaluated_report = False
        self.has_reported = False

    def on_batch_closed(self, record: BatchRecord) -> None:
        self._unreported.append(record)
        self._context.log.info(batch_line(record))

    def should_continue(self) -> bool:
        """Report progress if due. Return False if another run of the job is queued.

        If Dagster's storage is unavailable, the run continues and reports later.
        """
        now_ms = self._ports.clock.elapsed_ms()
        try:
            if self._unreported and now_ms - self._reported_ms >= _ms(REPORT_INTERVAL):
                self._reported_ms = now_ms
                self._report()
            if now_ms - self._queue_checked_ms >= _ms(QUEUE_CHECK_INTERVAL):
                self._queue_checked_ms = now_ms
                return not self._has_queued_runs()
        except Exception as error:  # noqa: BLE001 - each storage driver has errors of its own
            self._context.log.info("Dagster's storage did not answer; this run continues: %s", error)
        return True

    def remaining_results(self) -> Iterator[dg.MaterializeResult]:  # type: ignore[type-arg]
        """Yield the results of unreported batches at the end of the run. Then evaluate the checks."""
        if self._unreported:
            for name, metadata in ingest_metadata(self._unreported).items():
                yield dg.MaterializeResult(asset_key=name, metadata=metadata)
            self._mark_reported()
        if self._has_unevaluated_report:
            self._evaluate_checks()

    def _report(self) -> None:
        for name, metadata in ingest_metadata(self._unreported).items():
            self._context.log_event(dg.AssetMaterialization(name, metadata=metadata))
        self._mark_reported()
        if self._evaluated_ms is None or self._ports.clock.elapsed_ms() - self._evaluated_ms >= _ms(CHECK_INTERVAL):
            self._evaluate_checks()

    def _mark_reported(self) -> None:
        self._unreported, self.has_reported, self._has_unevaluated_report = [], True, True

    def _evaluate_checks(self) -> None:
        """Evaluate the checks after a report.

        The UI shows a check as not evaluated if its asset was materialized later, unless the same run did both. So the first report of
        a run evaluates them, its last report does, and those between only once in CHECK_INTERVAL.
        """
        self._evaluated_ms, self._has_unevaluated_report = self._ports.clock.elapsed_ms(), False
        settings = self._platform.settings()
        planning = partial(plan_lanes, settings.kafka_topics, settings.planning_policy(), self._ports)
        for evaluation in evaluate_all_checks(planning, self._ports, settings, self._context.log):
            self._context.log_event(evaluation)

    def _has_queued_runs(self) -> bool:
        filters = dg.RunsFilter(job_name=self._context.run.job_name, statuses=NOT_STARTED_STATUSES)
        now = self._ports.clock.now()
        queued = [
            record.dagster_run.run_id
            for record in self._context.instance.get_run_records(filters)
            if now - record.create_timestamp.replace(tzinfo=UTC) > MAX_QUEUED_TIME
        ]
        if queued:
            self._context.log.info("run %s is queued; stopping to free the slot", queued[0])
        return bool(queued)


def _ms(duration: timedelta) -> int:
    return duration // timedelta(milliseconds=1)
