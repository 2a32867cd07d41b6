"""Retention deletes old data of closed batches and nothing else, despite crashes, zombies, late events and concurrent runs."""

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
from analytics_defs.flows.repair.repair_range import RepairContext, repair_range
from analytics_defs.flows.retention import expire_parquet
from analytics_defs.flows.retention.apply import apply_retention
from analytics_defs.flows.retention.expiry_sweep import RetentionContext, RetentionReport
from analytics_defs.flows.trace.outcome import RecordOutcome
from analytics_defs.flows.trace.trace import trace_record
from analytics_defs.ports import RECENT_EVENTS_TTL, Ports, StoredObject
from tests.flows.hours.test_statistics import BENCH
from tests.flows.repair.test_repair_range import a_world_with_a_reused_id
from tests.proof.actors import Actor
from tests.proof.agreement import Stores
from tests.proof.archived import caching_workspace, rows_by_ledger
from tests.proof.interceptors import Call, Crashed, failing, intercept
from tests.proof.world import HOUR, RULES, World, event, ingest_options

NEXT = "2024-01-15T11"
EVENT_JSON, PARQUET, DEAD_LETTERS = (
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
    "record_dead_letter_expiry",
}
STRICT = ValidationRules(max_event_bytes=300)


def a_world(compacted: bool = False) -> World:
    """Three batches: events of two hours, a dead letter, a duplicate, a tombstone."""
    world = World()
    world.create()
    world.produce(event("a"), event("n", "2024-01-15T11:00:00Z"), event("big", padding="." * 400), None)
    world.settle(ingest_options(validation_rules=STRICT))
    world.produce(event("b"), event("a", payload="again"))
    world.settle()
    if compacted:
        compact_hour(HOUR, world.ports, BENCH)
    world.produce(event("c"))
    world.settle()
    return world


def grow_old(world: World, by: timedelta = MIN_RETENTION + timedelta(hours=1)) -> None:
    world.clock.advance(by)


def run(world: World, policy: RetentionPolicy = ALL, ports: Ports | None = None, dry_run: bool = False) -> RetentionReport:
    return apply_retention(RetentionContext(ports or world.ports, BENCH, policy, dry_run))


FAST_WORKSPACE = cast(StatisticsEngineFactory, caching_workspace)


def run_fast(world: World, policy: RetentionPolicy, ports: Ports | None = None) -> RetentionReport:
    return apply_retention(RetentionContext(ports or world.ports, FAST_WORKSPACE, policy))


@pytest.fixture
def without_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip the statistics, for tests with hundreds of runs. They start a database and do not change the hour's files."""
    monkeypatch.setattr(expire_parquet, "compute_hourly_stats", lambda *_: None)


def keys(world: World, prefix: str = "") -> list[str]:
    return list(world.object_store.list_keys(prefix))


def contents(world: World) -> tuple[Any, ...]:
    return dict(world.object_store.objects), dict(world.recent_events.items), world.ledger.snapshot(), world.ledger.counters()


def ingest_late(world: World, *ids: str, timestamp: str = "2024-01-15T10:45:00Z", **fields: Any) -> None:
    world.produce(*(event(event_id, timestamp, **fields) for event_id in ids))
    world.settle()


def produce_now(world: World, value: bytes, partition: int = 0) -> Source:
    """Append a record with the current time. A checkpoint before it has passed every earlier hour."""
    source = world.source(
        world.event_log.append("ProductDeleted", partition, value, timestamp_ms=int(world.clock.now().timestamp() * 1000)), partition
    )
    world.values[source] = value
    return source


def seen(world: World) -> Stores:
    return Stores(world.recent_events, world.object_store, world.ledger, world.values)


def assert_consistent(world: World) -> None:
    """Check that all offsets are accounted for and that the stores agree."""
    assert audit_offsets(world.ports).balanced
    assert [audit_hour(hour, world.ports).findings for hour in (HOUR, NEXT)] == [(), ()]
    assert compare_stores(world.ports).mismatches == ()


# What is deleted, and what stays.


def test_the_minimum_retention_is_longer_than_the_ttl_of_items() -> None:
    assert MIN_RETENTION > RECENT_EVENTS_TTL
    with pytest.raises(ValueError, match="at least 31 days"):
        RetentionPolicy(event_json=MIN_RETENTION - timedelta(seconds=1))


def test_an_empty_policy_deletes_nothing() -> None:
    world = a_world()
    grow_old(world, timedelta(days=4000))
    before = contents(world)
    assert run(world, RetentionPolicy()) == RetentionReport()
    assert contents(world) == before


@pytest.mark.parametrize("compacted", [False, True])
def test_old_data_is_deleted_and_ledger_and_counters_stay(compacted: bool) -> None:
    world = a_world(compacted)
    grow_old(world)
    snapshot, counters = world.ledger.snapshot(), world.ledger.counters()
    done = run(world)
    assert (done.skipped_hours, done.foreign_keys) == ([], [])
    left = [key for key in keys(world) if not key.startswith("aggregates/")]
    assert left == [manifest_key(HOUR), manifest_key(NEXT)]
    assert (world.ledger.snapshot(), world.ledger.counters()) == (snapshot, counters)
    assert {(deletion.tree, deletion.hour): deletion.objects for deletion in done.deleted if deletion.tree != "parquet"} == {
        ("events", HOUR): 3,
        ("events", NEXT): 1,
        ("dead-letters", "2024-01-15T12"): 1,
        ("duplicates", "2024-01-15T12"): 1,
    }
    assert_consistent(world)


def test_the_report_counts_the_bytes_of_deleted_objects() -> None:
    world = a_world()
    grow_old(world)
    sizes = sum(len(object_.body) for key, object_ in world.object_store.objects.items() if key.startswith("events/"))
    assert run(world, EVENT_JSON).bytes == sizes


