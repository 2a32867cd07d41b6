"""Plans from Kafka and the ledger, made by reads only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from analytics_defs.adapters.memory import MemoryLedger
from analytics_defs.core.ingest.planning import PlanningPolicy
from analytics_defs.core.ledger import Checkpoint, LedgerSnapshot, OutcomeCounts
from analytics_defs.core.offsets import TopicPartition
from analytics_defs.errors import InconsistentState
from analytics_defs.flows.ingest.planning import plan_lanes, read_topic_offsets
from tests.flows.ingest.test_execute_plan import failing_at
from tests.proof.interceptors import Call, Crashed, intercept
from tests.proof.world import TOPIC, World, event

READS = {"event_log.topics", "event_log.available_watermarks", "event_log.committed", "ledger.snapshot", "ledger.closed_ranges_after"}


def test_planning_only_reads_and_reads_the_ledger_first() -> None:
    world = World()
    world.create()
    world.produce(event("a"))
    calls: list[str] = []

    def interceptor(call: Call, perform: Callable[[], Any]) -> Any:
        calls.append(str(call))
        return perform()

    assert plan_lanes([TOPIC, "Missing"], PlanningPolicy(), intercept(world.ports, interceptor)).plans[0].offsets == 1
    assert calls[0] == "ledger.snapshot"
    assert set(calls) == READS


def test_a_partition_with_a_checkpoint_costs_no_further_read() -> None:
    world = World()
    world.create()
    world.produce(event("a"))
    world.settle()
    world.produce(event("b"))
    calls: list[str] = []

    def interceptor(call: Call, perform: Callable[[], Any]) -> Any:
        calls.append(str(call))
        return perform()

    assert plan_lanes([TOPIC], PlanningPolicy(), intercept(world.ports, interceptor)).plans[0].offsets == 1
    assert sorted(calls) == sorted(READS - {"ledger.closed_ranges_after"})


def delete_the_checkpoint(ledger: MemoryLedger, partition: TopicPartition) -> None:
    del ledger._checkpoints[partition]


def set_the_checkpoint_back(ledger: MemoryLedger, partition: TopicPartition) -> None:
    ledger._checkpoints[partition] = Checkpoint(partition, 0, 1, None, OutcomeCounts(stored=1))


def lower_the_next_offset(ledger: MemoryLedger, partition: TopicPartition) -> None:
    ledger._checkpoints[partition] = replace(ledger._checkpoints[partition], next_offset=1)


@pytest.mark.parametrize("damage", [delete_the_checkpoint, set_the_checkpoint_back, lower_the_next_offset])
def test_a_checkpoint_behind_its_closed_ranges_halts_its_partition_only(damage: Callable[[MemoryLedger, TopicPartition], None]) -> None:
    world = World()
    world.create(partitions=2)
    world.produce(event("a"), event("b"))
    world.settle()
    damage(world.ledger, world.partition(0))
    world.produce(event("c"))
    world.produce(event("d"), partition=1)
    planned = world.plan()
    assert [range_.topic_partition for range_ in planned.plans[0].ranges] == [world.partition(1)]
    ((halted, message),) = planned.halted.items()
    assert halted == world.partition(0)
    assert "`checkpoint#ProductDeleted/0`" in message
    counters = dict(world.ledger.counters())
    world.settle()
    assert world.ledger.counters()["events"] == counters["events"] + 1


def test_a_deleted_checkpoint_of_a_pending_batch_halts_its_partition() -> None:
    world = World()
    world.create()
    world.produce(event("a"))
    with pytest.raises(Crashed):
        world.run(ports=intercept(world.ports, failing_at("claim")))
    delete_the_checkpoint(world.ledger, world.partition(0))
    ((_, message),) = world.plan().halted.items()
    assert "pending batch" in message
    with pytest.raises(InconsistentState, match="is pending, and a checkpoint is not where it left it"):
        world.run()


def test_a_half_visible_first_batch_halts_nothing() -> None:
    """The entry of the batch is visible before its checkpoint."""

    class HalfVisible(MemoryLedger):
        reads = 0

        def snapshot(self) -> LedgerSnapshot:
            self.reads += 1
            return replace(super().snapshot(), checkpoints={}) if self.reads == 1 else super().snapshot()

    world = World(ledger=HalfVisible())
    world.create()
    world.produce(event("a"))
    world.ledger.reads = 1  # type: ignore[attr-defined]
    with pytest.raises(Crashed):
        world.run(ports=intercept(world.ports, failing_at("claim")))
    world.ledger.reads = 0  # type: ignore[attr-defined]
    assert world.plan().halted == {}


def test_a_topic_that_does_not_exist_has_no_offsets_and_a_note() -> None:
    world = World()
    world.create()
    assert read_topic_offsets([TOPIC, "Missing"], world.ports)["Missing"] is None
    assert plan_lanes([TOPIC, "Missing"], PlanningPolicy(), world.ports).notes == ("topic Missing does not exist yet",)


def test_the_offsets_of_a_topic_are_those_of_the_broker() -> None:
    world = World()
    world.create(partitions=2)
    world.produce(event("a"), event("b"), event("c"))
    world.event_log.retain_from(TOPIC, 0, 1)
    world.event_log.open_transaction(TOPIC, 0)
    world.produce(event("d"))
    world.event_log.commit({world.partition(0): 2})
    offsets = read_topic_offsets([TOPIC], world.ports)[TOPIC]
    assert offsets is not None
    assert offsets.topic_id is not None
    assert (offsets.log_start_offsets, offsets.last_stable_offsets, offsets.high_watermarks, offsets.committed) == (
        {0: 1, 1: 0},
        {0: 3, 1: 0},
        {0: 4, 1: 0},
        {0: 2, 1: None},
    )


def test_no_checkpoint_appears_ahead_of_the_log_during_concurrent_ingest() -> None:
    """A record is produced and read between the reads of ledger and Kafka. The topic must not appear recreated."""
    world = World()
    world.create()
    world.produce(event("a"))
    world.settle()

    def interceptor(call: Call, perform: Callable[[], Any]) -> Any:
        result = perform()
        if call.method == "snapshot":
            world.produce(event("b"))
            world.run()
        return result

    assert plan_lanes([TOPIC], PlanningPolicy(), intercept(world.ports, interceptor)).halted == {}
