"""Duplicates: an id is stored and counted once, with the bytes of its first claim, and each duplicate names the owning source."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from analytics_defs.adapters.memory import MemoryObjectStore
from analytics_defs.adapters.memory.parquet_workspace import memory_workspace
from analytics_defs.core.ingest.batch_builder import BatchLimits
from analytics_defs.core.ingest.planning import PlanningPolicy, lane_of
from analytics_defs.core.offsets import Source
from analytics_defs.core.storage.object_keys import event_json_dir, event_key, reused_id_event_key
from analytics_defs.flows.audit.hour import audit_hour
from analytics_defs.flows.hours.compaction import compact_hour
from analytics_defs.flows.ingest.execute_plan import execute_plan
from analytics_defs.flows.trace.outcome import RecordOutcome
from analytics_defs.flows.trace.trace import trace_record
from analytics_defs.ports import StoredObject
from tests.flows.ingest.test_execute_plan import failing_at, problems
from tests.proof.interceptors import Call, Crashed, intercept
from tests.proof.world import HOUR, TOPIC, World, event, ingest_options

OTHER_TOPIC = "ProductCreated"
FIRST, OTHER = event("x"), event("x", payload="other")


def assert_stored_once(world: World, owner: Source, *duplicates: Source) -> None:
    assert problems(world) == []
    assert world.ledger.counters()["events"] == len(world.recent_events.items)
    assert world.ids(["x"]) == {"x": owner}
    object_ = world.object_store.objects[event_key(HOUR, "x")]
    assert (object_.body, object_.metadata["source"]) == (world.values[owner], str(owner))
    assert trace_record(str(owner), world.ports).outcome is RecordOutcome.STORED
    for duplicate in duplicates:
        trace = trace_record(str(duplicate), world.ports)
        assert (trace.outcome, trace.event_id, trace.original_source) == (RecordOutcome.DUPLICATE, "x", owner)
    assert world.ledger.counters()["duplicates"] == len(duplicates)


@pytest.mark.parametrize("again", [FIRST, OTHER], ids=["the same payload", "another payload"])
def test_a_second_claim_of_an_id_in_one_batch_is_a_duplicate(again: bytes) -> None:
    world = World()
    world.create()
    first = world.produce(FIRST)
    second = world.produce(again)
    world.settle()
    assert_stored_once(world, first, second)


def test_both_claims_in_a_batch_are_duplicates_if_an_earlier_batch_owns_the_id() -> None:
    world = World()
    world.create()
    first = world.produce(FIRST)
    world.settle()
    second = world.produce(OTHER)
    third = world.produce(FIRST)
    world.settle()
    assert_stored_once(world, first, second, third)


def test_a_claim_a_hundred_batches_later_is_a_duplicate() -> None:
    world = World()
    world.create()
    first = world.produce(FIRST)
    world.produce(*(event(f"e{number}") for number in range(100)))
    second = world.produce(OTHER)
    world.settle(ingest_options(limits=BatchLimits(max_records=1)))
    assert len(world.ledger.last_batches(200)) == 102
    assert_stored_once(world, first, second)


def test_a_claim_from_another_topic_is_a_duplicate() -> None:
    world = World()
    world.create(TOPIC)
    world.create(OTHER_TOPIC)
    world.produce(FIRST)
    world.produce(OTHER, topic=OTHER_TOPIC)
    world.settle()
    assert_stored_once(world, world.source(0, topic=OTHER_TOPIC), world.source(0))  # ranges are sorted by topic


def test_a_claim_in_another_event_hour_is_a_duplicate() -> None:
    world = World()
    world.create()
    first = world.produce(FIRST)
    second = world.produce(event("x", "2024-01-14T01:00:00Z"))
    world.settle()
    assert_stored_once(world, first, second)
    assert not any(key.startswith("events/2024/01/14") for key in world.object_store.objects)


@pytest.mark.parametrize("method", ["begin_batch", "put_if_absent", "mark_staged", "claim", "put", "close_batch"])
def test_of_two_concurrent_lanes_the_first_claim_owns_the_id(method: str) -> None:
    """The other lane runs completely at one call of the first lane. The first claim owns the id."""
    world = World(policy=PlanningPolicy(lanes=2))
    world.create(TOPIC)
    world.create(OTHER_TOPIC)
    lane, other_lane = lane_of(world.partition(topic=TOPIC), 2), lane_of(world.partition(topic=OTHER_TOPIC), 2)
    assert lane != other_lane
    source, other_source = world.produce(FIRST), world.produce(OTHER, topic=OTHER_TOPIC)
    plan = world.plan().plans[lane]
    interrupted = False

    def interceptor(call: Call, perform: Callable[[], Any]) -> Any:
        nonlocal interrupted
        if call.method == method and not interrupted:
            interrupted = True
            world.run(other_lane)
        return perform()

    execute_plan(plan, intercept(world.ports, interceptor), ingest_options())
    late = method in {"put", "close_batch"}
    assert_stored_once(world, *((source, other_source) if late else (other_source, source)))


def test_an_id_outside_the_deduplication_window_is_free_and_the_audit_passes() -> None:
    world = World()
    world.create()
    first = world.produce(FIRST)
    world.settle()
    world.clock.advance(timedelta(days=29))
    second = world.produce(OTHER)
    world.settle()
    assert world.ids(["x"]) == {"x": second}
    assert world.ledger.counters()["events"] == 2
    trace = trace_record(str(first), world.ports)
    assert (trace.outcome, trace.item) == (RecordOutcome.STORED, f"held by {second}")
    audit = audit_hour(HOUR, world.ports)
    assert (audit.parquet, audit.items, audit.expired_items, audit.findings) == (2, 1, 0, ())


def assert_both_are_stored(world: World, first: Source, second: Source) -> None:
    """Assert that two events of one id and hour are two counts, rows and JSON objects, and one item: that of the later event."""
    assert world.ids(["x"]) == {"x": second}
    bodies = {
        object_.metadata["source"]: object_.body
        for key, object_ in world.object_store.objects.items()
        if key.startswith(event_json_dir(HOUR))
    }
    assert bodies == {str(source): world.values[source] for source in (first, second)}
    assert world.object_store.objects[event_key(HOUR, "x")].body == world.values[first]
    traces = [trace_record(str(source), world.ports) for source in (first, second)]
    assert [trace.event_json for trace in traces] == [event_key(HOUR, "x"), reused_id_event_key(HOUR, "x", second)]
    audit = audit_hour(HOUR, world.ports)
    assert (audit.counted, audit.parquet, audit.objects, audit.findings) == (2, 2, 2, ())


def a_world_with_a_reused_id() -> tuple[World, Source, Source]:
    world = World()
    world.create()
    first = world.produce(FIRST)
    world.settle()
    world.clock.advance(timedelta(days=29))
    return world, first, world.produce(OTHER)


def test_a_reused_id_in_the_same_hour_overwrites_no_object() -> None:
    world, first, second = a_world_with_a_reused_id()
    world.settle()
    assert_both_are_stored(world, first, second)
    world.object_store.delete([reused_id_event_key(HOUR, "x", second)])
    assert audit_hour(HOUR, world.ports).findings == ("1 ids without JSON object, for example x",)


class NoConditionalPuts(MemoryObjectStore):
    def put_many_if_absent(self, objects: Sequence[StoredObject]) -> Sequence[StoredObject]:
        raise AssertionError(objects)


def test_events_on_time_need_no_conditional_put() -> None:
    world = World()
    world.create()
    world.produce(FIRST, event("y"))
    world.run(ports=replace(world.ports, object_store=NoConditionalPuts()))
    assert world.ledger.counters()["events"] == 2


@pytest.mark.parametrize("method", ["claim", "put_many_if_absent", "put", "close_batch"])
def test_every_executor_of_a_batch_with_a_reused_id_writes_the_same_objects(method: str) -> None:
    """The first executor crashes after the call. Its zombie, and one of the batch before, repeat their writes later."""
    world, first, second = a_world_with_a_reused_id()
    with pytest.raises(Crashed):
        world.run(ports=intercept(world.ports, failing_at(method)))
    plan = world.plan().plans[0]
    late: list[Callable[[], Any]] = []

    def interceptor(call: Call, perform: Callable[[], Any]) -> Any:
        if call.port == "object_store" and call.method in ("put", "put_many_if_absent"):
            late.append(perform)
        return perform()

    execute_plan(plan, intercept(world.ports, interceptor), ingest_options())
    world.settle()
    before = dict(world.object_store.objects)
    for write in late:
        write()
    assert world.object_store.objects == before
    assert_both_are_stored(world, first, second)


def test_both_rows_of_a_reused_id_are_rebuilt_from_the_json_tree() -> None:
    world, *_ = a_world_with_a_reused_id()
    world.settle()
    for key in [key for key in world.object_store.objects if key.startswith("parquet/")]:
        del world.object_store.objects[key]
    result = compact_hour(HOUR, world.ports, memory_workspace)
    assert result.revision is not None
    assert (result.revision.rows, len(result.rebuilt)) == (2, 2)


def test_an_id_is_not_free_one_second_before_the_window_ends() -> None:
    world = World()
    world.create()
    first = world.produce(FIRST)
    world.settle()
    world.clock.advance(timedelta(days=29) - timedelta(seconds=2))
    second = world.produce(OTHER)
    world.settle()
    assert_stored_once(world, first, second)


def test_executors_agree_on_a_duplicate_whose_owner_dynamodb_deletes_between_them() -> None:
    """The owner's item expires after one executor claimed, and before another executor claims and the first one closes."""
    world = World()
    world.create()
    first = world.produce(FIRST)
    world.settle()
    world.clock.advance(timedelta(days=30) - timedelta(hours=1))
    second = world.produce(OTHER)
    plan = world.plan().plans[0]

    def interceptor(call: Call, perform: Callable[[], Any]) -> Any:
        if call.method == "close_batch":
            world.clock.advance(timedelta(hours=2))
            world.recent_events.items = {key: item for key, item in world.recent_events.items.items() if item.source != first}
            with pytest.raises(Crashed):
                world.run(ports=intercept(world.ports, failing_at("close_batch")))
        return perform()

    execute_plan(plan, intercept(world.ports, interceptor), ingest_options())
    assert world.ids(["x"]) == {"x": second}
    assert world.ledger.counters()["events"] == 2
    assert trace_record(str(second), world.ports).outcome is RecordOutcome.STORED
    assert audit_hour(HOUR, world.ports).findings == ()


def test_each_legacy_event_has_its_own_id() -> None:
    world = World()
    world.create()
    legacy = b'{"version":"1","type":"ProductDeleted","occurredAt":"2024-01-15T10:31:00Z","productId":"p1","sellerId":"s1"}'
    world.produce(legacy, legacy)
    world.settle()
    assert problems(world) == []
    assert len(world.recent_events.items) == 2


def test_ids_that_differ_only_by_case_or_encoding_stay_apart() -> None:
    world = World()
    world.create()
    ids = ["a/b", "a%2Fb", "A/b", "..", "%2E%2E", "ä", "a b", "x" * 2000, "x" * 1999 + "y"]
    world.produce(*map(event, ids))
    world.settle()
    assert problems(world) == []
    assert sorted(world.recent_events.items) == sorted(ids)
    assert len([key for key in world.object_store.objects if key.startswith("events/")]) == len(ids)
