"""Retention deletes what is old, closed and ours, and nothing else, whatever dies, sleeps, comes late or runs twice."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, cast

import pytest

from analytics_defs.adapters.memory import MemoryRecentEvents
from analytics_defs.core.events.event import ValidationRules
from analytics_defs.core.hours.retention import MIN_RETENTION, RetentionPolicy
from analytics_defs.core.offsets import Source
from analytics_defs.core.repair import HourRange
from analytics_defs.core.storage.object_keys import (
    batch_time,
    event_json_dir,
    event_key,
    manifest_key,
    parquet_dir,
    part_key,
    reused_id_event_key,
)
from analytics_defs.errors import DataExpired, InconsistentState, InsufficientResources, Superseded, Unavailable
from analytics_defs.flows.audit.balance import audit_offsets
from analytics_defs.flows.audit.counters import apply_adjustments, compare_counters
from analytics_defs.flows.audit.hour import audit_hour
from analytics_defs.flows.audit.hour_bytes import compare_bytes
from analytics_defs.flows.audit.recent_hours import compare_stores
from analytics_defs.flows.hours.compaction import compact_hour
from analytics_defs.flows.hours.restore import restore_hour
from analytics_defs.flows.hours.statistics import StatisticsEngineFactory, compute_daily_stats, compute_hourly_stats
from analytics_defs.flows.ingest.execute_plan import execute_plan
from analytics_defs.flows.redrive import DeadLetterFilter, redrive_dead_letters
from analytics_defs.flows.repair.repair_range import ReplayContext as ReplayMeans
from analytics_defs.flows.repair.repair_range import repair_range
from analytics_defs.flows.retention import expire_parquet
from analytics_defs.flows.retention.apply import apply_retention
from analytics_defs.flows.retention.report import RetentionReport
from analytics_defs.flows.retention.sweep import RetentionContext
from analytics_defs.flows.trace.outcome import RecordOutcome
from analytics_defs.flows.trace.trace import trace_record
from analytics_defs.ports import RECENT_EVENTS_TTL, Ports, StoredObject
from tests.flows.hours.test_statistics import BENCH
from tests.flows.repair.test_repair_range import a_world_with_an_id_that_came_again
from tests.proof.actors import Actor
from tests.proof.agreement import Stores
from tests.proof.archived import caching_workspace, rows_by_ledger
from tests.proof.doors import Call, Crashed, failing, through
from tests.proof.world import HOUR, RULES, World, conduct, event

NEXT = "2024-01-15T11"
OBJECTS, PARQUET, LETTERS = (
    RetentionPolicy(event_json=MIN_RETENTION),
    RetentionPolicy(parquet=MIN_RETENTION),
    RetentionPolicy(dead_letters=MIN_RETENTION),
)
ALL = RetentionPolicy(MIN_RETENTION, MIN_RETENTION, MIN_RETENTION)
WRITES = {
    "put",
    "put_many_if_absent",
    "put_if_absent",
    "upload",
    "put_if",
    "delete",
    "claim",
    "begin_batch",
    "close_batch",
    "commit",
    "put_revision",
    "expire_dead_letters",
}
STRICT = ValidationRules(max_event_bytes=300)


def a_world(compacted: bool = False) -> World:
    """Three batches: events of two hours, dead letters, a repeat, a tombstone."""
    world = World()
    world.create()
    world.produce(event("a"), event("n", "2024-01-15T11:00:00Z"), event("big", padding="." * 400), None)
    world.settle(conduct(validation_rules=STRICT))
    world.produce(event("b"), event("a", payload="again"))
    world.settle()
    if compacted:
        compact_hour(HOUR, world.ports, BENCH)
    world.produce(event("c"))
    world.settle()
    return world


def grow_old(world: World, by: timedelta = MIN_RETENTION + timedelta(hours=1)) -> None:
    world.clock.advance(by)


def run(world: World, ages: RetentionPolicy = ALL, ports: Ports | None = None, write: bool = True) -> RetentionReport:
    return apply_retention(RetentionContext(ports or world.ports, BENCH, ages, write))


SWIFT = cast(StatisticsEngineFactory, caching_workspace)


def run_swiftly(world: World, ages: RetentionPolicy, ports: Ports | None = None) -> RetentionReport:
    return apply_retention(RetentionContext(ports or world.ports, SWIFT, ages))


@pytest.fixture
def without_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of hundreds of runs. Statistics take a database each, and touch nothing of the hour's files."""
    monkeypatch.setattr(expire_parquet, "compute_hourly_stats", lambda *_: None)


def keys(world: World, prefix: str = "") -> list[str]:
    return list(world.object_store.list_keys(prefix))


def contents(world: World) -> tuple[Any, ...]:
    return dict(world.object_store.objects), dict(world.recent_events.items), world.ledger.snapshot(), world.ledger.counters()


def came_late(world: World, *ids: str, timestamp: str = "2024-01-15T10:45:00Z", **fields: Any) -> None:
    world.produce(*(event(each, timestamp, **fields) for each in ids))
    world.settle()


def produce_now(world: World, value: bytes, partition: int = 0) -> Source:
    """A record whose own time is now: Kafka's heads before it have passed every hour before."""
    at = world.source(
        world.event_log.append("ProductDeleted", partition, value, timestamp_ms=int(world.clock.now().timestamp() * 1000)), partition
    )
    world.values[at] = value
    return at


def seen(world: World) -> Stores:
    return Stores(world.recent_events, world.object_store, world.ledger, world.values)


def balanced(world: World) -> None:
    """What nobody may see moved: the equation, and the stores' agreement."""
    assert audit_offsets(world.ports).balanced
    assert [audit_hour(hour, world.ports).findings for hour in (HOUR, NEXT)] == [(), ()]
    assert compare_stores(world.ports).mismatches == ()


# What goes, and what stays.


def test_the_shortest_age_is_longer_than_items_point_to_objects() -> None:
    assert MIN_RETENTION > RECENT_EVENTS_TTL
    with pytest.raises(ValueError, match="at least 31 days"):
        RetentionPolicy(event_json=MIN_RETENTION - timedelta(seconds=1))


def test_nothing_goes_where_nothing_is_set() -> None:
    world = a_world()
    grow_old(world, timedelta(days=4000))
    before = contents(world)
    assert run(world, RetentionPolicy()) == RetentionReport()
    assert contents(world) == before


