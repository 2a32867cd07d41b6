"""Whatever counter was changed, it is found, by its number and its batches; a batch that closes meanwhile is no difference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analytics_defs.adapters.duck_statistics import duck_calculator
from analytics_defs.core.layout import part_key
from analytics_defs.errors import Contradiction, TakenOver
from analytics_defs.flows.compact import compact
from analytics_defs.flows.recompute import READINGS, Recomputed, compare
from analytics_defs.ports import Ports
from tests.flows.test_compact import lose
from tests.proof.world import HOUR, World, event

BENCH = partial(duck_calculator, 128, 1)


def a_world() -> World:
    """Two batches: events of two hours, a repeat, a dead letter, a tombstone."""
    world = World()
    world.create()
    world.produce(event("a"), event("b"), b"{", None)
    world.settle()
    world.produce(event("a"), event("c", "2024-01-15T09:00:00Z"))
    world.settle()
    return world


def compared(world: World, ports: Ports | None = None) -> Recomputed:
    return compare(ports or world.ports, BENCH, lambda *_: None)


@pytest.mark.parametrize("compacted", [False, True])
def test_counters_that_nobody_changed_agree_and_nothing_is_written(compacted: bool) -> None:
    world = a_world()
    if compacted:
        compact(HOUR, world.ports, BENCH)
    before = dict(world.archive.objects)
    heard = list[tuple[int, int]]()
    found = compare(world.ports, BENCH, lambda done, of: heard.append((done, of)))
    assert found == Recomputed(2, ("2024-01-15T09", HOUR), (), ())
    assert heard == [(1, 2), (2, 2)]
    assert world.archive.objects == before


WORLD = a_world()
TOTALS = sorted(WORLD.ledger.counters_by_lane()[0])


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.sampled_from([*TOTALS, "reason.too_large"]), st.integers(-9, 9).filter(bool), min_size=1))
def test_every_changed_total_is_found_by_its_number(changes: dict[str, int]) -> None:
    ledger = WORLD.ledger
    kept = ledger._totals[0]
    ledger._totals[0] = kept | {name: kept.get(name, 0) + change for name, change in changes.items()}
    try:
        found = compared(WORLD)
    finally:
        ledger._totals[0] = kept
    assert {each.counter: each.difference for each in found.counters} == {f"lane 0 {name}": change for name, change in changes.items()}


def test_a_changed_hour_names_its_batches() -> None:
    world = a_world()
    world.ledger._hourly[HOUR, 0]["events"] += 5
    (found,) = compared(world).counters
    assert (found.counter, found.live, found.recorded) == (f"{HOUR} events", 7, 2)
    assert found.batches == tuple(world.ledger.batches_of_hour(HOUR))


def test_a_batch_whose_part_holds_other_rows_than_its_record_is_named() -> None:
    world = a_world()
    (batch,) = world.ledger.batches_of_hour(HOUR)
    record = world.ledger._records[batch]
    world.ledger._records[batch] = replace(record, hours={HOUR: {"ProductDeleted": 3}})
    (found,) = compared(world).archive
    assert (found.hour, found.batch, found.archived, found.recorded) == (HOUR, batch, 2, 3)


def test_a_lost_part_is_an_error_that_names_it() -> None:
    world = a_world()
    lose(world, part_key(HOUR, world.ledger.batches_of_hour(HOUR)[0]))
    with pytest.raises(Contradiction, match="is not there, and closed batches have rows in it"):
        compared(world)


class Closing:
    """A ledger where a batch closes after each of the first so many readings of the hours."""

    def __init__(self, world: World, times: int) -> None:
        self._world, self.times = world, times

    def hourly(self, first: str, last: str) -> Mapping[str, Mapping[str, int]]:
        if self.times:
            self.times -= 1
            self._world.produce(event(f"late-{self.times}"))
            self._world.settle()
        return self._world.ledger.hourly(first, last)

    def __getattr__(self, name: str) -> object:
        assert name in ("counters_by_lane", "last_batches", "record", "revision", "batches_of_hour"), f"{name}: not a reading"
        return getattr(self._world.ledger, name)


def test_a_batch_that_closes_between_the_readings_is_no_difference() -> None:
    world = a_world()
    found = compared(world, replace(world.ports, ledger=Closing(world, 3)))  # type: ignore[arg-type]
    assert found.agrees
    assert found.batches == 5


def test_a_ledger_that_is_never_quiet_is_an_error_that_says_so() -> None:
    world = a_world()
    with pytest.raises(TakenOver, match="batches were closed during each of 10 readings"):
        compared(world, replace(world.ports, ledger=Closing(world, READINGS)))  # type: ignore[arg-type]
