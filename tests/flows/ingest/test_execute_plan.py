"""The life of a batch: stored data at its end, and recovery from a failure at every call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from analytics_defs.core.events.event import ValidationRules
from analytics_defs.core.ingest.batch_builder import BatchLimits
from analytics_defs.core.ingest.planning import Plan, PlanningPolicy
from analytics_defs.core.ledger import OUTCOMES, Batch, BatchRecord, OutcomeCounts
from analytics_defs.core.sha256 import sha256_hex
from analytics_defs.core.storage.object_keys import event_key, staging_key
from analytics_defs.errors import (
    AccessDenied,
    AnalyticsError,
    ConsumerGroupActive,
    InconsistentState,
    PartitionHalted,
    ResourceNotReady,
    TopicRecreated,
    Unavailable,
)
from analytics_defs.flows.audit.balance import audit_offsets
from analytics_defs.flows.ingest.execute_plan import ExecutionReport, execute_plan
from analytics_defs.ports import StoredObject
from tests.proof.agreement import Stores, faults, faults_at_rest
from tests.proof.interceptors import Call, Crashed, failing, intercept
from tests.proof.world import HOUR, NOW, SECOND, TOPIC, World, event, ingest_options, legacy_event

BROKEN = b'{"id": NaN}'


def a_world() -> World:
    """Return a world with events, a legacy event, a duplicate, a rejection, a tombstone, an aborted record and its transaction marker."""
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
    """Return all inconsistencies of a world at rest, in which every record has been read."""
    topics = world.event_log.topics(world.topics).values()
    partitions = [world.partition(number, topic.name) for topic in topics for number in topic.partitions]
    live = {partition: marks.last_stable_offset for partition, marks in world.event_log.watermarks(partitions).items()}
    return [*faults_at_rest(stores(world), world.event_log, live), *audit_offsets(world.ports).differences]


def test_every_record_is_stored_or_accounted_for_and_the_stores_are_consistent() -> None:
    world = a_world()
    report = world.run()
    assert [record.outcome_counts for record in report.closed] == [
        OutcomeCounts(stored=3, duplicates=1, dead_letters=1, tombstones=1, gaps=2)
    ]
    assert problems(world) == []
    assert set(world.ids(["a", "b"])) == {"a", "b"}
    assert {name: world.ledger.counters()[name] for name in OUTCOMES if name not in {"stored", "lost"}} == {
        "duplicates": 1,
        "dead_letters": 1,
        "tombstones": 1,
        "gaps": 2,
    }
    assert world.ledger.counters()["events"] == 3


def test_the_json_object_holds_the_original_bytes_of_the_record() -> None:
    world = World()
    world.create()
    odd = event("x").replace(b"}", b', "n" : 1.00E+2,"\xc3\xa9":[ ] }\n').replace(b"{", b" {")
    world.produce(odd)
    world.run()
    assert world.object_store.objects[event_key(HOUR, "x")].body == odd


def test_executing_a_closed_plan_again_changes_nothing() -> None:
    world = a_world()
    plan = plan_of(world)
    execute_plan(plan, world.ports, ingest_options("first"))
    before = dict(world.object_store.objects), dict(world.recent_events.items), world.ledger.counters()
    again = execute_plan(plan, world.ports, ingest_options("again"))
    assert again.closed == []
    assert again.stop_reason is None
    assert (world.object_store.objects, world.recent_events.items, world.ledger.counters()) == before


def test_a_plan_that_two_runs_execute_at_once_is_executed_once() -> None:
    """The second run executes the plan while the first one is about to begin its batch."""
    world = a_world()
    plan = plan_of(world)
    second: list[ExecutionReport] = []

    def interceptor(call: Call, perform: Callable[[], Any]) -> Any:
        if call.method == "begin_batch" and not second:
            second.append(execute_plan(plan, world.ports, ingest_options("second")))
        return perform()

    first = execute_plan(plan, intercept(world.ports, interceptor), ingest_options("first"))
    assert len(second[0].closed) == 1
    assert first.closed == []
    assert first.stop_reason == "another run began ProductDeleted/0[0,4) first"
    assert problems(world) == []


def calls_of_a_run() -> list[Call]:
    world = a_world()
    seen: list[Call] = []

    def interceptor(call: Call, perform: Callable[[], Any]) -> Any:
        seen.append(call)
        return perform()

    execute_plan(plan_of(world), intercept(world.ports, interceptor), ingest_options())
    return seen


CALLS = [pytest.param(number, id=f"{number} {call}") for number, call in enumerate(calls_of_a_run())]


@pytest.mark.parametrize("number", CALLS)
@pytest.mark.parametrize("effect", [False, True], ids=["before it took effect", "after it took effect"])
@pytest.mark.parametrize("fault", [Unavailable, Crashed], ids=["fails", "crashes"])
def test_a_run_that_fails_at_any_call_is_finished_by_the_next_with_equal_bytes(
    number: int, effect: bool, fault: type[BaseException]
) -> None:
    undisturbed = a_world()
    undisturbed.settle()
    world = a_world()
    with pytest.raises(fault):
        execute_plan(
            plan_of(world), intercept(world.ports, failing(number, effect, lambda call: fault(str(call)))), ingest_options("first")
        )
    assert list(faults(stores(world))) == []
    assert_only_closed_ranges_are_committed(world)
    world.settle()
    assert problems(world) == []
    assert world.object_store.objects == undisturbed_at_the_time_of(world, undisturbed).object_store.objects
    assert world.recent_events.items == undisturbed_at_the_time_of(world, undisturbed).recent_events.items


def undisturbed_at_the_time_of(world: World, undisturbed: World) -> World:
    """Return a world with the same history and no failure. A batch that began before the failure has the time of the first run."""
    (record,) = world.ledger.last_batches(10)
    if record.batch.time == undisturbed.ledger.last_batches(1)[0].batch.time:
        return undisturbed
    earlier = a_world()
    execute_plan(plan_of(earlier), earlier.ports, ingest_options())
    return earlier


def assert_only_closed_ranges_are_committed(world: World) -> None:
    checkpoints = world.ledger.snapshot().checkpoints
    for topic_partition, committed in world.event_log.committed([world.partition(0), world.partition(1)]).items():
        assert committed is None or committed <= checkpoints[topic_partition].next_offset


@pytest.mark.parametrize("port", ["recent_events", "object_store"])
def test_nothing_is_closed_counted_or_committed_while_a_store_is_down(port: str) -> None:
    world = a_world()

    def down(call: Call, perform: Callable[[], Any]) -> Any:
        if call.port == port:
            raise Unavailable(f"{port} is down")
        return perform()

    for _ in range(3):
        with pytest.raises(Unavailable, match="is down"):
            world.run(ports=intercept(world.ports, down))
    assert world.ledger.last_batches(1) == []
    assert world.ledger.counters() == {}
    assert set(world.event_log.committed([world.partition(0), world.partition(1)]).values()) == {None}
    world.settle()
    assert problems(world) == []


@pytest.mark.parametrize("method", ["put_if_absent", "mark_staged", "claim", "put", "close_batch"])
def test_settings_that_change_after_staging_do_not_change_the_batch(method: str) -> None:
    """The staging file decides: validation rules, event JSON and limits of a later run are ignored."""
    undisturbed = a_world()
    execute_plan(plan_of(undisturbed), undisturbed.ports, ingest_options())
    world = a_world()
    at = [call.method for call in calls_of_a_run()].index(method)
    with pytest.raises(Crashed):
        execute_plan(plan_of(world), intercept(world.ports, failing(at, True, lambda _: Crashed())), ingest_options())
    world.settle(
        ingest_options(
            "other", validation_rules=ValidationRules(max_event_bytes=1), write_event_json=False, limits=BatchLimits(max_records=1)
        )
    )
    assert world.object_store.objects == undisturbed.object_store.objects
    assert world.recent_events.items == undisturbed.recent_events.items
    assert problems(world) == []


def test_a_batch_that_was_begun_and_not_staged_is_read_again_in_exactly_its_ranges() -> None:
    world = a_world()
    with pytest.raises(Crashed):
        execute_plan(plan_of(world), intercept(world.ports, failing_at("begin_batch")), ingest_options(limits=BatchLimits(max_records=3)))
    (pending,) = world.ledger.snapshot().pending.values()
    world.produce(event("later"))
    world.settle()
    first = world.ledger.batch_record(pending.id)
    assert first is not None
    assert first.batch.ranges == pending.ranges
    assert problems(world) == []


def remove_rules(world: World) -> None:
    """Make the pending entries look like those of an older version, which stored no rules."""
    pending = world.ledger._pending
    pending |= {batch.id: replace(batch, rules=None) for batch in pending.values()}


def large_events_of(hours: int) -> list[bytes]:
    times = [f"2024-01-{1 + hour // 24:02}T{hour % 24:02}:00:00Z" for hour in range(hours)]
    return [event(f"e{hour}", time, padding="." * 500) for hour, time in enumerate(times)]


def test_a_batch_that_is_read_again_keeps_the_rules_under_which_it_began() -> None:
    """Keyed by the newer rules its rejections would be events, of more hours than one transaction of the ledger holds."""
    world = World()
    world.create()
    world.produce(*large_events_of(60))
    with pytest.raises(Crashed):
        world.run(
            by=ingest_options(validation_rules=ValidationRules(max_event_bytes=300)),
            ports=intercept(world.ports, failing_at("begin_batch")),
        )
    world.settle(ingest_options(validation_rules=ValidationRules(max_event_bytes=10_000)))
    assert [record.outcome_counts for record in world.ledger.last_batches(10)] == [OutcomeCounts(dead_letters=60)]
    assert problems(world) == []


def test_a_batch_that_the_ledger_cannot_close_is_not_staged_and_delays_no_other() -> None:
    world = World()
    world.create(partitions=2)
    world.produce(*large_events_of(60))
    with pytest.raises(Crashed):
        world.run(
            by=ingest_options(validation_rules=ValidationRules(max_event_bytes=300)),
            ports=intercept(world.ports, failing_at("begin_batch")),
        )
    remove_rules(world)
    world.produce(event("other"), partition=1)
    for _ in range(2):
        with pytest.raises(PartitionHalted, match=r"events lie in 60 hours, and closing it may take 125 actions .* Set MAX_EVENT_BYTES"):
            world.run()
    assert set(world.recent_events.items) == {"other"}
    assert list(world.object_store.list_keys("staging/")) == []
    world.settle(ingest_options(validation_rules=ValidationRules(max_event_bytes=300)))
    assert problems(world) == []


NON_RETRYABLE = [AnalyticsError, InconsistentState, AccessDenied, ResourceNotReady, TopicRecreated]


def pending_in_the_first_and_new_in_the_second() -> World:
    """Return a world whose first partition has a pending batch and whose second has a new record."""
    world = World()
    world.create(partitions=2)
    world.produce(event("a"))
    with pytest.raises(Crashed):
        world.run(ports=intercept(world.ports, failing_at("mark_staged")))
    world.produce(event("b"), partition=1)
    return world


@pytest.mark.parametrize("fault", NON_RETRYABLE)
def test_a_pending_batch_with_a_lasting_fault_halts_only_its_own_partitions(fault: type[AnalyticsError]) -> None:
    world = pending_in_the_first_and_new_in_the_second()

    def interceptor(call: Call, perform: Callable[[], Any]) -> Any:
        if call.method == "close_batch" and call.args[0].batch.ranges[0].topic_partition == world.partition(0):
            raise fault("its transaction is too large")
        return perform()

    with pytest.raises(fault, match="too large"):
        world.run(ports=intercept(world.ports, interceptor))
    assert world.ledger.snapshot().checkpoints[world.partition(1)].totals == OutcomeCounts(stored=1)
    assert world.event_log.committed([world.partition(1)]) == {world.partition(1): 1}
    world.settle()
    assert problems(world) == []


def test_a_pending_batch_with_a_retryable_fault_fails_the_run_at_once() -> None:
    world = pending_in_the_first_and_new_in_the_second()
    with pytest.raises(Unavailable):
        world.run(ports=intercept(world.ports, failing("close_batch", False, lambda _: Unavailable("down"))))
    assert world.partition(1) not in world.ledger.snapshot().checkpoints


def failing_at(method: str) -> Callable[[Call, Callable[[], Any]], Any]:
    def interceptor(call: Call, perform: Callable[[], Any]) -> Any:
        answer = perform()
        if call.method == method:
            raise Crashed
        return answer

    return interceptor


def world_without_staging_file(setting: bool = True) -> tuple[World, Batch]:
    """Return a world whose run died after its first claim, and whose staging file was then deleted."""
    world = World(policy=PlanningPolicy(lanes=1))
    world.create(partitions=2)
    world.produce(event("a"), event("late"), b"broken")
    world.event_log.append(TOPIC, 0, None)
    world.event_log.append_marker(TOPIC, 0)
    world.produce(event("a"))
    ports, options = intercept(world.ports, failing_at("claim")), ingest_options(write_event_json=setting)
    with pytest.raises(Crashed):
        execute_plan(plan_of(world), ports, options)
    (pending,) = world.ledger.snapshot().pending.values()
    world.object_store.delete([staging_key(pending.id)])
    return world, pending


@pytest.mark.parametrize("setting", [True, False])
def test_a_staging_file_that_is_gone_is_written_again_with_the_same_bytes(setting: bool) -> None:
    world, pending = world_without_staging_file(setting)
    written: list[bytes] = []

    def watching(call: Call, perform: Callable[[], Any]) -> Any:
        if call.method == "put_if_absent" and call.args[0].key == staging_key(pending.id):
            written.append(call.args[0].body)
        return perform()

    (record,) = world.run(ports=intercept(world.ports, watching)).closed
    assert [sha256_hex(body) for body in written] == [pending.staged]
    assert (record.batch.id, record.write_event_json) == (pending.id, setting)
    assert problems(world) == []


def test_a_staging_file_that_kafka_does_not_give_again_halts_only_its_partitions() -> None:
    world, pending = world_without_staging_file()
    world.event_log.retain_from(TOPIC, 0, 1)
    world.produce(event("b"), partition=1)
    closed: list[BatchRecord] = []
    with pytest.raises(InconsistentState, match=rf"{pending.id} of ProductDeleted/0\[0,\d\): its staging file .* is gone.* other bytes"):
        execute_plan(plan_of(world), world.ports, ingest_options(), closed.append)
    assert [record.batch.ranges[0].topic_partition for record in closed] == [world.partition(1)]
    assert world.ledger.pending_batch(pending.id) is not None


def test_a_staging_file_that_appears_after_the_first_read_is_used() -> None:
    """Another executor stages the pending batch between the reads of its staging file and of its ledger entry."""
    world = a_world()
    with pytest.raises(Crashed):
        world.run(ports=intercept(world.ports, failing_at("begin_batch")))

    def interceptor(call: Call, perform: Callable[[], Any]) -> Any:
        answer = perform()
        if call.method == "get" and answer is None:
            with pytest.raises(Crashed):
                world.run(ports=intercept(world.ports, failing_at("mark_staged")))
        return answer

    assert len(world.run(ports=intercept(world.ports, interceptor)).closed) == 1
    assert problems(world) == []


def test_a_staging_file_with_another_digest_than_the_registered_one_is_refused() -> None:
    world = a_world()
    with pytest.raises(Crashed):
        world.run(ports=intercept(world.ports, failing_at("mark_staged")))
    (pending,) = world.ledger.snapshot().pending.values()
    object_ = world.object_store.objects[staging_key(pending.id)]
    world.object_store.put([replace(object_, body=object_.body + b" ")])
    with pytest.raises(InconsistentState):
        world.run()
    assert world.recent_events.items == {}


def damaged(object_: StoredObject) -> StoredObject:
    return replace(object_, body=object_.body[:-40])


def of_another_batch(object_: StoredObject) -> StoredObject:
    other = World()
    other.create()
    other.produce(*(event(f"other {number}") for number in range(20)))
    with pytest.raises(Crashed):
        other.run(ports=intercept(other.ports, failing_at("mark_staged")))
    (staged,) = (file for key, file in other.object_store.objects.items() if key.startswith(staging_key("")))
    return replace(staged, key=object_.key)


@pytest.mark.parametrize("before", ["put_if_absent", "get"])
@pytest.mark.parametrize(
    ("alter", "message"), [(damaged, "is damaged or from another version"), (of_another_batch, "is not the staging file of")]
)
def test_a_wrong_staging_file_is_not_registered_and_the_restored_one_is_used(
    alter: Callable[[StoredObject], StoredObject], message: str, before: str
) -> None:
    """An executor finds it when it writes or when it reads. A registered digest would refuse the correct file permanently."""
    world = a_world()
    with pytest.raises(Crashed):
        world.run(ports=intercept(world.ports, failing_at("put_if_absent")))
    (whole,) = (object_ for key, object_ in world.object_store.objects.items() if key.startswith(staging_key("")))
    world.object_store.put([alter(whole)])

    def interceptor(call: Call, perform: Callable[[], Any]) -> Any:
        return None if (call.method, before) == ("get", "put_if_absent") else perform()

    with pytest.raises(InconsistentState, match=message):
        world.run(ports=intercept(world.ports, interceptor))
    (pending,) = world.ledger.snapshot().pending.values()
    assert (pending.staged, world.recent_events.items) == (None, {})
    world.object_store.put([whole])
    world.settle()
    assert problems(world) == []


def test_a_plan_with_events_of_hundreds_of_hours_is_cut_into_batches_of_few_hours() -> None:
    world = World()
    world.create()
    world.produce(*(event(f"e{hour}", f"2024-01-{1 + hour // 24:02}T{hour % 24:02}:00:00Z") for hour in range(300)))
    report = world.run()
    assert len(report.closed) == 13
    assert max(len(record.hours) for record in report.closed) == 24
    assert problems(world) == []


def test_an_event_larger_than_the_byte_limit_is_a_batch_by_itself() -> None:
    world = World()
    world.create()
    world.produce(event("a"), event("huge", padding="." * 500_000), event("b"))
    report = world.run(by=ingest_options(limits=BatchLimits(max_bytes=1000)))
    assert [record.outcome_counts.stored for record in report.closed] == [1, 1, 1]
    assert problems(world) == []


def test_more_partitions_than_a_transaction_holds_need_several_batches() -> None:
    world = World()
    world.create(partitions=60)
    for partition in range(60):
        world.produce(event(f"e{partition}"), partition=partition)
    report = world.run()
    assert [len(record.batch.ranges) for record in report.closed] == [24, 24, 12]
    assert problems(world) == []


def test_without_event_json_only_events_that_no_item_can_hold_get_an_object() -> None:
    world = World()
    world.recent_events._unholdable = lambda candidate: candidate.id == "unholdable"
    world.create()
    world.produce(event("plain"), event("unholdable"))
    world.run(by=ingest_options(write_event_json=False))
    assert [key for key in world.object_store.objects if key.startswith("events/")] == [event_key(HOUR, "unholdable")]


def test_a_batch_has_its_read_time_in_whole_milliseconds() -> None:
    world = World()
    world.create()
    world.produce(event("a"))
    world.clock.time = NOW + SECOND / 3
    (record,) = execute_plan(plan_of(world), world.ports, ingest_options()).closed
    assert record.batch.time == NOW.replace(microsecond=333_000)
    assert world.recent_events.items["a"].created_at == "2024-01-15T12:00:00.333Z"


def test_each_closed_batch_is_reported_at_once() -> None:
    world = a_world()
    reported: list[BatchRecord] = []

    def interceptor(call: Call, perform: Callable[[], Any]) -> Any:
        if call.method == "begin_batch" and reported:
            raise Unavailable("the ledger is down")
        return perform()

    with pytest.raises(Unavailable):
        execute_plan(
            plan_of(world), intercept(world.ports, interceptor), ingest_options(limits=BatchLimits(max_records=3)), reported.append
        )
    assert reported == world.ledger.last_batches(10)
    report = execute_plan(plan_of(world), world.ports, ingest_options(limits=BatchLimits(max_records=3)), reported.append)
    assert reported[1:] == report.closed
    assert len(reported) == 2


@pytest.mark.parametrize("fault", [ConsumerGroupActive("another consumer is a member"), Unavailable("no coordinator")])
def test_a_refused_commit_delays_only_the_offsets_and_is_raised_at_the_end(fault: AnalyticsError) -> None:
    world = World()
    world.create()
    world.produce(*(event(f"e{number}") for number in range(10)))
    reported: list[BatchRecord] = []
    commits: list[Call] = []

    def interceptor(call: Call, perform: Callable[[], Any]) -> Any:
        if call.method == "commit":
            commits.append(call)
            raise fault
        return perform()

    world.clock.advance(SECOND)
    with pytest.raises(type(fault)) as raised:
        execute_plan(
            plan_of(world), intercept(world.ports, interceptor), ingest_options(limits=BatchLimits(max_records=3)), reported.append
        )
    assert raised.value is fault
    assert [record.outcome_counts.stored for record in reported] == [3, 3, 3, 1]
    assert list(world.object_store.list_keys("staging/")) == []
    assert len(commits) == 1, "the next plan sets all offsets: no time-out for each batch"
    assert plan_of(world).recommit == (world.partition(),)
    world.settle()
    assert world.event_log.committed([world.partition()]) == {world.partition(): 10}
    assert problems(world) == []


def test_a_refused_recommit_is_raised_after_everything_else() -> None:
    world = World()
    world.create()
    world.produce(event("a"))
    world.settle()
    world.event_log.commit({world.partition(): 0})
    world.produce(event("b"))

    def interceptor(call: Call, perform: Callable[[], Any]) -> Any:
        if call.method == "commit" and call.args[0] == {world.partition(): 2} and world.ids(["b"]):
            raise ConsumerGroupActive("another consumer is a member")
        return perform()

    with pytest.raises(ConsumerGroupActive):
        execute_plan(plan_of(world), intercept(world.ports, interceptor), ingest_options())
    assert set(world.ids(["a", "b"])) == {"a", "b"}
