"""What a compaction of an hour promises, whatever dies, sleeps, comes late or is damaged."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pyarrow.parquet as pq
import pytest

from analytics_defs.adapters import parquet_files
from analytics_defs.adapters.memory import MemoryEventLog
from analytics_defs.adapters.memory.parquet_workspace import memory_workspace
from analytics_defs.core.ledger import REDRIVE_CHECKPOINT, Batch, BatchKind
from analytics_defs.core.offsets import Range
from analytics_defs.core.storage.object_keys import (
    RECORD_TIMESTAMP,
    archive_key,
    batch_id,
    event_json_dir,
    event_key,
    manifest_key,
    parquet_dir,
    part_key,
)
from analytics_defs.errors import InconsistentState, ResourceMissing, Superseded, Unavailable
from analytics_defs.flows.hours import compaction
from analytics_defs.flows.hours.compaction import Compaction, compact_hour
from analytics_defs.flows.stored.hour_completeness import is_complete
from analytics_defs.ports import Ports, StoredObject
from tests.proof.actors import Actor
from tests.proof.doors import Call, Crashed, Door, failing, through
from tests.proof.world import HOUR, World, conduct, event

ROW = tuple[str, str, int, int, str]


def a_world(batches: int = 3) -> World:
    """Each batch has two events of the hour and one of the next."""
    world = World()
    world.create(partitions=2)
    for number in range(batches):
        minute = 59 - number % 60
        world.produce(event(f"a{number}", f"2024-01-15T10:{minute:02d}:00Z"), event(f"n{number}", "2024-01-15T11:00:00Z"))
        world.produce(event(f"b{number}", f"2024-01-15T10:{minute:02d}:00.5+00:00", shade="ü"), partition=1)
        world.settle()
    return world


def run(world: World, ports: Ports | None = None, hour: str = HOUR) -> Compaction:
    return compact_hour(hour, ports or world.ports, memory_workspace)


def rows_in(body: bytes) -> list[ROW]:
    columns = ("event_id", "topic", "partition", "offset", "payload")
    return [tuple(row[name] for name in columns) for row in pq.read_table(io.BytesIO(body)).to_pylist()]


def by_marker(world: World, hour: str = HOUR) -> list[ROW]:
    """What a reader sees that knows the bucket only: files the marker names, parts of batches it does not name."""
    held = world.object_store.get(manifest_key(hour))
    said = json.loads(held) if held else {"files": [], "batches": []}
    keys = [parquet_dir(hour) + each["name"] for each in said["files"]]
    for key in world.object_store.list_keys(parquet_dir(hour)):
        name = key.rpartition("/")[2]
        if not name.startswith(("archive-", "_")) and name.removesuffix(".parquet") not in said["batches"]:
            keys.append(key)
    return sorted(row for key in keys for row in rows_in(world.object_store.objects[key].body))


def by_ledger(world: World, hour: str = HOUR) -> list[ROW]:
    """What our own readers see."""
    revision = world.ledger.latest_revision(hour)
    batches = revision.batches if revision else ()
    later = [part_key(hour, each) for each in world.ledger.batches_of_hour(hour) if each not in batches]
    keys = [*(revision.keys if revision else ()), *later]
    return sorted(row for key in keys for row in rows_in(world.object_store.objects[key].body))


def files(world: World, hour: str = HOUR) -> list[str]:
    return [key.rpartition("/")[2] for key in world.object_store.list_keys(parquet_dir(hour))]


def contents(world: World) -> dict[str, Any]:
    return {key: blob.body for key, blob in world.object_store.objects.items()}


# The plain life of an hour.


def test_the_parts_become_one_sorted_file_with_the_same_rows() -> None:
    world = a_world()
    before = by_ledger(world)
    done = run(world)
    assert done.created
    assert done.revision
    assert done.revision.number == 1
    assert done.revision.rows == 6
    (marker, archive) = files(world)
    assert archive == done.revision.keys[0].rpartition("/")[2]
    assert marker == "_SUCCESS.json"
    assert by_ledger(world) == by_marker(world) == before
    table = pq.read_table(io.BytesIO(world.object_store.objects[done.revision.keys[0]].body))
    order = list(zip(table["timestamp"].to_pylist(), table["event_id"].to_pylist(), strict=True))
    assert order == sorted(order)


def test_the_marker_says_what_the_hour_holds() -> None:
    world = a_world()
    done = run(world)
    assert done.revision
    said = json.loads(world.object_store.objects[manifest_key(HOUR)].body)
    assert (said["hour"], said["revision"], said["rows"], said["complete"]) == (HOUR, 1, 6, True)
    assert said["offsets"] == {"ProductDeleted/0": {"first": 0, "last": 4}, "ProductDeleted/1": {"first": 0, "last": 2}}
    assert said["batches"] == sorted(world.ledger.batches_of_hour(HOUR))
    assert said["types"] == {"ProductDeleted": 6}
    assert [each["rows"] for each in said["files"]] == [6]


def test_compacting_again_changes_no_byte() -> None:
    world = a_world()
    run(world)
    before = contents(world)
    done = run(world)
    assert not done.created
    assert contents(world) == before


def test_a_late_event_makes_one_more_revision_with_the_difference() -> None:
    world = a_world()
    run(world)
    world.produce(event("late", "2024-01-15T10:00:00Z"))
    world.settle()
    assert len(by_marker(world)) == 7
    done = run(world)
    assert done.revision
    assert (done.revision.number, done.revision.added, done.revision.rows) == (2, 1, 7)
    assert len(files(world)) == 2
    assert by_ledger(world) == by_marker(world)
    assert len(by_marker(world)) == 7


def test_bytes_do_not_depend_on_the_way_the_rows_came() -> None:
    at_once, step_by_step = a_world(), a_world(1)
    run(step_by_step)
    for number in (1, 2):
        minute = 59 - number % 60
        step_by_step.produce(event(f"a{number}", f"2024-01-15T10:{minute:02d}:00Z"), event(f"n{number}", "2024-01-15T11:00:00Z"))
        step_by_step.produce(event(f"b{number}", f"2024-01-15T10:{minute:02d}:00.5+00:00", shade="ü"), partition=1)
        step_by_step.settle()
        run(step_by_step)
    run(at_once)
    bodies = [world.object_store.objects[world.ledger.latest_revision(HOUR).keys[0]].body for world in (at_once, step_by_step)]  # type: ignore[union-attr]
    assert bodies[0] == bodies[1]


def test_an_hour_without_events_is_fine_and_leaves_nothing() -> None:
    world = a_world()
    before = contents(world)
    assert run(world, hour="2024-01-15T23").revision is None
    assert run(world, hour="2999-01-01T00").revision is None
    assert contents(world) == before


def test_an_hour_of_three_hundred_parts_becomes_one_file() -> None:
    world = a_world(300 // 2)
    for number in range(150):
        world.produce(event(f"c{number}", "2024-01-15T10:05:00Z"))
        world.settle()
    before = by_ledger(world)
    assert len(files(world)) == 300
    done = run(world)
    assert done.revision
    assert done.revision.rows == len(before) == 450
    assert by_ledger(world) == by_marker(world) == before
    assert len(files(world)) == 2


def test_what_is_no_hour_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="'yesterday' is not an hour"):
        run(a_world(1), hour="yesterday")


# Complete or not.


def test_an_hour_is_complete_when_every_head_has_passed_it() -> None:
    world = a_world()
    world.produce(event("waits", "2024-01-15T10:00:00Z"))
    assert run(world).complete is False
    held = json.loads(world.object_store.objects[manifest_key(HOUR)].body)
    assert held["complete"] is False
    world.settle()
    assert run(world).complete is True


def test_a_backlog_of_later_records_does_not_keep_an_hour_incomplete() -> None:
    world = a_world()
    after_the_hour = 1_705_316_400_000
    world.event_log.append("ProductDeleted", 0, event("later", "2024-01-15T11:30:00Z"), timestamp_ms=after_the_hour)
    assert run(world).complete is True


def test_a_partition_that_nobody_has_read_yet_keeps_an_hour_incomplete() -> None:
    """Breaks: an hour is complete when every partition's head has passed it. A new partition has no head before its first batch."""
    world = a_world()
    new = world.event_log.add_partition("ProductDeleted")
    world.produce(event("unread", "2024-01-15T10:00:00Z"), partition=new)
    assert run(world).complete is False
    world.settle()
    assert run(world).complete is True


