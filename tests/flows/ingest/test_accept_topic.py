"""A recreated topic is another topic: it is halted, an operator accepts it, and its records belong to a new incarnation."""

from __future__ import annotations

from typing import Any

import pytest

from analytics_defs.adapters.memory import MemoryEventLog
from analytics_defs.core.events.event import legacy_id
from analytics_defs.core.ledger import OutcomeCounts
from analytics_defs.core.offsets import Source, TopicPartition
from analytics_defs.core.storage.object_keys import staging_key
from analytics_defs.errors import NotFound, ResourceNotReady, TopicRecreated
from analytics_defs.flows.audit.balance import audit_offsets
from analytics_defs.flows.audit.hour import audit_hour
from analytics_defs.flows.ingest.accept_topic import accept_recreated_topic
from analytics_defs.flows.ingest.close_batch import delete_stale_staging_files
from analytics_defs.flows.ingest.execute_plan import execute_plan
from analytics_defs.flows.trace.outcome import RecordOutcome
from analytics_defs.flows.trace.trace import trace_record
from tests.flows.ingest.test_execute_plan import failing_at, problems
from tests.proof.interceptors import Crashed, intercept
from tests.proof.world import HOUR, TOPIC, World, event, ingest_options, legacy_event

OTHER = "ProductCreated"


def a_world(**settings: Any) -> World:
    """Return a world with one topic whose records were read, and a second topic."""
    world = World(**settings)
    world.create()
    world.create(OTHER)
    world.produce(event("a"), event("b"), legacy_event())
    world.settle()
    return world


def test_a_recreated_topic_is_halted_and_the_others_continue() -> None:
    world = a_world()
    world.recreate_topic()
    world.produce(event("c"), event("d"), event("e"), event("f"))
    world.produce(event("other"), topic=OTHER)
    world.settle()
    assert list(world.plan().halted) == [TopicPartition(TOPIC, 0, 0)]
    assert "Run `analytics accept-recreated-topic ProductDeleted`" in world.plan().halted[TopicPartition(TOPIC, 0, 0)]
    assert set(world.ids(["a", "c", "other"])) == {"a", "other"}


def test_an_accepted_topic_is_read_from_its_start_with_new_sources_and_ids() -> None:
    world = a_world()
    world.recreate_topic()
    world.produce(event("a", payload="new"), legacy_event(), event("c"))
    assert accept_recreated_topic(TOPIC, world.ports).incarnation == 1
    world.settle()
    assert problems(world) == []
    assert world.ids(["a", "c"]) == {"a": Source(TopicPartition(TOPIC, 0, 0), 0), "c": Source(TopicPartition(TOPIC, 1, 0), 2)}
    assert {
        legacy_id(Source(TopicPartition(TOPIC, incarnation, 0), offset)) for incarnation, offset in ((0, 2), (1, 1))
    } <= world.recent_events.items.keys()
    assert trace_record("ProductDeleted@1/0/0", world.ports).original_source == Source(TopicPartition(TOPIC, 0, 0), 0)
    assert audit_offsets(world.ports).totals == OutcomeCounts(stored=5, duplicates=1)


def test_a_topic_may_be_recreated_several_times() -> None:
    world = a_world()
    for incarnation in range(1, 4):
        world.recreate_topic()
        world.produce(event(f"event {incarnation}"))
        accept_recreated_topic(TOPIC, world.ports)
        world.settle()
        assert problems(world) == []
    assert trace_record("event 3", world.ports).source == Source(TopicPartition(TOPIC, 3, 0), 0)


def test_an_unchanged_topic_cannot_be_accepted() -> None:
    world = a_world()
    with pytest.raises(NotFound, match="is still the one the ledger knows"):
        accept_recreated_topic(TOPIC, world.ports)


def test_a_topic_that_was_never_read_cannot_be_accepted() -> None:
    world = a_world()
    with pytest.raises(NotFound, match="the ledger does not know topic ProductCreated"):
        accept_recreated_topic(OTHER, world.ports)


def test_a_topic_that_does_not_exist_cannot_be_accepted() -> None:
    world = a_world()
    world.event_log.delete_topic(TOPIC)
    with pytest.raises(ResourceNotReady, match="topic ProductDeleted does not exist"):
        accept_recreated_topic(TOPIC, world.ports)


def test_a_second_acceptance_is_refused() -> None:
    world = a_world()
    world.recreate_topic()
    accept_recreated_topic(TOPIC, world.ports)
    with pytest.raises(NotFound):
        accept_recreated_topic(TOPIC, world.ports)
    assert world.ledger.snapshot().topics[TOPIC].incarnation == 1