@pytest.mark.parametrize("compacted", [False, True])
def test_what_is_old_goes_and_the_ledger_and_the_counters_stay(compacted: bool) -> None:
    world = a_world(compacted)
    grow_old(world)
    snapshot, counters = world.ledger.snapshot(), world.ledger.counters()
    done = run(world)
    assert (done.skipped_hours, done.foreign_keys) == ([], [])
    left = [key for key in keys(world) if not key.startswith("aggregates/")]
    assert left == [manifest_key(HOUR), manifest_key(NEXT)]
    assert (world.ledger.snapshot(), world.ledger.counters()) == (snapshot, counters)
    assert {(each.tree, each.hour): each.objects for each in done.deleted if each.tree != "parquet"} == {
        ("events", HOUR): 3,
        ("events", NEXT): 1,
        ("dead-letters", "2024-01-15T12"): 1,
        ("duplicates", "2024-01-15T12"): 1,
    }
    balanced(world)


def test_bytes_are_those_of_the_objects_that_went() -> None:
    world = a_world()
    grow_old(world)
    sizes = sum(len(blob.body) for key, blob in world.object_store.objects.items() if key.startswith("events/"))
    assert run(world, OBJECTS).bytes == sizes


@pytest.mark.parametrize("ages", [OBJECTS, PARQUET, LETTERS])
def test_each_kind_has_its_own_age(ages: RetentionPolicy) -> None:
    world = a_world()
    for hour in (HOUR, NEXT):
        compact_hour(hour, world.ports, BENCH)
    grow_old(world)
    before = set(keys(world))
    run(world, ages)
    gone = before - set(keys(world))
    trees = {key.partition("/")[0] for key in gone}
    assert trees == {OBJECTS: {"events"}, PARQUET: {"parquet"}, LETTERS: {"dead-letters", "duplicates"}}[ages]
    balanced(world)


@pytest.mark.parametrize("ages", [OBJECTS, PARQUET, LETTERS, ALL])
def test_twice_is_once(ages: RetentionPolicy) -> None:
    world = a_world()
    grow_old(world)
    run(world, ages)
    before, revisions = contents(world), [world.ledger.latest_revision(hour) for hour in (HOUR, NEXT)]
    again = run(world, ages)
    assert (again.deleted, again.skipped_hours) == ([], [])
    assert contents(world) == before
    assert [world.ledger.latest_revision(hour) for hour in (HOUR, NEXT)] == revisions


@pytest.mark.parametrize("ages", [OBJECTS, PARQUET, LETTERS, ALL])
def test_a_dry_run_says_what_would_go_and_changes_nothing(ages: RetentionPolicy) -> None:
    world = a_world(compacted=True)
    compact_hour(HOUR, world.ports, BENCH)
    compact_hour(NEXT, world.ports, BENCH)
    grow_old(world)
    before, called = contents(world), set[str]()

    def look(call: Call, perform: Callable[[], Any]) -> Any:
        called.add(call.method)
        return perform()

    looked = run(world, ages, through(world.ports, look), write=False)
    assert not called & WRITES
    assert contents(world) == before
    assert looked == run(world, ages)
    assert looked.objects > 0


@pytest.mark.parametrize("ages", [OBJECTS, PARQUET, LETTERS])
def test_a_moment_too_young_stays_whole(ages: RetentionPolicy) -> None:
    """The newest batch counts, to the millisecond."""
    world = a_world()
    newest = max(record.batch.time for record in world.ledger.batch_records_from(""))
    world.clock.time = newest + MIN_RETENTION - timedelta(milliseconds=1)
    before = contents(world)
    if ages is not LETTERS:
        assert [each.hour for each in run(world, ages).deleted] == [NEXT]
        assert world.ledger.latest_revision(HOUR) is None
        assert {key: blob for key, blob in world.object_store.objects.items() if HOUR[-2:] in key.split("/")[4]} == {
            key: blob for key, blob in before[0].items() if HOUR[-2:] in key.split("/")[4]
        }
        world.clock.advance(timedelta(milliseconds=1))
        assert [each.hour for each in run(world, ages).deleted] == [HOUR]
    else:
        dead = [record.batch.time for record in world.ledger.batch_records_from("") if record.dead_letters_key or record.duplicates_key]
        world.clock.time = min(dead) + MIN_RETENTION - timedelta(milliseconds=1)
        assert run(world, ages).deleted == []
        assert contents(world) == before
        world.clock.advance(timedelta(milliseconds=1))
        assert [each.tree for each in run(world, ages).deleted] == ["dead-letters"]


@pytest.mark.parametrize("ages", [OBJECTS, PARQUET])
def test_an_hour_that_a_late_event_keeps_young_waits_for_it(ages: RetentionPolicy) -> None:
    world = a_world()
    grow_old(world)
    came_late(world, "late")
    before = {key for key in keys(world) if "/10/" in key or "hour=10" in key}
    assert {each.hour for each in run(world, ages).deleted} == {NEXT}
    assert before <= set(keys(world))
    grow_old(world)
    assert {each.hour for each in run(world, ages).deleted} == {HOUR}


@pytest.mark.parametrize("ages", [OBJECTS, PARQUET])
def test_an_hour_that_a_late_event_makes_young_while_it_is_looked_at_is_not_frozen(ages: RetentionPolicy) -> None:
    world = a_world(compacted=True)
    grow_old(world)
    before, came = set(keys(world, event_json_dir(HOUR))), False

    def meddle(call: Call, perform: Callable[[], Any]) -> Any:
        nonlocal came
        if call.method == "batches_of_hour" and call.args == (HOUR,) and not came:
            came, batches = True, perform()
            came_late(world, "late")
            return batches
        return perform()

    done = run(world, ages, through(world.ports, meddle))
    assert ({each.hour for each in done.deleted}, len(done.skipped_hours)) == ({NEXT}, 1)
    assert f"hour {HOUR}: batch {world.ledger.batches_of_hour(HOUR)[-1]} added to it meanwhile" in done.skipped_hours[0]
    revision = world.ledger.latest_revision(HOUR)
    assert revision
    assert not revision.expired
    assert before <= set(keys(world, event_json_dir(HOUR)))
    balanced(world)


# Late events.