@pytest.mark.parametrize("records", [1, 6])
def test_a_topic_that_was_created_again_and_not_accepted_keeps_an_hour_incomplete(records: int) -> None:
    """Breaks: the same. Its offsets compare with nothing that the ledger knows."""
    world = a_world()
    world.create_again(partitions=2)
    world.produce(*(event(f"new{number}", "2024-01-15T10:00:00Z") for number in range(records)))
    assert run(world).complete is False


def test_a_topic_that_is_gone_keeps_no_hour_incomplete_but_for_what_is_pending_of_it() -> None:
    world = a_world()
    world.produce(event("pending", "2024-01-15T10:00:00Z"))
    with pytest.raises(Crashed):
        world.run(ports=through(world.ports, failing("close_batch", effect=False, fault=lambda _: Crashed())))
    world.event_log.delete_topic("ProductDeleted")
    assert run(world).complete is False
    with suppress(ResourceMissing):  # the group has no place for offsets of that topic any more
        world.run()
    assert not world.ledger.snapshot().pending
    assert run(world).complete is True


AFTER = 1_705_316_400_000


@pytest.mark.parametrize(("written", "complete"), [(AFTER - 1, False), (AFTER, True)])
def test_a_batch_on_its_way_keeps_an_hour_incomplete_only_where_its_first_record_was_written_before_its_end(
    written: int, complete: bool
) -> None:
    world = a_world()
    world.event_log.append("ProductDeleted", 0, event("pending", "2024-01-15T11:30:00Z"), timestamp_ms=written)
    with pytest.raises(Crashed):
        world.run(ports=through(world.ports, failing("close_batch", effect=False, fault=lambda _: Crashed())))
    assert world.ledger.snapshot().pending
    assert run(world).complete is complete


