"""An hour goes back into RecentEvents as it was, over nothing that is there."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from analytics_defs.flows.hours.compaction import compact_hour
from analytics_defs.flows.hours.restore import RestoreResult, restore_hour
from analytics_defs.ports import DEDUPLICATION_WINDOW, RECENT_EVENTS_TTL
from tests.flows.hours.test_compaction import a_world
from tests.flows.hours.test_statistics import BENCH
from tests.proof.doors import Crashed, failing, through
from tests.proof.world import HOUR, World, event, legacy_event


@pytest.mark.parametrize("compacted", [False, True], ids=["parts", "archive"])
def test_what_was_lost_comes_back_as_it_was(compacted: bool) -> None:
    world = a_world()
    world.produce(legacy_event())
    world.settle()
    if compacted:
        compact_hour(HOUR, world.ports, BENCH)
    before = dict(world.recent_events.items)
    world.recent_events.items.clear()
    assert restore_hour(HOUR, world.ports, BENCH) == RestoreResult(HOUR, restored=7)
    restore_hour("2024-01-15T11", world.ports, BENCH)
    assert world.recent_events.items == before


def test_what_is_there_stays_whoever_holds_it() -> None:
    world = a_world()
    del world.recent_events.items["a0"]
    altered = replace(world.recent_events.items["a1"], created_at="altered by hand")
    other = replace(world.recent_events.items["b2"], source=world.source(99))
    world.recent_events.items |= {"a1": altered, "b2": other}
    assert restore_hour(HOUR, world.ports, BENCH) == RestoreResult(HOUR, restored=1, already_present=4, owned_by_other_sources=1)
    assert (world.recent_events.items["a1"], world.recent_events.items["b2"]) == (altered, other)


def test_an_id_that_somebody_claims_meanwhile_is_theirs() -> None:
    world = a_world(1)
    lost = world.recent_events.items.pop("a0")

    def claim_first(call: object, perform: object) -> object:
        if getattr(call, "method", "") == "claim":
            world.recent_events.items["a0"] = replace(lost, source=world.source(99))
        return perform()  # type: ignore[operator]

    done = restore_hour(HOUR, through(world.ports, claim_first), BENCH)
    assert (done.restored, done.owned_by_other_sources) == (0, 1)
    assert world.recent_events.items["a0"].source == world.source(99)


@pytest.mark.parametrize("hours", [("2024-01-15T09", HOUR), (HOUR, "2024-01-15T09"), (HOUR,)], ids=["older first", "newer first", "in one"])
def test_an_id_that_came_again_goes_back_to_whom_it_belonged(hours: tuple[str, ...]) -> None:
    """While the older item has not expired: then a third event of the id would find it free a month too early."""
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
        restore_hour(hour, world.ports, BENCH)
    assert world.recent_events.items == before
    restore_hour(HOUR, world.ports, BENCH)
    assert world.recent_events.items == before


def test_what_has_expired_is_left_out() -> None:
    world = a_world()
    world.clock.time = world.clock.time + RECENT_EVENTS_TTL - timedelta(seconds=2)
    world.recent_events.items.clear()
    done = restore_hour(HOUR, world.ports, BENCH)
    assert done.events == 6
    assert 0 < done.expired < 6
    assert len(world.recent_events.items) == done.restored


def test_restoring_again_changes_nothing_and_a_crash_leaves_nothing_half() -> None:
    world = a_world()
    before = {key: item for key, item in world.recent_events.items.items() if not key.startswith("n")}
    world.recent_events.items.clear()
    with pytest.raises(Crashed):
        restore_hour(HOUR, through(world.ports, failing("claim", effect=True, fault=lambda _: Crashed())), BENCH)
    restore_hour(HOUR, world.ports, BENCH)
    assert world.recent_events.items == before
    assert restore_hour(HOUR, world.ports, BENCH) == RestoreResult(HOUR, already_present=6)


def test_an_hour_without_events_restores_nothing() -> None:
    assert restore_hour("2024-01-15T23", a_world(1).ports, BENCH) == RestoreResult("2024-01-15T23")


def test_no_counter_and_no_head_moves() -> None:
    world: World = a_world()
    snapshot, counters = world.ledger.snapshot(), world.ledger.counters()
    world.recent_events.items.clear()
    restore_hour(HOUR, world.ports, BENCH)
    assert (world.ledger.snapshot(), world.ledger.counters()) == (snapshot, counters)
    world.produce(event("a0"))
    world.settle()
    assert world.ledger.counters()["duplicates"] == 1