@pytest.mark.parametrize("policy", [EVENT_JSON, PARQUET, DEAD_LETTERS])
def test_each_kind_of_data_has_its_own_retention_time(policy: RetentionPolicy) -> None:
    world = a_world()
    for hour in (HOUR, NEXT):
        compact_hour(hour, world.ports, BENCH)
    grow_old(world)
    before = set(keys(world))
    run(world, policy)
    trees = {key.partition("/")[0] for key in before - set(keys(world))}
    assert trees == {EVENT_JSON: {"events"}, PARQUET: {"parquet"}, DEAD_LETTERS: {"dead-letters", "duplicates"}}[policy]
    assert_consistent(world)


@pytest.mark.parametrize("policy", [EVENT_JSON, PARQUET, DEAD_LETTERS, ALL])
def test_retention_is_idempotent(policy: RetentionPolicy) -> None:
    world = a_world()
    grow_old(world)
    run(world, policy)
    before, revisions = contents(world), [world.ledger.latest_revision(hour) for hour in (HOUR, NEXT)]
    again = run(world, policy)
    assert (again.deleted, again.skipped_hours) == ([], [])
    assert contents(world) == before
    assert [world.ledger.latest_revision(hour) for hour in (HOUR, NEXT)] == revisions


@pytest.mark.parametrize("policy", [EVENT_JSON, PARQUET, DEAD_LETTERS, ALL])
def test_a_dry_run_reports_what_would_be_deleted_and_changes_nothing(policy: RetentionPolicy) -> None:
    world = a_world(compacted=True)
    compact_hour(HOUR, world.ports, BENCH)
    compact_hour(NEXT, world.ports, BENCH)
    grow_old(world)
    before, called = contents(world), set[str]()

    def record_call(call: Call, perform: Callable[[], Any]) -> Any:
        called.add(call.method)
        return perform()

    dry = run(world, policy, intercept(world.ports, record_call), dry_run=True)
    assert not called & WRITES
    assert contents(world) == before
    assert dry == run(world, policy)
    assert dry.objects > 0


@pytest.mark.parametrize("policy", [EVENT_JSON, PARQUET, DEAD_LETTERS])
def test_an_hour_one_millisecond_too_young_is_kept(policy: RetentionPolicy) -> None:
    """The newest batch decides."""
    world = a_world()
    newest = max(record.batch.time for record in world.ledger.batch_records_from(""))
    world.clock.time = newest + MIN_RETENTION - timedelta(milliseconds=1)
    before = contents(world)
    if policy is not DEAD_LETTERS:
        assert [deletion.hour for deletion in run(world, policy).deleted] == [NEXT]
        assert world.ledger.latest_revision(HOUR) is None
        assert {key: object_ for key, object_ in world.object_store.objects.items() if HOUR[-2:] in key.split("/")[4]} == {
            key: object_ for key, object_ in before[0].items() if HOUR[-2:] in key.split("/")[4]
        }
        world.clock.advance(timedelta(milliseconds=1))
        assert [deletion.hour for deletion in run(world, policy).deleted] == [HOUR]
    else:
        times = [record.batch.time for record in world.ledger.batch_records_from("") if record.dead_letters_key or record.duplicates_key]
        world.clock.time = min(times) + MIN_RETENTION - timedelta(milliseconds=1)
        assert run(world, policy).deleted == []
        assert contents(world) == before
        world.clock.advance(timedelta(milliseconds=1))
        assert [deletion.tree for deletion in run(world, policy).deleted] == ["dead-letters"]


@pytest.mark.parametrize("policy", [EVENT_JSON, PARQUET])
def test_an_hour_with_a_young_late_event_is_kept(policy: RetentionPolicy) -> None:
    world = a_world()
    grow_old(world)
    ingest_late(world, "late")
    before = {key for key in keys(world) if "/10/" in key or "hour=10" in key}
    assert {deletion.hour for deletion in run(world, policy).deleted} == {NEXT}
    assert before <= set(keys(world))
    grow_old(world)
    assert {deletion.hour for deletion in run(world, policy).deleted} == {HOUR}


@pytest.mark.parametrize("policy", [EVENT_JSON, PARQUET])
def test_an_hour_that_becomes_young_during_the_run_is_not_marked_expired(policy: RetentionPolicy) -> None:
    world = a_world(compacted=True)
    grow_old(world)
    before, is_ingested = set(keys(world, event_json_dir(HOUR))), False

    def ingest_once(call: Call, perform: Callable[[], Any]) -> Any:
        nonlocal is_ingested
        if call.method == "batches_of_hour" and call.args == (HOUR,) and not is_ingested:
            is_ingested, batches = True, perform()
            ingest_late(world, "late")
            return batches
        return perform()

    done = run(world, policy, intercept(world.ports, ingest_once))
    assert ({deletion.hour for deletion in done.deleted}, len(done.skipped_hours)) == ({NEXT}, 1)
    assert f"hour {HOUR}: batch {world.ledger.batches_of_hour(HOUR)[-1]} added to it meanwhile" in done.skipped_hours[0]
    revision = world.ledger.latest_revision(HOUR)
    assert revision
    assert not revision.expired
    assert before <= set(keys(world, event_json_dir(HOUR)))
    assert_consistent(world)


# Late events.


def test_a_late_event_in_an_expired_hour_expires_by_its_own_batch_time() -> None:
    world = a_world()
    grow_old(world)
    run(world)
    ingest_late(world, "late")
    source = world.recent_events.items["late"].source
    late = {event_key(HOUR, "late"), reused_id_event_key(HOUR, "late", source)}
    assert late <= set(keys(world))
    grow_old(world, MIN_RETENTION - timedelta(hours=1))
    assert run(world).deleted == []
    compacted = compact_hour(HOUR, world.ports, BENCH)
    assert compacted.revision
    assert (compacted.revision.rows, compacted.revision.expired.expired_rows, len(compacted.revision.expired.expired_batches)) == (1, 3, 3)
    assert late <= set(keys(world))
    assert_consistent(world)
    manifest = json.loads(world.object_store.objects[manifest_key(HOUR)].body)
    assert (manifest["rows"], manifest["expired"]["rows"], len(manifest["batches"])) == (1, 3, 4)
    grow_old(world)
    assert {(deletion.tree, deletion.hour) for deletion in run(world).deleted} == {("events", HOUR), ("parquet", HOUR)}
    assert keys(world, event_json_dir(HOUR)) == []
    assert keys(world, parquet_dir(HOUR)) == [manifest_key(HOUR)]
    revision = world.ledger.latest_revision(HOUR)
    assert revision
    assert (revision.rows, revision.expired.expired_rows, revision.expired.expired_batches) == (
        0,
        4,
        tuple(world.ledger.batches_of_hour(HOUR)),
    )
    assert_consistent(world)