def test_a_redrive_on_its_way_keeps_an_hour_incomplete() -> None:
    world = a_world()
    reached = Range(REDRIVE_CHECKPOINT, 0, 1)
    time = world.clock.now()
    assert world.ledger.begin_batch(Batch(batch_id(time, [reached]), BatchKind.REDRIVE, 0, time, (reached,), "redrive"))
    assert run(world).complete is False


def test_what_retention_removed_under_a_batch_on_its_way_keeps_the_hour_incomplete() -> None:
    world = a_world()
    world.event_log.append("ProductDeleted", 0, event("pending", "2024-01-15T10:30:00Z"), timestamp_ms=AFTER - 1)
    world.event_log.append("ProductDeleted", 0, event("later", "2024-01-15T11:30:00Z"), timestamp_ms=AFTER)
    with pytest.raises(Crashed):
        world.run(ports=through(world.ports, failing("close_batch", effect=False, fault=lambda _: Crashed())))
    high = world.event_log.watermarks([world.partition(0)])[world.partition(0)].high_watermark
    world.event_log.retain_from("ProductDeleted", 0, high - 1)
    assert run(world).complete is False


def test_an_open_transaction_keeps_an_hour_incomplete() -> None:
    world = a_world()
    world.event_log.open_transaction("ProductDeleted", 0)
    world.event_log.append("ProductDeleted", 0, event("open", "2024-01-15T10:00:00Z"))
    assert run(world).complete is False


def test_the_hour_that_goes_on_is_not_complete() -> None:
    world = a_world()
    world.produce(event("now", "2024-01-15T12:00:00Z"))
    world.settle()
    assert run(world, hour="2024-01-15T12").complete is False


def test_a_marker_turns_complete_and_never_back() -> None:
    world = a_world()
    world.produce(event("waits", "2024-01-15T13:00:00Z"))
    run(world)
    world.settle()
    run(world)
    complete = world.object_store.objects[manifest_key(HOUR)].body
    world.produce(event("waits again", "2024-01-15T13:00:00Z"))
    assert is_complete(HOUR, world.ports) is False
    assert run(world).complete is True
    assert run(world, replace(world.ports, event_log=SilentLog())).complete is True
    assert world.object_store.objects[manifest_key(HOUR)].body == complete


# Crashes, late risers, two at once.


def points(world: Callable[[], World], act: Callable[[World, Ports], object]) -> Iterator[int]:
    """Numbers of every call that `act` makes to a store."""
    calls = 0

    def count(_: Call, perform: Callable[[], Any]) -> Any:
        nonlocal calls
        calls += 1
        return perform()

    fresh = world()
    act(fresh, through(fresh.ports, count))
    return iter(range(calls))


