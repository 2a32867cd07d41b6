"""What Kafka says, and what follows from it and the ledger: by reading only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from analytics_defs.core.ingest.planning import PlanningPolicy
from analytics_defs.flows.ingest.planning import plan_lanes, read_topic_offsets
from tests.proof.doors import Call, through
from tests.proof.world import TOPIC, World, event

READS = {"event_log.topics", "event_log.available_watermarks", "event_log.committed", "ledger.snapshot"}


def test_looking_only_reads_and_asks_the_ledger_first() -> None:
    world = World()
    world.create()
    world.produce(event("a"))
    seen: list[str] = []

    def door(call: Call, perform: Callable[[], Any]) -> Any:
        seen.append(str(call))
        return perform()

    assert plan_lanes([TOPIC, "Missing"], PlanningPolicy(), through(world.ports, door)).plans[0].offsets == 1
    assert seen[0] == "ledger.snapshot"
    assert set(seen) == READS


def test_a_topic_that_does_not_exist_is_none_and_is_noted() -> None:
    world = World()
    world.create()
    assert read_topic_offsets([TOPIC, "Missing"], world.ports)["Missing"] is None
    assert plan_lanes([TOPIC, "Missing"], PlanningPolicy(), world.ports).notes == ("topic Missing does not exist yet",)


def test_what_is_seen_of_a_topic_is_what_the_broker_has() -> None:
    world = World()
    world.create(partitions=2)
    world.produce(event("a"), event("b"), event("c"))
    world.event_log.retain_from(TOPIC, 0, 1)
    world.event_log.open_transaction(TOPIC, 0)
    world.produce(event("d"))
    world.event_log.commit({world.partition(0): 2})
    seen = read_topic_offsets([TOPIC], world.ports)[TOPIC]
    assert seen is not None
    assert seen.topic_id is not None
    assert (seen.log_start_offsets, seen.last_stable_offsets, seen.high_watermarks, seen.committed) == (
        {0: 1, 1: 0},
        {0: 3, 1: 0},
        {0: 4, 1: 0},
        {0: 2, 1: None},
    )


def test_no_head_seems_to_be_ahead_of_the_log_while_others_produce_and_read() -> None:
    """Between the ledger's word and Kafka's a record is produced and read: the topic must not look recreated."""
    world = World()
    world.create()
    world.produce(event("a"))
    world.settle()

    def door(call: Call, perform: Callable[[], Any]) -> Any:
        answer = perform()
        if call.method == "snapshot":
            world.produce(event("b"))
            world.run()
        return answer

    assert plan_lanes([TOPIC], PlanningPolicy(), through(world.ports, door)).halted == {}