def test_without_topic_ids_a_log_that_ends_before_the_checkpoint_is_recreated() -> None:
    world = a_world(event_log=MemoryEventLog(topic_ids=False))
    world.recreate_topic()
    world.produce(event("c"))
    world.settle()
    assert "the log ends at 1, before the next offset to read, 3" in world.plan().halted[TopicPartition(TOPIC, 0, 0)]
    accept_recreated_topic(TOPIC, world.ports)
    world.settle()
    assert problems(world) == []
    assert set(world.ids(["c"])) == {"c"}


def test_a_truncated_log_of_the_same_topic_is_read_from_its_end() -> None:
    """An unclean leader election truncates a log. Read from its start, events without an id of their own would count twice."""
    world = World()
    world.create(partitions=2)
    for partition in (0, 1):
        world.produce(*(legacy_event(n=10 * partition + number) for number in range(5)), partition=partition)
    world.settle()
    world.event_log.truncate(TOPIC, 0, 4)
    assert "the log ends at 4, before the next offset to read, 5" in world.plan().halted[TopicPartition(TOPIC, 0, 0)]
    assert accept_recreated_topic(TOPIC, world.ports).starts == {0: 4, 1: 5}
    world.produce(legacy_event(n=99), partition=0)
    world.settle()
    assert audit_offsets(world.ports).totals == OutcomeCounts(stored=11)
    assert audit_hour(HOUR, world.ports).findings == ()


@pytest.mark.parametrize("method", ["begin_batch", "put_if_absent", "mark_staged", "claim"])
def test_a_pending_batch_of_the_old_incarnation_is_finished_or_counted_as_lost(method: str) -> None:
    world = a_world()
    world.produce(event("old"), event("old too"))
    with pytest.raises(Crashed):
        world.run(ports=intercept(world.ports, failing_at(method)))
    world.recreate_topic()
    world.produce(event("new"))
    accept_recreated_topic(TOPIC, world.ports)
    world.settle()
    assert problems(world) == []
    staged = method != "begin_batch"
    assert set(world.ids(["old", "old too", "new"])) == ({"old", "old too", "new"} if staged else {"new"})
    assert audit_offsets(world.ports).totals == (OutcomeCounts(stored=6) if staged else OutcomeCounts(stored=4, lost=2))
    assert trace_record("ProductDeleted/0/3", world.ports).outcome is (RecordOutcome.STORED if staged else RecordOutcome.LOST)


def test_a_pending_batch_of_a_recreated_topic_halts_only_its_own_partitions() -> None:
    world = a_world()
    world.produce(event("old"))
    with pytest.raises(Crashed):
        world.run(ports=intercept(world.ports, failing_at("begin_batch")))
    world.recreate_topic()
    world.produce(event("other"), topic=OTHER)
    with pytest.raises(TopicRecreated, match="was deleted and created again"):
        world.run()
    assert set(world.ids(["other"])) == {"other"}
    accept_recreated_topic(TOPIC, world.ports)
    world.settle()
    assert problems(world) == []


def test_records_of_the_new_incarnation_are_never_read_as_those_of_the_old() -> None:
    """The topic is recreated after the plan was made. Its offsets exist in both incarnations."""
    world = a_world()
    world.produce(event("old"))
    plan = world.plan().plans[0]
    world.recreate_topic()
    world.produce(*(event(f"new {number}") for number in range(6)))
    with pytest.raises(TopicRecreated):
        execute_plan(plan, world.ports, ingest_options())
    assert world.ledger.snapshot().pending == {}
    assert not any(id_.startswith("new") for id_ in world.recent_events.items)


def test_a_late_run_of_the_old_incarnation_changes_nothing() -> None:
    world = a_world()
    world.produce(event("old"))
    plan = world.plan().plans[0]
    world.recreate_topic()
    world.produce(event("new"))
    accept_recreated_topic(TOPIC, world.ports)
    assert execute_plan(plan, world.ports, ingest_options()).closed == []
    world.settle()
    assert problems(world) == []
    assert set(world.ids(["old", "new"])) == {"new"}


def test_the_staging_file_of_a_pending_batch_is_not_deleted() -> None:
    world = a_world()
    world.produce(event("old"))
    with pytest.raises(Crashed):
        world.run(ports=intercept(world.ports, failing_at("claim")))
    (pending,) = world.ledger.snapshot().pending
    world.recreate_topic()
    assert delete_stale_staging_files(world.ports) == []
    assert staging_key(pending) in world.object_store.objects
    accept_recreated_topic(TOPIC, world.ports)
    world.settle()
    assert problems(world) == []