def revised_once() -> World:
    """An archive of three batches, two more parts, and a damaged-looking leftover of nobody."""
    world = a_world()
    run(world)
    world.produce(event("late", "2024-01-15T10:00:00Z"))
    world.settle()
    return world


@pytest.mark.parametrize("effect", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("world_of", [a_world, revised_once])
def test_after_a_crash_at_any_call_every_event_is_readable_and_the_next_try_converges(world_of: Callable[[], World], effect: bool) -> None:
    clean = world_of()
    run(clean)
    for point in points(world_of, run):
        world = world_of()
        expected = by_ledger(world)
        with pytest.raises(Crashed):
            run(world, through(world.ports, failing(point, effect, lambda _: Crashed())))
        assert by_ledger(world) == expected, point
        assert by_marker(world) == expected, point
        run(world)
        assert by_ledger(world) == by_marker(world) == expected, point
        archives = {key: body for key, body in contents(world).items() if "/archive-" in key}
        assert archives == {key: body for key, body in contents(clean).items() if "/archive-" in key}, point


def test_a_late_event_during_a_compaction_stays_in_its_part_or_is_in_the_archive() -> None:
    for point in points(a_world, run):
        world = a_world()
        calls = 0

        def door(_: Call, perform: Callable[[], Any], world: World = world, point: int = point) -> Any:
            nonlocal calls
            calls += 1
            if calls - 1 == point:
                world.produce(event("late", "2024-01-15T10:00:00Z"))
                world.settle()
            return perform()

        run(world, through(world.ports, door))
        assert len(by_ledger(world)) == len(by_marker(world)) == 7, point
        run(world)
        assert by_ledger(world) == by_marker(world)
        assert len(by_ledger(world)) == 7, point


def test_a_part_that_a_late_riser_writes_again_is_swept_and_never_counts() -> None:
    world = a_world()
    batch = world.ledger.batches_of_hour(HOUR)[0]
    again = world.object_store.objects[part_key(HOUR, batch)]
    run(world)
    expected = by_ledger(world)
    world.object_store.put([again])
    assert by_ledger(world) == by_marker(world) == expected
    assert run(world).deleted == 1
    assert by_ledger(world) == by_marker(world) == expected


def test_the_part_of_a_batch_that_is_not_closed_is_neither_read_nor_deleted() -> None:
    world = a_world()
    world.produce(event("pending", "2024-01-15T10:00:00Z"))
    with pytest.raises(Crashed):
        world.run(ports=through(world.ports, failing("close_batch", effect=False, fault=lambda _: Crashed())))
    (open_part,) = [
        key for key in world.object_store.list_keys(parquet_dir(HOUR)) if key.rpartition("/")[2][:-8] in world.ledger.snapshot().pending
    ]
    done = run(world)
    assert done.revision
    assert done.revision.rows == 6
    assert open_part in world.object_store.objects
    world.settle()
    assert len(by_ledger(world)) == 7


def sleeper(world: World, at: Callable[[Call], bool]) -> tuple[Actor, Callable[[], None]]:
    """A compaction that sleeps before its first call that fits; and what wakes it."""

    def act(door: Door) -> None:
        run(world, through(world.ports, door))

    actor = Actor(act)
    while actor.call is not None and not at(actor.call):
        actor.step()
    assert actor.call is not None

    def wake() -> None:
        actor.finish()
        assert actor.failure is None or isinstance(actor.failure, Superseded), actor.failure

    return actor, wake


@pytest.mark.parametrize("method", ["batches_of_hour", "get", "put", "put_revision", "put_if", "list_keys", "delete"])
def test_a_compaction_that_slept_while_others_went_on_does_no_harm(method: str) -> None:
    world = a_world()
    _, wake = sleeper(world, lambda call: call.method == method)
    for number in range(2):
        run(world)
        world.produce(event(f"late{number}", "2024-01-15T10:00:00Z"))
        world.settle()
    run(world)
    expected, marker = by_ledger(world), world.object_store.objects[manifest_key(HOUR)].body
    wake()
    assert by_ledger(world) == by_marker(world) == expected
    assert world.object_store.objects[manifest_key(HOUR)].body == marker
    run(world)
    assert by_ledger(world) == by_marker(world) == expected
    assert len(files(world)) == 2


# Missing, damaged, foreign.


def lose(world: World, key: str) -> None:
    del world.object_store.objects[key]


def cut(world: World, key: str) -> None:
    blob = world.object_store.objects[key]
    world.object_store.put([replace(blob, body=blob.body[: len(blob.body) // 2])])


def flip(world: World, key: str) -> None:
    """One bit in the first data page, which the footer does not tell."""
    blob = world.object_store.objects[key]
    world.object_store.put([replace(blob, body=blob.body[:40] + bytes([blob.body[40] ^ 0xFF]) + blob.body[41:])])


def exchange(world: World, key: str) -> None:
    """A sound file with other rows."""
    other = part_key("2024-01-15T11", world.ledger.batches_of_hour("2024-01-15T11")[0])
    world.object_store.put([replace(world.object_store.objects[other], key=key)])


DAMAGES = pytest.mark.parametrize("damage", [lose, cut, flip, exchange])


@DAMAGES
def test_a_part_that_is_missing_or_damaged_is_rebuilt_from_the_json_tree(damage: Callable[[World, str], None]) -> None:
    world = a_world()
    expected = by_ledger(world)
    key = part_key(HOUR, world.ledger.batches_of_hour(HOUR)[1])
    damage(world, key)
    done = run(world)
    assert done.rebuilt == (key,)
    assert done.revision
    assert done.revision.rebuilt == 2
    assert by_ledger(world) == by_marker(world) == expected


@DAMAGES
def test_an_archive_that_is_missing_or_damaged_is_rebuilt_whole(damage: Callable[[World, str], None]) -> None:
    world = a_world()
    first = run(world).revision
    expected = by_ledger(world)
    assert first
    damage(world, first.keys[0])
    done = run(world)
    assert done.rebuilt == first.keys
    assert done.revision
    assert (done.revision.number, done.revision.rebuilt, done.revision.added) == (2, 6, 0)
    assert done.revision.digest == first.digest
    assert by_ledger(world) == by_marker(world) == expected


def test_copies_of_objects_that_somebody_made_are_not_rows() -> None:
    world = a_world()
    expected = by_ledger(world)
    ours = world.object_store.objects[event_key(HOUR, "a1")]
    for name in ("a1 copy.json", "deeper/a1.json"):
        world.object_store.put([replace(ours, key=f"{event_json_dir(HOUR)}{name}")])
    lose(world, part_key(HOUR, world.ledger.batches_of_hour(HOUR)[1]))
    run(world)
    assert by_ledger(world) == by_marker(world) == expected


def test_legacy_events_are_rebuilt_with_the_ids_they_had() -> None:
    world = World()
    world.create()
    legacy = {"version": "1", "type": "ProductDeleted", "occurredAt": "2024-01-15T10:31:00Z", "productId": "p1", "sellerId": "s1"}
    world.produce(json.dumps(legacy).encode())
    world.settle()
    expected = by_ledger(world)
    lose(world, part_key(HOUR, world.ledger.batches_of_hour(HOUR)[0]))
    run(world)
    assert by_ledger(world) == expected


def test_what_the_json_tree_does_not_hold_either_is_said_and_nothing_changes() -> None:
    world = a_world()
    lose(world, part_key(HOUR, world.ledger.batches_of_hour(HOUR)[1]))
    lose(world, event_key(HOUR, "a1"))
    before = contents(world)
    with pytest.raises(InconsistentState, match=r"the JSON tree does not hold their events: .* \(1 of 2\)"):
        run(world)
    assert contents(world) == before
    assert world.ledger.latest_revision(HOUR) is None


def test_an_altered_object_is_named_and_nothing_changes() -> None:
    world = a_world()
    lose(world, part_key(HOUR, world.ledger.batches_of_hour(HOUR)[1]))
    key = event_key(HOUR, "a1")
    world.object_store.put([replace(world.object_store.objects[key], body=b"{}")])
    with pytest.raises(InconsistentState, match=r"a1\.json is not an event of hour"):
        run(world)


def test_without_a_json_tree_a_lost_part_is_said() -> None:
    world = World()
    world.create()
    world.produce(event("a"))
    world.settle(conduct(write_event_json=False))
    lose(world, part_key(HOUR, world.ledger.batches_of_hour(HOUR)[0]))
    with pytest.raises(InconsistentState, match="WRITE_EVENT_JSON=false"):
        run(world)


def test_a_foreign_file_is_named_and_left_alone() -> None:
    world = a_world()
    stranger = f"{parquet_dir(HOUR)}notes.txt"
    world.object_store.put([StoredObject(stranger, b"mine", "text/plain", {})])
    expected = by_ledger(world)
    assert run(world).foreign_objects == (stranger,)
    assert world.object_store.get(stranger) == b"mine"
    assert by_ledger(world) == expected


def test_a_foreign_marker_is_named_and_the_ledger_is_right_all_the_same() -> None:
    world = a_world()
    expected = by_ledger(world)
    world.object_store.put([StoredObject(manifest_key(HOUR), b"", "text/plain", {})])
    with pytest.raises(InconsistentState, match=r"_SUCCESS\.json is not a valid manifest"):
        run(world)
    assert by_ledger(world) == expected
    lose(world, manifest_key(HOUR))
    run(world)
    assert by_ledger(world) == by_marker(world) == expected


def test_a_large_hour_is_several_files_which_stand_and_fall_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_files, "GROUP_ROWS", 2)
    monkeypatch.setattr(compaction, "MAX_FILE_BYTES", 1)
    world = a_world()
    expected = by_ledger(world)
    first = run(world).revision
    assert first
    assert [each.rows for each in first.files] == [2, 2, 2]
    assert by_ledger(world) == by_marker(world) == expected
    lose(world, first.keys[1])
    done = run(world)
    assert done.rebuilt == first.keys
    assert by_ledger(world) == by_marker(world) == expected
    assert len(files(world)) == 4


def test_files_of_a_compaction_that_may_still_win_are_left_alone_and_those_that_cannot_are_swept() -> None:
    world = a_world()
    older, newer = (archive_key(HOUR, number, ["somebody's"]) for number in (1, 2))
    world.object_store.put([StoredObject(key, b"being written", "application/vnd.apache.parquet", {}) for key in (older, newer)])
    expected = by_ledger(world)
    done = run(world)
    assert older not in world.object_store.objects
    assert newer in world.object_store.objects
    assert done.foreign_objects == ()
    assert by_ledger(world) == by_marker(world) == expected


class SilentLog(MemoryEventLog):
    """A broker that does not answer."""

    def watermarks(self, partitions: Any) -> Any:  # noqa: ARG002 - the port's signature
        raise Unavailable("Kafka at localhost:9092: no answer")


def test_an_hour_is_compacted_without_kafka_and_says_that_nobody_knows_whether_it_is_complete() -> None:
    world = a_world()
    done = run(world, replace(world.ports, event_log=SilentLog()))
    assert (done.created, done.complete) == (True, None)
    assert json.loads(world.object_store.objects[manifest_key(HOUR)].body)["complete"] is None
    assert run(world).complete is True
    assert json.loads(world.object_store.objects[manifest_key(HOUR)].body)["complete"] is True


# Rows from the JSON tree.


def whole_rows(world: World) -> list[dict[str, Any]]:
    (key,) = (each for each in world.object_store.list_keys(parquet_dir(HOUR)) if each.endswith(".parquet"))
    rows: list[dict[str, Any]] = pq.read_table(io.BytesIO(world.object_store.objects[key].body)).to_pylist()
    return rows


@pytest.mark.parametrize("carried", [True, False], ids=["new objects", "objects of an older version"])
def test_rebuilt_rows_are_the_same_with_the_record_timestamp_where_the_object_carries_it(carried: bool) -> None:
    sound, world = a_world(1), a_world(1)
    run(sound)
    if not carried:
        for key in list(world.object_store.list_keys("events/")):
            blob = world.object_store.objects[key]
            older = {name: value for name, value in blob.metadata.items() if name != RECORD_TIMESTAMP}
            world.object_store.objects[key] = replace(blob, metadata=older)
    lose(world, part_key(HOUR, world.ledger.batches_of_hour(HOUR)[0]))
    done = run(world)
    assert done.revision
    assert done.revision.rebuilt == 2
    expected = whole_rows(sound)
    assert all(row["record_timestamp"] is not None for row in expected)
    assert whole_rows(world) == [row if carried else row | {"record_timestamp": None} for row in expected]
