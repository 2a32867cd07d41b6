"""A replay brings back what the batches of a range recorded, byte for byte, and moves nothing else."""

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
from analytics_defs.core.offsets import Range
from analytics_defs.core.repair import ComparisonResult, HourRange, StoreKind, parse_replay_range
from analytics_defs.core.storage.object_keys import RECORD_TIMESTAMP, event_key, manifest_key, part_key, reused_id_event_key
from analytics_defs.errors import InconsistentState, Unavailable
from analytics_defs.flows.audit.balance import audit_offsets
from analytics_defs.flows.audit.hour import audit_hour
from analytics_defs.flows.hours.compaction import compact_hour
from analytics_defs.flows.ingest.execute_plan import execute_plan
from analytics_defs.flows.redrive import DeadLetterFilter, redrive_dead_letters
from analytics_defs.flows.repair.repair_range import RepairResult, ReplayContext, repair_range
from analytics_defs.ports import DEDUPLICATION_WINDOW, RECENT_EVENTS_TTL, Ports
from tests.flows.hours.test_statistics import BENCH
from tests.proof.doors import Call, Crashed, failing, through
from tests.proof.world import HOUR, RULES, TOPIC, World, conduct, event, legacy_event

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
    """Three batches: events of two hours, a legacy one, repeats within a batch and across, dead letters, a tombstone, a redrive."""
    world = World()
    world.create(partitions=2)
    world.produce(event("a"), event("b", "2024-01-15T09:59:59Z"), b'{"id": NaN}', None, event("big", padding="." * 400))
    world.produce(event("a", payload="other"), legacy_event(), partition=1)
    world.settle(conduct(validation_rules=ValidationRules(max_event_bytes=300)))
    world.produce(event("c"), event("b", payload="again"), event("d"))
    world.settle(conduct(limits=BatchLimits(max_records=2)))
    world.clock.advance(timedelta(seconds=1))
    assert redrive_dead_letters(DeadLetterFilter(), world.ports, conduct("redrive")).stored == 1
    return world


def run(world: World, ports: Ports | None = None, wanted: Range | HourRange = ALL, write: bool = True) -> RepairResult:
    return repair_range(wanted, ReplayContext(ports or world.ports, BENCH, RULES, write))


def stores(world: World) -> tuple[Any, ...]:
    return dict(world.object_store.objects), dict(world.recent_events.items), world.ledger.snapshot(), world.ledger.counters()


def agree(world: World) -> None:
    assert audit_offsets(world.ports).balanced
    assert [audit_hour(hour, world.ports).findings for hour in HOURS] == [(), ()]


