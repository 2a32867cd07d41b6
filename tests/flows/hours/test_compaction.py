"""Compaction of an hour: crashes, zombies, late events, concurrent executors and damaged files."""

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
from analytics_defs.errors import InconsistentState, ResourceNotReady, Superseded, Unavailable
from analytics_defs.flows.hours import compaction
from analytics_defs.flows.hours.compaction import Compaction, compact_hour
from analytics_defs.flows.stored.hour_completeness import is_complete
from analytics_defs.ports import Ports, StoredObject
from tests.proof.actors import Actor
from tests.proof.interceptors import Call, Crashed, Interceptor, failing, intercept
from tests.proof.world import HOUR, World, event, ingest_options

ROW = tuple[str, str, int, int, str]


def a_world(batches: int = 3) -> World:
    """Return a world whose batches each have two events of the hour and one of the next hour."""
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


def by_manifest(world: World, hour: str = HOUR) -> list[ROW]:
    """Read the rows without the ledger: from the files in the manifest, and the parts of batches that it does not list."""
    data = world.object_store.get(manifest_key(hour))
    manifest = json.loads(data) if data else {"files": [], "batches": []}
    keys = [parquet_dir(hour) + file["name"] for file in manifest["files"]]
    for key in world.object_store.list_keys(parquet_dir(hour)):
        name = key.rpartition("/")[2]
        if not name.startswith(("archive-", "_")) and name.removesuffix(".parquet") not in manifest["batches"]:
            keys.append(key)
    return sorted(row for key in keys for row in rows_in(world.object_store.objects[key].body))


def by_ledger(world: World, hour: str = HOUR) -> list[ROW]:
    """Read the rows as the ledger names them: from the files of the newest revision, and the parts of later batches."""
    revision = world.ledger.latest_revision(hour)
    batches = revision.batches if revision else ()
    parts = [part_key(hour, batch) for batch in world.ledger.batches_of_hour(hour) if batch not in batches]
    keys = [*(revision.keys if revision else ()), *parts]
    return sorted(row for key in keys for row in rows_in(world.object_store.objects[key].body))


def files(world: World, hour: str = HOUR) -> list[str]:
    return [key.rpartition("/")[2] for key in world.object_store.list_keys(parquet_dir(hour))]


def contents(world: World) -> dict[str, Any]:
    return {key: object_.body for key, object_ in world.object_store.objects.items()}


# Compaction without faults.


def test_the_parts_become_one_sorted_file_with_the_same_rows() -> None:
    world = a_world()
    before = by_ledger(world)
    result = run(world)
    assert result.created
    assert result.revision
    assert result.revision.number == 1
    assert result.revision.rows == 6
    (manifest, archive) = files(world)
    assert archive == result.revision.keys[0].rpartition("/")[2]
    assert manifest == "_SUCCESS.json"
    assert by_ledger(world) == by_manifest(world) == before
    table = pq.read_table(io.BytesIO(world.object_store.objects[result.revision.keys[0]].body))
    order = list(zip(table["timestamp"].to_pylist(), table["event_id"].to_pylist(), strict=True))
    assert order == sorted(order)


def test_the_manifest_states_the_content_of_the_hour() -> None:
    world = a_world()
    result = run(world)
    assert result.revision
    manifest = json.loads(world.object_store.objects[manifest_key(HOUR)].body)
    assert (manifest["hour"], manifest["revision"], manifest["rows"], manifest["complete"]) == (HOUR, 1, 6, True)
    assert manifest["offsets"] == {"ProductDeleted/0": {"first": 0, "last": 4}, "ProductDeleted/1": {"first": 0, "last": 2}}
    assert manifest["batches"] == sorted(world.ledger.batches_of_hour(HOUR))
    assert manifest["types"] == {"ProductDeleted": 6}
    assert [file["rows"] for file in manifest["files"]] == [6]


def test_compacting_again_changes_no_byte() -> None:
    world = a_world()
    run(world)
    before = contents(world)
    result = run(world)
    assert not result.created
    assert contents(world) == before


def test_a_late_event_makes_another_revision_with_the_difference() -> None:
    world = a_world()
    run(world)
    world.produce(event("late", "2024-01-15T10:00:00Z"))
    world.settle()
    assert len(by_manifest(world)) == 7
    result = run(world)
    assert result.revision
    assert (result.revision.number, result.revision.added, result.revision.rows) == (2, 1, 7)
    assert len(files(world)) == 2
    assert by_ledger(world) == by_manifest(world)
    assert len(by_manifest(world)) == 7


def test_the_archive_bytes_do_not_depend_on_the_order_of_compactions() -> None:
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


