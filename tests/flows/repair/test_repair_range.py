"""A repair restores what the batches of a range recorded, byte for byte, and moves nothing else."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from analytics_defs.adapters.memory import MemoryRecentEvents
from analytics_defs.core.events.event import ValidationRules
from analytics_defs.core.ingest.batch_builder import BatchLimits
from analytics_defs.core.ingest.planning import PlanningPolicy
from analytics_defs.core.offsets import Range
from analytics_defs.core.repair import ComparisonResult, HourRange, StoredKind, parse_repair_range
from analytics_defs.core.storage.object_keys import RECORD_TIMESTAMP, event_key, manifest_key, part_key, reused_id_event_key
from analytics_defs.errors import InconsistentState, Unavailable
from analytics_defs.flows.audit.balance import audit_offsets
from analytics_defs.flows.audit.hour import audit_hour
from analytics_defs.flows.hours.compaction import compact_hour
from analytics_defs.flows.ingest.execute_plan import execute_plan
from analytics_defs.flows.redrive import DeadLetterFilter, redrive_dead_letters
from analytics_defs.flows.repair.repair_range import RepairContext, RepairResult, repair_range
from analytics_defs.ports import DEDUPLICATION_WINDOW, RECENT_EVENTS_TTL, Ports
from tests.flows.hours.test_statistics import BENCH
from tests.proof.interceptors import Call, Crashed, failing, intercept
from tests.proof.world import HOUR, RULES, TOPIC, World, event, ingest_options, legacy_event

ALL = HourRange("2024-01-15T09", "2024-01-15T13")
HOURS = ("2024-01-15T09", HOUR)
WRITES = {
    "put",
    "put_if_absent",
    "upload",
    "put_if",
    "delete",
    "claim",
    "begin_batch",
    "close_batch",
    "commit",
    "put_revision",
    "mark_staged",
    "open_topic",
}


def a_world() -> World:
    """Three batches: events of two hours, a legacy event, duplicates within and across batches, dead letters, a tombstone, a redrive."""
    world = World()
    world.create(partitions=2)
    world.produce(event("a"), event("b", "2024-01-15T09:59:59Z"), b'{"id": NaN}', None, event("big", padding="." * 400))
    world.produce(event("a", payload="other"), legacy_event(), partition=1)
    world.settle(ingest_options(validation_rules=ValidationRules(max_event_bytes=300)))
    world.produce(event("c"), event("b", payload="again"), event("d"))
    world.settle(ingest_options(limits=BatchLimits(max_records=2)))
    world.clock.advance(timedelta(seconds=1))
    assert redrive_dead_letters(DeadLetterFilter(), world.ports, ingest_options("redrive")).stored == 1
    return world


def run(world: World, ports: Ports | None = None, wanted: Range | HourRange = ALL, dry_run: bool = False) -> RepairResult:
    return repair_range(wanted, RepairContext(ports or world.ports, BENCH, RULES, dry_run))


def stores(world: World) -> tuple[Any, ...]:
    return dict(world.object_store.objects), dict(world.recent_events.items), world.ledger.snapshot(), world.ledger.counters()


def assert_consistent(world: World) -> None:
    assert audit_offsets(world.ports).balanced
    assert [audit_hour(hour, world.ports).findings for hour in HOURS] == [(), ()]


def damage(world: World, choice: random.Random) -> int:
    """Delete or alter a random subset of the objects and items. Return their number."""
    damaged = 0
    for key in list(world.object_store.objects):
        match choice.randrange(3):
            case 0:
                del world.object_store.objects[key]
            case 1:
                object_ = world.object_store.objects[key]
                world.object_store.objects[key] = replace(object_, body=object_.body[: len(object_.body) // 2])
            case _:
                continue
        damaged += 1
    for key in list(world.recent_events.items):
        match choice.randrange(3):
            case 0:
                del world.recent_events.items[key]
            case 1:
                world.recent_events.items[key] = replace(world.recent_events.items[key], data={"altered": True})
            case _:
                continue
        damaged += 1
    return damaged


@pytest.mark.parametrize("seed", range(40))
def test_any_lost_or_altered_subset_is_restored_byte_for_byte_and_idempotently(seed: int) -> None:
    world = a_world()
    before = stores(world)
    damaged = damage(world, random.Random(seed))
    dry, done = run(world, dry_run=True), run(world)
    assert (done.conflicts, done.lost, done.changed) == ([], [], damaged)
    assert (dry.lost, dry.changes, dry.counts) == ([], done.changes, done.counts)
    assert stores(world) == before
    assert_consistent(world)
    assert run(world).changed == 0


def a_world_with_a_reused_id() -> tuple[World, str, str]:
    """Return the world, the key of the older object and the key of the newer object."""
    world = World()
    world.create()
    world.produce(event("x"))
    world.settle()
    world.clock.advance(timedelta(days=29))
    second = world.produce(event("x", payload="other"))
    world.settle()
    return world, event_key(HOUR, "x"), reused_id_event_key(HOUR, "x", second)


@pytest.mark.parametrize("deleted", [(), (0,), (1,), (0, 1)])
@pytest.mark.parametrize("from_parquet", [False, True])
def test_the_two_objects_of_a_reused_id_are_restored_side_by_side(deleted: tuple[int, ...], from_parquet: bool) -> None:
    world, *keys = a_world_with_a_reused_id()
    before = stores(world)
    world.object_store.delete([keys[index] for index in deleted])
    if from_parquet:
        world.event_log.retain_from(TOPIC, 0, 2)
    done = run(world)
    assert (done.conflicts, done.lost, done.changed) == ([], [], len(deleted))
    assert stores(world) == before


def test_the_item_of_a_reused_id_is_restored_for_the_newer_event() -> None:
    world, *_ = a_world_with_a_reused_id()
    before = dict(world.recent_events.items)
    world.recent_events.items.clear()
    done = run(world)
    assert (done.conflicts, done.lost) == ([], [])
    assert world.recent_events.items == before
    assert run(world).changed == 0


def test_the_parts_of_a_reused_id_are_restored_each_from_its_own_object() -> None:
    world, *_ = a_world_with_a_reused_id()
    before = audit_hour(HOUR, world.ports)
    world.event_log.retain_from(TOPIC, 0, 2)
    world.object_store.delete([part_key(HOUR, batch) for batch in world.ledger.batches_of_hour(HOUR)])
    done = run(world)
    assert (done.conflicts, done.lost, done.changed) == ([], [], 2)
    assert audit_hour(HOUR, world.ports) == before


def test_a_dry_run_names_the_same_changes_and_writes_nothing() -> None:
    world = a_world()
    damage(world, random.Random(1))
    before, written = stores(world), list[str]()

    def recording(call: Call, perform: Callable[[], Any]) -> Any:
        written.extend([call.method] if call.method in WRITES else [])
        return perform()

    dry = run(world, intercept(world.ports, recording), dry_run=True)
    assert (written, stores(world) == before) == ([], True)
    run(world, intercept(world.ports, recording))
    assert "put" in written
    assert dry.changed == len(dry.changes) > 0


def test_the_next_repair_completes_a_repair_that_crashed_between_any_two_calls() -> None:
    intact = stores(a_world())
    at = 0
    while True:
        world = a_world()
        damage(world, random.Random(2))
        try:
            run(world, intercept(world.ports, failing(at, at % 2 == 0, lambda _: Crashed())))
        except Crashed:
            run(world)
            assert stores(world) == intact
            at += 1
            continue
        break
    assert at > 50


@pytest.mark.parametrize("kafka", [True, False], ids=["in Kafka", "deleted by Kafka's retention"])
def test_no_part_of_a_compacted_hour_is_restored_and_a_leftover_part_is_deleted(kafka: bool) -> None:
    world = a_world()
    part = next(
        object_ for key, object_ in world.object_store.objects.items() if key.startswith("parquet/year=2024/month=01/day=15/hour=10/")
    )
    for hour in HOURS:
        compact_hour(hour, world.ports, BENCH)
    before = stores(world)
    if not kafka:
        world.event_log.retain_from(TOPIC, 0, 8)
        world.event_log.retain_from(TOPIC, 1, 2)
    for key in [key for key in world.object_store.objects if key.startswith("events/")]:
        del world.object_store.objects[key]
    world.recent_events.items.clear()
    world.object_store.put([part])
    done = run(world)
    assert (done.conflicts, done.lost) == ([], [])
    assert (done.counts[StoredKind.PART, ComparisonResult.LEFTOVER], done.counts[StoredKind.PART, ComparisonResult.MISSING]) == (1, 0)
    assert stores(world) == before


def test_a_compaction_while_its_part_is_restored_leaves_no_part() -> None:
    world = a_world()
    key = next(key for key in world.object_store.objects if key.startswith("parquet/year=2024/month=01/day=15/hour=10/"))
    object_ = world.object_store.objects.pop(key)
    compacted = False

    def meanwhile(call: Call, perform: Callable[[], Any]) -> Any:
        nonlocal compacted
        if call.method == "put" and call.args[0][0].key == key and not compacted:
            compacted = True
            world.object_store.put([object_])
            compact_hour(HOUR, world.ports, BENCH)
        return perform()

    run(world, intercept(world.ports, meanwhile))
    assert compacted
    assert key not in world.object_store.objects
    assert_consistent(world)


def test_a_damaged_archive_is_compacted_again_from_restored_data() -> None:
    world = a_world()
    for hour in HOURS:
        compact_hour(hour, world.ports, BENCH)
    revision = world.ledger.latest_revision(HOUR)
    assert revision
    for key in [key for key in world.object_store.objects if key.startswith("events/") or key == revision.keys[0]]:
        del world.object_store.objects[key]
    assert run(world, dry_run=True).counts[StoredKind.ARCHIVE, ComparisonResult.DIFFERENT] > 0
    done = run(world)
    assert (done.conflicts, done.lost) == ([], [])
    assert_consistent(world)


def test_without_the_records_in_kafka_the_stores_restore_each_other() -> None:
    world = a_world()
    before = stores(world)
    world.event_log.retain_from(TOPIC, 0, 8)
    world.event_log.retain_from(TOPIC, 1, 2)
    objects = sorted(key for key in world.object_store.objects if key.startswith("events/"))
    for key in objects[::2]:
        del world.object_store.objects[key]
    world.recent_events.items.clear()
    done = run(world)
    assert (done.conflicts, done.lost) == ([], [])
    assert stores(world) == before


def test_parts_that_kafka_and_parquet_lost_are_restored_from_json_objects() -> None:
    world = a_world()
    world.event_log.retain_from(TOPIC, 0, 8)
    world.event_log.retain_from(TOPIC, 1, 2)
    for key in [key for key in world.object_store.objects if key.startswith("parquet/")]:
        del world.object_store.objects[key]
    assert run(world).lost == []
    assert_consistent(world)


def test_lost_events_are_reported_by_batch_and_number_and_the_rest_is_repaired() -> None:
    world = a_world()
    world.event_log.retain_from(TOPIC, 0, 8)
    world.event_log.retain_from(TOPIC, 1, 2)
    first = world.ledger.batch_record(min(record.batch.id for record in world.ledger.last_batches(10)))
    assert first
    later = {key: object_ for key, object_ in world.object_store.objects.items() if key.startswith("events/") and "/d.json" in key}
    for key in [key for key in world.object_store.objects if (first.batch.id in key and key.startswith("parquet/")) or key in later]:
        del world.object_store.objects[key]
    for key in [key for key, object_ in world.object_store.objects.items() if object_.metadata.get("batch") == first.batch.id]:
        del world.object_store.objects[key]
    done = run(world)
    assert any(f"batch {first.batch.id}: 2 of 2 events of hour {HOUR} are in no store any more" in line for line in done.lost)
    assert later.items() <= world.object_store.objects.items()


def test_a_batch_whose_records_contradict_the_ledger_is_not_changed() -> None:
    world = World()
    world.create()
    world.produce(event("a"), b"not one")
    world.settle()
    world.recent_events.items.clear()
    world.event_log._topics[TOPIC][0].entries[1].content = replace(world.event_log.records(TOPIC, 0)[1], value=b"not two")
    before = stores(world)
    done = run(world)
    assert len(done.conflicts) == 1
    assert "dead letters of SHA-256" in done.conflicts[0]
    assert stores(world) == before


def alter(world: World, offset: int, value: bytes) -> None:
    """Change a record, as if the topic were recreated on a broker without topic ids."""
    world.event_log._topics[TOPIC][0].entries[offset].content = replace(world.event_log.records(TOPIC, 0)[offset], value=value)


def one_batch(*values: bytes | None) -> World:
    world = World()
    world.create()
    world.produce(*values)
    world.settle()
    return world


def refused(world: World) -> str:
    """Return the conflict of the only batch, after a check that nothing was changed."""
    before = stores(world)
    done = run(world)
    assert stores(world) == before
    (conflict,) = done.conflicts
    assert (done.changes, "othing of this batch was changed" in conflict) == ([], True)
    return conflict


def test_parquet_and_object_that_agree_against_kafka_are_a_conflict() -> None:
    world = one_batch(event("a"), event("b"))
    del world.recent_events.items["b"]
    alter(world, 0, event("a", other="payload"))
    assert "They are not the same" in refused(world)


def test_parquet_and_object_that_differ_without_kafka_are_a_conflict() -> None:
    world = one_batch(event("a"), event("b"))
    world.event_log.retain_from(TOPIC, 0, 2)
    del world.recent_events.items["b"]
    key = event_key(HOUR, "a")
    world.object_store.objects[key] = replace(world.object_store.objects[key], body=event("a", other="payload"))
    assert "no third store decides" in refused(world)


def test_the_digest_of_an_archive_decides_between_parquet_and_object() -> None:
    world = one_batch(event("a"), event("b"))
    compact_hour(HOUR, world.ports, BENCH)
    before = stores(world)
    world.event_log.retain_from(TOPIC, 0, 2)
    key = event_key(HOUR, "a")
    world.object_store.objects[key] = replace(world.object_store.objects[key], body=event("a", other="payload"))
    assert run(world).conflicts == []
    assert stores(world) == before


def test_records_of_a_recreated_topic_are_not_written() -> None:
    world = one_batch(event("a"), event("b"))
    world.object_store.delete([event_key(HOUR, event_id) for event_id in "ab"])
    world.recent_events.items.clear()
    alter(world, 0, event("other"))
    assert f"{TOPIC}/0/0 is event a of hour {HOUR} in Parquet, and event other" in refused(world)


@pytest.mark.parametrize("wanted", [ALL, parse_repair_range(f"{TOPIC}/0/0", f"{TOPIC}/0/9")], ids=["hours", "offsets"])
def test_a_pending_batch_is_reported_and_skipped(wanted: Range | HourRange) -> None:
    world = one_batch(event("a"))
    world.recent_events.items.clear()
    world.produce(event("pending"))
    with pytest.raises(Crashed):
        world.run(ports=intercept(world.ports, failing("close_batch", False, lambda _: Crashed())))
    pending = world.ledger.snapshot().pending
    world.recent_events.items.clear()
    done = run(world, wanted=wanted)
    assert [line.partition(",")[0] for line in done.skipped_batches] == [f"batch {batch_id}: pending" for batch_id in pending]
    assert (sorted(world.recent_events.items), world.ledger.snapshot().pending) == (["a"], pending)
    world.settle()
    assert run(world).skipped_batches == []


def test_a_pending_batch_beyond_the_offsets_is_not_reported() -> None:
    world = one_batch(event("a"))
    world.produce(event("pending"))
    with pytest.raises(Crashed):
        world.run(ports=intercept(world.ports, failing("close_batch", False, lambda _: Crashed())))
    assert run(world, wanted=parse_repair_range(f"{TOPIC}/0/0", f"{TOPIC}/0/1")).skipped_batches == []


def test_after_a_store_failure_the_result_names_the_interrupted_batch() -> None:
    world = a_world()
    world.recent_events.items.clear()
    claims = 0

    def failing_later(call: Call, perform: Callable[[], Any]) -> Any:
        nonlocal claims
        claims += call.method == "claim"
        if claims > 1:
            raise Unavailable("gone")
        return perform()

    result = RepairResult()
    with pytest.raises(Unavailable):
        repair_range(ALL, RepairContext(intercept(world.ports, failing_later), BENCH, RULES), result)
    assert len(world.recent_events.items) == 1
    assert result.changed > 1
    assert result.interrupted_batch == f"batch {min(record.batch.id for record in world.ledger.last_batches(10))}"


def test_a_closed_batch_without_a_record_is_a_conflict_and_the_others_are_repaired() -> None:
    world = a_world()
    before = stores(world)
    first = min(record.batch.id for record in world.ledger.last_batches(10))
    d = world.recent_events.items["d"]
    world.recent_events.items.clear()
    del world.ledger._records[first]
    for wanted in (ALL, parse_repair_range(f"{TOPIC}/0/0", f"{TOPIC}/0/9")):
        done = run(world, wanted=wanted)
        assert [f"batch {first} is closed" in conflict for conflict in done.conflicts] == [True]
        assert (world.recent_events.items["d"], before[1]["d"]) == (d, d)


def test_a_leftover_part_is_deleted_only_after_the_manifest_names_the_archive() -> None:
    world = one_batch(event("a"))
    compact_hour(HOUR, world.ports, BENCH)
    world.produce(event("b"))
    world.settle()
    with pytest.raises(Crashed):
        compact_hour(HOUR, intercept(world.ports, failing("put_if", False, lambda _: Crashed())), BENCH)
    calls = list[str]()

    def recording(call: Call, perform: Callable[[], Any]) -> Any:
        calls.extend([call.method] if call.method in WRITES else [])
        return perform()

    done = run(world, intercept(world.ports, recording))
    assert calls == ["put_if", "delete"]
    assert (done.counts[StoredKind.ARCHIVE, ComparisonResult.DIFFERENT], done.counts[StoredKind.PART, ComparisonResult.LEFTOVER]) == (1, 1)
    assert b'"revision": 2' in world.object_store.objects[manifest_key(HOUR)].body
    assert run(world).changed == 0


@pytest.mark.parametrize(
    "held", [None, b"no manifest", b'{"revision": 99, "complete": true}'], ids=["missing", "altered", "unknown revision"]
)
def test_the_manifest_of_an_archive_is_restored(held: bytes | None) -> None:
    world = one_batch(event("a"))
    compact_hour(HOUR, world.ports, BENCH)
    before, key = stores(world), manifest_key(HOUR)
    object_ = world.object_store.objects.pop(key)
    world.object_store.objects |= {} if held is None else {key: replace(object_, body=held)}
    assert run(world).changes[0].key == key
    assert stores(world) == before


def test_a_leftover_part_of_a_damaged_archive_is_kept() -> None:
    world = World()
    world.create()
    world.produce(event("a"))
    world.settle(ingest_options(write_event_json=False))
    (part,) = [object_ for key, object_ in world.object_store.objects.items() if key.startswith("parquet/")]
    compact_hour(HOUR, world.ports, BENCH)
    world.event_log.retain_from(TOPIC, 0, 1)
    world.object_store.delete([key for key in world.object_store.objects if "archive-" in key])
    world.object_store.put([part])
    done = run(world)
    assert ["JSON objects" in line for line in done.lost] == [True]
    assert world.object_store.objects[part.key] == part


def test_undecided_events_do_not_hold_back_the_rest_of_their_batch() -> None:
    world = one_batch(event("held"))
    world.produce(event("a"), event("b"), event("held", payload="again"), b"not one")
    world.settle()
    before = stores(world)
    a = event_key(HOUR, "a")
    for key in [key for key in world.object_store.objects if key.startswith(("duplicates/", "parquet/", "events/", "dead"))]:
        del world.object_store.objects[key]
    world.object_store.put([before[0][event_key(HOUR, "held")]])
    b = world.recent_events.items["b"]
    world.recent_events.items.clear()
    world.recent_events.items["b"] = b
    batch = max(record.batch.id for record in world.ledger.last_batches(10))
    done = run(world, wanted=parse_repair_range(f"{TOPIC}/0/1", f"{TOPIC}/0/9"))
    assert any(f"batch {batch}: no store shows whether 2 of its events were stored or are duplicates" in line for line in done.lost)
    assert event_key(HOUR, "b") in world.object_store.objects
    assert any(key.startswith("dead-letters/") for key in world.object_store.objects)
    assert (a in world.object_store.objects, list(world.recent_events.items)) == (False, ["b"])
    assert run(world).lost == []
    assert stores(world) == before


@pytest.mark.parametrize("first", [0, 1])
def test_of_two_batches_cut_at_once_either_may_own_the_id(first: int) -> None:
    world = World()
    world.create(partitions=2)
    for partition in (first, 1 - first):
        world.produce(event("x", of=partition), event(f"own {partition}"), partition=partition)
        if partition == first:
            world.clock.advance(timedelta(seconds=1))
            (plan,) = filter(None, world.plan().plans)
            execute_plan(plan, world.ports, ingest_options())
    (plan,) = filter(None, world.plan().plans)
    execute_plan(plan, world.ports, ingest_options())
    before = stores(world)
    assert len({record.batch.time for record in world.ledger.last_batches(9)}) == 1
    world.object_store.objects.clear()
    world.recent_events.items.clear()
    dry, done = run(world, dry_run=True), run(world)
    assert (dry.lost, dry.counts, done.lost, done.conflicts) == ([], done.counts, [], [])
    assert stores(world) == before


def a_world_with_two_lanes(partition: int) -> World:
    """Two concurrent batches with one id. The younger batch claims it before the older batch, which reads this partition."""
    world = World(policy=PlanningPolicy(lanes=2))
    world.create(partitions=2)
    for number in (0, 1):
        world.produce(event("x", of=number), event(f"own {number}"), partition=number)
    older, younger = sorted(filter(None, world.plan().plans), key=lambda plan: plan.ranges[0].topic_partition.partition != partition)
    is_claimed = False

    def claim_first(call: Call, perform: Callable[[], Any]) -> Any:
        nonlocal is_claimed
        if call.method == "claim" and not is_claimed:
            is_claimed = True
            world.clock.advance(timedelta(seconds=1))
            execute_plan(younger, world.ports, ingest_options("younger"))
        return perform()

    execute_plan(older, intercept(world.ports, claim_first), ingest_options("older"))
    assert is_claimed
    return world


@pytest.mark.parametrize("partition", [0, 1])
def test_a_duplicate_of_a_younger_batch_is_restored(partition: int) -> None:
    world = a_world_with_two_lanes(partition)
    assert world.recent_events.items["x"].source == world.source(0, 1 - partition)
    before = stores(world)
    world.object_store.objects.clear()
    done = run(world)
    assert (done.conflicts, done.lost) == ([], [])
    assert stores(world) == before


def a_world_without_the_owner() -> tuple[World, str]:
    """Return a world with a duplicate whose owner has no item any more, and the key of the duplicates file."""
    world = one_batch(event("held"))
    world.produce(event("a"), event("held", payload="again"))
    world.settle()
    del world.recent_events.items["held"]
    (record,) = [record for record in world.ledger.last_batches(10) if record.duplicates_key]
    assert record.duplicates_key
    return world, record.duplicates_key


SECOND_BATCH = parse_repair_range(f"{TOPIC}/0/1", f"{TOPIC}/0/9")


def test_a_duplicate_is_not_inferred_although_all_stored_events_are_known() -> None:
    world, key = a_world_without_the_owner()
    world.object_store.delete([key, event_key(HOUR, "a")])
    items = dict(world.recent_events.items)
    undecided, lost = run(world, wanted=SECOND_BATCH).lost
    assert f"whether 1 of its events were stored or are duplicates, for example {TOPIC}/0/2. They were left as they are" in undecided
    assert f"its 1 duplicates in {key} are altered or missing" in lost
    assert world.object_store.get(event_key(HOUR, "a")) == event("a")
    assert (world.object_store.get(key), world.recent_events.items) == (None, items)


@pytest.mark.parametrize("with_digest", [True, False])
def test_an_altered_duplicates_file_is_reported_as_lost_and_left_as_it_is(with_digest: bool) -> None:
    """The altered line fits the batch: only the digest shows the change. A record without digest proves nothing."""
    world, key = a_world_without_the_owner()
    object_ = world.object_store.objects[key]
    if with_digest:
        world.object_store.put([replace(object_, body=object_.body.replace(b"ProductDeleted/0/0", b"ProductDeleted/0/7"))])
        assert world.object_store.objects[key] != object_
    else:
        record = world.ledger._records[key.rpartition("/")[2].removesuffix(".ndjson")]
        world.ledger._records[record.batch.id] = replace(record, duplicates_digest=None)
    before = stores(world)
    done = run(world, wanted=SECOND_BATCH)
    assert [f"duplicates in {key} are altered or missing" in line for line in done.lost] == [False, True]
    assert (done.conflicts, done.changed) == ([], 0)
    assert stores(world) == before


def test_an_intact_duplicates_file_decides_without_the_item_of_the_owner() -> None:
    world, key = a_world_without_the_owner()
    before = stores(world)
    done = run(world, wanted=SECOND_BATCH)
    assert (done.conflicts, done.lost, done.changed) == ([], [], 0)
    assert done.counts[StoredKind.DUPLICATES, ComparisonResult.IDENTICAL] == 1
    assert (stores(world), key in world.object_store.objects) == (before, True)


def test_an_intact_duplicates_file_against_the_stores_is_a_conflict() -> None:
    world, key = a_world_without_the_owner()
    world.recent_events.items["held"] = replace(world.recent_events.items["a"], id="held", source=world.source(2))
    before = stores(world)
    (conflict,) = run(world, wanted=SECOND_BATCH).conflicts
    assert f"{key} does not agree with the stores and Kafka about event held of {TOPIC}/0/2" in conflict
    assert "Nothing of this batch was changed" in conflict
    assert stores(world) == before


def test_an_id_that_was_free_again_is_stored_although_its_first_item_is_back() -> None:
    world = one_batch(event("a"))
    first = dict(world.recent_events.items)
    world.clock.advance(DEDUPLICATION_WINDOW + timedelta(minutes=1))
    world.produce(event("r"))
    world.settle()
    world.produce(event("a", "2024-01-15T11:00:00Z"), event("r", payload="again"))
    world.settle()
    before = stores(world)
    world.recent_events.items |= first
    for key in [key for key in world.object_store.objects if "/11/" in key or "hour=11" in key or key.startswith("duplicates/")]:
        del world.object_store.objects[key]
    done = run(world)
    assert (done.conflicts, done.lost) == ([], [])
    assert world.object_store.objects == before[0]


def test_the_object_of_a_pointer_item_is_restored_with_the_item() -> None:
    world = World(recent_events=MemoryRecentEvents(unholdable=lambda event: event.id == "deep"))
    world.create()
    world.produce(event("deep"), event("flat"))
    world.settle(ingest_options(write_event_json=False))
    before = stores(world)
    world.recent_events.items.clear()
    world.object_store.delete([key for key in world.object_store.objects if key.startswith("events/")])
    run(world)
    assert stores(world) == before


def test_a_repair_with_complete_parts_does_not_list_json_objects() -> None:
    world = a_world()
    world.event_log.retain_from(TOPIC, 0, 8)
    world.event_log.retain_from(TOPIC, 1, 2)

    def no_listing(call: Call, perform: Callable[[], Any]) -> Any:
        assert call.method != "list_keys"
        return perform()

    assert run(world, intercept(world.ports, no_listing)).changed == 0


def calls_beside_ingest(at: int, compacted: bool) -> int:
    """Run a repair that ingest interrupts: it closes a batch before call number `at`. Return the number of calls."""
    world, calls = a_world(), 0
    if compacted:
        compact_hour(HOUR, world.ports, BENCH)
    before = stores(world)
    damage(world, random.Random(3))
    world.recent_events.items |= before[1]

    def meanwhile(_: Call, perform: Callable[[], Any]) -> Any:
        nonlocal calls
        calls += 1
        if calls == at + 1:
            world.produce(event("new"), event("d", payload="third"))
            world.settle()
            if compacted:
                with contextlib.suppress(InconsistentState):  # its files are not restored yet
                    compact_hour(HOUR, world.ports, BENCH)
        return perform()

    run(world, intercept(world.ports, meanwhile))
    done = run(world)
    assert (done.conflicts, done.lost, done.changed) == ([], [], 0), at
    assert_consistent(world)
    kept = {key: object_ for key, object_ in before[0].items() if not key.startswith("parquet/")}
    assert kept.items() <= world.object_store.objects.items(), at
    return calls


@pytest.mark.parametrize(("compacted", "step"), [(False, 1), (True, 5)], ids=["ingest", "ingest and a compaction"])
def test_ingest_may_close_a_batch_before_any_call_of_a_repair(compacted: bool, step: int) -> None:
    at = 0
    while at < calls_beside_ingest(at, compacted):
        at += step
    assert at > 50


def test_a_range_of_offsets_selects_its_batches_and_their_redrives() -> None:
    world = a_world()
    before = stores(world)
    world.recent_events.items.clear()
    done = run(world, wanted=parse_repair_range(f"{TOPIC}/0/1", f"{TOPIC}/0/2"))
    assert (done.batches, sorted(world.recent_events.items)) == (
        2,
        sorted(event_id for event_id in before[1] if event_id not in {"c", "d"}),
    )


def test_items_of_later_owners_and_expired_items_are_left_alone() -> None:
    world = a_world()
    world.recent_events.items["a"] = other = replace(
        world.recent_events.items["a"], source=world.source(99), created_at="2024-02-20T00:00:00.000Z"
    )
    run(world)
    assert world.recent_events.items["a"] == other
    world.clock.advance(RECENT_EVENTS_TTL)
    world.recent_events.items.clear()
    run(world)
    assert world.recent_events.items == {}


@pytest.mark.parametrize(
    ("first", "end"), [("a/0/1", "a/1/2"), ("a/0/2", "a/0/2"), (HOUR, HOUR), ("yesterday", HOUR), (HOUR, "a/0/2"), ("a/0/x", "a/0/2")]
)
def test_an_invalid_range_is_refused_with_an_explanation(first: str, end: str) -> None:
    with pytest.raises(ValueError, match=r"expected|the end is not included|two partitions|not an hour|not a source"):
        parse_repair_range(first, end)


def test_objects_without_a_record_timestamp_are_identical() -> None:
    """Objects of older versions lack the timestamp. An object with another timestamp is different."""
    world = a_world()
    for key in [key for key in world.object_store.objects if key.startswith("events/")]:
        object_ = world.object_store.objects[key]
        older = {name: value for name, value in object_.metadata.items() if name != RECORD_TIMESTAMP}
        assert len(older) < len(object_.metadata)
        world.object_store.objects[key] = replace(object_, metadata=older)
    assert run(world).changed == 0
    key = event_key(HOUR, "a")
    world.object_store.objects[key] = replace(
        world.object_store.objects[key], metadata=dict(world.object_store.objects[key].metadata) | {RECORD_TIMESTAMP: "5"}
    )
    assert [change.key for change in run(world).changes] == [key]
    assert run(world).changed == 0
