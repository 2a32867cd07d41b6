"""Restoring an hour in RecentEvents gives equal items and overwrites none."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from analytics_defs.flows.hours.compaction import compact_hour
from analytics_defs.flows.hours.restore import RestoreResult, restore_hour
from analytics_defs.ports import DEDUPLICATION_WINDOW, RECENT_EVENTS_TTL
from tests.flows.hours.test_compaction import a_world
from tests.flows.hours.test_statistics import ENGINE_FACTORY
from tests.proof.interceptors import Crashed, failing, intercept
from tests.proof.world import HOUR, World, event, legacy_event


@pytest.mark.parametrize("compacted", [False, True], ids=["parts", "archive"])
def test_lost_items_are_restored_unchanged(compacted: bool) -> None:
    world = a_world()
    world.produce(legacy_event())
    world.settle()
    if compacted:
        compact_hour(HOUR, world.ports, ENGINE_FACTORY)
    before = dict(world.recent_events.items)
    world.recent_events.items.clear()
    assert restore_hour(HOUR, world.ports, ENGINE_FACTORY) == RestoreResult(HOUR, restored=7)
    restore_hour("2024-01-15T11", world.ports, ENGINE_FACTORY)
    assert world.recent_events.items == before


def test_existing_items_stay_whatever_source_owns_them() -> None:
    world = a_world()
    del world.recent_events.items["a0"]
    altered = replace(world.recent_events.items["a1"], created_at="altered by hand")
    other = replace(world.recent_events.items["b2"], source=world.source(99))
    world.recent_events.items |= {"a1": altered, "b2": other}
    assert restore_hour(HOUR, world.ports, ENGINE_FACTORY) == RestoreResult(HOUR, restored=1, already_present=4, owned_by_other_sources=1)
    assert (world.recent_events.items["a1"], world.recent_events.items["b2"]) == (altered, other)


def test_an_id_that_is_claimed_during_a_restore_keeps_its_new_owner() -> None:
    world = a_world(1)
    lost = world.recent_events.items.pop("a0")

    def claim_first(call: object, perform: object) -> object:
        if getattr(call, "method", "") == "claim":
            world.recent_events.items["a0"] = replace(lost, source=world.source(99))
        return perform()  # type: ignore[operator]

    result = restore_hour(HOUR, intercept(world.ports, claim_first), ENGINE_FACTORY)
    assert (result.restored, result.owned_by_other_sources) == (0, 1)
    assert world.recent_events.items["a0"].source == world.source(99)


@pytest.mark.parametrize("hours", [("2024-01-15T09", HOUR), (HOUR, "2024-01-15T09"), (HOUR,)], ids=["older first", "newer first", "in one"])
def test_a_reused_id_is_restored_to_its_last_owner(hours: tuple[str, ...]) -> None:
    """The older item has not expired. With it, a third event of the id would find the id free a month too early."""
    world = World()
    world.create()
    world.produce(event("x", f"{min(hours)}:00:00Z"))
    world.settle()
    world.clock.advance(DEDUPLICATION_WINDOW)
    later = world.produce(event("x", f"{HOUR}:30:00Z", payload="again"))
    world.settle()
    before = dict(world.recent_events.items)
    assert before["x"].source == later
    world.recent_events.items.clear()
    for hour in hours:
        restore_hour(hour, world.ports, ENGINE_FACTORY)
    assert world.recent_events.items == before
    restore_hour(HOUR, world.ports, ENGINE_FACTORY)
    assert world.recent_events.items == before


def test_expired_events_are_not_restored() -> None:
    world = a_world()
    world.clock.time = world.clock.time + RECENT_EVENTS_TTL - timedelta(seconds=2)
    world.recent_events.items.clear()
    result = restore_hour(HOUR, world.ports, ENGINE_FACTORY)
    assert result.events == 6
    assert 0 < result.past_ttl < 6
    assert len(world.recent_events.items) == result.restored


def test_a_restore_is_idempotent_and_can_be_resumed_after_a_crash() -> None:
    world = a_world()
    before = {key: item for key, item in world.recent_events.items.items() if not key.startswith("n")}
    world.recent_events.items.clear()
    with pytest.raises(Crashed):
        restore_hour(HOUR, intercept(world.ports, failing("claim", effect=True, fault=lambda _: Crashed())), ENGINE_FACTORY)
    restore_hour(HOUR, world.ports, ENGINE_FACTORY)
    assert world.recent_events.items == before
    assert restore_hour(HOUR, world.ports, ENGINE_FACTORY) == RestoreResult(HOUR, already_present=6)


def test_an_hour_without_events_restores_nothing() -> None:
    assert restore_hour("2024-01-15T23", a_world(1).ports, ENGINE_FACTORY) == RestoreResult("2024-01-15T23")


def test_a_restore_moves_no_counter_and_no_checkpoint() -> None:
    world: World = a_world()
    snapshot, counters = world.ledger.snapshot(), world.ledger.counters()
    world.recent_events.items.clear()
    restore_hour(HOUR, world.ports, ENGINE_FACTORY)
    assert (world.ledger.snapshot(), world.ledger.counters()) == (snapshot, counters)
    world.produce(event("a0"))
    world.settle()
    assert world.ledger.counters()["duplicates"] == 1