def test_an_hour_without_events_writes_nothing() -> None:
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
    result = run(world)
    assert result.revision
    assert result.revision.rows == len(before) == 450
    assert by_ledger(world) == by_manifest(world) == before
    assert len(files(world)) == 2


def test_an_invalid_hour_is_refused_and_named() -> None:
    with pytest.raises(ValueError, match="'yesterday' is not an hour"):
        run(a_world(1), hour="yesterday")


# Completeness.


def test_an_hour_is_complete_when_every_checkpoint_has_passed_it() -> None:
    world = a_world()
    world.produce(event("waits", "2024-01-15T10:00:00Z"))
    assert run(world).complete is False
    manifest = json.loads(world.object_store.objects[manifest_key(HOUR)].body)
    assert manifest["complete"] is False
    world.settle()
    assert run(world).complete is True


def test_a_backlog_of_later_records_does_not_keep_an_hour_incomplete() -> None:
    world = a_world()
    after_the_hour = 1_705_316_400_000
    world.event_log.append("ProductDeleted", 0, event("later", "2024-01-15T11:30:00Z"), timestamp_ms=after_the_hour)
    assert run(world).complete is True


def test_an_unread_partition_keeps_an_hour_incomplete() -> None:
    """A new partition has no checkpoint before its first batch."""
    world = a_world()
    new = world.event_log.add_partition("ProductDeleted")
    world.produce(event("unread", "2024-01-15T10:00:00Z"), partition=new)
    assert run(world).complete is False
    world.settle()
    assert run(world).complete is True


@pytest.mark.parametrize("records", [1, 6])
def test_a_recreated_topic_that_was_not_accepted_keeps_an_hour_incomplete(records: int) -> None:
    """Its offsets are not comparable with the checkpoints in the ledger."""
    world = a_world()
    world.recreate_topic(partitions=2)
    world.produce(*(event(f"new{number}", "2024-01-15T10:00:00Z") for number in range(records)))
    assert run(world).complete is False


def test_a_deleted_topic_keeps_an_hour_incomplete_only_by_its_pending_batch() -> None:
    world = a_world()
    world.produce(event("pending", "2024-01-15T10:00:00Z"))
    with pytest.raises(Crashed):
        world.run(ports=intercept(world.ports, failing("close_batch", effect=False, fault=lambda _: Crashed())))
    world.event_log.delete_topic("ProductDeleted")
    assert run(world).complete is False
    with suppress(ResourceNotReady):  # the group cannot store offsets of a deleted topic
        world.run()
    assert not world.ledger.snapshot().pending
    assert run(world).complete is True


END_OF_HOUR_MS = 1_705_316_400_000


@pytest.mark.parametrize(("written", "complete"), [(END_OF_HOUR_MS - 1, False), (END_OF_HOUR_MS, True)])
def test_a_pending_batch_keeps_an_hour_incomplete_if_it_starts_before_the_end(written: int, complete: bool) -> None:
    world = a_world()
    world.event_log.append("ProductDeleted", 0, event("pending", "2024-01-15T11:30:00Z"), timestamp_ms=written)
    with pytest.raises(Crashed):
        world.run(ports=intercept(world.ports, failing("close_batch", effect=False, fault=lambda _: Crashed())))
    assert world.ledger.snapshot().pending
    assert run(world).complete is complete


def test_a_pending_redrive_keeps_an_hour_incomplete() -> None:
    world = a_world()
    range_ = Range(REDRIVE_CHECKPOINT, 0, 1)
    time = world.clock.now()
    assert world.ledger.begin_batch(Batch(batch_id(time, [range_]), BatchKind.REDRIVE, 0, time, (range_,), "redrive"))
    assert run(world).complete is False


def test_a_pending_batch_whose_records_kafka_removed_keeps_an_hour_incomplete() -> None:
    world = a_world()
    world.event_log.append("ProductDeleted", 0, event("pending", "2024-01-15T10:30:00Z"), timestamp_ms=END_OF_HOUR_MS - 1)
    world.event_log.append("ProductDeleted", 0, event("later", "2024-01-15T11:30:00Z"), timestamp_ms=END_OF_HOUR_MS)
    with pytest.raises(Crashed):
        world.run(ports=intercept(world.ports, failing("close_batch", effect=False, fault=lambda _: Crashed())))
    high = world.event_log.watermarks([world.partition(0)])[world.partition(0)].high_watermark
    world.event_log.retain_from("ProductDeleted", 0, high - 1)
    assert run(world).complete is False