def test_a_late_event_with_two_objects_is_rebuilt_as_one_row() -> None:
    world = a_world()
    grow_old(world)
    run(world, EVENT_JSON)
    ingest_late(world, "late", "other")
    late = world.ledger.batches_of_hour(HOUR)[-1]
    assert len([key for key in keys(world, event_json_dir(HOUR)) if world.object_store.objects[key].metadata["batch"] == late]) == 4
    expected = rows_by_ledger(seen(world), HOUR)
    world.object_store.delete([part_key(HOUR, late)])
    done = compact_hour(HOUR, world.ports, BENCH)
    assert done.revision
    assert (done.revision.rows, done.revision.rebuilt) == (5, 2)
    assert rows_by_ledger(seen(world), HOUR) == expected
    assert_consistent(world)


def test_two_objects_of_one_late_event_do_not_replace_a_missing_event() -> None:
    world = a_world()
    grow_old(world)
    run(world, EVENT_JSON)
    ingest_late(world, "late", "other")
    late = world.ledger.batches_of_hour(HOUR)[-1]
    lost = [key for key in keys(world, event_json_dir(HOUR)) if key.rpartition("/")[2].startswith("other")]
    world.object_store.delete([part_key(HOUR, late), *lost])
    with pytest.raises(InconsistentState, match=f"{late} \\(1 of 2\\)"):
        compact_hour(HOUR, world.ports, BENCH)


def test_late_parts_are_compacted_after_only_json_objects_expired() -> None:
    world = a_world()
    grow_old(world)
    run(world, EVENT_JSON)
    ingest_late(world, "late")
    done = compact_hour(HOUR, world.ports, BENCH)
    assert done.revision
    assert (done.revision.rows, done.revision.expired.expired_batches) == (4, ())
    assert done.revision.expired.has_expired_event_json_of(batch_time(done.revision.batches[2]))
    assert not done.revision.expired.has_expired_event_json_of(batch_time(done.revision.batches[3]))
    assert compute_hourly_stats(HOUR, world.ports, BENCH).stats.events == 4
    assert_consistent(world)


@pytest.mark.usefixtures("without_statistics")
@pytest.mark.parametrize("policy", [EVENT_JSON, PARQUET, DEAD_LETTERS, ALL])
def test_late_events_between_any_two_calls_are_stored_and_stay(policy: RetentionPolicy) -> None:
    """One reuses an id of the hour. The other has a new id, and is too large for its item."""
    calls = _calls(policy)
    assert calls > 10
    for number in range(calls):
        world = World(recent_events=MemoryRecentEvents(lambda event: event.id == "large"))
        world = _old_world(world)
        is_ingested, left = False, number

        def meddle(call: Call, perform: Callable[[], Any], world: World = world) -> Any:  # noqa: ARG001 - a interceptor
            nonlocal is_ingested, left
            if left == 0 and not is_ingested:
                is_ingested = True
                ingest_late(world, "a", "large", payload="late")
            left -= 1
            return perform()

        done = run_fast(world, policy, intercept(world.ports, meddle))
        assert is_ingested, number
        _assert_late_events_stored(world, f"{number} {done.skipped_hours}")
        run_fast(world, policy)
        _assert_late_events_stored(world, f"{number} afterwards")
        assert_consistent(world)
        for hour in (HOUR, NEXT):
            compact_hour(hour, world.ports, FAST_WORKSPACE)
        _assert_late_events_stored(world, f"{number} compacted")
        assert_consistent(world)


def _old_world(world: World | None = None) -> World:
    world = world or World()
    world.create()
    world.produce(event("a"), event("n", "2024-01-15T11:00:00Z"), event("big", padding="." * 400))
    world.settle(ingest_options(validation_rules=STRICT))
    world.produce(event("b"), event("b", payload="again"))
    world.settle()
    grow_old(world)
    return world


def _calls(policy: RetentionPolicy) -> int:
    calls = 0

    def count(call: Call, perform: Callable[[], Any]) -> Any:  # noqa: ARG001 - a interceptor
        nonlocal calls
        calls += 1
        return perform()

    world = _old_world()
    run_fast(world, policy, intercept(world.ports, count))
    return calls


def _assert_late_events_stored(world: World, when: str) -> None:
    """Check the item, the JSON object and the row of both late events."""
    for event_id in ("a", "large"):
        source = world.recent_events.items[event_id].source
        assert b"late" in (world.values[source] or b""), when
        beside, plain = (
            world.object_store.get_object(key) for key in (reused_id_event_key(HOUR, event_id, source), event_key(HOUR, event_id))
        )
        objects = [object_ for object_ in (beside, plain) if object_ and object_.metadata["source"] == str(source)]
        assert objects, f"{when}: the object of {event_id} is missing"
        assert {object_.body for object_ in objects} == {world.values[source]}, when
        trace = trace_record(str(source), world.ports)
        assert (trace.outcome, trace.part is not None, trace.event_json is not None) == (RecordOutcome.STORED, True, True), when
    large = world.object_store.get(event_key(HOUR, "large"))
    assert large == world.values[world.recent_events.items["large"].source], f"{when}: the item points to this object"


# Crashes and concurrent runs.


@pytest.mark.usefixtures("without_statistics")
@pytest.mark.parametrize("policy", [EVENT_JSON, PARQUET, DEAD_LETTERS, ALL])
@pytest.mark.parametrize("effect", [False, True], ids=["before", "after"])
def test_the_next_run_completes_a_run_that_crashed_at_any_call(policy: RetentionPolicy, effect: bool) -> None:
    world = _old_world()
    run_fast(world, policy)
    expected = {key: object_.body for key, object_ in world.object_store.objects.items() if not key.endswith("_SUCCESS.json")}
    for number in range(_calls(policy)):
        world = _old_world()
        with pytest.raises(Crashed):
            run_fast(world, policy, intercept(world.ports, failing(number, effect=effect, fault=lambda _: Crashed())))
        assert_consistent(world)
        assert run_fast(world, policy).skipped_hours == [], number
        found = {key: object_.body for key, object_ in world.object_store.objects.items() if not key.endswith("_SUCCESS.json")}
        assert found == expected, number
        assert_consistent(world)


