"""A platform on memory doubles that records what was produced, for tests of the flows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from analytics_defs.adapters.memory import InlineTaskPool, ManualClock, MemoryEventLog, MemoryLedger, MemoryObjectStore, MemoryRecentEvents
from analytics_defs.core.events.event import ValidationRules
from analytics_defs.core.ingest.planning import PlanningPolicy, PlanningResult
from analytics_defs.core.offsets import Source, TopicPartition
from analytics_defs.flows.ingest.close_batch import delete_stale_staging_files
from analytics_defs.flows.ingest.execute_plan import ExecutionReport, execute_plan
from analytics_defs.flows.ingest.options import IngestOptions
from analytics_defs.flows.ingest.planning import plan_lanes
from analytics_defs.ports import Clock, Ports

NOW = datetime(2024, 1, 15, 12, 0, tzinfo=UTC)
HOUR = "2024-01-15T10"
RULES = ValidationRules(max_event_bytes=1_000_000)
TOPIC = "ProductDeleted"
SECOND = timedelta(seconds=1)


def event(event_id: str, timestamp: str = "2024-01-15T10:30:00Z", **fields: Any) -> bytes:
    """Return a valid event in current form. Other `fields` give another payload with the same id."""
    document = {"id": event_id, "timestamp": timestamp, "type": "ProductDeleted", "productId": "p1", "sellerId": "s1"}
    return json.dumps(document | fields).encode()


def legacy_event(**fields: Any) -> bytes:
    """Return a valid event in legacy form, which has no id."""
    document = {"version": "1", "type": "ProductDeleted", "occurredAt": "2024-01-15T10:31:00Z", "productId": "p1", "sellerId": "s1"}
    return json.dumps(document | fields).encode()


def ingest_options(run_id: str = "run", **changes: Any) -> IngestOptions:
    return IngestOptions(run_id, **({"validation_rules": RULES} | changes))


@dataclass
class World:
    """One broker, three stores, one clock."""

    event_log: MemoryEventLog = field(default_factory=MemoryEventLog)
    recent_events: MemoryRecentEvents = field(default_factory=MemoryRecentEvents)
    object_store: MemoryObjectStore = field(default_factory=MemoryObjectStore)
    ledger: MemoryLedger = field(default_factory=MemoryLedger)
    clock: ManualClock = field(default_factory=lambda: ManualClock(NOW))
    topics: list[str] = field(default_factory=lambda: [TOPIC])
    policy: PlanningPolicy = field(default_factory=PlanningPolicy)
    values: dict[Source, bytes | None] = field(default_factory=dict)
    """Produced values by source, recorded without any flow."""
    incarnations: dict[str, int] = field(default_factory=dict)
    """The number of recreations of each topic."""

    @property
    def ports(self) -> Ports:
        return self.ports_at(self.clock)

    def ports_at(self, clock: Clock) -> Ports:
        return Ports(self.event_log, self.recent_events, self.object_store, self.ledger, clock, InlineTaskPool())

    def create(self, topic: str = TOPIC, partitions: int = 1) -> None:
        self.event_log.create_topic(topic, partitions)
        if topic not in self.topics:
            self.topics.append(topic)

    def recreate_topic(self, topic: str = TOPIC, partitions: int = 1) -> None:
        self.event_log.delete_topic(topic)
        self.incarnations[topic] = self.incarnations.get(topic, 0) + 1
        self.create(topic, partitions)

    def partition(self, number: int = 0, topic: str = TOPIC) -> TopicPartition:
        return TopicPartition(topic, self.incarnations.get(topic, 0), number)

    def source(self, offset: int, partition: int = 0, topic: str = TOPIC) -> Source:
        return Source(self.partition(partition, topic), offset)

    def produce(self, first: bytes | None, *others: bytes | None, partition: int = 0, topic: str = TOPIC) -> Source:
        """Produce one record for each value. Return the source of the last one."""
        source = self.source(self.event_log.append(topic, partition, first), partition, topic)
        self.values[source] = first
        return self.produce(*others, partition=partition, topic=topic) if others else source

    def plan(self, policy: PlanningPolicy | None = None) -> PlanningResult:
        return plan_lanes(self.topics, policy or self.policy, self.ports)

    def run(self, lane: int = 0, by: IngestOptions | None = None, ports: Ports | None = None) -> ExecutionReport:
        """Plan and execute one lane once. The clock advances by one second first, so that batch times differ."""
        self.clock.advance(SECOND)
        return execute_plan(self.plan().plans[lane], ports or self.ports, by or ingest_options())

    def settle(self, by: IngestOptions | None = None) -> None:
        """Run every lane until all plans are empty, and delete stale staging files."""
        while any(plans := self.plan().plans):
            for plan in filter(None, plans):
                self.clock.advance(SECOND)
                execute_plan(plan, self.ports, by or ingest_options("recovery"))
        delete_stale_staging_files(self.ports)

    def ids(self, event_ids: Sequence[str]) -> dict[str, Source]:
        return {event_id: item.source for event_id, item in self.recent_events.get_items(event_ids).items()}
