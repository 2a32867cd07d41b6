"""Planning and moving without Dagster."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest

from analytics_defs.adapters.memory import InlineWorkers, ManualClock, MemoryArchive, MemoryLedger, MemoryLog, MemoryRecentEvents
from analytics_defs.core.events.event import Rules
from analytics_defs.core.ingest.batch_builder import Limits
from analytics_defs.core.ingest.planning import Policy, lane_of
from analytics_defs.core.offsets import Range, Record
from analytics_defs.errors import AnalyticsError, Denied, GroupInUse, Unavailable
from analytics_defs.flows.ingest.drain import Drained, Order, drain
from analytics_defs.flows.ingest.execute_plan import Conduct
from analytics_defs.ports import Ports, Reading

TOPIC = "ProductDeleted"


class World:
    def __init__(self, events: int) -> None:
        self.log, self.recent = MemoryLog(), MemoryRecentEvents()
        self.lanes_alive: list[int] = []
        self.ports = Ports(
            self.log, self.recent, MemoryArchive(), MemoryLedger(), ManualClock(datetime(2024, 1, 15, 12, tzinfo=UTC)), InlineWorkers()
        )
        self.log.create_topic(TOPIC, 2)
        for number in range(events):
            event = {"id": f"event-{number}", "timestamp": "2024-01-15T10:00:00Z", "type": TOPIC, "productId": "p", "sellerId": "s"}
            self.log.append(TOPIC, number % 2, json.dumps(event).encode())

    @contextmanager
    def sign_of_life(self, lane: int) -> Iterator[None]:
        self.lanes_alive.append(lane)
        yield

    def drain(self, policy: Policy, *, until_idle: bool) -> Drained:
        conduct = Conduct("run", Rules(max_event_bytes=10_000), Limits(max_events=5))
        return drain(Order((TOPIC,), policy, conduct, until_idle), self.ports, self.sign_of_life)


def test_one_round_moves_one_plan_of_each_lane() -> None:
    world = World(events=40)
    drained = world.drain(Policy(lanes=2, max_offsets=10), until_idle=False)
    assert (sum(record.tally.stored for record in drained.closed), world.lanes_alive) == (20, [0, 1])


def test_until_idle_means_until_nothing_is_left() -> None:
    world = World(events=43)
    drained = world.drain(Policy(max_offsets=10), until_idle=True)
    assert (sum(record.tally.stored for record in drained.closed), len(world.recent.items)) == (43, 43)
    assert world.drain(Policy(), until_idle=True) == Drained()


def test_a_partition_that_waits_for_a_person_is_told_and_ends_nothing_else() -> None:
    world = World(events=10)
    world.drain(Policy(), until_idle=True)
    world.log.delete_topic(TOPIC)
    world.log.create_topic(TOPIC, 2)
    drained = world.drain(Policy(), until_idle=True)
    assert (drained.closed, len(drained.stopped)) == ([], 2)
    assert f"analytics accept-topic {TOPIC}" in drained.stopped[0]


def test_a_fault_ends_it_and_what_was_closed_stays_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    world, closes = World(events=20), iter([True])
    really_close = world.ports.ledger.close

    def close(record: object) -> bool:
        if not next(closes, False):
            raise Unavailable("the ledger is down")
        return really_close(record)  # type: ignore[arg-type]

    monkeypatch.setattr(world.ports.ledger, "close", close)
    with pytest.raises(Unavailable):
        world.drain(Policy(), until_idle=True)
    monkeypatch.undo()
    assert world.drain(Policy(), until_idle=True).closed
    assert sum(head.totals.stored for head in world.ports.ledger.snapshot().heads.values()) == 20


@pytest.mark.parametrize("fault", [Unavailable("no leader"), Denied("403")])
def test_a_lane_that_fails_keeps_no_other_lane_from_being_emptied_and_its_fault_is_raised_in_the_end(
    fault: AnalyticsError, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(events=40)
    really_read = world.log.read

    def read(ranges: Sequence[Range], admit: Callable[[Record], bool]) -> Reading:
        if any(lane_of(each.topic_partition, 2) == 0 for each in ranges):
            raise fault
        return really_read(ranges, admit)

    monkeypatch.setattr(world.log, "read", read)
    with pytest.raises(type(fault)) as raised:
        world.drain(Policy(lanes=2, max_offsets=10), until_idle=True)
    assert raised.value is fault
    assert world.lanes_alive == [0, 1, 1], "who fails without closing anything is not tried again"
    assert sorted(head.totals.stored for head in world.ports.ledger.snapshot().heads.values()) == [20]


def test_a_group_that_takes_no_offsets_does_not_end_a_drain_before_nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(events=40)

    def refuse(_: object) -> None:
        raise GroupInUse("another consumer is a member of the group")

    monkeypatch.setattr(world.log, "commit", refuse)
    with pytest.raises(GroupInUse):
        world.drain(Policy(max_offsets=10), until_idle=True)
    assert len(world.recent.items) == 40