def test_a_late_event_adds_to_a_frozen_hour_and_goes_at_its_own_age() -> None:
    world = a_world()
    grow_old(world)
    run(world)
    came_late(world, "late")
    source = world.recent_events.items["late"].source
    late = {event_key(HOUR, "late"), reused_id_event_key(HOUR, "late", source)}
    assert late <= set(keys(world))
    grow_old(world, MIN_RETENTION - timedelta(hours=1))
    assert run(world).deleted == []
    compacted = compact_hour(HOUR, world.ports, BENCH)
    assert compacted.revision
    assert (compacted.revision.rows, compacted.revision.expired.expired_rows, len(compacted.revision.expired.expired_batches)) == (1, 3, 3)
    assert late <= set(keys(world))
    balanced(world)
    said = json.loads(world.object_store.objects[manifest_key(HOUR)].body)
    assert (said["rows"], said["expired"]["rows"], len(said["batches"])) == (1, 3, 4)
    grow_old(world)
    assert {(each.tree, each.hour) for each in run(world).deleted} == {("events", HOUR), ("parquet", HOUR)}
    assert keys(world, event_json_dir(HOUR)) == []
    assert keys(world, parquet_dir(HOUR)) == [manifest_key(HOUR)]
    revision = world.ledger.latest_revision(HOUR)
    assert revision
    assert (revision.rows, revision.expired.expired_rows, revision.expired.expired_batches) == (
        0,
        4,
        tuple(world.ledger.batches_of_hour(HOUR)),
    )
    balanced(world)


def test_a_late_event_that_lies_under_both_names_is_rebuilt_as_one_row() -> None:
    world = a_world()
    grow_old(world)
    run(world, OBJECTS)
    came_late(world, "late", "other")
    late = world.ledger.batches_of_hour(HOUR)[-1]
    assert len([key for key in keys(world, event_json_dir(HOUR)) if world.object_store.objects[key].metadata["batch"] == late]) == 4
    expected = rows_by_ledger(seen(world), HOUR)
    world.object_store.delete([part_key(HOUR, late)])
    done = compact_hour(HOUR, world.ports, BENCH)
    assert done.revision
    assert (done.revision.rows, done.revision.rebuilt) == (5, 2)
    assert rows_by_ledger(seen(world), HOUR) == expected
    balanced(world)


def test_one_late_event_under_two_names_does_not_stand_for_another_that_is_gone() -> None:
    world = a_world()
    grow_old(world)
    run(world, OBJECTS)
    came_late(world, "late", "other")
    late = world.ledger.batches_of_hour(HOUR)[-1]
    lost = [key for key in keys(world, event_json_dir(HOUR)) if key.rpartition("/")[2].startswith("other")]
    world.object_store.delete([part_key(HOUR, late), *lost])
    with pytest.raises(InconsistentState, match=f"{late} \\(1 of 2\\)"):
        compact_hour(HOUR, world.ports, BENCH)


def test_late_parts_are_added_to_the_archive_where_only_objects_went() -> None:
    world = a_world()
    grow_old(world)
    run(world, OBJECTS)
    came_late(world, "late")
    done = compact_hour(HOUR, world.ports, BENCH)
    assert done.revision
    assert (done.revision.rows, done.revision.expired.expired_batches) == (4, ())
    assert done.revision.expired.has_expired_event_json_of(batch_time(done.revision.batches[2]))
    assert not done.revision.expired.has_expired_event_json_of(batch_time(done.revision.batches[3]))
    assert compute_hourly_stats(HOUR, world.ports, BENCH).stats.events == 4
    balanced(world)


@pytest.mark.usefixtures("without_statistics")
@pytest.mark.parametrize("ages", [OBJECTS, PARQUET, LETTERS, ALL])
def test_a_late_event_between_any_two_calls_is_stored_and_stays(ages: RetentionPolicy) -> None:
    """Of an id that was in the hour before, and of a new one, too large for its item."""
    calls = _calls(ages)
    assert calls > 10
    for number in range(calls):
        world = World(recent_events=MemoryRecentEvents(lambda event: event.id == "large"))
        world = _old_world(world)
        came, left = False, number

        def meddle(call: Call, perform: Callable[[], Any], world: World = world) -> Any:  # noqa: ARG001 - a door
            nonlocal came, left
            if left == 0 and not came:
                came = True
                came_late(world, "a", "large", payload="late")
            left -= 1
            return perform()

        done = run_swiftly(world, ages, through(world.ports, meddle))
        assert came, number
        _late_is_whole(world, f"{number} {done.skipped_hours}")
        run_swiftly(world, ages)
        _late_is_whole(world, f"{number} afterwards")
        balanced(world)
        for each in (HOUR, NEXT):
            compact_hour(each, world.ports, SWIFT)
        _late_is_whole(world, f"{number} compacted")
        balanced(world)


def _old_world(world: World | None = None) -> World:
    world = world or World()
    world.create()
    world.produce(event("a"), event("n", "2024-01-15T11:00:00Z"), event("big", padding="." * 400))
    world.settle(conduct(validation_rules=STRICT))
    world.produce(event("b"), event("b", payload="again"))
    world.settle()
    grow_old(world)
    return world


def _calls(ages: RetentionPolicy) -> int:
    calls = 0

    def count(call: Call, perform: Callable[[], Any]) -> Any:  # noqa: ARG001 - a door
        nonlocal calls
        calls += 1
        return perform()

    world = _old_world()
    run_swiftly(world, ages, through(world.ports, count))
    return calls


def _late_is_whole(world: World, when: str) -> None:
    """Item, object and row of both late events."""
    for event_id in ("a", "large"):
        source = world.recent_events.items[event_id].source
        assert b"late" in (world.values[source] or b""), when
        beside, plain = (
            world.object_store.get_object(key) for key in (reused_id_event_key(HOUR, event_id, source), event_key(HOUR, event_id))
        )
        mine = [blob for blob in (beside, plain) if blob and blob.metadata["source"] == str(source)]
        assert mine, f"{when}: the object of {event_id} is gone"
        assert {blob.body for blob in mine} == {world.values[source]}, when
        told = trace_record(str(source), world.ports)
        assert (told.outcome, told.part is not None, told.event_json is not None) == (RecordOutcome.STORED, True, True), when
    large = world.object_store.get(event_key(HOUR, "large"))
    assert large == world.values[world.recent_events.items["large"].source], f"{when}: the item points to it"


