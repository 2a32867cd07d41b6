"""Probe of the Dagster instance: the state of the sensor, and the heartbeat of the daemon that evaluates it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from analytics_defs.core.monitoring.health import SchedulerStatus

if TYPE_CHECKING:
    import dagster as dg

MICRO_BATCH_SENSOR = "kafka_micro_batches"


class DagsterInstanceProbe:
    """A `flows.health_probes.SchedulerProbe`. It imports Dagster with the first probe, so that the endpoint starts without waiting."""

    def __init__(self, instance: dg.DagsterInstance | None = None, sensor: str = MICRO_BATCH_SENSOR) -> None:
        """Create the probe. Without `instance` it opens the instance of DAGSTER_HOME, if that is set."""
        self._instance = instance
        self._sensor = sensor
        self._is_absent = False

    def scheduler_status(self) -> SchedulerStatus | None:
        instance = self._open_instance()
        if instance is None:
            return None
        states = [
            state for state in instance.all_instigator_state() if state.name == self._sensor and state.instigator_type.value == "SENSOR"
        ]
        heartbeat = instance.get_daemon_heartbeats().get("SENSOR")
        return SchedulerStatus(
            sensor_stopped=any(state.status.value == "STOPPED" for state in states),
            heartbeat=datetime.fromtimestamp(heartbeat.timestamp, UTC) if heartbeat else None,
        )

    def _open_instance(self) -> dg.DagsterInstance | None:
        if self._instance is None and not self._is_absent:
            import dagster as dg
            from dagster._core.errors import DagsterHomeNotSetError

            try:
                self._instance = dg.DagsterInstance.get()
            except DagsterHomeNotSetError:
                self._is_absent = True
        return self._instance