def test_an_open_transaction_keeps_an_hour_incomplete() -> None:
    world = a_world()
    world.event_log.open_transaction("ProductDeleted", 0)
    world.event_log.append("ProductDeleted", 0, event("open", "2024-01-15T10:00:00Z"))
    assert run(world).complete is False


def test_the_current_hour_is_not_complete() -> None:
    world = a_world()
    world.produce(event("now", "2024-01-15T12:00:00Z"))
    world.settle()
    assert run(world, hour="2024-01-15T12").complete is False


def test_a_complete_manifest_stays_complete() -> None:
    world = a_world()
    world.produce(event("waits", "2024-01-15T13:00:00Z"))
    run(world)
    world.settle()
    run(world)
    complete = world.object_store.objects[manifest_key(HOUR)].body
    world.produce(event("waits again", "2024-01-15T13:00:00Z"))
    assert is_complete(HOUR, world.ports) is False
    assert run(world).complete is True
    assert run(world, replace(world.ports, event_log=UnavailableLog())).complete is True
    assert world.object_store.objects[manifest_key(HOUR)].body == complete


# Crashes, zombies, concurrent executors.


def points(world: Callable[[], World], act: Callable[[World, Ports], object]) -> Iterator[int]:
    """Return the number of every call that `act` makes to a store."""
    calls = 0

    def count(_: Call, perform: Callable[[], Any]) -> Any:
        nonlocal calls
        calls += 1
        return perform()

    fresh = world()
    act(fresh, intercept(fresh.ports, count))
    return iter(range(calls))


def revised_once() -> World:
    """Return a world with an archive of three batches, and one more part."""
    world = a_world()
    run(world)
    world.produce(event("late", "2024-01-15T10:00:00Z"))
    world.settle()
    return world