# Crashes, and two at once.


@pytest.mark.usefixtures("without_statistics")
@pytest.mark.parametrize("ages", [OBJECTS, PARQUET, LETTERS, ALL])
@pytest.mark.parametrize("effect", [False, True], ids=["before", "after"])
def test_a_crash_at_any_call_is_gone_on_with_by_the_next_run(ages: RetentionPolicy, effect: bool) -> None:
    world = _old_world()
    run_swiftly(world, ages)
    expected = {key: blob.body for key, blob in world.object_store.objects.items() if not key.endswith("_SUCCESS.json")}
    for number in range(_calls(ages)):
        world = _old_world()
        with pytest.raises(Crashed):
            run_swiftly(world, ages, through(world.ports, failing(number, effect=effect, fault=lambda _: Crashed())))
        balanced(world)
        assert run_swiftly(world, ages).skipped_hours == [], number
        found = {key: blob.body for key, blob in world.object_store.objects.items() if not key.endswith("_SUCCESS.json")}
        assert found == expected, number
        balanced(world)


@pytest.mark.usefixtures("without_statistics")
@pytest.mark.parametrize("ages", [OBJECTS, PARQUET, LETTERS, ALL])
def test_a_second_run_between_any_two_calls_does_no_harm(ages: RetentionPolicy) -> None:
    for number in range(_calls(ages)):
        world, left = _old_world(), number

        def meddle(call: Call, perform: Callable[[], Any], world: World = world) -> Any:  # noqa: ARG001 - a door
            nonlocal left
            left -= 1
            if left == -1:
                run_swiftly(world, ages)
            return perform()

        run_swiftly(world, ages, through(world.ports, meddle))
        assert left < 0
        run_swiftly(world, ages)
        wanted = _old_world()
        run_swiftly(wanted, ages)
        assert keys(world) == keys(wanted), number
        revision = world.ledger.latest_revision(HOUR)
        assert revision is None or revision.number <= 4
        balanced(world)


@pytest.mark.parametrize("ages", [OBJECTS, PARQUET, LETTERS, ALL])
def test_a_store_that_fails_ends_the_run_and_what_went_is_told(ages: RetentionPolicy) -> None:
    world, report = _old_world(), RetentionReport()
    ports = through(world.ports, failing("delete", effect=True, fault=lambda _: Unavailable("down")))
    with pytest.raises(Unavailable):
        apply_retention(RetentionContext(ports, BENCH, ages), report)
    assert report.skipped_hours == []
    run(world, ages)
    balanced(world)


@pytest.mark.parametrize("ages", [OBJECTS, PARQUET, LETTERS, ALL])
def test_what_a_late_riser_writes_again_goes_with_the_next_run(ages: RetentionPolicy) -> None:
    world = a_world()
    before = dict(world.object_store.objects)
    grow_old(world)
    run(world, ages)
    after = dict(world.object_store.objects)
    came_back = {key: blob for key, blob in before.items() if key not in after and (ages.parquet or not key.startswith("parquet/"))}
    assert came_back
    world.object_store.put(list(came_back.values()))
    assert run(world, ages).objects == len(came_back)
    assert set(world.object_store.objects) == set(after)
    balanced(world)


def test_a_retention_that_sleeps_over_its_delete_cannot_reach_an_id_that_came_again() -> None:
    """It looked at the old object, another one removed that, and then the id is stored anew under the plain name."""
    world = _old_world()
    source, slept = [world.source(0)], False

    def sleep(call: Call, perform: Callable[[], Any]) -> Any:
        nonlocal slept
        if call.method == "delete" and event_key(HOUR, "a") in call.args[0] and not slept:
            slept = True
            run(world, OBJECTS)
            assert world.object_store.get(event_key(HOUR, "a")) is None
            source[0] = world.produce(event("a", payload="late"))
            world.settle()
            assert world.object_store.objects[event_key(HOUR, "a")].metadata["source"] == str(source[0])
        return perform()

    run(world, OBJECTS, through(world.ports, sleep))
    assert slept
    assert world.object_store.get(event_key(HOUR, "a")) is None
    assert world.object_store.get(reused_id_event_key(HOUR, "a", source[0])) == world.values[source[0]]
    assert trace_record(str(source[0]), world.ports).event_json == reused_id_event_key(HOUR, "a", source[0])
    balanced(world)


def test_a_batch_that_was_on_its_way_before_the_freeze_keeps_its_object_from_whoever_sleeps_over_a_delete() -> None:
    """Taken hours after retention began its turn, it finds the plain name free; somebody who saw the older object still means to delete."""
    world = _old_world()
    late = list[Actor]()

    def meanwhile(call: Call, perform: Callable[[], Any]) -> Any:
        if call.method == "head" and not late:
            world.clock.advance(timedelta(hours=2))
            source = produce_now(world, event("a", payload="late"))
            late.append(Actor(lambda door: execute_plan(world.plan().plans[0], through(world.ports, door), conduct("late"))))
            _let(late[0], "put_many_if_absent")
            assert world.recent_events.items["a"].source == source
        return perform()

    done = run(world, OBJECTS, through(world.ports, meanwhile))
    (actor,), source = late, world.recent_events.items["a"].source
    assert (done.skipped_hours, world.object_store.get(event_key(HOUR, "a"))) == ([], None)
    actor.step()
    assert world.object_store.objects[event_key(HOUR, "a")].metadata["source"] == str(source)
    actor.finish()
    world.object_store.delete([event_key(HOUR, "a")])
    assert trace_record(str(source), world.ports).event_json == reused_id_event_key(HOUR, "a", source)
    assert world.object_store.get(reused_id_event_key(HOUR, "a", source)) == world.values[source]
    balanced(world)