@pytest.mark.usefixtures("without_statistics")
@pytest.mark.parametrize("policy", [EVENT_JSON, PARQUET, DEAD_LETTERS, ALL])
def test_a_second_run_between_any_two_calls_is_harmless(policy: RetentionPolicy) -> None:
    for number in range(_calls(policy)):
        world, left = _old_world(), number

        def meddle(call: Call, perform: Callable[[], Any], world: World = world) -> Any:  # noqa: ARG001 - a interceptor
            nonlocal left
            left -= 1
            if left == -1:
                run_fast(world, policy)
            return perform()

        run_fast(world, policy, intercept(world.ports, meddle))
        assert left < 0
        run_fast(world, policy)
        wanted = _old_world()
        run_fast(wanted, policy)
        assert keys(world) == keys(wanted), number
        revision = world.ledger.latest_revision(HOUR)
        assert revision is None or revision.number <= 4
        assert_consistent(world)


@pytest.mark.parametrize("policy", [EVENT_JSON, PARQUET, DEAD_LETTERS, ALL])
def test_a_store_failure_ends_the_run_and_the_next_run_completes_it(policy: RetentionPolicy) -> None:
    world, report = _old_world(), RetentionReport()
    ports = intercept(world.ports, failing("delete", effect=True, fault=lambda _: Unavailable("down")))
    with pytest.raises(Unavailable):
        apply_retention(RetentionContext(ports, BENCH, policy), report)
    assert report.skipped_hours == []
    run(world, policy)
    assert_consistent(world)


@pytest.mark.parametrize("policy", [EVENT_JSON, PARQUET, DEAD_LETTERS, ALL])
def test_files_that_a_zombie_writes_again_are_deleted_by_the_next_run(policy: RetentionPolicy) -> None:
    world = a_world()
    before = dict(world.object_store.objects)
    grow_old(world)
    run(world, policy)
    after = dict(world.object_store.objects)
    rewritten = {key: object_ for key, object_ in before.items() if key not in after and (policy.parquet or not key.startswith("parquet/"))}
    assert rewritten
    world.object_store.put(list(rewritten.values()))
    assert run(world, policy).objects == len(rewritten)
    assert set(world.object_store.objects) == set(after)
    assert_consistent(world)


def test_a_late_delete_of_a_zombie_cannot_delete_a_reused_id() -> None:
    """The zombie reads the old object. Another run deletes it. Then the id is stored again under the plain key."""
    world = _old_world()
    source, is_delayed = [world.source(0)], False

    def delay(call: Call, perform: Callable[[], Any]) -> Any:
        nonlocal is_delayed
        if call.method == "delete" and event_key(HOUR, "a") in call.args[0] and not is_delayed:
            is_delayed = True
            run(world, EVENT_JSON)
            assert world.object_store.get(event_key(HOUR, "a")) is None
            source[0] = world.produce(event("a", payload="late"))
            world.settle()
            assert world.object_store.objects[event_key(HOUR, "a")].metadata["source"] == str(source[0])
        return perform()

    run(world, EVENT_JSON, intercept(world.ports, delay))
    assert is_delayed
    assert world.object_store.get(event_key(HOUR, "a")) is None
    assert world.object_store.get(reused_id_event_key(HOUR, "a", source[0])) == world.values[source[0]]
    assert trace_record(str(source[0]), world.ports).event_json == reused_id_event_key(HOUR, "a", source[0])
    assert_consistent(world)


def test_a_batch_beside_a_marking_keeps_its_object_after_a_late_delete() -> None:
    """The batch finds the plain key free and writes it. A zombie that read the older object still deletes that key."""
    world = _old_world()
    late = list[Actor]()

    def meanwhile(call: Call, perform: Callable[[], Any]) -> Any:
        if call.method == "head" and not late:
            world.clock.advance(timedelta(hours=2))
            source = produce_now(world, event("a", payload="late"))
            late.append(
                Actor(lambda interceptor: execute_plan(world.plan().plans[0], intercept(world.ports, interceptor), ingest_options("late")))
            )
            _run_until(late[0], "put_many_if_absent")
            assert world.recent_events.items["a"].source == source
        return perform()

    done = run(world, EVENT_JSON, intercept(world.ports, meanwhile))
    (actor,), source = late, world.recent_events.items["a"].source
    assert (done.skipped_hours, world.object_store.get(event_key(HOUR, "a"))) == ([], None)
    actor.step()
    assert world.object_store.objects[event_key(HOUR, "a")].metadata["source"] == str(source)
    actor.finish()
    world.object_store.delete([event_key(HOUR, "a")])
    assert trace_record(str(source), world.ports).event_json == reused_id_event_key(HOUR, "a", source)
    assert world.object_store.get(reused_id_event_key(HOUR, "a", source)) == world.values[source]
    assert_consistent(world)


def test_the_object_of_a_pointer_item_in_an_expired_hour_is_kept() -> None:
    """The hour is marked as expired and its objects still exist: the late event finds the older object at its key."""
    world = World(recent_events=MemoryRecentEvents(lambda event: event.id == "large"))
    world.create()
    world.produce(event("large"), event("b"))
    world.settle()
    grow_old(world)

    def crash_before_delete(call: Call, perform: Callable[[], Any]) -> Any:
        if call.method == "delete" and call.args[0][0].startswith("events/"):
            raise Crashed
        return perform()

    with pytest.raises(Crashed):
        run(world, EVENT_JSON, intercept(world.ports, crash_before_delete))
    source = world.produce(event("large", payload="late"))
    world.settle()
    assert world.object_store.get(reused_id_event_key(HOUR, "large", source)) == world.values[source]
    done = run(world, EVENT_JSON)
    assert (done.objects, done.skipped_hours) == (1, [])
    assert world.object_store.get(event_key(HOUR, "large")) == world.values[source]
    assert_consistent(world)


