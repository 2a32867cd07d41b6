"""Plans from Kafka and the ledger, made by reads only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from analytics_defs.core.ingest.planning import PlanningPolicy
from analytics_defs.flows.ingest.planning import plan_lanes, read_topic_offsets
from tests.proof.interceptors import Call, intercept
from tests.proof.world import TOPIC, World, event

READS = {"event_log.topics", "event_log.available_watermarks", "event_log.committed", "ledger.snapshot"}


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