def test_the_object_that_an_item_points_to_stays_where_its_id_came_again_in_a_frozen_hour() -> None:
    """The hour is frozen, and its objects are still there: the late event finds the older one under its name."""
    world = World(recent_events=MemoryRecentEvents(lambda event: event.id == "large"))
    world.create()
    world.produce(event("large"), event("b"))
    world.settle()
    grow_old(world)

    def dies_between(call: Call, perform: Callable[[], Any]) -> Any:
        if call.method == "delete" and call.args[0][0].startswith("events/"):
            raise Crashed
        return perform()

    with pytest.raises(Crashed):
        run(world, OBJECTS, through(world.ports, dies_between))
    source = world.produce(event("large", payload="late"))
    world.settle()
    assert world.object_store.get(reused_id_event_key(HOUR, "large", source)) == world.values[source]
    done = run(world, OBJECTS)
    assert (done.objects, done.skipped_hours) == (1, [])
    assert world.object_store.get(event_key(HOUR, "large")) == world.values[source]
    balanced(world)


def _let(actor: Actor, method: str) -> None:
    """It goes on to its next call of this method."""
    while actor.call is not None and actor.call.method != method:
        actor.step()
    assert actor.call


# What must not go.


def test_foreign_objects_are_named_and_left_alone() -> None:
    world = a_world()
    closed = world.ledger.batches_of_hour(HOUR)[0]
    ours = world.object_store.objects[event_key(HOUR, "a")]
    foreign = [
        StoredObject("events/README.txt", b"hello", "text/plain", {}),
        StoredObject(f"{event_json_dir(HOUR)}notes.json", b"{}", "application/json", {}),
        StoredObject(f"{event_json_dir(HOUR)}copy.json", ours.body, "application/json", ours.metadata),
        StoredObject(f"{event_json_dir(HOUR)}deeper/a.json", ours.body, "application/json", ours.metadata),
        StoredObject(event_key(HOUR, "b"), b"altered", "application/json", {}),
        StoredObject(f"{parquet_dir(HOUR)}notes.parquet", b"PAR1", "application/octet-stream", {}),
        StoredObject(f"{parquet_dir(HOUR)}backup/{closed}.parquet", b"PAR1", "application/octet-stream", {}),
        StoredObject(f"dead-letters/2024/01/15/11/{closed}.ndjson", b"moved", "application/x-ndjson", {}),
        StoredObject("dead-letters/2024/01/15/12/copy.ndjson", b"copied", "application/x-ndjson", {}),
        StoredObject("duplicates/2024/01/15/12/20240115T120001000Z-0123456789ab.ndjson", b"unknown", "application/x-ndjson", {}),
    ]
    world.object_store.put(foreign)
    grow_old(world)
    done = run(world)
    assert sorted(done.foreign_keys) == sorted(blob.key for blob in foreign)
    assert done.foreign_count == len(foreign)
    assert [world.object_store.objects.get(blob.key) for blob in foreign] == foreign


def test_nothing_goes_that_is_younger_than_a_pending_batch() -> None:
    world = World()
    world.create()
    world.produce(event("a"))
    world.clock.advance(timedelta(seconds=1))
    plan = world.plan().plans[0]
    with pytest.raises(Crashed):
        execute_plan(plan, through(world.ports, failing("close_batch", effect=False, fault=lambda _: Crashed())), conduct())
    (stuck,) = world.ledger.snapshot().pending
    world.event_log.add_partition("ProductDeleted")
    before = dict(world.object_store.objects)
    grow_old(world, timedelta(days=400))
    assert run(world).deleted == []
    assert world.object_store.objects == before
    world.settle()
    assert stuck in world.ledger.batches_of_hour(HOUR)
    assert run(world).objects == 2
    balanced(world)


def test_a_younger_batch_waits_for_a_pending_one_and_an_older_one_goes() -> None:
    world = World()
    world.create(partitions=2)
    world.produce(event("older", "2024-01-15T09:00:00Z"))
    world.settle()
    produce_now(world, event("stuck"), partition=1)
    world.clock.advance(timedelta(seconds=1))
    with pytest.raises(Crashed):
        execute_plan(
            world.plan().plans[0],
            through(world.ports, failing("close_batch", effect=False, fault=lambda _: Crashed())),
            conduct(),
        )
    world.produce(event("younger", "2024-01-15T08:00:00Z"))
    world.clock.advance(timedelta(seconds=1))
    plan = world.plan().plans[0]
    assert plan
    execute_plan(
        replace(plan, pending_batch_ids=(), ranges=tuple(each for each in plan.ranges if each.topic_partition.partition == 0)),
        world.ports,
        conduct(),
    )
    assert len(world.ledger.snapshot().pending) == 1
    grow_old(world)
    done = run(world, PARQUET)
    assert [each.hour for each in done.deleted] == ["2024-01-15T09"]
    assert world.object_store.get(part_key("2024-01-15T08", world.ledger.batches_of_hour("2024-01-15T08")[0])) is not None


def test_an_hour_that_a_partition_has_not_passed_waits_and_is_named() -> None:
    world = a_world()
    grow_old(world)
    world.produce(event("unread"))
    before = contents(world)
    done = run(world, RetentionPolicy(MIN_RETENTION, MIN_RETENTION))
    assert done.deleted == []
    assert contents(world) == before
    assert any(f"hour {HOUR}: old enough, but not every partition" in line for line in done.skipped_hours)


def test_without_kafka_nothing_that_needs_it_goes() -> None:
    world = a_world()
    grow_old(world)
    world.produce(event("unread"))
    world.event_log.make_unavailable("ProductDeleted", 0)
    done = run(world)
    assert {each.tree for each in done.deleted} == {"dead-letters", "duplicates"}
    assert any("Kafka does not answer" in line for line in done.skipped_hours)


def test_a_topic_that_is_gone_keeps_nothing() -> None:
    world = a_world()
    grow_old(world)
    world.event_log.delete_topic("ProductDeleted")
    done = run(world)
    assert done.skipped_hours == []
    assert {each.tree for each in done.deleted} == {"events", "parquet", "dead-letters", "duplicates"}


def test_objects_stay_where_parquet_is_damaged_and_they_make_it_whole_first() -> None:
    world = a_world(compacted=True)
    grow_old(world)
    for key in keys(world, parquet_dir(HOUR)):
        if key.endswith(".parquet"):
            world.object_store.objects[key] = replace(world.object_store.objects[key], body=b"damaged")
    run(world, OBJECTS)
    revision = world.ledger.latest_revision(HOUR)
    assert revision
    assert (revision.rows, keys(world, event_json_dir(HOUR))) == (3, [])
    assert compute_hourly_stats(HOUR, world.ports, BENCH).stats.events == 3


