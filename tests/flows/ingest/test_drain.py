"""Plan and ingest without Dagster."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest

from analytics_defs.adapters.memory import InlineTaskPool, ManualClock, MemoryEventLog, MemoryLedger, MemoryObjectStore, MemoryRecentEvents
from analytics_defs.core.events.event import ValidationRules
from analytics_defs.core.ingest.batch_builder import BatchLimits
from analytics_defs.core.ingest.planning import PlanningPolicy, lane_of
from analytics_defs.core.offsets import Range, Record
from analytics_defs.errors import AccessDenied, AnalyticsError, ConsumerGroupActive, Unavailable
from analytics_defs.flows.ingest.drain import DrainOptions, DrainResult, drain
from analytics_defs.flows.ingest.options import IngestOptions
from analytics_defs.ports import Ports, ReadResult

TOPIC = "ProductDeleted"


class World:
    def __init__(self, events: int) -> None:
        self.log, self.recent = MemoryEventLog(), MemoryRecentEvents()
        self.leased_lanes: list[int] = []
        self.ports = Ports(
            self.log, self.recent, MemoryObjectStore(), MemoryLedger(), ManualClock(datetime(2024, 1, 15, 12, tzinfo=UTC)), InlineTaskPool()
        )
        self.log.create_topic(TOPIC, 2)
        for number in range(events):
            event = {"id": f"event-{number}", "timestamp": "2024-01-15T10:00:00Z", "type": TOPIC, "productId": "p", "sellerId": "s"}
            self.log.append(TOPIC, number % 2, json.dumps(event).encode())

    @contextmanager
    def lease_heartbeat(self, lane: int) -> Iterator[None]:
        self.leased_lanes.append(lane)
        yield

    def drain(self, policy: PlanningPolicy, *, until_idle: bool) -> DrainResult:
        options = IngestOptions("run", ValidationRules(max_event_bytes=10_000), BatchLimits(max_records=5))
        return drain(DrainOptions((TOPIC,), policy, options, until_idle), self.ports, self.lease_heartbeat)


def test_a_drain_executes_one_plan_of_each_lane() -> None:
    world = World(events=40)
    result = world.drain(PlanningPolicy(lanes=2, max_offsets=10), until_idle=False)
    assert (sum(record.outcome_counts.stored for record in result.closed), world.leased_lanes) == (20, [0, 1])


def test_until_idle_drains_until_nothing_is_left() -> None:
    world = World(events=43)
    result = world.drain(PlanningPolicy(max_offsets=10), until_idle=True)
    assert (sum(record.outcome_counts.stored for record in result.closed), len(world.recent.items)) == (43, 43)
    assert world.drain(PlanningPolicy(), until_idle=True) == DrainResult()


def test_a_halted_partition_is_reported_and_is_no_error() -> None:
    world = World(events=10)
    world.drain(PlanningPolicy(), until_idle=True)
    world.log.delete_topic(TOPIC)
    world.log.create_topic(TOPIC, 2)
    result = world.drain(PlanningPolicy(), until_idle=True)
    assert (result.closed, len(result.halted)) == ([], 2)
    assert f"analytics accept-recreated-topic {TOPIC}" in result.halted[0]


def test_a_fault_ends_the_drain_and_closed_batches_stay_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    world, closes = World(events=20), iter([True])
    close_batch = world.ports.ledger.close_batch

    def close(record: object) -> bool:
        if not next(closes, False):
            raise Unavailable("the ledger is down")
        return close_batch(record)  # type: ignore[arg-type]

    monkeypatch.setattr(world.ports.ledger, "close_batch", close)
    with pytest.raises(Unavailable):
        world.drain(PlanningPolicy(), until_idle=True)
    monkeypatch.undo()
    assert world.drain(PlanningPolicy(), until_idle=True).closed
    assert sum(checkpoint.totals.stored for checkpoint in world.ports.ledger.snapshot().checkpoints.values()) == 20


@pytest.mark.parametrize("fault", [Unavailable("no leader"), AccessDenied("403")])
def test_other_lanes_are_drained_if_one_fails_and_its_fault_is_raised_at_the_end(
    fault: AnalyticsError, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(events=40)
    read_ranges = world.log.read

    def read(ranges: Sequence[Range], admit: Callable[[Record], bool]) -> ReadResult:
        if any(lane_of(range_.topic_partition, 2) == 0 for range_ in ranges):
            raise fault
        return read_ranges(ranges, admit)

    monkeypatch.setattr(world.log, "read", read)
    with pytest.raises(type(fault)) as raised:
        world.drain(PlanningPolicy(lanes=2, max_offsets=10), until_idle=True)
    assert raised.value is fault
    assert world.leased_lanes == [0, 1, 1], "a lane that fails without closing a batch is not tried again"
    assert sorted(checkpoint.totals.stored for checkpoint in world.ports.ledger.snapshot().checkpoints.values()) == [20]


def test_a_refused_commit_does_not_end_a_drain_early(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(events=40)

    def refuse(_: object) -> None:
        raise ConsumerGroupActive("another consumer is a member of the group")

    monkeypatch.setattr(world.log, "commit", refuse)
    with pytest.raises(ConsumerGroupActive):
        world.drain(PlanningPolicy(max_offsets=10), until_idle=True)
    assert len(world.recent.items) == 40
