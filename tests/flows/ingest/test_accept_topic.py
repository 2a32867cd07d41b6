"""A topic that was deleted and created again is another topic: it stops, a person accepts it, and it is read as another generation."""

from __future__ import annotations

from typing import Any

import pytest

from analytics_defs.adapters.memory import MemoryEventLog
from analytics_defs.core.events.event import legacy_id
from analytics_defs.core.ledger import OutcomeCounts
from analytics_defs.core.offsets import Source, TopicPartition
from analytics_defs.core.storage.object_keys import staging_key
from analytics_defs.errors import NotFound, ResourceMissing, TopicRecreated
from analytics_defs.flows.audit.balance import audit_offsets
from analytics_defs.flows.audit.hour import audit_hour
from analytics_defs.flows.ingest.accept_topic import accept_recreated_topic
from analytics_defs.flows.ingest.close_batch import delete_stale_staging_files
from analytics_defs.flows.ingest.execute_plan import execute_plan
from analytics_defs.flows.trace.outcome import RecordOutcome
from analytics_defs.flows.trace.trace import trace_record
from tests.flows.ingest.test_execute_plan import failing_at, problems
from tests.proof.doors import Crashed, through
from tests.proof.world import HOUR, TOPIC, World, conduct, event, legacy_event

OTHER = "ProductCreated"


def a_world(**settings: Any) -> World:
    """A topic that was read, and one beside it."""
    world = World(**settings)
    world.create()
    world.create(OTHER)
    world.produce(event("a"), event("b"), legacy_event())
    world.settle()
    return world


def test_a_recreated_topic_stops_and_the_others_go_on() -> None:
    world = a_world()
    world.create_again()
    world.produce(event("c"), event("d"), event("e"), event("f"))
    world.produce(event("other"), topic=OTHER)
    world.settle()
    assert list(world.plan().halted) == [TopicPartition(TOPIC, 0, 0)]
    assert "Run `analytics accept-recreated-topic ProductDeleted`" in world.plan().halted[TopicPartition(TOPIC, 0, 0)]
    assert set(world.ids(["a", "c", "other"])) == {"a", "other"}


def test_after_it_was_accepted_it_is_read_from_its_start_with_sources_and_ids_of_its_own() -> None:
    world = a_world()
    world.create_again()
    world.produce(event("a", payload="new"), legacy_event(), event("c"))
    assert accept_recreated_topic(TOPIC, world.ports).incarnation == 1
    world.settle()
    assert problems(world) == []
    assert world.ids(["a", "c"]) == {"a": Source(TopicPartition(TOPIC, 0, 0), 0), "c": Source(TopicPartition(TOPIC, 1, 0), 2)}
    assert {
        legacy_id(Source(TopicPartition(TOPIC, generation, 0), offset)) for generation, offset in ((0, 2), (1, 1))
    } <= world.recent_events.items.keys()
    assert trace_record("ProductDeleted@1/0/0", world.ports).original_source == Source(TopicPartition(TOPIC, 0, 0), 0)
    assert audit_offsets(world.ports).totals == OutcomeCounts(stored=5, duplicates=1)


def test_a_topic_may_be_created_again_and_again() -> None:
    world = a_world()
    for life in range(1, 4):
        world.create_again()
        world.produce(event(f"life {life}"))
        accept_recreated_topic(TOPIC, world.ports)
        world.settle()
        assert problems(world) == []
    assert trace_record("life 3", world.ports).source == Source(TopicPartition(TOPIC, 3, 0), 0)


def test_a_topic_that_is_still_the_same_is_not_accepted() -> None:
    world = a_world()
    with pytest.raises(NotFound, match="is still the one the ledger knows"):
        accept_recreated_topic(TOPIC, world.ports)


def test_a_topic_nobody_ever_read_needs_no_acceptance() -> None:
    world = a_world()
    with pytest.raises(NotFound, match="the ledger does not know topic ProductCreated"):
        accept_recreated_topic(OTHER, world.ports)


def test_a_topic_that_does_not_exist_cannot_be_accepted() -> None:
    world = a_world()
    world.event_log.delete_topic(TOPIC)
    with pytest.raises(ResourceMissing, match="topic ProductDeleted does not exist"):
        accept_recreated_topic(TOPIC, world.ports)