@pytest.mark.parametrize("ages", [OBJECTS, PARQUET])
def test_an_hour_that_is_too_large_for_this_machine_keeps_no_other_one(ages: RetentionPolicy) -> None:
    world, opened = a_world(), 0
    grow_old(world)

    @contextmanager
    def too_small_at_first() -> Iterator[Any]:
        nonlocal opened
        opened += 1
        if opened == 1:
            raise InsufficientResources("sorting and counting on this machine failed: Out of Memory Error")
        with BENCH() as table:
            yield table

    done = apply_retention(RetentionContext(world.ports, too_small_at_first, ages))
    assert {each.hour for each in done.deleted} == {NEXT}
    assert done.skipped_hours == [f"hour {HOUR}: sorting and counting on this machine failed: Out of Memory Error"]
    assert {each.hour for each in run(world, ages).deleted} == {HOUR}


def test_an_hour_that_cannot_be_made_whole_keeps_all_that_is_left() -> None:
    world = a_world()
    grow_old(world)
    world.object_store.delete([part_key(HOUR, world.ledger.batches_of_hour(HOUR)[0]), event_key(HOUR, "a")])
    before = {key: blob for key, blob in world.object_store.objects.items() if "/10/" in key or "hour=10" in key}
    done = run(world, RetentionPolicy(MIN_RETENTION, MIN_RETENTION))
    assert {each.hour for each in done.deleted} == {NEXT}
    assert [("does not hold their events" in line) for line in done.skipped_hours] == [True, True]
    assert before.items() <= world.object_store.objects.items()
    assert world.ledger.latest_revision(HOUR) is None


def test_parquet_stays_where_its_statistics_cannot_be_written() -> None:
    world = a_world()
    grow_old(world)
    world.ledger._hourly[HOUR, 0]["type.ProductDeleted"] += 1
    done = run(world, PARQUET)
    assert {each.hour for each in done.deleted} == {NEXT}
    assert "the live counters say" in done.skipped_hours[0]
    revision = world.ledger.latest_revision(HOUR)
    assert revision
    assert not revision.expired


def test_statistics_are_there_before_parquet_goes() -> None:
    world = a_world()
    grow_old(world)
    run(world, PARQUET)
    stats = compute_daily_stats("2024-01-15", world.ports, BENCH)
    assert (stats.stats.events, stats.stale_hours, stats.expired_hours) == (4, (), ())


def test_statistics_keep_their_repeats_when_the_files_of_repeats_are_gone() -> None:
    """Counted again after a late event, or by the retention of Parquet, which may come long after that of dead letters."""
    world = a_world()
    at = "2024-01-15T12"
    came_late(world, "noon", timestamp=f"{at}:00:00Z")
    assert compute_hourly_stats(at, world.ports, BENCH).stats.duplicates == 1
    grow_old(world)
    assert "duplicates" in {each.tree for each in run(world, LETTERS).deleted}
    came_late(world, "late", timestamp=f"{at}:30:00Z")
    stats = compute_hourly_stats(at, world.ports, BENCH).stats
    assert (stats.events, stats.duplicates) == (2, 1)
    grow_old(world)
    run(world, PARQUET)
    assert compute_daily_stats("2024-01-15", world.ports, BENCH).stats.duplicates == 1


def test_the_older_of_two_objects_of_one_id_goes_alone() -> None:
    world, older, beside = a_world_with_an_id_that_came_again()
    assert set(keys(world, event_json_dir(HOUR))) == {older, beside}
    world.clock.advance(timedelta(days=3))
    assert run(world).deleted == []
    assert set(keys(world, event_json_dir(HOUR))) == {older, beside}
    grow_old(world)
    assert keys(world, event_json_dir(HOUR)) != []
    run(world)
    assert keys(world, event_json_dir(HOUR)) == []
    balanced(world)


def test_an_object_that_an_item_points_to_is_there_as_long_as_the_item() -> None:
    world = World(recent_events=MemoryRecentEvents(lambda event: event.id == "large"))
    world.create()
    world.produce(event("large"), event("a"))
    world.settle(conduct(write_event_json=False))
    assert keys(world, event_json_dir(HOUR)) == [event_key(HOUR, "large")]
    world.clock.time = datetime.fromtimestamp(world.recent_events.items["large"].ttl, tz=world.clock.time.tzinfo)
    assert run(world).deleted == []
    assert world.object_store.get(event_key(HOUR, "large")) is not None
    world.clock.advance(timedelta(days=1, seconds=1))
    assert ("events", HOUR) in {(each.tree, each.hour) for each in run(world).deleted}


def test_a_file_whose_record_cannot_be_read_stays_and_keeps_no_other_one() -> None:
    world = a_world()
    (first,) = [record.batch.id for record in world.ledger.batch_records_from("") if record.dead_letters_key]
    grow_old(world)

    def unreadable(call: Call, perform: Callable[[], Any]) -> Any:
        if call.method == "batch_record" and call.args == (first,):
            raise InconsistentState(f"batch {first}: its item cannot be read")
        return perform()

    done = run(world, LETTERS, through(world.ports, unreadable))
    assert [each.tree for each in done.deleted] == ["duplicates"]
    assert done.skipped_hours == [f"dead-letters/2024/01/15/12/{first}.ndjson stays: batch {first}: its item cannot be read"]
    assert done.foreign_keys == []
    assert [each.tree for each in run(world, LETTERS).deleted] == ["dead-letters"]


# What others say of it.


def test_statistics_of_a_frozen_hour_are_refused_and_the_stored_ones_stay() -> None:
    world = a_world()
    grow_old(world)
    run(world)
    came_late(world, "late")
    before = {key: blob for key, blob in world.object_store.objects.items() if key.startswith("aggregates/")}
    with pytest.raises(DataExpired, match=f"hour {HOUR} is frozen: retention took the Parquet of 3 events in 3 batches on 2024-02-15"):
        compute_hourly_stats(HOUR, world.ports, BENCH)
    compact_hour(HOUR, world.ports, BENCH)
    with pytest.raises(DataExpired, match="what was stored stays"):
        compute_hourly_stats(HOUR, world.ports, BENCH)
    assert before.items() <= world.object_store.objects.items()
    day = compute_daily_stats("2024-01-15", world.ports, BENCH)
    assert (day.stats.events, day.stale_hours, day.expired_hours) == (4, (), (HOUR,))