def _run_until(actor: Actor, method: str) -> None:
    """Run the actor up to its next call of this method."""
    while actor.call is not None and actor.call.method != method:
        actor.step()
    assert actor.call


# What must not be deleted.


def test_foreign_objects_are_reported_and_left_alone() -> None:
    world = a_world()
    closed = world.ledger.batches_of_hour(HOUR)[0]
    original = world.object_store.objects[event_key(HOUR, "a")]
    foreign = [
        StoredObject("events/README.txt", b"hello", "text/plain", {}),
        StoredObject(f"{event_json_dir(HOUR)}notes.json", b"{}", "application/json", {}),
        StoredObject(f"{event_json_dir(HOUR)}copy.json", original.body, "application/json", original.metadata),
        StoredObject(f"{event_json_dir(HOUR)}deeper/a.json", original.body, "application/json", original.metadata),
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
    assert sorted(done.foreign_keys) == sorted(object_.key for object_ in foreign)
    assert done.foreign_count == len(foreign)
    assert [world.object_store.objects.get(object_.key) for object_ in foreign] == foreign


def test_nothing_younger_than_a_pending_batch_is_deleted() -> None:
    world = World()
    world.create()
    world.produce(event("a"))
    world.clock.advance(timedelta(seconds=1))
    plan = world.plan().plans[0]
    with pytest.raises(Crashed):
        execute_plan(plan, intercept(world.ports, failing("close_batch", effect=False, fault=lambda _: Crashed())), ingest_options())
    (stuck,) = world.ledger.snapshot().pending
    world.event_log.add_partition("ProductDeleted")
    before = dict(world.object_store.objects)
    grow_old(world, timedelta(days=400))
    assert run(world).deleted == []
    assert world.object_store.objects == before
    world.settle()
    assert stuck in world.ledger.batches_of_hour(HOUR)
    assert run(world).objects == 2
    assert_consistent(world)


def test_a_pending_batch_keeps_younger_data_and_not_older_data() -> None:
    world = World()
    world.create(partitions=2)
    world.produce(event("older", "2024-01-15T09:00:00Z"))
    world.settle()
    produce_now(world, event("stuck"), partition=1)
    world.clock.advance(timedelta(seconds=1))
    with pytest.raises(Crashed):
        execute_plan(
            world.plan().plans[0],
            intercept(world.ports, failing("close_batch", effect=False, fault=lambda _: Crashed())),
            ingest_options(),
        )
    world.produce(event("younger", "2024-01-15T08:00:00Z"))
    world.clock.advance(timedelta(seconds=1))
    plan = world.plan().plans[0]
    assert plan
    execute_plan(
        replace(plan, pending_batch_ids=(), ranges=tuple(range_ for range_ in plan.ranges if range_.topic_partition.partition == 0)),
        world.ports,
        ingest_options(),
    )
    assert len(world.ledger.snapshot().pending) == 1
    grow_old(world)
    done = run(world, PARQUET)
    assert [deletion.hour for deletion in done.deleted] == ["2024-01-15T09"]
    assert world.object_store.get(part_key("2024-01-15T08", world.ledger.batches_of_hour("2024-01-15T08")[0])) is not None


def test_an_hour_that_a_partition_has_not_passed_is_kept_and_reported() -> None:
    world = a_world()
    grow_old(world)
    world.produce(event("unread"))
    before = contents(world)
    done = run(world, RetentionPolicy(MIN_RETENTION, MIN_RETENTION))
    assert done.deleted == []
    assert contents(world) == before
    assert any(f"hour {HOUR}: old enough, but not every partition" in line for line in done.skipped_hours)


def test_without_kafka_only_dead_letters_and_duplicates_are_deleted() -> None:
    world = a_world()
    grow_old(world)
    world.produce(event("unread"))
    world.event_log.make_unavailable("ProductDeleted", 0)
    done = run(world)
    assert {deletion.tree for deletion in done.deleted} == {"dead-letters", "duplicates"}
    assert any("Kafka does not answer" in line for line in done.skipped_hours)


def test_a_deleted_topic_holds_nothing_back() -> None:
    world = a_world()
    grow_old(world)
    world.event_log.delete_topic("ProductDeleted")
    done = run(world)
    assert done.skipped_hours == []
    assert {deletion.tree for deletion in done.deleted} == {"events", "parquet", "dead-letters", "duplicates"}


def test_damaged_parquet_is_rebuilt_before_its_json_objects_are_deleted() -> None:
    world = a_world(compacted=True)
    grow_old(world)
    for key in keys(world, parquet_dir(HOUR)):
        if key.endswith(".parquet"):
            world.object_store.objects[key] = replace(world.object_store.objects[key], body=b"damaged")
    run(world, EVENT_JSON)
    revision = world.ledger.latest_revision(HOUR)
    assert revision
    assert (revision.rows, keys(world, event_json_dir(HOUR))) == (3, [])
    assert compute_hourly_stats(HOUR, world.ports, BENCH).stats.events == 3


@pytest.mark.parametrize("policy", [EVENT_JSON, PARQUET])
def test_an_hour_too_large_for_this_machine_does_not_hold_back_others(policy: RetentionPolicy) -> None:
    world, opened = a_world(), 0
    grow_old(world)

    @contextmanager
    def failing_at_first() -> Iterator[Any]:
        nonlocal opened
        opened += 1
        if opened == 1:
            raise InsufficientResources("sorting and counting on this machine failed: Out of Memory Error")
        with BENCH() as workspace:
            yield workspace

    done = apply_retention(RetentionContext(world.ports, failing_at_first, policy))
    assert {deletion.hour for deletion in done.deleted} == {NEXT}
    assert done.skipped_hours == [f"hour {HOUR}: sorting and counting on this machine failed: Out of Memory Error"]
    assert {deletion.hour for deletion in run(world, policy).deleted} == {HOUR}


def test_an_hour_that_cannot_be_rebuilt_is_kept() -> None:
    world = a_world()
    grow_old(world)
    world.object_store.delete([part_key(HOUR, world.ledger.batches_of_hour(HOUR)[0]), event_key(HOUR, "a")])
    before = {key: object_ for key, object_ in world.object_store.objects.items() if "/10/" in key or "hour=10" in key}
    done = run(world, RetentionPolicy(MIN_RETENTION, MIN_RETENTION))
    assert {deletion.hour for deletion in done.deleted} == {NEXT}
    assert [("do not hold their events" in line) for line in done.skipped_hours] == [True, True]
    assert before.items() <= world.object_store.objects.items()
    assert world.ledger.latest_revision(HOUR) is None


def test_parquet_is_kept_if_its_statistics_cannot_be_written() -> None:
    world = a_world()
    grow_old(world)
    world.ledger._hourly[HOUR, 0]["type.ProductDeleted"] += 1
    done = run(world, PARQUET)
    assert {deletion.hour for deletion in done.deleted} == {NEXT}
    assert "the live counters say" in done.skipped_hours[0]
    revision = world.ledger.latest_revision(HOUR)
    assert revision
    assert not revision.expired


def test_statistics_are_written_before_parquet_is_deleted() -> None:
    world = a_world()
    grow_old(world)
    run(world, PARQUET)
    stats = compute_daily_stats("2024-01-15", world.ports, BENCH)
    assert (stats.stats.events, stats.stale_hours, stats.expired_hours) == (4, (), ())


def test_statistics_keep_their_duplicates_after_duplicates_files_expired() -> None:
    """They are computed again after a late event, and by the later expiry of Parquet."""
    world = a_world()
    noon = "2024-01-15T12"
    ingest_late(world, "noon", timestamp=f"{noon}:00:00Z")
    assert compute_hourly_stats(noon, world.ports, BENCH).stats.duplicates == 1
    grow_old(world)
    assert "duplicates" in {deletion.tree for deletion in run(world, DEAD_LETTERS).deleted}
    ingest_late(world, "late", timestamp=f"{noon}:30:00Z")
    stats = compute_hourly_stats(noon, world.ports, BENCH).stats
    assert (stats.events, stats.duplicates) == (2, 1)
    grow_old(world)
    run(world, PARQUET)
    assert compute_daily_stats("2024-01-15", world.ports, BENCH).stats.duplicates == 1


def test_two_objects_of_one_id_expire_each_by_its_own_batch() -> None:
    world, older, beside = a_world_with_a_reused_id()
    assert set(keys(world, event_json_dir(HOUR))) == {older, beside}
    world.clock.advance(timedelta(days=3))
    assert run(world).deleted == []
    assert set(keys(world, event_json_dir(HOUR))) == {older, beside}
    grow_old(world)
    assert keys(world, event_json_dir(HOUR)) != []
    run(world)
    assert keys(world, event_json_dir(HOUR)) == []
    assert_consistent(world)


def test_the_object_of_a_pointer_item_lives_as_long_as_the_item() -> None:
    world = World(recent_events=MemoryRecentEvents(lambda event: event.id == "large"))
    world.create()
    world.produce(event("large"), event("a"))
    world.settle(ingest_options(write_event_json=False))
    assert keys(world, event_json_dir(HOUR)) == [event_key(HOUR, "large")]
    world.clock.time = datetime.fromtimestamp(world.recent_events.items["large"].ttl, tz=world.clock.time.tzinfo)
    assert run(world).deleted == []
    assert world.object_store.get(event_key(HOUR, "large")) is not None
    world.clock.advance(timedelta(days=1, seconds=1))
    assert ("events", HOUR) in {(deletion.tree, deletion.hour) for deletion in run(world).deleted}


def test_a_file_with_an_unreadable_record_is_kept_and_holds_back_no_other() -> None:
    world = a_world()
    (first,) = [record.batch.id for record in world.ledger.batch_records_from("") if record.dead_letters_key]
    grow_old(world)

    def unreadable(call: Call, perform: Callable[[], Any]) -> Any:
        if call.method == "batch_record" and call.args == (first,):
            raise InconsistentState(f"batch {first}: its item cannot be read")
        return perform()

    done = run(world, DEAD_LETTERS, intercept(world.ports, unreadable))
    assert [deletion.tree for deletion in done.deleted] == ["duplicates"]
    assert done.skipped_hours == [f"dead-letters/2024/01/15/12/{first}.ndjson stays: batch {first}: its item cannot be read"]
    assert done.foreign_keys == []
    assert [deletion.tree for deletion in run(world, DEAD_LETTERS).deleted] == ["dead-letters"]


# Other flows after retention.


def test_statistics_of_an_expired_hour_are_refused_and_the_stored_ones_stay() -> None:
    world = a_world()
    grow_old(world)
    run(world)
    ingest_late(world, "late")
    before = {key: object_ for key, object_ in world.object_store.objects.items() if key.startswith("aggregates/")}
    message = f"hour {HOUR} has expired data: retention removed the Parquet of 3 events in 3 batches on 2024-02-15"
    with pytest.raises(DataExpired, match=message):
        compute_hourly_stats(HOUR, world.ports, BENCH)
    compact_hour(HOUR, world.ports, BENCH)
    with pytest.raises(DataExpired, match="the stored numbers stay"):
        compute_hourly_stats(HOUR, world.ports, BENCH)
    assert before.items() <= world.object_store.objects.items()
    day = compute_daily_stats("2024-01-15", world.ports, BENCH)
    assert (day.stats.events, day.stale_hours, day.expired_hours) == (4, (), (HOUR,))


def test_restore_reports_an_expired_hour_and_restores_late_events() -> None:
    world = a_world()
    grow_old(world)
    run(world)
    with pytest.raises(DataExpired, match="No row is left to restore; nothing was changed"):
        restore_hour(HOUR, world.ports, BENCH)
    ingest_late(world, "late")
    del world.recent_events.items["late"]
    done = restore_hour(HOUR, world.ports, BENCH)
    assert (done.restored, done.expired_rows, done.events) == (1, 3, 4)
    assert "late" in world.recent_events.items


@pytest.mark.parametrize("policy", [EVENT_JSON, PARQUET, DEAD_LETTERS])
@pytest.mark.parametrize("dry_run", [True, False])
def test_a_repair_of_expired_data_is_refused_before_anything_is_changed(policy: RetentionPolicy, dry_run: bool) -> None:
    world = a_world()
    grow_old(world)
    run(world, policy)
    ingest_late(world, "late", timestamp="2024-01-15T13:00:00Z")
    before = contents(world)
    context = RepairContext(world.ports, BENCH, RULES, dry_run)
    with pytest.raises(DataExpired, match=r"retention has removed data of \d batches of this range.*Nothing was changed"):
        repair_range(HourRange(HOUR, "2024-01-15T14"), context)
    assert contents(world) == before
    world.object_store.delete(
        [event_key("2024-01-15T13", "late"), reused_id_event_key("2024-01-15T13", "late", world.recent_events.items["late"].source)]
    )
    (late,) = world.ledger.batches_of_hour("2024-01-15T13")
    record = world.ledger.batch_record(late)
    assert record
    done = repair_range(record.batch.ranges[0], context)
    assert (done.batches, done.changed, done.lost) == (1, 1, [])


def test_a_late_batch_of_an_expired_hour_can_be_repaired() -> None:
    world = a_world()
    grow_old(world)
    run(world)
    ingest_late(world, "late")
    compact_hour(HOUR, world.ports, BENCH)
    before = contents(world)
    (late,) = set(world.ledger.batches_of_hour(HOUR)) - set(world.ledger.latest_revision(HOUR).expired.expired_batches)  # type: ignore[union-attr]
    record = world.ledger.batch_record(late)
    assert record
    world.object_store.delete(keys(world, event_json_dir(HOUR)))
    done = repair_range(record.batch.ranges[0], RepairContext(world.ports, BENCH, RULES))
    assert (done.changed, done.lost, done.conflicts) == (1, [], [])
    assert trace_record("late", world.ports).event_json is not None
    assert set(world.object_store.objects) <= set(before[0])


def test_reconciliation_names_expired_hours_and_does_not_adjust_them() -> None:
    world = a_world()
    grow_old(world)
    run(world)
    world.produce(event("young", "2024-02-15T10:00:00Z"))
    world.settle()
    world.ledger._hourly[HOUR, 0]["events"] += 5
    world.ledger._hourly["2024-02-15T10", 0]["events"] += 2
    found = compare_counters(world.ports, BENCH, lambda *_: None)
    assert (found.expired_hours, found.hours, found.archive) == ((HOUR, NEXT), ("2024-02-15T10",), ())
    assert {difference.target.hour for difference in found.counters} == {HOUR, "2024-02-15T10"}
    assert [adjustment.target.hour for adjustment in apply_adjustments(found, world.ports)] == ["2024-02-15T10"]
    assert [difference.target.hour for difference in compare_counters(world.ports, BENCH, lambda *_: None).counters] == [HOUR]


def test_after_only_json_objects_expired_all_rows_are_still_counted() -> None:
    world = a_world()
    grow_old(world)
    run(world, EVENT_JSON)
    assert compare_counters(world.ports, BENCH, lambda *_: None).expired_hours == ()
    assert compute_hourly_stats(HOUR, world.ports, BENCH).stats.events == 3
    assert compare_bytes(HOUR, world.ports, BENCH).compared == 0
    assert_consistent(world)


def test_a_damaged_archive_without_json_objects_cannot_be_rebuilt() -> None:
    world = a_world()
    grow_old(world)
    run(world, EVENT_JSON)
    (key,) = world.ledger.latest_revision(HOUR).keys  # type: ignore[union-attr]
    world.object_store.objects[key] = replace(world.object_store.objects[key], body=b"damaged")
    with pytest.raises(InconsistentState, match="retention removed the JSON objects of batches up to 2024-01-15T12:00Z"):
        compact_hour(HOUR, world.ports, BENCH)


def test_the_audit_finds_missing_late_data_of_an_expired_hour() -> None:
    world = a_world()
    grow_old(world)
    run(world)
    found = audit_hour(HOUR, world.ports)
    assert (found.expired_rows, found.recorded, found.counted, found.parquet, found.agrees) == (3, 3, 3, 0, True)
    assert found.expiry.startswith("retention removed the Parquet of 3 events")
    ingest_late(world, "late", "other")
    world.object_store.delete([key for key in keys(world, event_json_dir(HOUR)) if key.rpartition("/")[2].startswith("late")])
    (late,) = set(world.ledger.batches_of_hour(HOUR)) - set(world.ledger.latest_revision(HOUR).expired.expired_batches)  # type: ignore[union-attr]
    assert audit_hour(HOUR, world.ports).findings == ("1 ids without JSON object, for example late",)
    world.object_store.delete([part_key(HOUR, late)])
    assert f"batch {late}: 0 rows in {part_key(HOUR, late)}, 2 in its record" in audit_hour(HOUR, world.ports).findings


# Traces.


def test_a_trace_reports_an_expired_json_object() -> None:
    world = a_world()
    grow_old(world)
    run(world, EVENT_JSON)
    trace = trace_record(f"{world.source(0)}", world.ports)
    assert (trace.outcome, trace.event_json) == (RecordOutcome.STORED, None)
    assert trace.detail == f"stored in hour {HOUR}; its JSON object was removed by retention on 2024-02-15T13:00Z"


def test_a_trace_of_expired_files_uses_the_counts_of_the_ledger() -> None:
    world = a_world()
    grow_old(world)
    run(world)
    traces = [trace_record(str(world.source(offset)), world.ports) for offset in range(7)]
    assert [trace.outcome for trace in traces] == [
        RecordOutcome.EXPIRED,
        RecordOutcome.EXPIRED,
        RecordOutcome.EXPIRED,
        RecordOutcome.TOMBSTONE,
        RecordOutcome.EXPIRED,
        RecordOutcome.EXPIRED,
        RecordOutcome.STORED,
    ]
    assert "Its range has 2 stored and 1 dead_letter" in traces[0].detail
    assert "the rows of hour 2024-01-15T10 have expired: retention removed the Parquet of 3 events" in traces[6].detail


def test_a_trace_uses_the_files_that_have_not_expired() -> None:
    world = a_world()
    grow_old(world)
    run(world, PARQUET)
    outcomes = [trace_record(str(world.source(offset)), world.ports).outcome for offset in range(7)]
    stored = RecordOutcome.STORED
    assert outcomes == [stored, stored, RecordOutcome.DEAD_LETTER, RecordOutcome.TOMBSTONE, stored, RecordOutcome.DUPLICATE, stored]


# Dead letters.


def test_a_redrive_of_expired_dead_letters_is_refused() -> None:
    world = a_world()
    (batch,) = [record.batch.id for record in world.ledger.batch_records_from("") if record.dead_letters_key]
    grow_old(world)
    run(world, DEAD_LETTERS)
    before = contents(world)
    for selection in (
        DeadLetterFilter(batch_id=batch),
        DeadLetterFilter(hour="2024-01-15T12"),
        DeadLetterFilter("too_large", "2024-01-15T12"),
    ):
        with pytest.raises(DataExpired, match=r"retention removed the dead letters of .* on 2024-02-15T13:00Z"):
            redrive_dead_letters(selection, world.ports, ingest_options("redrive"))
    assert redrive_dead_letters(DeadLetterFilter(), world.ports, ingest_options("redrive")).stored == 0
    assert contents(world) == before


def test_dead_letters_that_are_missing_without_expiry_are_an_error() -> None:
    world = a_world()
    (record,) = [record for record in world.ledger.batch_records_from("") if record.dead_letters_key]
    world.object_store.delete([record.dead_letters_key or ""])
    with pytest.raises(InconsistentState):
        redrive_dead_letters(DeadLetterFilter(batch_id=record.batch.id), world.ports, ingest_options("redrive"))
    assert any("0 dead letters" in finding for finding in audit_hour(HOUR, world.ports).findings)


def test_a_redriven_record_is_traced_to_its_new_outcome_after_expiry() -> None:
    world = a_world()
    world.clock.advance(timedelta(seconds=1))
    assert redrive_dead_letters(DeadLetterFilter(), world.ports, ingest_options("redrive")).stored == 1
    grow_old(world)
    run(world)
    trace = trace_record(str(world.source(2)), world.ports)
    assert trace.outcome is RecordOutcome.DEAD_LETTER
    assert trace.redrive
    assert trace.redrive.outcome is RecordOutcome.STORED
    assert_consistent(world)


def test_files_of_a_pending_redrive_are_kept_until_it_is_closed() -> None:
    world = a_world()
    grow_old(world)
    with pytest.raises(Crashed):
        redrive_dead_letters(
            DeadLetterFilter(),
            intercept(world.ports, failing("put_if_absent", effect=False, fault=lambda _: Crashed())),
            ingest_options("redrive"),
        )
    (pending,) = world.ledger.snapshot().pending.values()
    assert pending.staged is None
    run(world, DEAD_LETTERS)
    assert all(world.object_store.get(key) is not None for key in pending.redrive_keys)
    done = redrive_dead_letters(DeadLetterFilter(), world.ports, ingest_options("again"))
    assert done.already_redriven == 1
    assert [item for item in world.recent_events.items if item == "big"] == ["big"]
    grow_old(world, timedelta(seconds=1))
    run(world, DEAD_LETTERS)
    assert keys(world, "dead-letters/") == []
    assert_consistent(world)


def test_a_redrive_begun_after_its_dead_letters_expired_closes_without_them() -> None:
    """The dead letters expire between the read and the begin of the redrive, which then crashes."""
    world = a_world()
    grow_old(world)

    def expire_before_begin(call: Call, perform: Callable[[], Any]) -> Any:
        if call.method == "begin_batch":
            run(world, DEAD_LETTERS)
            perform()
            raise Crashed
        return perform()

    with pytest.raises(Crashed):
        redrive_dead_letters(DeadLetterFilter(), intercept(world.ports, expire_before_begin), ingest_options("crashed"))
    assert keys(world, "dead-letters/") == []
    assert len(world.ledger.snapshot().pending) == 1
    counters = world.ledger.counters()
    assert redrive_dead_letters(DeadLetterFilter(), world.ports, ingest_options("again")).stored == 0
    assert len(world.ledger.snapshot().pending) == 0
    assert {name: count for name, count in world.ledger.counters().items() if "batches" not in name and "ms" not in name} == {
        name: count for name, count in counters.items() if "batches" not in name and "ms" not in name
    }
    assert trace_record(str(world.source(2)), world.ports).outcome is RecordOutcome.DEAD_LETTER
    assert_consistent(world)


def test_an_hour_with_a_damaged_manifest_is_kept() -> None:
    world = a_world(compacted=True)
    grow_old(world)
    world.object_store.objects[manifest_key(HOUR)] = replace(world.object_store.objects[manifest_key(HOUR)], body=b"{}")
    done = run(world, PARQUET)
    assert {deletion.hour for deletion in done.deleted} == {NEXT}
    assert "is not a valid manifest" in done.skipped_hours[0]


def test_an_hour_whose_archive_changes_constantly_is_kept() -> None:
    world = _old_world()

    def revise_first(call: Call, perform: Callable[[], Any]) -> Any:
        if call.method == "put_revision" and call.args[0].expired:
            found = world.ledger.latest_revision(call.args[0].hour)
            assert found
            world.ledger.put_revision(replace(found, number=found.number + 1))
        return perform()

    done = run(world, PARQUET, intercept(world.ports, revise_first))
    assert done.deleted == []
    assert any("changed 10 times" in line for line in done.skipped_hours)
    assert Superseded.retryable


def test_a_longer_retention_time_applies_to_objects_written_again() -> None:
    world = a_world()
    before = dict(world.object_store.objects)
    grow_old(world)
    run(world, EVENT_JSON)
    world.object_store.put([before[event_key(HOUR, "a")]])
    assert run(world, RetentionPolicy(event_json=MIN_RETENTION + timedelta(hours=2))).deleted == []
    assert run(world, EVENT_JSON).objects == 1