def test_accepting_twice_is_refused_the_second_time() -> None:
    world = a_world()
    world.create_again()
    accept_recreated_topic(TOPIC, world.ports)
    with pytest.raises(NotFound):
        accept_recreated_topic(TOPIC, world.ports)
    assert world.ledger.snapshot().topics[TOPIC].incarnation == 1


def test_without_topic_ids_a_log_that_ends_before_the_head_tells() -> None:
    world = a_world(event_log=MemoryEventLog(topic_ids=False))
    world.create_again()
    world.produce(event("c"))
    world.settle()
    assert "the log ends at 1, before the next offset to read, 3" in world.plan().halted[TopicPartition(TOPIC, 0, 0)]
    accept_recreated_topic(TOPIC, world.ports)
    world.settle()
    assert problems(world) == []
    assert set(world.ids(["c"])) == {"c"}


def test_a_log_that_was_cut_is_read_on_where_it_ends_when_it_is_the_same_topic() -> None:
    """As after an unclean election. Read from its start again, events without an id of their own would count twice."""
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
def test_a_pending_batch_of_the_old_life_is_finished_from_its_staging_file_or_counted_as_lost(method: str) -> None:
    world = a_world()
    world.produce(event("old"), event("old too"))
    with pytest.raises(Crashed):
        world.run(ports=through(world.ports, failing_at(method)))
    world.create_again()
    world.produce(event("new"))
    accept_recreated_topic(TOPIC, world.ports)
    world.settle()
    assert problems(world) == []
    staged = method != "begin_batch"
    assert set(world.ids(["old", "old too", "new"])) == ({"old", "old too", "new"} if staged else {"new"})
    assert audit_offsets(world.ports).totals == (OutcomeCounts(stored=6) if staged else OutcomeCounts(stored=4, lost=2))
    assert trace_record("ProductDeleted/0/3", world.ports).outcome is (RecordOutcome.STORED if staged else RecordOutcome.LOST)


def test_a_pending_batch_that_waits_for_an_acceptance_holds_back_its_own_partitions_only() -> None:
    world = a_world()
    world.produce(event("old"))
    with pytest.raises(Crashed):
        world.run(ports=through(world.ports, failing_at("begin_batch")))
    world.create_again()
    world.produce(event("other"), topic=OTHER)
    with pytest.raises(TopicRecreated, match="was deleted and created again"):
        world.run()
    assert set(world.ids(["other"])) == {"other"}
    accept_recreated_topic(TOPIC, world.ports)
    world.settle()
    assert problems(world) == []


def test_records_of_the_new_life_are_never_taken_for_those_of_the_old() -> None:
    """The topic is created again after the plan was made: its offsets exist in both lives."""
    world = a_world()
    world.produce(event("old"))
    plan = world.plan().plans[0]
    world.create_again()
    world.produce(*(event(f"new {number}") for number in range(6)))
    with pytest.raises(TopicRecreated):
        execute_plan(plan, world.ports, conduct())
    assert world.ledger.snapshot().pending == {}
    assert not any(each.startswith("new") for each in world.recent_events.items)


def test_a_late_run_of_the_old_life_changes_nothing() -> None:
    world = a_world()
    world.produce(event("old"))
    plan = world.plan().plans[0]
    world.create_again()
    world.produce(event("new"))
    accept_recreated_topic(TOPIC, world.ports)
    assert execute_plan(plan, world.ports, conduct()).closed == []
    world.settle()
    assert problems(world) == []
    assert set(world.ids(["old", "new"])) == {"new"}


def test_a_staging_file_of_a_batch_that_waits_is_not_swept() -> None:
    world = a_world()
    world.produce(event("old"))
    with pytest.raises(Crashed):
        world.run(ports=through(world.ports, failing_at("claim")))
    (pending,) = world.ledger.snapshot().pending
    world.create_again()
    assert delete_stale_staging_files(world.ports) == []
    assert staging_key(pending) in world.object_store.objects
    accept_recreated_topic(TOPIC, world.ports)
    world.settle()
    assert problems(world) == []