def test_restore_says_that_an_hour_was_taken_and_restores_what_came_later() -> None:
    world = a_world()
    grow_old(world)
    run(world)
    with pytest.raises(DataExpired, match="Nothing of it is left to be restored; nothing was changed"):
        restore_hour(HOUR, world.ports, BENCH)
    came_late(world, "late")
    del world.recent_events.items["late"]
    done = restore_hour(HOUR, world.ports, BENCH)
    assert (done.restored, done.expired_rows, done.events) == (1, 3, 4)
    assert "late" in world.recent_events.items


@pytest.mark.parametrize("ages", [OBJECTS, PARQUET, LETTERS])
@pytest.mark.parametrize("write", [False, True])
def test_a_replay_of_what_retention_took_is_refused_before_anything_is_changed(ages: RetentionPolicy, write: bool) -> None:
    world = a_world()
    grow_old(world)
    run(world, ages)
    came_late(world, "late", timestamp="2024-01-15T13:00:00Z")
    before = contents(world)
    means = ReplayMeans(world.ports, BENCH, RULES, write)
    with pytest.raises(DataExpired, match=r"retention took what \d batches of this range had stored.*Nothing was changed"):
        repair_range(HourRange(HOUR, "2024-01-15T14"), means)
    assert contents(world) == before
    world.object_store.delete(
        [event_key("2024-01-15T13", "late"), reused_id_event_key("2024-01-15T13", "late", world.recent_events.items["late"].source)]
    )
    (late,) = world.ledger.batches_of_hour("2024-01-15T13")
    record = world.ledger.batch_record(late)
    assert record
    done = repair_range(record.batch.ranges[0], means)
    assert (done.batches, done.changed, done.lost) == (1, 1, [])


def test_a_late_batch_of_a_frozen_hour_can_be_replayed() -> None:
    world = a_world()
    grow_old(world)
    run(world)
    came_late(world, "late")
    compact_hour(HOUR, world.ports, BENCH)
    before = contents(world)
    (late,) = set(world.ledger.batches_of_hour(HOUR)) - set(world.ledger.latest_revision(HOUR).expired.expired_batches)  # type: ignore[union-attr]
    record = world.ledger.batch_record(late)
    assert record
    world.object_store.delete(keys(world, event_json_dir(HOUR)))
    done = repair_range(record.batch.ranges[0], ReplayMeans(world.ports, BENCH, RULES))
    assert (done.changed, done.lost, done.conflicts) == (1, [], [])
    assert trace_record("late", world.ports).event_json is not None
    assert set(world.object_store.objects) <= set(before[0])


def test_recompute_names_frozen_hours_and_leaves_them_as_they_are() -> None:
    world = a_world()
    grow_old(world)
    run(world)
    world.produce(event("young", "2024-02-15T10:00:00Z"))
    world.settle()
    world.ledger._hourly[HOUR, 0]["events"] += 5
    world.ledger._hourly["2024-02-15T10", 0]["events"] += 2
    found = compare_counters(world.ports, BENCH, lambda *_: None)
    assert (found.expired_hours, found.hours, found.archive) == ((HOUR, NEXT), ("2024-02-15T10",), ())
    assert {each.target.hour for each in found.counters} == {HOUR, "2024-02-15T10"}
    assert [each.target.hour for each in apply_adjustments(found, world.ports)] == ["2024-02-15T10"]
    assert [each.target.hour for each in compare_counters(world.ports, BENCH, lambda *_: None).counters] == [HOUR]


def test_where_only_objects_went_everything_is_counted_as_before() -> None:
    world = a_world()
    grow_old(world)
    run(world, OBJECTS)
    assert compare_counters(world.ports, BENCH, lambda *_: None).expired_hours == ()
    assert compute_hourly_stats(HOUR, world.ports, BENCH).stats.events == 3
    assert compare_bytes(HOUR, world.ports, BENCH).compared == 0
    balanced(world)


def test_an_archive_that_is_damaged_after_its_objects_went_says_why_it_cannot_be_rebuilt() -> None:
    world = a_world()
    grow_old(world)
    run(world, OBJECTS)
    (key,) = world.ledger.latest_revision(HOUR).keys  # type: ignore[union-attr]
    world.object_store.objects[key] = replace(world.object_store.objects[key], body=b"damaged")
    with pytest.raises(InconsistentState, match="retention took the JSON objects of batches up to 2024-01-15T12:00Z"):
        compact_hour(HOUR, world.ports, BENCH)


def test_the_audit_still_finds_what_is_missing_of_a_frozen_hour() -> None:
    world = a_world()
    grow_old(world)
    run(world)
    found = audit_hour(HOUR, world.ports)
    assert (found.expired_rows, found.recorded, found.counted, found.parquet, found.agrees) == (3, 3, 3, 0, True)
    assert found.expiry.startswith("retention took the Parquet of 3 events")
    came_late(world, "late", "other")
    world.object_store.delete([key for key in keys(world, event_json_dir(HOUR)) if key.rpartition("/")[2].startswith("late")])
    (late,) = set(world.ledger.batches_of_hour(HOUR)) - set(world.ledger.latest_revision(HOUR).expired.expired_batches)  # type: ignore[union-attr]
    assert audit_hour(HOUR, world.ports).findings == ("1 ids without JSON object, for example late",)
    world.object_store.delete([part_key(HOUR, late)])
    assert f"batch {late}: 0 rows in {part_key(HOUR, late)}, 2 in its record" in audit_hour(HOUR, world.ports).findings


# Traces.


def test_a_trace_says_that_the_object_was_removed() -> None:
    world = a_world()
    grow_old(world)
    run(world, OBJECTS)
    told = trace_record(f"{world.source(0)}", world.ports)
    assert (told.outcome, told.event_json) == (RecordOutcome.STORED, None)
    assert told.detail == f"stored in hour {HOUR}; its JSON object was removed by retention on 2024-02-15T13:00Z"


