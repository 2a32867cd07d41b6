"""The audit of bytes finds altered objects, which the listing of keys cannot show."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from functools import partial

import pytest

from analytics_defs.adapters.duckdb.statistics import duckdb_statistics
from analytics_defs.core.storage.object_keys import event_key
from analytics_defs.flows.audit.hour import audit_hour
from analytics_defs.flows.audit.hour_bytes import compare_bytes
from analytics_defs.flows.hours.compaction import compact_hour
from tests.flows.audit.test_hour import a_world
from tests.proof.world import HOUR, World, event

BENCH = partial(duckdb_statistics, 128, 1)


@pytest.mark.parametrize("compacted", [False, True])
def test_unchanged_objects_have_the_bytes_of_parquet(compacted: bool) -> None:
    world = a_world()
    if compacted:
        compact_hour(HOUR, world.ports, BENCH)
    found = compare_bytes(HOUR, world.ports, BENCH)
    assert (found.compared, found.findings) == (3, ())


def test_altered_bytes_are_found_here_and_not_by_the_audit_of_ids() -> None:
    world = a_world()
    object_ = world.object_store.objects[event_key(HOUR, "b")]
    world.object_store.put([replace(object_, body=object_.body.replace(b"p1", b"p2"))])
    assert audit_hour(HOUR, world.ports).findings == ()
    assert compare_bytes(HOUR, world.ports, BENCH).findings == ("1 JSON objects with other bytes than Parquet, for example b",)


@pytest.mark.parametrize("name", ["source", "batch", "eventtype"])
def test_an_object_with_other_metadata_is_found(name: str) -> None:
    world = a_world()
    object_ = world.object_store.objects[event_key(HOUR, "b")]
    world.object_store.put([replace(object_, metadata={**object_.metadata, name: "another"})])
    assert compare_bytes(HOUR, world.ports, BENCH).findings == ("1 JSON objects with other metadata than their batch wrote, for example b",)


def test_each_row_of_a_reused_id_is_compared_with_its_own_object() -> None:
    world = World()
    world.create()
    for note in ("first", "second"):
        world.produce(event("x", note=note))
        world.settle()
        world.clock.advance(timedelta(days=29))
    found = compare_bytes(HOUR, world.ports, BENCH)
    assert (found.compared, found.findings) == (2, ())


def test_a_missing_object_is_left_to_the_audit_of_ids() -> None:
    world = a_world()
    world.object_store.delete([event_key(HOUR, "b")])
    found = compare_bytes(HOUR, world.ports, BENCH)
    assert (found.compared, found.findings) == (2, ())