def spoil(world: World, choice: random.Random) -> int:
    """Any subset of objects and items gone or altered; answers how many."""
    spoiled = 0
    for key in list(world.object_store.objects):
        match choice.randrange(3):
            case 0:
                del world.object_store.objects[key]
            case 1:
                blob = world.object_store.objects[key]
                world.object_store.objects[key] = replace(blob, body=blob.body[: len(blob.body) // 2])
            case _:
                continue
        spoiled += 1
    for key in list(world.recent_events.items):
        match choice.randrange(3):
            case 0:
                del world.recent_events.items[key]
            case 1:
                world.recent_events.items[key] = replace(world.recent_events.items[key], data={"altered": True})
            case _:
                continue
        spoiled += 1
    return spoiled


@pytest.mark.parametrize("seed", range(40))
def test_whatever_subset_was_lost_or_altered_comes_back_byte_for_byte_and_twice_is_once(seed: int) -> None:
    world = a_world()
    before = stores(world)
    spoiled = spoil(world, random.Random(seed))
    looked, done = run(world, write=False), run(world)
    assert (done.conflicts, done.lost, done.changed) == ([], [], spoiled)
    assert (looked.lost, looked.changes, looked.counts) == ([], done.changes, done.counts)
    assert stores(world) == before
    agree(world)
    assert run(world).changed == 0


def a_world_with_an_id_that_came_again() -> tuple[World, str, str]:
    """Its older object, and the newer one beside it."""
    world = World()
    world.create()
    world.produce(event("x"))
    world.settle()
    world.clock.advance(timedelta(days=29))
    second = world.produce(event("x", payload="other"))
    world.settle()
    return world, event_key(HOUR, "x"), reused_id_event_key(HOUR, "x", second)


@pytest.mark.parametrize("gone", [(), (0,), (1,), (0, 1)])
@pytest.mark.parametrize("from_parquet", [False, True])
def test_the_objects_of_an_id_that_came_again_come_back_beside_each_other(gone: tuple[int, ...], from_parquet: bool) -> None:
    world, *keys = a_world_with_an_id_that_came_again()
    before = stores(world)
    world.object_store.delete([keys[each] for each in gone])
    if from_parquet:
        world.event_log.retain_from(TOPIC, 0, 2)
    done = run(world)
    assert (done.conflicts, done.lost, done.changed) == ([], [], len(gone))
    assert stores(world) == before


def test_an_id_that_came_again_goes_back_to_whom_it_belonged() -> None:
    world, *_ = a_world_with_an_id_that_came_again()
    before = dict(world.recent_events.items)
    world.recent_events.items.clear()
    done = run(world)
    assert (done.conflicts, done.lost) == ([], [])
    assert world.recent_events.items == before
    assert run(world).changed == 0


def test_a_part_of_an_id_that_came_again_comes_back_from_its_own_object() -> None:
    world, *_ = a_world_with_an_id_that_came_again()
    before = audit_hour(HOUR, world.ports)
    world.event_log.retain_from(TOPIC, 0, 2)
    world.object_store.delete([part_key(HOUR, batch) for batch in world.ledger.batches_of_hour(HOUR)])
    done = run(world)
    assert (done.conflicts, done.lost, done.changed) == ([], [], 2)
    assert audit_hour(HOUR, world.ports) == before


def test_a_dry_run_names_the_same_changes_and_writes_nothing() -> None:
    world = a_world()
    spoil(world, random.Random(1))
    before, written = stores(world), list[str]()

    def recording(call: Call, perform: Callable[[], Any]) -> Any:
        written.extend([call.method] if call.method in WRITES else [])
        return perform()

    looked = run(world, through(world.ports, recording), write=False)
    assert (written, stores(world) == before) == ([], True)
    run(world, through(world.ports, recording))
    assert "put" in written
    assert looked.changed == len(looked.changes) > 0


def test_a_crash_between_any_two_calls_is_mended_by_the_next_replay() -> None:
    intact = stores(a_world())
    at = 0
    while True:
        world = a_world()
        spoil(world, random.Random(2))
        try:
            run(world, through(world.ports, failing(at, at % 2 == 0, lambda _: Crashed())))
        except Crashed:
            run(world)
            assert stores(world) == intact
            at += 1
            continue
        break
    assert at > 50


@pytest.mark.parametrize("kafka", [True, False], ids=["kafka", "retention took it"])
def test_of_a_compacted_hour_no_part_comes_back_and_a_leftover_goes(kafka: bool) -> None:
    world = a_world()
    part = next(blob for key, blob in world.object_store.objects.items() if key.startswith("parquet/year=2024/month=01/day=15/hour=10/"))
    for hour in HOURS:
        compact_hour(hour, world.ports, BENCH)
    before = stores(world)
    if not kafka:
        world.event_log.retain_from(TOPIC, 0, 8)
        world.event_log.retain_from(TOPIC, 1, 2)
    for key in [each for each in world.object_store.objects if each.startswith("events/")]:
        del world.object_store.objects[key]
    world.recent_events.items.clear()
    world.object_store.put([part])
    done = run(world)
    assert (done.conflicts, done.lost) == ([], [])
    assert (done.counts[StoreKind.PART, ComparisonResult.LEFTOVER], done.counts[StoreKind.PART, ComparisonResult.MISSING]) == (1, 0)
    assert stores(world) == before


def test_a_compaction_that_takes_the_part_while_it_is_put_back_leaves_no_part() -> None:
    world = a_world()
    key = next(each for each in world.object_store.objects if each.startswith("parquet/year=2024/month=01/day=15/hour=10/"))
    blob = world.object_store.objects.pop(key)
    compacted = False

    def meanwhile(call: Call, perform: Callable[[], Any]) -> Any:
        nonlocal compacted
        if call.method == "put" and call.args[0][0].key == key and not compacted:
            compacted = True
            world.object_store.put([blob])
            compact_hour(HOUR, world.ports, BENCH)
        return perform()

    run(world, through(world.ports, meanwhile))
    assert compacted
    assert key not in world.object_store.objects
    agree(world)


def test_a_damaged_archive_is_compacted_again_from_what_came_back() -> None:
    world = a_world()
    for hour in HOURS:
        compact_hour(hour, world.ports, BENCH)
    revision = world.ledger.latest_revision(HOUR)
    assert revision
    for key in [each for each in world.object_store.objects if each.startswith("events/") or each == revision.keys[0]]:
        del world.object_store.objects[key]
    assert run(world, write=False).counts[StoreKind.ARCHIVE, ComparisonResult.DIFFERENT] > 0
    done = run(world)
    assert (done.conflicts, done.lost) == ([], [])
    agree(world)


def test_where_retention_took_the_records_the_stores_mend_each_other() -> None:
    world = a_world()
    before = stores(world)
    world.event_log.retain_from(TOPIC, 0, 8)
    world.event_log.retain_from(TOPIC, 1, 2)
    objects = sorted(each for each in world.object_store.objects if each.startswith("events/"))
    for key in objects[::2]:
        del world.object_store.objects[key]
    world.recent_events.items.clear()
    done = run(world)
    assert (done.conflicts, done.lost) == ([], [])
    assert stores(world) == before


def test_parts_that_kafka_and_parquet_lost_come_from_the_json_tree() -> None:
    world = a_world()
    world.event_log.retain_from(TOPIC, 0, 8)
    world.event_log.retain_from(TOPIC, 1, 2)
    for key in [each for each in world.object_store.objects if each.startswith("parquet/")]:
        del world.object_store.objects[key]
    assert run(world).lost == []
    agree(world)


def test_what_no_store_holds_is_named_with_its_batch_and_number_and_the_rest_is_done() -> None:
    world = a_world()
    world.event_log.retain_from(TOPIC, 0, 8)
    world.event_log.retain_from(TOPIC, 1, 2)
    first = world.ledger.batch_record(min(each.batch.id for each in world.ledger.last_batches(10)))
    assert first
    later = {key: blob for key, blob in world.object_store.objects.items() if key.startswith("events/") and "/d.json" in key}
    for key in [each for each in world.object_store.objects if (first.batch.id in each and each.startswith("parquet/")) or each in later]:
        del world.object_store.objects[key]
    for key in [each for each, blob in world.object_store.objects.items() if blob.metadata.get("batch") == first.batch.id]:
        del world.object_store.objects[key]
    done = run(world)
    assert any(f"batch {first.batch.id}: 2 of 2 events of hour {HOUR} are in no store any more" in line for line in done.lost)
    assert later.items() <= world.object_store.objects.items()


def test_records_that_contradict_the_ledger_change_nothing_of_their_batch() -> None:
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
    """As if the topic were another one, on a broker that tells no topic ids."""
    world.event_log._topics[TOPIC][0].entries[offset].content = replace(world.event_log.records(TOPIC, 0)[offset], value=value)


def one_batch(*values: bytes | None) -> World:
    world = World()
    world.create()
    world.produce(*values)
    world.settle()
    return world


def refused(world: World) -> str:
    """What is said of the one batch, of which nothing was changed."""
    before = stores(world)
    done = run(world)
    assert stores(world) == before
    (said,) = done.conflicts
    assert (done.changes, "othing of this batch was changed" in said) == ([], True)
    return said


def test_a_payload_on_which_parquet_and_object_agree_against_kafka_changes_nothing_of_the_batch() -> None:
    world = one_batch(event("a"), event("b"))
    del world.recent_events.items["b"]
    alter(world, 0, event("a", other="payload"))
    assert "they are not the same" in refused(world)


def test_a_payload_on_which_parquet_and_object_differ_without_kafka_changes_nothing_of_the_batch() -> None:
    world = one_batch(event("a"), event("b"))
    world.event_log.retain_from(TOPIC, 0, 2)
    del world.recent_events.items["b"]
    key = event_key(HOUR, "a")
    world.object_store.objects[key] = replace(world.object_store.objects[key], body=event("a", other="payload"))
    assert "no third store decides" in refused(world)


def test_of_the_payload_in_an_archive_its_digest_decides() -> None:
    world = one_batch(event("a"), event("b"))
    compact_hour(HOUR, world.ports, BENCH)
    before = stores(world)
    world.event_log.retain_from(TOPIC, 0, 2)
    key = event_key(HOUR, "a")
    world.object_store.objects[key] = replace(world.object_store.objects[key], body=event("a", other="payload"))
    assert run(world).conflicts == []
    assert stores(world) == before


def test_records_of_another_topic_under_the_same_offsets_are_nowhere_put_back() -> None:
    world = one_batch(event("a"), event("b"))
    world.object_store.delete([event_key(HOUR, each) for each in "ab"])
    world.recent_events.items.clear()
    alter(world, 0, event("other"))
    assert f"{TOPIC}/0/0 is event a of hour {HOUR} in Parquet, and event other" in refused(world)


@pytest.mark.parametrize("wanted", [ALL, parse_replay_range(f"{TOPIC}/0/0", f"{TOPIC}/0/9")], ids=["hours", "offsets"])
def test_a_batch_that_is_pending_is_named_and_passed_over(wanted: Range | HourRange) -> None:
    world = one_batch(event("a"))
    world.recent_events.items.clear()
    world.produce(event("pending"))
    with pytest.raises(Crashed):
        world.run(ports=through(world.ports, failing("close_batch", False, lambda _: Crashed())))
    pending = world.ledger.snapshot().pending
    world.recent_events.items.clear()
    done = run(world, wanted=wanted)
    assert [said[: len(f"batch {each}: pending")] for said, each in zip(done.skipped_batches, pending, strict=True)] == [
        f"batch {each}: pending" for each in pending
    ]
    assert (sorted(world.recent_events.items), world.ledger.snapshot().pending) == (["a"], pending)
    world.settle()
    assert run(world).skipped_batches == []


def test_a_pending_batch_beyond_the_offsets_is_not_named() -> None:
    world = one_batch(event("a"))
    world.produce(event("pending"))
    with pytest.raises(Crashed):
        world.run(ports=through(world.ports, failing("close_batch", False, lambda _: Crashed())))
    assert run(world, wanted=parse_replay_range(f"{TOPIC}/0/0", f"{TOPIC}/0/1")).skipped_batches == []


def test_what_was_done_before_a_store_went_away_is_in_the_report_with_what_was_half_done() -> None:
    world = a_world()
    world.recent_events.items.clear()
    claims = 0

    def going_away(call: Call, perform: Callable[[], Any]) -> Any:
        nonlocal claims
        claims += call.method == "claim"
        if claims > 1:
            raise Unavailable("gone")
        return perform()

    report = RepairResult()
    with pytest.raises(Unavailable):
        repair_range(ALL, ReplayContext(through(world.ports, going_away), BENCH, RULES), report)
    assert len(world.recent_events.items) == 1
    assert report.changed > 1
    assert report.interrupted_batch == f"batch {min(each.batch.id for each in world.ledger.last_batches(10))}"


def test_a_closed_batch_without_a_record_is_said_and_the_others_are_done() -> None:
    world = a_world()
    before = stores(world)
    first = min(each.batch.id for each in world.ledger.last_batches(10))
    d = world.recent_events.items["d"]
    world.recent_events.items.clear()
    del world.ledger._records[first]
    for wanted in (ALL, parse_replay_range(f"{TOPIC}/0/0", f"{TOPIC}/0/9")):
        done = run(world, wanted=wanted)
        assert [f"batch {first} is closed" in said for said in done.conflicts] == [True]
        assert (world.recent_events.items["d"], before[1]["d"]) == (d, d)


def test_a_part_that_a_dead_compaction_left_goes_only_after_the_marker_names_the_archive() -> None:
    world = one_batch(event("a"))
    compact_hour(HOUR, world.ports, BENCH)
    world.produce(event("b"))
    world.settle()
    with pytest.raises(Crashed):
        compact_hour(HOUR, through(world.ports, failing("put_if", False, lambda _: Crashed())), BENCH)
    calls = list[str]()

    def recording(call: Call, perform: Callable[[], Any]) -> Any:
        calls.extend([call.method] if call.method in WRITES else [])
        return perform()

    done = run(world, through(world.ports, recording))
    assert calls == ["put_if", "delete"]
    assert (done.counts[StoreKind.ARCHIVE, ComparisonResult.DIFFERENT], done.counts[StoreKind.PART, ComparisonResult.LEFTOVER]) == (1, 1)
    assert b'"revision": 2' in world.object_store.objects[manifest_key(HOUR)].body
    assert run(world).changed == 0


@pytest.mark.parametrize("there", [None, b"no marker", b'{"revision": 99, "complete": true}'], ids=["gone", "altered", "from nowhere"])
def test_the_marker_of_an_archive_comes_back(there: bytes | None) -> None:
    world = one_batch(event("a"))
    compact_hour(HOUR, world.ports, BENCH)
    before, key = stores(world), manifest_key(HOUR)
    blob = world.object_store.objects.pop(key)
    world.object_store.objects |= {} if there is None else {key: replace(blob, body=there)}
    assert run(world).changes[0].key == key
    assert stores(world) == before


def test_a_leftover_of_a_damaged_archive_stays_for_it_may_be_the_last_copy() -> None:
    world = World()
    world.create()
    world.produce(event("a"))
    world.settle(conduct(write_event_json=False))
    (part,) = [blob for key, blob in world.object_store.objects.items() if key.startswith("parquet/")]
    compact_hour(HOUR, world.ports, BENCH)
    world.event_log.retain_from(TOPIC, 0, 1)
    world.object_store.delete([key for key in world.object_store.objects if "archive-" in key])
    world.object_store.put([part])
    done = run(world)
    assert ["JSON tree" in said for said in done.lost] == [True]
    assert world.object_store.objects[part.key] == part


def test_events_whose_fate_nobody_knows_do_not_hold_back_the_rest_of_their_batch() -> None:
    world = one_batch(event("held"))
    world.produce(event("a"), event("b"), event("held", payload="again"), b"not one")
    world.settle()
    before = stores(world)
    a = event_key(HOUR, "a")
    for key in [each for each in world.object_store.objects if each.startswith(("duplicates/", "parquet/", "events/", "dead"))]:
        del world.object_store.objects[key]
    world.object_store.put([before[0][event_key(HOUR, "held")]])
    b = world.recent_events.items["b"]
    world.recent_events.items.clear()
    world.recent_events.items["b"] = b
    batch = max(each.batch.id for each in world.ledger.last_batches(10))
    done = run(world, wanted=parse_replay_range(f"{TOPIC}/0/1", f"{TOPIC}/0/9"))
    assert any(f"batch {batch}: whether 2 of its events were stored or are repeats" in line for line in done.lost)
    assert event_key(HOUR, "b") in world.object_store.objects
    assert any(key.startswith("dead-letters/") for key in world.object_store.objects)
    assert (a in world.object_store.objects, list(world.recent_events.items)) == (False, ["b"])
    assert run(world).lost == []
    assert stores(world) == before


@pytest.mark.parametrize("first", [0, 1])
def test_of_two_batches_cut_at_once_either_may_hold_the_id_that_the_other_repeats(first: int) -> None:
    world = World()
    world.create(partitions=2)
    for partition in (first, 1 - first):
        world.produce(event("x", of=partition), event(f"own {partition}"), partition=partition)
        if partition == first:
            world.clock.advance(timedelta(seconds=1))
            (plan,) = [each for each in world.plan().plans if each]
            execute_plan(plan, world.ports, conduct())
    (plan,) = [each for each in world.plan().plans if each]
    execute_plan(plan, world.ports, conduct())
    before = stores(world)
    assert len({each.batch.time for each in world.ledger.last_batches(9)}) == 1
    world.object_store.objects.clear()
    world.recent_events.items.clear()
    looked, done = run(world, write=False), run(world)
    assert (looked.lost, looked.counts, done.lost, done.conflicts) == ([], done.counts, [], [])
    assert stores(world) == before


def test_where_the_parts_name_all_that_was_stored_the_rest_are_repeats_whoever_held_them() -> None:
    world = one_batch(event("held"))
    world.produce(event("a"), event("held", payload="again"))
    world.settle()
    world.object_store.delete([key for key in world.object_store.objects if key.startswith("duplicates/") or key == event_key(HOUR, "a")])
    del world.recent_events.items["held"]
    done = run(world, wanted=parse_replay_range(f"{TOPIC}/0/1", f"{TOPIC}/0/9"))
    assert len(done.lost) == 1
    assert "1 of the 1 repeats" in done.lost[0]
    assert world.object_store.get(event_key(HOUR, "a")) == event("a")


def test_an_id_that_was_free_again_when_the_batch_came_was_stored_though_its_first_item_is_back() -> None:
    world = one_batch(event("a"))
    first = dict(world.recent_events.items)
    world.clock.advance(DEDUPLICATION_WINDOW + timedelta(minutes=1))
    world.produce(event("r"))
    world.settle()
    world.produce(event("a", "2024-01-15T11:00:00Z"), event("r", payload="again"))
    world.settle()
    before = stores(world)
    world.recent_events.items |= first
    for key in [each for each in world.object_store.objects if "/11/" in each or "hour=11" in each or each.startswith("duplicates/")]:
        del world.object_store.objects[key]
    done = run(world)
    assert (done.conflicts, done.lost) == ([], [])
    assert world.object_store.objects == before[0]


def test_the_object_of_an_item_that_only_points_comes_back_with_it() -> None:
    world = World(recent_events=MemoryRecentEvents(unholdable=lambda event: event.id == "deep"))
    world.create()
    world.produce(event("deep"), event("flat"))
    world.settle(conduct(write_event_json=False))
    before = stores(world)
    world.recent_events.items.clear()
    world.object_store.delete([key for key in world.object_store.objects if key.startswith("events/")])
    run(world)
    assert stores(world) == before


def test_a_replay_of_parts_that_are_whole_does_not_read_the_json_tree() -> None:
    world = a_world()
    world.event_log.retain_from(TOPIC, 0, 8)
    world.event_log.retain_from(TOPIC, 1, 2)

    def no_tree(call: Call, perform: Callable[[], Any]) -> Any:
        assert call.method != "list_keys"
        return perform()

    assert run(world, through(world.ports, no_tree)).changed == 0


def calls_beside_ingest(at: int, compacted: bool) -> int:
    """A replay before whose call with this number ingest closes a batch; it must end well, and so must the next. Answers its calls."""
    world, calls = a_world(), 0
    if compacted:
        compact_hour(HOUR, world.ports, BENCH)
    before = stores(world)
    spoil(world, random.Random(3))
    world.recent_events.items |= before[1]

    def meanwhile(_: Call, perform: Callable[[], Any]) -> Any:
        nonlocal calls
        calls += 1
        if calls == at + 1:
            world.produce(event("new"), event("d", payload="third"))
            world.settle()
            if compacted:
                with contextlib.suppress(InconsistentState):  # what it needs is not back yet
                    compact_hour(HOUR, world.ports, BENCH)
        return perform()

    run(world, through(world.ports, meanwhile))
    done = run(world)
    assert (done.conflicts, done.lost, done.changed) == ([], [], 0), at
    agree(world)
    kept = {key: blob for key, blob in before[0].items() if not key.startswith("parquet/")}
    assert kept.items() <= world.object_store.objects.items(), at
    return calls


@pytest.mark.parametrize(("compacted", "step"), [(False, 1), (True, 5)], ids=["ingest", "ingest and a compaction"])
def test_ingest_may_close_a_batch_before_any_call_of_a_replay(compacted: bool, step: int) -> None:
    at = 0
    while at < calls_beside_ingest(at, compacted):
        at += step
    assert at > 50


def test_a_range_of_offsets_takes_its_whole_batches_and_the_redrives_of_their_dead_letters() -> None:
    world = a_world()
    before = stores(world)
    world.recent_events.items.clear()
    done = run(world, wanted=parse_replay_range(f"{TOPIC}/0/1", f"{TOPIC}/0/2"))
    assert (done.batches, sorted(world.recent_events.items)) == (2, sorted(each for each in before[1] if each not in {"c", "d"}))


def test_an_id_that_another_source_holds_by_now_is_theirs_and_what_expired_stays_away() -> None:
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
def test_a_range_that_is_none_is_refused_in_words(first: str, end: str) -> None:
    with pytest.raises(ValueError, match=r"expected|the end is not included|two partitions|not an hour|not a source"):
        parse_replay_range(first, end)


def test_objects_of_an_older_version_are_as_their_batch_left_them() -> None:
    """They do not carry the record's timestamp; one that carries another is different."""
    world = a_world()
    for key in [each for each in world.object_store.objects if each.startswith("events/")]:
        blob = world.object_store.objects[key]
        older = {name: value for name, value in blob.metadata.items() if name != RECORD_TIMESTAMP}
        assert len(older) < len(blob.metadata)
        world.object_store.objects[key] = replace(blob, metadata=older)
    assert run(world).changed == 0
    key = event_key(HOUR, "a")
    world.object_store.objects[key] = replace(
        world.object_store.objects[key], metadata=dict(world.object_store.objects[key].metadata) | {RECORD_TIMESTAMP: "5"}
    )
    assert [each.key for each in run(world).changes] == [key]
    assert run(world).changed == 0