def test_a_trace_says_what_is_left_to_say_when_everything_went() -> None:
    world = a_world()
    grow_old(world)
    run(world)
    fates = [trace_record(str(world.source(offset)), world.ports) for offset in range(7)]
    assert [each.outcome for each in fates] == [
        RecordOutcome.EXPIRED,
        RecordOutcome.EXPIRED,
        RecordOutcome.EXPIRED,
        RecordOutcome.TOMBSTONE,
        RecordOutcome.EXPIRED,
        RecordOutcome.EXPIRED,
        RecordOutcome.STORED,
    ]
    assert "Around it are 2 stored and 1 dead_letter" in fates[0].detail
    assert "the rows of hour 2024-01-15T10 are gone: retention took the Parquet of 3 events" in fates[6].detail


def test_what_files_are_left_decide_a_trace() -> None:
    world = a_world()
    grow_old(world)
    run(world, PARQUET)
    fates = [trace_record(str(world.source(offset)), world.ports).outcome for offset in range(7)]
    stored = RecordOutcome.STORED
    assert fates == [stored, stored, RecordOutcome.DEAD_LETTER, RecordOutcome.TOMBSTONE, stored, RecordOutcome.DUPLICATE, stored]


# Dead letters.


def test_dead_letters_that_are_gone_are_refused_by_name_and_nothing_is_taken() -> None:
    world = a_world()
    (batch,) = [record.batch.id for record in world.ledger.batch_records_from("") if record.dead_letters_key]
    grow_old(world)
    run(world, LETTERS)
    before = contents(world)
    for selection in (
        DeadLetterFilter(batch_id=batch),
        DeadLetterFilter(hour="2024-01-15T12"),
        DeadLetterFilter("too_large", "2024-01-15T12"),
    ):
        with pytest.raises(DataExpired, match=r"retention removed the dead letters of .* on 2024-02-15T13:00Z"):
            redrive_dead_letters(selection, world.ports, conduct("redrive"))
    assert redrive_dead_letters(DeadLetterFilter(), world.ports, conduct("redrive")).stored == 0
    assert contents(world) == before


def test_a_dead_letter_that_is_missing_otherwise_is_still_a_contradiction() -> None:
    world = a_world()
    (record,) = [record for record in world.ledger.batch_records_from("") if record.dead_letters_key]
    world.object_store.delete([record.dead_letters_key or ""])
    with pytest.raises(InconsistentState):
        redrive_dead_letters(DeadLetterFilter(batch_id=record.batch.id), world.ports, conduct("redrive"))
    assert any("0 dead letters" in each for each in audit_hour(HOUR, world.ports).findings)


def test_what_was_redriven_before_is_traced_to_its_new_outcome() -> None:
    world = a_world()
    world.clock.advance(timedelta(seconds=1))
    assert redrive_dead_letters(DeadLetterFilter(), world.ports, conduct("redrive")).stored == 1
    grow_old(world)
    run(world)
    told = trace_record(str(world.source(2)), world.ports)
    assert told.outcome is RecordOutcome.DEAD_LETTER
    assert told.redrive
    assert told.redrive.outcome is RecordOutcome.STORED
    balanced(world)


def test_files_that_a_redrive_under_way_needs_stay_until_it_is_closed() -> None:
    world = a_world()
    grow_old(world)
    with pytest.raises(Crashed):
        redrive_dead_letters(
            DeadLetterFilter(), through(world.ports, failing("put_if_absent", effect=False, fault=lambda _: Crashed())), conduct("redrive")
        )
    (pending,) = world.ledger.snapshot().pending.values()
    assert pending.staged is None
    run(world, LETTERS)
    assert all(world.object_store.get(key) is not None for key in pending.redrive_keys)
    done = redrive_dead_letters(DeadLetterFilter(), world.ports, conduct("again"))
    assert done.already_redriven == 1
    assert [item for item in world.recent_events.items if item == "big"] == ["big"]
    grow_old(world, timedelta(seconds=1))
    run(world, LETTERS)
    assert keys(world, "dead-letters/") == []
    balanced(world)


def test_a_redrive_that_was_taken_after_its_letters_went_closes_with_none_of_them() -> None:
    """It slept between reading the letters and its take, and died after that."""
    world = a_world()
    grow_old(world)

    def sleep(call: Call, perform: Callable[[], Any]) -> Any:
        if call.method == "begin_batch":
            run(world, LETTERS)
            perform()
            raise Crashed
        return perform()

    with pytest.raises(Crashed):
        redrive_dead_letters(DeadLetterFilter(), through(world.ports, sleep), conduct("slept"))
    assert keys(world, "dead-letters/") == []
    assert len(world.ledger.snapshot().pending) == 1
    counters = world.ledger.counters()
    assert redrive_dead_letters(DeadLetterFilter(), world.ports, conduct("again")).stored == 0
    assert len(world.ledger.snapshot().pending) == 0
    assert {name: count for name, count in world.ledger.counters().items() if "batches" not in name and "ms" not in name} == {
        name: count for name, count in counters.items() if "batches" not in name and "ms" not in name
    }
    assert trace_record(str(world.source(2)), world.ports).outcome is RecordOutcome.DEAD_LETTER
    balanced(world)


def test_a_marker_that_somebody_damaged_keeps_its_hour() -> None:
    world = a_world(compacted=True)
    grow_old(world)
    world.object_store.objects[manifest_key(HOUR)] = replace(world.object_store.objects[manifest_key(HOUR)], body=b"{}")
    done = run(world, PARQUET)
    assert {each.hour for each in done.deleted} == {NEXT}
    assert "is no marker of ours" in done.skipped_hours[0]


def test_an_hour_that_moves_all_the_time_waits() -> None:
    world = _old_world()

    def revise_first(call: Call, perform: Callable[[], Any]) -> Any:
        if call.method == "put_revision" and call.args[0].expired:
            found = world.ledger.latest_revision(call.args[0].hour)
            assert found
            world.ledger.put_revision(replace(found, number=found.number + 1))
        return perform()

    done = run(world, PARQUET, through(world.ports, revise_first))
    assert done.deleted == []
    assert any("moved 10 times" in line for line in done.skipped_hours)
    assert Superseded.retryable


def test_an_age_that_was_raised_counts_for_what_comes_back() -> None:
    world = a_world()
    before = dict(world.object_store.objects)
    grow_old(world)
    run(world, OBJECTS)
    world.object_store.put([before[event_key(HOUR, "a")]])
    assert run(world, RetentionPolicy(event_json=MIN_RETENTION + timedelta(hours=2))).deleted == []
    assert run(world, OBJECTS).objects == 1
