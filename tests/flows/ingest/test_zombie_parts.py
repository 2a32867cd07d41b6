"""A zombie that continues after its batch was compacted leaves no row twice for readers of the whole folder."""

from __future__ import annotations

import io
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import pyarrow.parquet as pq
import pytest

from analytics_defs.adapters.duckdb.statistics import duckdb_statistics
from analytics_defs.adapters.memory.parquet_workspace import memory_workspace
from analytics_defs.core.storage.object_keys import batch_id_of_part_key, manifest_key, parquet_dir
from analytics_defs.errors import AccessDenied, Superseded
from analytics_defs.flows.audit import recent_hours
from analytics_defs.flows.audit.hour import audit_hour
from analytics_defs.flows.hours.compaction import compact_hour
from analytics_defs.flows.hours.manifest import write_manifest
from analytics_defs.flows.hours.statistics import compute_hourly_stats
from tests.proof.actors import Actor
from tests.proof.interceptors import Call, Interceptor, intercept
from tests.proof.world import HOUR, World, event

NEXT_HOUR = "2024-01-15T11"
IDS = ["a", "b", "c"]


def rows_in_folder(world: World) -> list[str]:
    """Return the event ids as a reader of both hours' folders sees them, which ignores the manifest."""
    keys = [key for hour in (HOUR, NEXT_HOUR) for key in world.object_store.list_keys(parquet_dir(hour)) if key.endswith(".parquet")]
    tables = [pq.read_table(io.BytesIO(world.object_store.objects[key].body), columns=["event_id"]) for key in keys]
    return sorted(event_id for table in tables for event_id in table["event_id"].to_pylist())


def parts(world: World) -> list[str]:
    return [key for hour in (HOUR, NEXT_HOUR) for key in world.object_store.list_keys(parquet_dir(hour)) if batch_id_of_part_key(key)]


def compact(world: World) -> None:
    for hour in (HOUR, NEXT_HOUR):
        compact_hour(hour, world.ports, memory_workspace)


def zombie_at(point: int) -> tuple[World, Actor]:
    """Return an executor that is stopped before its call with this number."""
    world = World()
    world.create()
    world.produce(event("a"), event("b"), event("c", "2024-01-15T11:00:00Z"), event("a"), b"no event")
    actor = Actor(lambda interceptor: world.run(ports=intercept(world.ports, interceptor)))
    for _ in range(point):
        actor.step()
    return world, actor


def calls_of_a_batch() -> list[str]:
    _, actor = zombie_at(0)
    calls = []
    while actor.call is not None:
        calls.append(str(actor.call))
        actor.step()
    return calls


CALLS = calls_of_a_batch()


@pytest.mark.parametrize("point", range(len(CALLS)), ids=[f"{number} {call}" for number, call in enumerate(CALLS)])
def test_a_zombie_at_any_point_of_a_compacted_batch_doubles_no_row(point: int) -> None:
    world, zombie = zombie_at(point)
    world.settle()
    compact(world)
    zombie.finish()
    assert zombie.failure is None or isinstance(zombie.failure, Superseded)
    assert rows_in_folder(world) == IDS
    assert parts(world) == []


@pytest.mark.parametrize("point", range(len(CALLS)), ids=[f"{number} {call}" for number, call in enumerate(CALLS)])
def test_a_zombie_deletes_no_part_of_a_batch_that_is_not_compacted(point: int) -> None:
    world, zombie = zombie_at(point)
    world.settle()
    zombie.finish()
    assert rows_in_folder(world) == IDS
    assert audit_hour(HOUR, world.ports).agrees
    assert audit_hour(NEXT_HOUR, world.ports).agrees


def test_a_part_stays_until_the_manifest_names_its_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    world, zombie = zombie_at(CALLS.index("ledger.close_batch"))
    world.settle()

    def finish_zombie_before(*args: object) -> bool:
        """Finish the zombie between the revision and its manifest: readers of the manifest still need the part."""
        before = parts(world)
        zombie.finish()
        assert parts(world) == before != []
        return write_manifest(*args)  # type: ignore[arg-type]

    monkeypatch.setattr("analytics_defs.flows.hours.compaction.write_manifest", finish_zombie_before)
    compact_hour(HOUR, world.ports, memory_workspace)


def with_a_zombie_that_died(world_and_zombie: tuple[World, Actor]) -> World:
    """Return a world whose zombie wrote its parts again after the compaction and died before its close."""
    world, zombie = world_and_zombie
    world.settle()
    compact(world)
    while zombie.call is not None and zombie.call.method != "close_batch":
        zombie.step()
    zombie.crash()
    assert len(parts(world)) == 2
    return world


def died_zombie() -> World:
    return with_a_zombie_that_died(zombie_at(min(number for number, call in enumerate(CALLS) if call == "recent_events.claim")))


def test_audit_and_check_name_the_parts_that_a_dead_zombie_left(monkeypatch: pytest.MonkeyPatch) -> None:
    world = died_zombie()
    world.clock.advance(timedelta(minutes=11))
    (part, _) = parts(world)
    (finding,) = audit_hour(HOUR, world.ports).findings
    assert part in finding
    assert f"analytics compact {HOUR}" in finding
    monkeypatch.setattr(recent_hours, "MAX_EVENTS_COMPARED_BY_ID", 0)
    by_counts = recent_hours.compare_stores(world.ports)
    assert by_counts.by_id == ()
    assert finding in [mismatch.finding for mismatch in by_counts.mismatches]


def test_inputs_that_a_running_compaction_deletes_are_no_finding() -> None:
    assert audit_hour(HOUR, died_zombie().ports).agrees


def _statistics(world: World) -> None:
    for hour in (HOUR, NEXT_HOUR):
        compute_hourly_stats(hour, world.ports, partial(duckdb_statistics, 128, 1))


@pytest.mark.parametrize("report", [compact, _statistics])
def test_the_next_report_of_the_hour_deletes_the_parts_of_a_dead_zombie(report: Callable[[World], None]) -> None:
    world = died_zombie()
    report(world)
    world.clock.advance(timedelta(minutes=11))
    assert rows_in_folder(world) == IDS
    assert audit_hour(HOUR, world.ports).agrees


def test_statistics_delete_no_part_while_the_manifest_is_older() -> None:
    world = died_zombie()
    del world.object_store.objects[manifest_key(HOUR)]
    before = parts(world)
    compute_hourly_stats(HOUR, world.ports, partial(duckdb_statistics, 128, 1))
    assert parts(world) == before


@pytest.mark.parametrize("method", ["get", "delete"])
def test_a_zombie_whose_role_may_only_write_parquet_ends_without_error(method: str) -> None:
    world = World()
    world.create()
    world.produce(event("a"))

    def denying(interceptor: Interceptor) -> Interceptor:
        def intercepted(call: Call, perform: Callable[[], Any]) -> Any:
            if (call.port, call.method) == ("object_store", method) and "parquet/" in str(call.args):
                raise AccessDenied("s3: 403")
            return interceptor(call, perform)

        return intercepted

    zombie = Actor(lambda interceptor: world.run(ports=intercept(world.ports, denying(interceptor))))
    while zombie.call is not None and zombie.call.method != "claim":
        zombie.step()
    world.settle()
    compact_hour(HOUR, world.ports, memory_workspace)
    zombie.finish()
    assert zombie.failure is None
    assert len(parts(world)) == 1
    world.clock.advance(timedelta(minutes=11))
    assert not audit_hour(HOUR, world.ports).agrees
