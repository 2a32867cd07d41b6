"""A record timestamp that is no date is kept as it was, null in Parquet, counted, and stops nothing."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from analytics_defs.adapters.memory.parquet_workspace import memory_workspace
from analytics_defs.core.events.event import ValidationRules
from analytics_defs.core.offsets import MAX_TIMESTAMP_MS, Source
from analytics_defs.core.repair import HourRange
from analytics_defs.core.storage import event_parquet
from analytics_defs.core.storage.object_keys import event_key, part_key
from analytics_defs.flows.audit.balance import audit_offsets
from analytics_defs.flows.audit.counters import compare_counters
from analytics_defs.flows.audit.hour import audit_hour
from analytics_defs.flows.audit.hour_bytes import compare_bytes
from analytics_defs.flows.hours.compaction import WorkspaceFactory, compact_hour
from analytics_defs.flows.hours.restore import RestoreResult, restore_hour
from analytics_defs.flows.hours.statistics import compute_daily_stats, compute_hourly_stats
from analytics_defs.flows.redrive import DeadLetterFilter, redrive_dead_letters
from analytics_defs.flows.repair.repair_range import RepairContext, RepairResult, repair_range
from analytics_defs.flows.stored.hour_completeness import is_complete
from analytics_defs.flows.trace.trace import trace_record
from tests.flows.hours.test_compaction import lose
from tests.flows.hours.test_statistics import ENGINE_FACTORY
from tests.proof.world import HOUR, RULES, SECOND, TOPIC, World, event, ingest_options

NANOSECONDS = 1_796_084_566_626_462_208
INVALID = {
    "nanoseconds": NANOSECONDS,
    "microseconds": 1_800_000_000_000_000,
    "the largest number": 2**63 - 1,
    "the smallest number": -(2**63),
    "after year 9999": MAX_TIMESTAMP_MS + 1,
    "year 1": -62_135_596_800_000,
}
VALID = {"the first millisecond": 0, "after the end of nanoseconds": 9_223_372_036_855, "the end of year 9999": MAX_TIMESTAMP_MS}


@pytest.fixture(params=[*INVALID.values(), *VALID.values()], ids=[*INVALID, *VALID])
def timestamp_ms(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture(params=[memory_workspace, ENGINE_FACTORY], ids=["memory", "duckdb"])
def workspace_factory(request: pytest.FixtureRequest) -> WorkspaceFactory:
    factory: WorkspaceFactory = request.param
    return factory


def a_world(timestamp_ms: int, **options: Any) -> World:
    """Return a world with one batch of three events. The record of the second one has this timestamp, that of the third has none."""
    world = World()
    world.create()
    for event_id, time in (("a", 1_705_314_600_000), ("b", timestamp_ms), ("c", -1)):
        world.event_log.append(TOPIC, 0, event(event_id), timestamp_ms=time)
    world.settle(ingest_options(**options))
    return world


def part(world: World) -> str:
    return part_key(HOUR, world.ledger.batches_of_hour(HOUR)[0])


def write_part_of_older_version(world: World, timestamp_ms: int) -> None:
    """Write the part as versions did that put every number that is not negative into the column."""
    key = part(world)
    table = pq.read_table(io.BytesIO(world.object_store.objects[key].body))
    column = table.schema.get_field_index("record_timestamp")
    times = pa.array([1_705_314_600_000, timestamp_ms, None], pa.int64()).cast(table.schema.field(column).type)
    sink = pa.BufferOutputStream()
    with event_parquet.writer(sink) as file:
        file.write_table(table.set_column(column, table.schema.field(column), times))
    world.object_store.objects[key] = replace(world.object_store.objects[key], body=bytes(sink.getvalue()))


def repaired(world: World) -> RepairResult:
    batch_hours = HourRange(HOUR, "2024-01-15T13")
    return repair_range(batch_hours, RepairContext(world.ports, ENGINE_FACTORY, RULES))


def archived_times(world: World) -> dict[str, int | None]:
    revision = world.ledger.latest_revision(HOUR)
    assert revision
    rows = event_parquet.read_rows(world.object_store.objects[revision.keys[0]].body, ("event_id", "record_timestamp"), "archive")
    return {row["event_id"]: row["record_timestamp"] for row in rows}


def test_every_hourly_and_daily_job_of_the_event_succeeds(timestamp_ms: int, workspace_factory: WorkspaceFactory) -> None:
    world = a_world(timestamp_ms)
    before = dict(world.recent_events.items)
    for _ in ("from parts", "from the archive"):
        assert compute_hourly_stats(HOUR, world.ports, ENGINE_FACTORY).stats.events == 3
        assert compute_daily_stats(HOUR[:10], world.ports, ENGINE_FACTORY).stats.events == 3
        assert compare_counters(world.ports, workspace_factory, lambda *_: None).agrees
        world.recent_events.items.clear()
        assert restore_hour(HOUR, world.ports, ENGINE_FACTORY) == RestoreResult(HOUR, restored=3)
        assert world.recent_events.items == before
        assert repaired(world).changed == 0
        assert (audit_hour(HOUR, world.ports).findings, compare_bytes(HOUR, world.ports, ENGINE_FACTORY).findings) == ((), ())
        assert compact_hour(HOUR, world.ports, workspace_factory).complete is True
    assert audit_offsets(world.ports).balanced
    valid = timestamp_ms if timestamp_ms in VALID.values() else None
    assert archived_times(world) == {"a": 1_705_314_600_000, "b": valid, "c": None}


def test_the_number_is_kept_counted_and_traced(timestamp_ms: int) -> None:
    world = a_world(timestamp_ms)
    assert world.object_store.objects[event_key(HOUR, "b")].metadata["recordTimestamp"] == str(timestamp_ms)
    assert "recordTimestamp" not in world.object_store.objects[event_key(HOUR, "c")].metadata
    is_invalid = timestamp_ms in INVALID.values()
    assert world.ledger.counters().get("invalid_record_timestamps", 0) == is_invalid
    note = f"stored in hour {HOUR}; its record timestamp {timestamp_ms} is no date"
    assert trace_record("b", world.ports).detail.startswith(note) == is_invalid
    assert {trace_record(name, world.ports).detail for name in ("a", "c")} == {f"stored in hour {HOUR}"}


def test_without_json_objects_the_trace_names_the_number_of_such_events() -> None:
    trace = trace_record("b", a_world(NANOSECONDS, write_event_json=False).ports)
    assert trace.detail == f"stored in hour {HOUR}; 1 events of its batch have a record timestamp that is no date"


@pytest.mark.parametrize("timestamp_ms", [number for number in (*INVALID.values(), *VALID.values()) if number >= 0])
@pytest.mark.parametrize("write_event_json", [True, False], ids=["with JSON objects", "without"])
def test_a_part_of_an_older_version_with_such_a_number_is_no_damage(
    timestamp_ms: int, write_event_json: bool, workspace_factory: WorkspaceFactory
) -> None:
    world = a_world(timestamp_ms, write_event_json=write_event_json)
    write_part_of_older_version(world, timestamp_ms)
    world.recent_events.items.clear()
    assert compute_hourly_stats(HOUR, world.ports, ENGINE_FACTORY).stats.events == 3
    assert compare_counters(world.ports, workspace_factory, lambda *_: None).agrees
    assert restore_hour(HOUR, world.ports, ENGINE_FACTORY) == RestoreResult(HOUR, restored=3)
    result = compact_hour(HOUR, world.ports, workspace_factory)
    assert (result.created, result.rebuilt) == (True, ())
    assert archived_times(world) == {"a": 1_705_314_600_000, "b": timestamp_ms if timestamp_ms <= MAX_TIMESTAMP_MS else None, "c": None}


@pytest.mark.parametrize("lost", [part, lambda _: event_key(HOUR, "b")], ids=["part", "JSON object"])
def test_a_repair_restores_parts_and_objects_with_such_a_number(timestamp_ms: int, lost: Callable[[World], str]) -> None:
    world = a_world(timestamp_ms)
    before, key = dict(world.object_store.objects), lost(world)
    lose(world, key)
    result = repaired(world)
    assert (result.changed, result.conflicts, result.lost) == (1, [], [])
    assert world.object_store.objects == before


def test_a_repair_restores_a_json_object_from_a_part_of_an_older_version() -> None:
    world = a_world(NANOSECONDS)
    write_part_of_older_version(world, NANOSECONDS)
    before = world.object_store.objects[event_key(HOUR, "b")]
    lose(world, before.key)
    world.event_log.retain_from(TOPIC, 0, 3)
    result = repaired(world)
    assert (result.conflicts, result.lost) == ([], [])
    assert world.object_store.objects[before.key] == before


def test_a_repair_with_kafka_writes_a_part_of_an_older_version_at_most_once() -> None:
    world = a_world(NANOSECONDS)
    write_part_of_older_version(world, NANOSECONDS)
    first, second = repaired(world), repaired(world)
    assert (first.changed, first.conflicts, first.lost) == (1, [], [])
    assert (second.changed, second.conflicts, second.lost) == (0, [], [])


def test_an_hour_is_not_complete_on_the_evidence_of_such_a_number() -> None:
    world = a_world(NANOSECONDS)
    world.event_log.append(TOPIC, 0, event("d"), timestamp_ms=NANOSECONDS)
    assert is_complete(HOUR, world.ports) is False
    world.settle()
    assert is_complete(HOUR, world.ports) is True


def test_a_rebuild_from_json_objects_ends_if_metadata_hold_a_larger_number() -> None:
    world = a_world(NANOSECONDS)
    object_ = world.object_store.objects[event_key(HOUR, "b")]
    world.object_store.objects[object_.key] = replace(object_, metadata=dict(object_.metadata) | {"recordTimestamp": "9" * 30})
    lose(world, part(world))
    assert compact_hour(HOUR, world.ports, ENGINE_FACTORY).created
    assert archived_times(world)["b"] is None
    assert trace_record(str(Source(world.partition(), 1)), world.ports).detail == f"stored in hour {HOUR}"


def test_a_redriven_dead_letter_with_such_a_number_is_stored_and_counted(timestamp_ms: int) -> None:
    world = World()
    world.create()
    world.event_log.append(TOPIC, 0, event("b"), timestamp_ms=timestamp_ms)
    world.settle(ingest_options(validation_rules=ValidationRules(max_event_bytes=5)))
    world.clock.advance(SECOND)
    assert redrive_dead_letters(DeadLetterFilter(), world.ports, ingest_options("redrive")).stored == 1
    assert world.object_store.objects[event_key(HOUR, "b")].metadata["recordTimestamp"] == str(timestamp_ms)
    assert world.ledger.counters().get("invalid_record_timestamps", 0) == (timestamp_ms in INVALID.values())
    assert compute_hourly_stats(HOUR, world.ports, ENGINE_FACTORY).stats.events == 1
