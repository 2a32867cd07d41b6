"""A platform of a test's own on the real servers: tables, bucket and group with names of their own, gone afterwards."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from analytics_defs import wiring
from analytics_defs.adapters.dynamodb.ledger import DynamoLedger
from analytics_defs.adapters.dynamodb.ledger_transactions import LedgerTables
from analytics_defs.adapters.dynamodb.recent_events import DynamoRecentEvents
from analytics_defs.adapters.dynamodb.requests import DynamoClient
from analytics_defs.adapters.dynamodb.tables import create_tables, expected_tables
from analytics_defs.adapters.kafka.event_log import KafkaEventLog
from analytics_defs.adapters.object_store.bucket import create_bucket
from analytics_defs.adapters.object_store.store import S3ObjectStore
from analytics_defs.adapters.runtime.system import SystemClock, ThreadTaskPool
from analytics_defs.config import Settings
from analytics_defs.core.ingest.planning import Plan, PlanningResult
from analytics_defs.core.ledger import BatchRecord
from analytics_defs.core.offsets import Range, TopicPartition
from analytics_defs.flows.audit.balance import audit_offsets
from analytics_defs.flows.audit.hour import audit_hour
from analytics_defs.flows.ingest.close_batch import delete_stale_staging_files
from analytics_defs.flows.ingest.execute_plan import ExecutionReport, execute_plan
from analytics_defs.flows.ingest.planning import plan_lanes
from analytics_defs.ports import Clock, Ports
from tests.real import plain


@dataclass(frozen=True, slots=True)
class Patience:
    """How long the clients wait and how often they repeat, as changes of their configurations."""

    dynamo: Mapping[str, Any] = field(default_factory=dict)
    archive: Mapping[str, Any] = field(default_factory=dict)
    kafka: Mapping[str, Any] = field(default_factory=dict)


LITTLE = Patience(
    dynamo={"connect_timeout": timedelta(seconds=1), "read_timeout": timedelta(seconds=1), "attempts": 2, "conflict_attempts": 3},
    archive={
        "connect_timeout": timedelta(seconds=1),
        "request_timeout": timedelta(seconds=1),
        "max_retries": 2,
        "max_backoff": timedelta(milliseconds=200),
        "retry_within": timedelta(seconds=3),
    },
    kafka={"request_timeout": timedelta(seconds=2), "read_timeout": timedelta(seconds=2)},
)
"""Enough for servers on this machine; what never answers is given up within seconds."""


@dataclass(frozen=True, slots=True)
class World:
    settings: Settings
    ports: Ports

    @property
    def bucket(self) -> str:
        return self.settings.archive_bucket_name

    def whole_plan(self) -> Plan:
        """All that is in the topics, from offset 0, whatever the ledger says."""
        marks = self.ports.event_log.watermarks(self.partitions())
        return Plan(0, tuple(Range(each, 0, mark.high_watermark) for each, mark in sorted(marks.items()) if mark.high_watermark))

    def partitions(self) -> list[TopicPartition]:
        found = self.ports.event_log.topics(self.settings.kafka_topics)
        return [TopicPartition(name, 0, number) for name, topic in sorted(found.items()) for number in topic.partitions]

    def plan(self) -> PlanningResult:
        return plan_lanes(self.settings.kafka_topics, self.settings.planning_policy(), self.ports)

    def run(self, plan: Plan, run_id: str = "run") -> ExecutionReport:
        return execute_plan(plan, self.ports, wiring.ingest_options(self.settings, run_id))

    def settle(self, run_id: str = "recovery") -> list[BatchRecord]:
        """Run every lane until nothing is left to do, and sweep. Answers what was closed."""
        closed: list[BatchRecord] = []
        plans: list[Plan] = []
        for _ in range(20):
            plans = [plan for plan in self.plan().plans if plan]
            if not plans:
                delete_stale_staging_files(self.ports)
                return closed
            for plan in plans:
                closed += self.run(plan, run_id).closed
        raise AssertionError(f"not settled after 20 rounds: {plans}")

    def assert_sound(self) -> None:
        """Nothing is unaccounted, counters agree with heads, nothing is pending or staged, and the stores agree in every hour."""
        found = audit_offsets(self.ports)
        assert (found.unaccounted, found.differences, found.pending) == (0, (), ())
        assert plain.keys(self.bucket, "staging/") == []
        for hour in self.ports.ledger.hourly_counters("0000", "9999"):
            assert audit_hour(hour, self.ports).findings == ()

    def lag(self) -> int:
        return sum(each.offsets for each in self.plan().lags)


def new_settings(topics: Sequence[str], **changes: Any) -> Settings:
    """The environment's servers, with names of a world's own."""
    plain.require_servers()
    suffix = uuid.uuid4().hex[:10]
    names = {
        "kafka_topics": tuple(topics),
        "kafka_group_id": f"real-{suffix}",
        "recent_events_table_name": f"recent-{suffix}",
        "ledger_table_name": f"ledger-{suffix}",
        "aggregates_table_name": f"aggregates-{suffix}",
        "archive_bucket_name": f"real-{suffix}",
    }
    return Settings(**(names | changes))


@contextmanager
def founded(settings: Settings) -> Iterator[Settings]:
    """Tables and bucket are there for the length of the block."""
    dynamo = DynamoClient(wiring.dynamo_config(settings))
    try:
        create_tables(dynamo, expected_tables(settings.recent_events_table_name, _ledger_tables(settings)))
        create_bucket(wiring.object_store_config(settings))
        yield settings
    finally:
        dynamo.close()
        plain.remove_tables(settings)
        plain.remove_bucket(settings.archive_bucket_name)
        plain.remove_group(settings.kafka_group_id)


@contextmanager
def opened(settings: Settings, clock: Clock | None = None, patience: Patience | None = None) -> Iterator[World]:
    """Ports as production wires them, closed afterwards."""
    patience = patience or Patience()
    dynamo = DynamoClient(replace(wiring.dynamo_config(settings), **patience.dynamo))
    archive = S3ObjectStore(replace(wiring.object_store_config(settings), **patience.archive))
    log = KafkaEventLog(replace(wiring.kafka_config(settings), **patience.kafka))
    workers = ThreadTaskPool(settings.write_threads)
    recent = DynamoRecentEvents(dynamo, settings.recent_events_table_name)
    ledger = DynamoLedger(dynamo, _ledger_tables(settings))
    try:
        tables = (settings.recent_events_table_name, settings.aggregates_table_name)
        yield World(settings, Ports(log, recent, archive, ledger, clock or SystemClock(), workers, tables))
    finally:
        workers.close()
        log.close()
        archive.close()
        dynamo.close()


@contextmanager
def new_world(topics: Sequence[str], clock: Clock | None = None, patience: Patience | None = None, **changes: Any) -> Iterator[World]:
    with founded(new_settings(topics, **changes)) as settings, opened(settings, clock, patience) as world:
        yield world


def _ledger_tables(settings: Settings) -> LedgerTables:
    return LedgerTables(settings.ledger_table_name, settings.aggregates_table_name)


def this_second() -> datetime:
    """A batch clock that stands still: real enough for what expires, whole for what is compared."""
    return datetime.now(UTC).replace(microsecond=0)
