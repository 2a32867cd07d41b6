"""A platform for a single test on the real servers. Its tables, bucket and group have unique names and are deleted afterwards."""

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
from tests.real import raw_clients


@dataclass(frozen=True, slots=True)
class ClientTimeouts:
    """Timeouts and retry limits of the clients, as changes of their configurations."""

    dynamo: Mapping[str, Any] = field(default_factory=dict)
    object_store: Mapping[str, Any] = field(default_factory=dict)
    kafka: Mapping[str, Any] = field(default_factory=dict)


SHORT_TIMEOUTS = ClientTimeouts(
    dynamo={"connect_timeout": timedelta(seconds=1), "read_timeout": timedelta(seconds=1), "attempts": 2, "conflict_attempts": 3},
    object_store={
        "connect_timeout": timedelta(seconds=1),
        "request_timeout": timedelta(seconds=1),
        "max_retries": 2,
        "max_backoff": timedelta(milliseconds=200),
        "retry_within": timedelta(seconds=3),
    },
    kafka={"request_timeout": timedelta(seconds=2), "read_timeout": timedelta(seconds=2)},
)
"""Short enough to give up a server that never answers within seconds. Enough for servers on this machine."""


@dataclass(frozen=True, slots=True)
class World:
    """The settings of a test platform and its open ports."""

    settings: Settings
    ports: Ports

    @property
    def bucket(self) -> str:
        return self.settings.archive_bucket_name

    def whole_plan(self) -> Plan:
        """Return a plan over everything in the topics, from offset 0. The checkpoints are not read."""
        watermarks = self.ports.event_log.watermarks(self.partitions())
        ends = {partition: marks.high_watermark for partition, marks in sorted(watermarks.items())}
        return Plan(0, tuple(Range(partition, 0, end) for partition, end in ends.items() if end))

    def partitions(self) -> list[TopicPartition]:
        topics = self.ports.event_log.topics(self.settings.kafka_topics)
        return [TopicPartition(name, 0, number) for name, topic in sorted(topics.items()) for number in topic.partitions]

    def plan(self) -> PlanningResult:
        return plan_lanes(self.settings.kafka_topics, self.settings.planning_policy(), self.ports)

    def run(self, plan: Plan, run_id: str = "run") -> ExecutionReport:
        return execute_plan(plan, self.ports, wiring.ingest_options(self.settings, run_id))

    def settle(self, run_id: str = "recovery") -> list[BatchRecord]:
        """Run every lane until no plan is left, then delete stale staging files. Return the batches that were closed."""
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

    def assert_consistent(self, foreign: str | None = None) -> None:
        """Fail if an offset is unaccounted, a batch is pending or staged, or counters, checkpoints and stores differ.

        `foreign`: key of an object that a test added. The audit must name it, and nothing else.
        """
        audit = audit_offsets(self.ports)
        assert (audit.unaccounted, audit.differences, audit.pending) == (0, (), ())
        assert raw_clients.keys(self.bucket, "staging/") == []
        hours = self.ports.ledger.hourly_counters("0000", "9999")
        findings = [finding for hour in hours for finding in audit_hour(hour, self.ports).findings]
        assert [finding.partition(":")[0] for finding in findings] == ([foreign] if foreign else []), findings

    def lag(self) -> int:
        return sum(lag.offsets for lag in self.plan().lags)


def new_settings(topics: Sequence[str], **changes: Any) -> Settings:
    """Return settings for the servers of the environment, with unique names for group, tables and bucket."""
    raw_clients.require_servers()
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
def provisioned(settings: Settings) -> Iterator[Settings]:
    """Create tables and bucket, and delete them and the consumer group after the block."""
    dynamo = DynamoClient(wiring.dynamo_config(settings))
    try:
        create_tables(dynamo, expected_tables(settings.recent_events_table_name, _ledger_tables(settings)))
        create_bucket(wiring.object_store_config(settings))
        yield settings
    finally:
        dynamo.close()
        raw_clients.remove_tables(settings)
        raw_clients.remove_bucket(settings.archive_bucket_name)
        raw_clients.remove_group(settings.kafka_group_id)


@contextmanager
def opened(settings: Settings, clock: Clock | None = None, timeouts: ClientTimeouts | None = None) -> Iterator[World]:
    """Yield ports as production wires them, and close them after the block."""
    timeouts = timeouts or ClientTimeouts()
    dynamo = DynamoClient(replace(wiring.dynamo_config(settings), **timeouts.dynamo))
    bucket = replace(wiring.object_store_config(settings), **timeouts.object_store)
    object_store = S3ObjectStore(bucket)
    event_log = KafkaEventLog(replace(wiring.kafka_config(settings), **timeouts.kafka))
    task_pool = ThreadTaskPool(settings.write_threads)
    recent_events = DynamoRecentEvents(dynamo, settings.recent_events_table_name)
    ledger = DynamoLedger(dynamo, _ledger_tables(settings))
    try:
        tables = (settings.recent_events_table_name, settings.aggregates_table_name)
        yield World(
            settings, Ports(event_log, recent_events, object_store, ledger, clock or SystemClock(), task_pool, tables, bucket.address)
        )
    finally:
        task_pool.close()
        event_log.close()
        object_store.close()
        dynamo.close()


@contextmanager
def new_world(topics: Sequence[str], clock: Clock | None = None, timeouts: ClientTimeouts | None = None, **changes: Any) -> Iterator[World]:
    with provisioned(new_settings(topics, **changes)) as settings, opened(settings, clock, timeouts) as world:
        yield world


def _ledger_tables(settings: Settings) -> LedgerTables:
    return LedgerTables(settings.ledger_table_name, settings.aggregates_table_name)


def this_second() -> datetime:
    """Return now without microseconds, for a batch clock that does not move. TTLs stay valid, and stored times compare equal."""
    return datetime.now(UTC).replace(microsecond=0)
