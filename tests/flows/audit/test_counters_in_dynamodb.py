"""Comparison and adjustment of DynamoDB's counter items while batches close: step by step on moto, in parallel on a real server."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from analytics_defs.adapters.dynamodb import ledger_keys as keys
from analytics_defs.adapters.dynamodb.ledger import DynamoLedger
from analytics_defs.adapters.memory.parquet_workspace import memory_workspace
from analytics_defs.core.counter_adjustments import CounterItem
from analytics_defs.core.ingest.batch_accounting import counter_increments, hourly_increments, sum_counters
from analytics_defs.flows.audit.counters import CounterComparison, apply_adjustments, compare_counters
from tests.contracts.ledger_fixtures import LEDGERS
from tests.flows.audit.test_counters import Meddling, ports_of
from tests.proof.world import HOUR, World, event

LANE, LANE_HOUR = CounterItem(0), CounterItem(0, HOUR)
BATCHES = 12


def a_world(ledger: Any) -> World:
    world = World(ledger=ledger)
    world.create()
    produce(world, 0)
    for item, change in ((LANE, 3), (LANE_HOUR, -2)):
        corrupt(ledger, item, change)
    return world


def corrupt(ledger: DynamoLedger, item: CounterItem, change: int) -> None:
    ledger._dynamo.call(
        "update_item",
        [],
        TableName=ledger._tables.aggregates,
        Key=keys.counter_key(item),
        UpdateExpression="ADD events :change",
        ExpressionAttributeValues={":change": {"N": str(change)}},
    )


def produce(world: World, number: int) -> None:
    world.produce(event(f"event-{number}"), event(f"old-{number}", "2024-01-15T09:00:00Z"))
    world.settle()


def assert_adjusted_once(world: World) -> None:
    records = world.ledger.last_batches(999)
    assert len(records) == BATCHES
    assert Counter(world.ledger.counters()) == Counter(sum_counters([counter_increments(record) for record in records]))
    assert Counter(world.ledger.hourly_counters(HOUR, HOUR)[HOUR]) == Counter(
        sum_counters([hourly_increments(record)[HOUR] for record in records])
    )
    assert [(adjustment.target, adjustment.number, adjustment.counts) for adjustment in world.ledger.adjustments()] == [
        (LANE, 1, {"events": -3}),
        (LANE_HOUR, 1, {"events": 2}),
    ]
    assert compared(world).agrees


def compared(world: World, ledger: Any = None) -> CounterComparison:
    return compare_counters(ports_of(world, ledger or world.ledger), memory_workspace, lambda *_: None)


def differences(found: CounterComparison) -> dict[CounterItem, dict[str, int]]:
    return {difference.target: difference.difference for difference in found.counters}


def test_counters_are_adjusted_between_closes() -> None:
    with LEDGERS["moto"]() as ledger:
        world = a_world(ledger)
        left = iter(range(1, BATCHES))

        def close_one(_: str) -> None:
            if (number := next(left, None)) is not None:
                produce(world, number)

        meddling = Meddling(world.ledger, close_one, writes=True)
        found = compared(world, meddling)
        assert differences(found) == {LANE: {"events": 3}, LANE_HOUR: {"events": -2}}
        apply_adjustments(found, ports_of(world, meddling))
        assert_adjusted_once(world)


@pytest.mark.real
def test_counters_are_adjusted_while_another_thread_closes_batches() -> None:
    with LEDGERS["real"]() as ledger, ThreadPoolExecutor(1) as threads:
        world = a_world(ledger)
        writer = threads.submit(close_the_others, world)
        found = compared(world)
        while not writer.done():
            assert differences(found) == {LANE: {"events": 3}, LANE_HOUR: {"events": -2}}
            found = compared(world)
        apply_adjustments(found, world.ports)
        writer.result()
        assert_adjusted_once(world)


def close_the_others(world: World) -> None:
    for number in range(1, BATCHES):
        produce(world, number)
