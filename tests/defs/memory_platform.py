"""The platform resource on memory doubles: Dagster around the flows, without a server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial

import dagster as dg

from analytics_defs.adapters.duckdb.statistics import duckdb_statistics
from analytics_defs.adapters.memory import InlineTaskPool, MemoryEventLog, MemoryLedger, MemoryObjectStore, MemoryRecentEvents
from analytics_defs.config import Settings
from analytics_defs.core.ledger import Lease
from analytics_defs.definitions import defs
from analytics_defs.defs.ingest.sensor import kafka_micro_batches
from analytics_defs.defs.resources.platform import Platform
from analytics_defs.flows.hours.statistics import StatisticsEngineFactory
from analytics_defs.flows.ingest.options import IngestOptions
from analytics_defs.ports import Ports
from tests.proof.clocks import ScriptedClock

TOPIC = "ProductDeleted"
HOUR = "2024-01-15T10"


class MemoryPlatform(Platform):
    """A platform with the topic `TOPIC`, empty stores, and a clock that starts now and moves only when a test moves it."""

    def __init__(self, partitions: int = 2, **settings: object) -> None:
        self.log = MemoryEventLog()
        self.log.create_topic(TOPIC, partitions)
        self.clock = ScriptedClock(datetime.now(UTC))
        self._ports = Ports(self.log, MemoryRecentEvents(), MemoryObjectStore(), MemoryLedger(), self.clock, InlineTaskPool())
        self._settings = Settings(**({"kafka_topics": (TOPIC,)} | settings))  # type: ignore[arg-type]

    def settings(self) -> Settings:
        return self._settings

    def now(self) -> datetime:
        return self.clock.now()

    def ports(self) -> Ports:
        return self._ports

    def statistics_engine_factory(self) -> StatisticsEngineFactory:
        return partial(duckdb_statistics, 128, 1)

    @contextmanager
    def lease_heartbeat(self, run_id: str, lane: int | None) -> Iterator[Ports]:
        self._ports.ledger.renew_lease(Lease(run_id, lane, self.clock.now()))
        yield self._ports
        self._ports.ledger.release_lease(run_id)

    def ingest_options(self, run_id: str) -> IngestOptions:
        return IngestOptions(run_id, self._settings.validation_rules(), self._settings.batch_limits())

    def produce(self, count: int, start: int = 0, hour: str = HOUR) -> None:
        """Produce valid events with ids `event-<n>`, alternating between partitions 0 and 1."""
        for number in range(start, start + count):
            event = {"id": f"event-{number}", "timestamp": f"{hour}:00:00Z", "type": TOPIC, "productId": "p", "sellerId": "s"}
            self.log.append(TOPIC, number % 2, json.dumps(event).encode())

    def tick(self, instance: dg.DagsterInstance, cursor: str | None = None) -> dg.SensorResult:
        """Evaluate the sensor once."""
        context = dg.build_sensor_context(
            instance=instance, resources={"platform": self}, repository_def=defs.get_repository_def(), cursor=cursor
        )
        result = kafka_micro_batches(context)
        assert isinstance(result, dg.SensorResult)
        return result

    def run(self, instance: dg.DagsterInstance, request: dg.RunRequest | None = None) -> dg.ExecuteInProcessResult:
        """Run the job as the daemon does for the request. Without one, run it as the Materialize button does."""
        tags = dict(request.tags) | {"dagster/run_key": request.run_key or ""} if request else {}
        return defs.resolve_job_def("micro_batch").execute_in_process(
            run_config=request.run_config if request else None,
            resources={"platform": self},
            instance=instance,
            tags=tags,
            raise_on_error=False,
        )