@pytest.mark.parametrize("effect", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("world_of", [a_world, revised_once])
def test_after_a_crash_at_any_call_all_rows_are_readable_and_a_retry_converges(world_of: Callable[[], World], effect: bool) -> None:
    clean = world_of()
    run(clean)
    for point in points(world_of, run):
        world = world_of()
        expected = by_ledger(world)
        with pytest.raises(Crashed):
            run(world, intercept(world.ports, failing(point, effect, lambda _: Crashed())))
        assert by_ledger(world) == expected, point
        assert by_manifest(world) == expected, point
        run(world)
        assert by_ledger(world) == by_manifest(world) == expected, point
        archives = {key: body for key, body in contents(world).items() if "/archive-" in key}
        assert archives == {key: body for key, body in contents(clean).items() if "/archive-" in key}, point


def test_a_late_event_during_a_compaction_is_in_its_part_or_in_the_archive() -> None:
    for point in points(a_world, run):
        world = a_world()
        calls = 0

        def interceptor(_: Call, perform: Callable[[], Any], world: World = world, point: int = point) -> Any:
            nonlocal calls
            calls += 1
            if calls - 1 == point:
                world.produce(event("late", "2024-01-15T10:00:00Z"))
                world.settle()
            return perform()

        run(world, intercept(world.ports, interceptor))
        assert len(by_ledger(world)) == len(by_manifest(world)) == 7, point
        run(world)
        assert by_ledger(world) == by_manifest(world)
        assert len(by_ledger(world)) == 7, point


def test_a_part_that_a_zombie_writes_again_is_deleted_and_never_counts() -> None:
    world = a_world()
    batch = world.ledger.batches_of_hour(HOUR)[0]
    part = world.object_store.objects[part_key(HOUR, batch)]
    run(world)
    expected = by_ledger(world)
    world.object_store.put([part])
    assert by_ledger(world) == by_manifest(world) == expected
    assert run(world).deleted == 1
    assert by_ledger(world) == by_manifest(world) == expected


def test_the_part_of_a_pending_batch_is_neither_read_nor_deleted() -> None:
    world = a_world()
    world.produce(event("pending", "2024-01-15T10:00:00Z"))
    with pytest.raises(Crashed):
        world.run(ports=intercept(world.ports, failing("close_batch", effect=False, fault=lambda _: Crashed())))
    (open_part,) = [
        key for key in world.object_store.list_keys(parquet_dir(HOUR)) if key.rpartition("/")[2][:-8] in world.ledger.snapshot().pending
    ]
    result = run(world)
    assert result.revision
    assert result.revision.rows == 6
    assert open_part in world.object_store.objects
    world.settle()
    assert len(by_ledger(world)) == 7


def paused_compaction(world: World, at: Callable[[Call], bool]) -> Callable[[], None]:
    """Pause a compaction before the first call for which `at` is true. Return the call that resumes it."""

    def act(interceptor: Interceptor) -> None:
        run(world, intercept(world.ports, interceptor))

    actor = Actor(act)
    while actor.call is not None and not at(actor.call):
        actor.step()
    assert actor.call is not None

    def resume() -> None:
        actor.finish()
        assert actor.failure is None or isinstance(actor.failure, Superseded), actor.failure

    return resume


@pytest.mark.parametrize("method", ["batches_of_hour", "get", "put", "put_revision", "put_if", "list_keys", "delete"])
def test_a_compaction_that_resumes_after_others_changes_nothing(method: str) -> None:
    world = a_world()
    resume = paused_compaction(world, lambda call: call.method == method)
    for number in range(2):
        run(world)
        world.produce(event(f"late{number}", "2024-01-15T10:00:00Z"))
        world.settle()
    run(world)
    expected, manifest = by_ledger(world), world.object_store.objects[manifest_key(HOUR)].body
    resume()
    assert by_ledger(world) == by_manifest(world) == expected
    assert world.object_store.objects[manifest_key(HOUR)].body == manifest
    run(world)
    assert by_ledger(world) == by_manifest(world) == expected
    assert len(files(world)) == 2


# Missing, damaged, foreign.


def lose(world: World, key: str) -> None:
    del world.object_store.objects[key]


def cut(world: World, key: str) -> None:
    object_ = world.object_store.objects[key]
    world.object_store.put([replace(object_, body=object_.body[: len(object_.body) // 2])])


def flip(world: World, key: str) -> None:
    """Change one byte in the first data page, which the footer does not show."""
    object_ = world.object_store.objects[key]
    world.object_store.put([replace(object_, body=object_.body[:40] + bytes([object_.body[40] ^ 0xFF]) + object_.body[41:])])


def exchange(world: World, key: str) -> None:
    """Replace the file by an undamaged one with other rows."""
    other = part_key("2024-01-15T11", world.ledger.batches_of_hour("2024-01-15T11")[0])
    world.object_store.put([replace(world.object_store.objects[other], key=key)])


DAMAGES = pytest.mark.parametrize("damage", [lose, cut, flip, exchange])


@DAMAGES
def test_a_part_that_is_missing_or_damaged_is_rebuilt_from_the_json_tree(damage: Callable[[World, str], None]) -> None:
    world = a_world()
    expected = by_ledger(world)
    key = part_key(HOUR, world.ledger.batches_of_hour(HOUR)[1])
    damage(world, key)
    result = run(world)
    assert result.rebuilt == (key,)
    assert result.revision
    assert result.revision.rebuilt == 2
    assert by_ledger(world) == by_manifest(world) == expected


@DAMAGES
def test_an_archive_that_is_missing_or_damaged_is_rebuilt_completely(damage: Callable[[World, str], None]) -> None:
    world = a_world()
    first = run(world).revision
    expected = by_ledger(world)
    assert first
    damage(world, first.keys[0])
    result = run(world)
    assert result.rebuilt == first.keys
    assert result.revision
    assert (result.revision.number, result.revision.rebuilt, result.revision.added) == (2, 6, 0)
    assert result.revision.digest == first.digest
    assert by_ledger(world) == by_manifest(world) == expected


def test_copies_of_json_objects_are_not_rows() -> None:
    world = a_world()
    expected = by_ledger(world)
    object_ = world.object_store.objects[event_key(HOUR, "a1")]
    for name in ("a1 copy.json", "deeper/a1.json"):
        world.object_store.put([replace(object_, key=f"{event_json_dir(HOUR)}{name}")])
    lose(world, part_key(HOUR, world.ledger.batches_of_hour(HOUR)[1]))
    run(world)
    assert by_ledger(world) == by_manifest(world) == expected


def test_legacy_events_are_rebuilt_with_their_ids() -> None:
    world = World()
    world.create()
    legacy = {"version": "1", "type": "ProductDeleted", "occurredAt": "2024-01-15T10:31:00Z", "productId": "p1", "sellerId": "s1"}
    world.produce(json.dumps(legacy).encode())
    world.settle()
    expected = by_ledger(world)
    lose(world, part_key(HOUR, world.ledger.batches_of_hour(HOUR)[0]))
    run(world)
    assert by_ledger(world) == expected


def test_rows_that_the_json_tree_does_not_hold_are_named_and_nothing_changes() -> None:
    world = a_world()
    lose(world, part_key(HOUR, world.ledger.batches_of_hour(HOUR)[1]))
    lose(world, event_key(HOUR, "a1"))
    before = contents(world)
    with pytest.raises(InconsistentState, match=r"the JSON objects do not hold their events: .* \(1 of 2\)"):
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


def test_without_a_json_tree_a_lost_part_is_named() -> None:
    world = World()
    world.create()
    world.produce(event("a"))
    world.settle(ingest_options(write_event_json=False))
    lose(world, part_key(HOUR, world.ledger.batches_of_hour(HOUR)[0]))
    with pytest.raises(InconsistentState, match="WRITE_EVENT_JSON=false"):
        run(world)


def test_a_foreign_object_is_named_and_not_deleted() -> None:
    world = a_world()
    foreign_key = f"{parquet_dir(HOUR)}notes.txt"
    world.object_store.put([StoredObject(foreign_key, b"notes", "text/plain", {})])
    expected = by_ledger(world)
    assert run(world).foreign_objects == (foreign_key,)
    assert world.object_store.get(foreign_key) == b"notes"
    assert by_ledger(world) == expected


def test_an_invalid_manifest_is_named_and_the_ledger_stays_correct() -> None:
    world = a_world()
    expected = by_ledger(world)
    world.object_store.put([StoredObject(manifest_key(HOUR), b"", "text/plain", {})])
    with pytest.raises(InconsistentState, match=r"_SUCCESS\.json is not a valid manifest"):
        run(world)
    assert by_ledger(world) == expected
    lose(world, manifest_key(HOUR))
    run(world)
    assert by_ledger(world) == by_manifest(world) == expected


def test_if_one_file_of_a_large_hour_is_lost_all_its_files_are_rebuilt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_files, "GROUP_ROWS", 2)
    monkeypatch.setattr(compaction, "MAX_FILE_BYTES", 1)
    world = a_world()
    expected = by_ledger(world)
    first = run(world).revision
    assert first
    assert [file.rows for file in first.files] == [2, 2, 2]
    assert by_ledger(world) == by_manifest(world) == expected
    lose(world, first.keys[1])
    result = run(world)
    assert result.rebuilt == first.keys
    assert by_ledger(world) == by_manifest(world) == expected
    assert len(files(world)) == 4


def test_files_of_a_later_revision_are_kept_and_those_of_this_one_deleted() -> None:
    world = a_world()
    older, newer = (archive_key(HOUR, number, ["another executor"]) for number in (1, 2))
    world.object_store.put([StoredObject(key, b"being written", "application/vnd.apache.parquet", {}) for key in (older, newer)])
    expected = by_ledger(world)
    result = run(world)
    assert older not in world.object_store.objects
    assert newer in world.object_store.objects
    assert result.foreign_objects == ()
    assert by_ledger(world) == by_manifest(world) == expected


class UnavailableLog(MemoryEventLog):
    """A broker that does not answer."""

    def watermarks(self, partitions: Any) -> Any:  # noqa: ARG002 - the port's signature
        raise Unavailable("Kafka at localhost:9092: no answer")


def test_without_kafka_an_hour_is_compacted_and_its_completeness_is_unknown() -> None:
    world = a_world()
    result = run(world, replace(world.ports, event_log=UnavailableLog()))
    assert (result.created, result.complete) == (True, None)
    assert json.loads(world.object_store.objects[manifest_key(HOUR)].body)["complete"] is None
    assert run(world).complete is True
    assert json.loads(world.object_store.objects[manifest_key(HOUR)].body)["complete"] is True


# Rows from the JSON objects.


def whole_rows(world: World) -> list[dict[str, Any]]:
    (key,) = (key for key in world.object_store.list_keys(parquet_dir(HOUR)) if key.endswith(".parquet"))
    rows: list[dict[str, Any]] = pq.read_table(io.BytesIO(world.object_store.objects[key].body)).to_pylist()
    return rows


@pytest.mark.parametrize("has_timestamp", [True, False], ids=["new objects", "objects of an older version"])
def test_rebuilt_rows_are_equal_with_the_record_timestamp_if_the_object_has_it(has_timestamp: bool) -> None:
    undamaged, world = a_world(1), a_world(1)
    run(undamaged)
    if not has_timestamp:
        for key in list(world.object_store.list_keys("events/")):
            object_ = world.object_store.objects[key]
            older = {name: value for name, value in object_.metadata.items() if name != RECORD_TIMESTAMP}
            world.object_store.objects[key] = replace(object_, metadata=older)
    lose(world, part_key(HOUR, world.ledger.batches_of_hour(HOUR)[0]))
    result = run(world)
    assert result.revision
    assert result.revision.rebuilt == 2
    expected = whole_rows(undamaged)
    assert all(row["record_timestamp"] is not None for row in expected)
    assert whole_rows(world) == [row if has_timestamp else row | {"record_timestamp": None} for row in expected]
