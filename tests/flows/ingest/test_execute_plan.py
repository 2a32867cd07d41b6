"""The life of a batch: what is where when it ends, and that a failure anywhere on the way costs nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from analytics_defs.core.events.event import ValidationRules
from analytics_defs.core.ingest.batch_builder import BatchLimits
from analytics_defs.core.ingest.planning import Plan, PlanningPolicy
from analytics_defs.core.ledger import OUTCOMES, BatchRecord, OutcomeCounts
from analytics_defs.core.storage.object_keys import event_key, staging_key
from analytics_defs.errors import (
    AccessDenied,
    AnalyticsError,
    ConsumerGroupActive,
    InconsistentState,
    PartitionHalted,
    ResourceMissing,
    TopicRecreated,
    Unavailable,
)
from analytics_defs.flows.audit.balance import audit_offsets
from analytics_defs.flows.ingest.execute_plan import ExecutionReport, execute_plan
from analytics_defs.ports import StoredObject
from tests.proof.agreement import Stores, faults, faults_at_rest
from tests.proof.doors import Call, Crashed, failing, through
from tests.proof.world import HOUR, NOW, SECOND, TOPIC, World, conduct, event, legacy_event

BROKEN = b'{"id": NaN}'


def a_world() -> World:
    """One of everything: events, a legacy event, a repeat, a rejection, a tombstone, an aborted record and its marker."""
    world = World()
    world.create(partitions=2)
    world.produce(event("a"), event("b", "2024-01-15T09:59:59Z"), BROKEN, None)
    world.produce(event("a", payload="other"), legacy_event(), partition=1)
    world.event_log.append(TOPIC, 1, event("never"), aborted=True)
    world.event_log.append_marker(TOPIC, 1)
    return world


def plan_of(world: World) -> Plan:
    return world.plan().plans[0]


def stores(world: World) -> Stores:
    return Stores(world.recent_events, world.object_store, world.ledger, world.values)


def problems(world: World) -> list[str]:
    """Of a world at rest, with everything read that is there."""
    topics = world.event_log.topics(world.topics).values()
    partitions = [world.partition(number, topic.name) for topic in topics for number in topic.partitions]
    live = {each: marks.last_stable_offset for each, marks in world.event_log.watermarks(partitions).items()}
    return [*faults_at_rest(stores(world), world.event_log, live), *audit_offsets(world.ports).differences]


def test_every_record_of_a_plan_is_stored_or_accounted_for_and_the_stores_consistent() -> None:
    world = a_world()
    report = world.run()
    assert [record.tally for record in report.closed] == [OutcomeCounts(stored=3, duplicates=1, dead_letters=1, tombstones=1, gaps=2)]
    assert problems(world) == []
    assert set(world.ids(["a", "b"])) == {"a", "b"}
    assert {name: world.ledger.counters()[name] for name in OUTCOMES if name not in {"stored", "lost"}} == {
        "duplicates": 1,
        "dead_letters": 1,
        "tombstones": 1,
        "gaps": 2,
    }
    assert world.ledger.counters()["events"] == 3


def test_the_json_object_holds_the_records_own_bytes() -> None:
    world = World()
    world.create()
    odd = event("x").replace(b"}", b', "n" : 1.00E+2,"\xc3\xa9":[ ] }\n').replace(b"{", b" {")
    world.produce(odd)
    world.run()
    assert world.object_store.objects[event_key(HOUR, "x")].body == odd


def test_a_run_of_a_closed_plan_yields_nothing_and_changes_nothing() -> None:
    world = a_world()
    plan = plan_of(world)
    execute_plan(plan, world.ports, conduct("first"))
    before = dict(world.object_store.objects), dict(world.recent_events.items), world.ledger.counters()
    again = execute_plan(plan, world.ports, conduct("again"))
    assert again.closed == []
    assert again.stop_reason is None
    assert (world.object_store.objects, world.recent_events.items, world.ledger.counters()) == before


def test_a_plan_that_is_launched_twice_at_once_is_executed_once() -> None:
    """The second launch arrives while the first one is about to take."""
    world = a_world()
    plan = plan_of(world)
    second: list[ExecutionReport] = []

    def door(call: Call, perform: Callable[[], Any]) -> Any:
        if call.method == "begin_batch" and not second:
            second.append(execute_plan(plan, world.ports, conduct("second")))
        return perform()

    first = execute_plan(plan, through(world.ports, door), conduct("first"))
    assert len(second[0].closed) == 1
    assert first.closed == []
    assert first.stop_reason == "another run began ProductDeleted/0[0,4) first"
    assert problems(world) == []


def calls_of_a_run() -> list[Call]:
    world = a_world()
    seen: list[Call] = []

    def door(call: Call, perform: Callable[[], Any]) -> Any:
        seen.append(call)
        return perform()

    execute_plan(plan_of(world), through(world.ports, door), conduct())
    return seen


CALLS = [pytest.param(number, id=f"{number} {call}") for number, call in enumerate(calls_of_a_run())]


@pytest.mark.parametrize("number", CALLS)
@pytest.mark.parametrize("effect", [False, True], ids=["before it took effect", "after it took effect"])
@pytest.mark.parametrize("fault", [Unavailable, Crashed], ids=["fails", "is the last"])
def test_a_run_that_ends_at_any_call_is_finished_by_the_next_with_the_very_same_bytes(
    number: int, effect: bool, fault: type[BaseException]
) -> None:
    undisturbed = a_world()
    undisturbed.settle()
    world = a_world()
    with pytest.raises(fault):
        execute_plan(plan_of(world), through(world.ports, failing(number, effect, lambda call: fault(str(call)))), conduct("first"))
    assert list(faults(stores(world))) == []
    assert_nothing_is_committed_that_is_not_closed(world)
    world.settle()
    assert problems(world) == []
    assert world.object_store.objects == undisturbed_at_the_time_of(world, undisturbed).object_store.objects
    assert world.recent_events.items == undisturbed_at_the_time_of(world, undisturbed).recent_events.items


def undisturbed_at_the_time_of(world: World, undisturbed: World) -> World:
    """The same history without the failure: where the batch was taken before it, it has the time of the first run."""
    (record,) = world.ledger.last_batches(10)
    if record.batch.time == undisturbed.ledger.last_batches(1)[0].batch.time:
        return undisturbed
    earlier = a_world()
    execute_plan(plan_of(earlier), earlier.ports, conduct())
    return earlier


def assert_nothing_is_committed_that_is_not_closed(world: World) -> None:
    heads = world.ledger.snapshot().checkpoints
    for topic_partition, committed in world.event_log.committed([world.partition(0), world.partition(1)]).items():
        assert committed is None or committed <= heads[topic_partition].next_offset


@pytest.mark.parametrize("port", ["recent_events", "object_store"])
def test_nothing_is_closed_counted_or_committed_while_a_store_is_down(port: str) -> None:
    world = a_world()

    def down(call: Call, perform: Callable[[], Any]) -> Any:
        if call.port == port:
            raise Unavailable(f"{port} is down")
        return perform()

    for _ in range(3):
        with pytest.raises(Unavailable, match="is down"):
            world.run(ports=through(world.ports, down))
    assert world.ledger.last_batches(1) == []
    assert world.ledger.counters() == {}
    assert set(world.event_log.committed([world.partition(0), world.partition(1)]).values()) == {None}
    world.settle()
    assert problems(world) == []


@pytest.mark.parametrize("method", ["put_if_absent", "mark_staged", "claim", "put", "close_batch"])
def test_settings_that_change_after_staging_do_not_change_the_batch(method: str) -> None:
    """Whoever staged it decided: rules, objects and limits of a later run do not matter."""
    undisturbed = a_world()
    plan_of(undisturbed)
    execute_plan(plan_of(undisturbed), undisturbed.ports, conduct())
    world = a_world()
    at = [call.method for call in calls_of_a_run()].index(method)
    with pytest.raises(Crashed):
        execute_plan(plan_of(world), through(world.ports, failing(at, True, lambda _: Crashed())), conduct())
    world.settle(
        conduct("other", validation_rules=ValidationRules(max_event_bytes=1), write_event_json=False, limits=BatchLimits(max_records=1))
    )
    assert world.object_store.objects == undisturbed.object_store.objects
    assert world.recent_events.items == undisturbed.recent_events.items
    assert problems(world) == []


def test_a_batch_that_was_taken_but_not_staged_is_read_again_in_exactly_its_ranges() -> None:
    world = a_world()
    with pytest.raises(Crashed):
        execute_plan(plan_of(world), through(world.ports, failing_at("begin_batch")), conduct(limits=BatchLimits(max_records=3)))
    (pending,) = world.ledger.snapshot().pending.values()
    world.produce(event("later"))
    world.settle()
    first = world.ledger.batch_record(pending.id)
    assert first is not None
    assert first.batch.ranges == pending.ranges
    assert problems(world) == []


def forget_rules(world: World) -> None:
    """Pending entries as a version wrote them that kept no rules."""
    pending = world.ledger._pending
    pending |= {each.id: replace(each, rules=None) for each in pending.values()}


def large_events_of(hours: int) -> list[bytes]:
    times = [f"2024-01-{1 + hour // 24:02}T{hour % 24:02}:00:00Z" for hour in range(hours)]
    return [event(f"e{hour}", time, padding="." * 500) for hour, time in enumerate(times)]


def test_a_batch_that_is_read_again_keeps_the_rules_under_which_it_was_taken() -> None:
    """By the rules of later its rejections were events of more hours than one transaction of the ledger holds."""
    world = World()
    world.create()
    world.produce(*large_events_of(60))
    with pytest.raises(Crashed):
        world.run(by=conduct(validation_rules=ValidationRules(max_event_bytes=300)), ports=through(world.ports, failing_at("begin_batch")))
    world.settle(conduct(validation_rules=ValidationRules(max_event_bytes=10_000)))
    assert [record.tally for record in world.ledger.last_batches(10)] == [OutcomeCounts(dead_letters=60)]
    assert problems(world) == []


def test_a_batch_that_the_ledger_could_not_close_is_neither_staged_nor_claimed_and_holds_nothing_else_back() -> None:
    world = World()
    world.create(partitions=2)
    world.produce(*large_events_of(60))
    with pytest.raises(Crashed):
        world.run(by=conduct(validation_rules=ValidationRules(max_event_bytes=300)), ports=through(world.ports, failing_at("begin_batch")))
    forget_rules(world)
    world.produce(event("other"), partition=1)
    for _ in range(2):
        with pytest.raises(PartitionHalted, match=r"events lie in 60 hours, and closing it may take 125 actions .* Set MAX_EVENT_BYTES"):
            world.run()
    assert set(world.recent_events.items) == {"other"}
    assert list(world.object_store.list_keys("staging/")) == []
    world.settle(conduct(validation_rules=ValidationRules(max_event_bytes=300)))
    assert problems(world) == []


LASTING = [AnalyticsError, InconsistentState, AccessDenied, ResourceMissing, TopicRecreated]


def pending_in_the_first_and_new_in_the_second() -> World:
    """Of two partitions."""
    world = World()
    world.create(partitions=2)
    world.produce(event("a"))
    with pytest.raises(Crashed):
        world.run(ports=through(world.ports, failing_at("mark_staged")))
    world.produce(event("b"), partition=1)
    return world


@pytest.mark.parametrize("fault", LASTING)
def test_a_pending_batch_that_waits_for_a_person_holds_its_own_partitions_back_only(fault: type[AnalyticsError]) -> None:
    world = pending_in_the_first_and_new_in_the_second()

    def door(call: Call, perform: Callable[[], Any]) -> Any:
        if call.method == "close_batch" and call.args[0].batch.ranges[0].topic_partition == world.partition(0):
            raise fault("its transaction is too large")
        return perform()

    with pytest.raises(fault, match="too large"):
        world.run(ports=through(world.ports, door))
    assert world.ledger.snapshot().checkpoints[world.partition(1)].totals == OutcomeCounts(stored=1)
    assert world.event_log.committed([world.partition(1)]) == {world.partition(1): 1}
    world.settle()
    assert problems(world) == []


def test_a_pending_batch_whose_fault_may_pass_by_itself_fails_the_run_at_once() -> None:
    world = pending_in_the_first_and_new_in_the_second()
    with pytest.raises(Unavailable):
        world.run(ports=through(world.ports, failing("close_batch", False, lambda _: Unavailable("down"))))
    assert world.partition(1) not in world.ledger.snapshot().checkpoints


def failing_at(method: str) -> Callable[[Call, Callable[[], Any]], Any]:
    def door(call: Call, perform: Callable[[], Any]) -> Any:
        answer = perform()
        if call.method == method:
            raise Crashed
        return answer

    return door


def test_a_staging_file_that_is_gone_after_its_mark_stops_its_partitions_only_and_says_which() -> None:
    world = World(policy=PlanningPolicy(lanes=1))
    world.create(partitions=2)
    world.produce(event("a"))
    with pytest.raises(Crashed):
        world.run(ports=through(world.ports, failing_at("claim")))
    (pending,) = world.ledger.snapshot().pending.values()
    world.object_store.delete([staging_key(pending.id)])
    world.produce(event("b"), partition=1)
    closed: list[BatchRecord] = []
    with pytest.raises(InconsistentState, match=rf"{pending.id} of ProductDeleted/0\[0,1\): its staging file .* is gone"):
        execute_plan(plan_of(world), world.ports, conduct(), closed.append)
    assert [record.batch.ranges[0].topic_partition for record in closed] == [world.partition(1)]
    assert set(world.ids(["a", "b"])) == {"a", "b"}


def test_a_staging_file_that_appears_after_the_first_look_is_used() -> None:
    """Somebody else stages the pending batch between the look for its file and the look at its entry."""
    world = a_world()
    with pytest.raises(Crashed):
        world.run(ports=through(world.ports, failing_at("begin_batch")))

    def door(call: Call, perform: Callable[[], Any]) -> Any:
        answer = perform()
        if call.method == "get" and answer is None:
            with pytest.raises(Crashed):
                world.run(ports=through(world.ports, failing_at("mark_staged")))
        return answer

    assert len(world.run(ports=through(world.ports, door)).closed) == 1
    assert problems(world) == []


def test_another_staging_file_than_the_one_that_was_marked_is_refused() -> None:
    world = a_world()
    with pytest.raises(Crashed):
        world.run(ports=through(world.ports, failing_at("mark_staged")))
    (pending,) = world.ledger.snapshot().pending.values()
    blob = world.object_store.objects[staging_key(pending.id)]
    world.object_store.put([replace(blob, body=blob.body + b" ")])
    with pytest.raises(InconsistentState):
        world.run()
    assert world.recent_events.items == {}


def damaged(blob: StoredObject) -> StoredObject:
    return replace(blob, body=blob.body[:-40])


def of_another_batch(blob: StoredObject) -> StoredObject:
    other = World()
    other.create()
    other.produce(*(event(f"other {number}") for number in range(20)))
    with pytest.raises(Crashed):
        other.run(ports=through(other.ports, failing_at("mark_staged")))
    (found,) = (each for key, each in other.object_store.objects.items() if key.startswith(staging_key("")))
    return replace(found, key=blob.key)


@pytest.mark.parametrize("before", ["put_if_absent", "get"])
@pytest.mark.parametrize(
    ("alter", "said"), [(damaged, "is damaged or from another version"), (of_another_batch, "is not the staging file of")]
)
def test_a_staging_file_that_cannot_be_believed_is_not_marked_and_the_whole_one_is_taken_once_it_is_back(
    alter: Callable[[StoredObject], StoredObject], said: str, before: str
) -> None:
    """It is met by who would write it, or by who looks for it. A mark of its digest would refuse the whole file for ever."""
    world = a_world()
    with pytest.raises(Crashed):
        world.run(ports=through(world.ports, failing_at("put_if_absent")))
    (whole,) = (blob for key, blob in world.object_store.objects.items() if key.startswith(staging_key("")))
    world.object_store.put([alter(whole)])

    def door(call: Call, perform: Callable[[], Any]) -> Any:
        return None if (call.method, before) == ("get", "put_if_absent") else perform()

    with pytest.raises(InconsistentState, match=said):
        world.run(ports=through(world.ports, door))
    (pending,) = world.ledger.snapshot().pending.values()
    assert (pending.staged, world.recent_events.items) == (None, {})
    world.object_store.put([whole])
    world.settle()
    assert problems(world) == []


def test_a_plan_with_events_of_hundreds_of_hours_becomes_batches_of_few() -> None:
    world = World()
    world.create()
    world.produce(*(event(f"e{hour}", f"2024-01-{1 + hour // 24:02}T{hour % 24:02}:00:00Z") for hour in range(300)))
    report = world.run()
    assert len(report.closed) == 13
    assert max(len(record.hours) for record in report.closed) == 24
    assert problems(world) == []


def test_one_event_larger_than_the_limit_of_a_batch_is_a_batch_of_its_own() -> None:
    world = World()
    world.create()
    world.produce(event("a"), event("huge", padding="." * 500_000), event("b"))
    report = world.run(by=conduct(limits=BatchLimits(max_bytes=1000)))
    assert [record.tally.stored for record in report.closed] == [1, 1, 1]
    assert problems(world) == []


def test_more_partitions_than_a_transaction_holds_are_read_in_several_batches() -> None:
    world = World()
    world.create(partitions=60)
    for partition in range(60):
        world.produce(event(f"e{partition}"), partition=partition)
    report = world.run()
    assert [len(record.batch.ranges) for record in report.closed] == [24, 24, 12]
    assert problems(world) == []


def test_without_event_objects_only_items_that_cannot_hold_their_event_get_one() -> None:
    world = World()
    world.recent_events._unholdable = lambda each: each.id == "unholdable"
    world.create()
    world.produce(event("plain"), event("unholdable"))
    world.run(by=conduct(write_event_json=False))
    assert [key for key in world.object_store.objects if key.startswith("events/")] == [event_key(HOUR, "unholdable")]


def test_a_batch_has_the_time_of_its_reading_in_whole_milliseconds() -> None:
    world = World()
    world.create()
    world.produce(event("a"))
    world.clock.time = NOW + SECOND / 3
    (record,) = execute_plan(plan_of(world), world.ports, conduct()).closed
    assert record.batch.time == NOW.replace(microsecond=333_000)
    assert world.recent_events.items["a"].created_at == "2024-01-15T12:00:00.333Z"


def test_what_an_executor_closes_it_tells_at_once() -> None:
    world = a_world()
    told: list[BatchRecord] = []

    def door(call: Call, perform: Callable[[], Any]) -> Any:
        if call.method == "begin_batch" and told:
            raise Unavailable("the ledger is down")
        return perform()

    with pytest.raises(Unavailable):
        execute_plan(plan_of(world), through(world.ports, door), conduct(limits=BatchLimits(max_records=3)), told.append)
    assert told == world.ledger.last_batches(10)
    report = execute_plan(plan_of(world), world.ports, conduct(limits=BatchLimits(max_records=3)), told.append)
    assert told[1:] == report.closed
    assert len(told) == 2


@pytest.mark.parametrize("fault", [ConsumerGroupActive("another consumer is a member"), Unavailable("no coordinator")])
def test_a_group_that_takes_no_offsets_delays_nothing_but_the_offsets_and_is_told_in_the_end(fault: AnalyticsError) -> None:
    world = World()
    world.create()
    world.produce(*(event(f"e{number}") for number in range(10)))
    told: list[BatchRecord] = []
    commits: list[Call] = []

    def door(call: Call, perform: Callable[[], Any]) -> Any:
        if call.method == "commit":
            commits.append(call)
            raise fault
        return perform()

    world.clock.advance(SECOND)
    with pytest.raises(type(fault)) as raised:
        execute_plan(plan_of(world), through(world.ports, door), conduct(limits=BatchLimits(max_records=3)), told.append)
    assert raised.value is fault
    assert [record.tally.stored for record in told] == [3, 3, 3, 1]
    assert list(world.object_store.list_keys("staging/")) == []
    assert len(commits) == 1, "the next plan sets them all: not a time-out for each batch"
    assert plan_of(world).recommit == (world.partition(),)
    world.settle()
    assert world.event_log.committed([world.partition()]) == {world.partition(): 10}
    assert problems(world) == []


def test_a_recommit_that_is_refused_is_told_after_everything_else() -> None:
    world = World()
    world.create()
    world.produce(event("a"))
    world.settle()
    world.event_log.commit({world.partition(): 0})
    world.produce(event("b"))

    def door(call: Call, perform: Callable[[], Any]) -> Any:
        if call.method == "commit" and call.args[0] == {world.partition(): 2} and world.ids(["b"]):
            raise ConsumerGroupActive("another consumer is a member")
        return perform()

    with pytest.raises(ConsumerGroupActive):
        execute_plan(plan_of(world), through(world.ports, door), conduct())
    assert set(world.ids(["a", "b"])) == {"a", "b"}
