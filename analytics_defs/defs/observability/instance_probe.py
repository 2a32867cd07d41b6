"""Dagster's instance as the always-on job looks at it: whether those who start the runs are at work."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from analytics_defs.core.monitoring.health import SchedulerStatus

if TYPE_CHECKING:
    import dagster as dg

MICRO_BATCH_SENSOR = "kafka_micro_batches"


class DagsterInstanceProbe:
    """Implements `flows.health_checks.SchedulerProbe`. Dagster is imported with the first look: an answer on health must not wait for it."""

    def __init__(self, instance: dg.DagsterInstance | None = None, sensor: str = MICRO_BATCH_SENSOR) -> None:
        """None: the instance of DAGSTER_HOME, where that is set."""
        self._instance = instance
        self._sensor = sensor
        self._absent = False

    def scheduler_status(self) -> SchedulerStatus | None:
        instance = self._opened()
        if instance is None:
            return None
        states = [each for each in instance.all_instigator_state() if each.name == self._sensor and each.instigator_type.value == "SENSOR"]
        heartbeat = instance.get_daemon_heartbeats().get("SENSOR")
        return SchedulerStatus(
            sensor_stopped=any(each.status.value == "STOPPED" for each in states),
            heartbeat=datetime.fromtimestamp(heartbeat.timestamp, UTC) if heartbeat else None,
        )

    def _opened(self) -> dg.DagsterInstance | None:
        if self._instance is None and not self._absent:
            import dagster as dg
            from dagster._core.errors import DagsterHomeNotSetError

            try:
                self._instance = dg.DagsterInstance.get()
            except DagsterHomeNotSetError:
                self._absent = True
        return self._instance
