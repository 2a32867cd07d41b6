"""The audit of the ledger's chain names every missing, altered or superfluous item, and no other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from analytics_defs.adapters.memory import MemoryLedger
from analytics_defs.adapters.memory.parquet_workspace import memory_workspace
from analytics_defs.core.events.event import ValidationRules
from analytics_defs.core.ledger import ClosedRange, LedgerSnapshot
from analytics_defs.core.repair import parse_repair_range
from analytics_defs.flows.audit.ledger_chain import audit_chain
from analytics_defs.flows.hours.compaction import compact_hour
from analytics_defs.flows.ingest.accept_topic import accept_recreated_topic
from analytics_defs.flows.redrive import DeadLetterFilter, redrive_dead_letters
from analytics_defs.flows.repair.repair_range import RepairContext, repair_range
from tests.flows.hours.test_statistics import BENCH
from tests.flows.ingest.test_execute_plan import failing_at
from tests.proof.interceptors import Crashed, intercept
from tests.proof.world import HOUR, RULES, TOPIC, World, event, ingest_options

STRICT = ValidationRules(max_event_bytes=300)


def a_world(ledger: MemoryLedger | None = None) -> World:
    """Return a platform with an archive, a part, a redrive, dead letters, and a pending batch."""
    world = World(ledger=ledger or MemoryLedger())
    world.create(partitions=2)
    world.produce(event("a"), event("large", padding="." * 400), b"broken")
    world.produce(event("b"), partition=1)
    world.settle(ingest_options(validation_rules=STRICT))
    compact_hour(HOUR, world.ports, memory_workspace)
    redrive_dead_letters(DeadLetterFilter(), world.ports, ingest_options("redrive"))
    world.produce(event("c"), event("a"), None)
    world.settle()
    world.produce(event("pending"), partition=1)
    with pytest.raises(Crashed):
        world.run(ports=intercept(world.ports, failing_at("claim")))
    return world


def test_a_consistent_ledger_has_no_findings() -> None:
    world = a_world()
    assert audit_chain(world.ports).findings == ()
    assert audit_chain(world.ports).batches == 3
    world.recreate_topic(partitions=2)
    accept_recreated_topic(TOPIC, world.ports)
    world.produce(event("again"))
    world.run()
    assert audit_chain(world.ports).findings == ()


def test_an_empty_ledger_has_no_findings() -> None:
    assert audit_chain(World().ports).findings == ()


def remove_a_range(ledger: MemoryLedger) -> None:
    ((_, ranges), *_) = ledger._ranges.items()
    del ranges[0]


def alter_a_range(ledger: MemoryLedger) -> None:
    ((_, ranges), *_) = ledger._ranges.items()
    end, closed = ranges[0]
    ranges[0] = end, replace(closed, range=replace(closed.range, start=1))


def remove_an_archived_hour_entry(ledger: MemoryLedger) -> None:
    ledger._hours[HOUR].pop(0)


def remove_a_redriven_entry(ledger: MemoryLedger) -> None:
    ledger._redriven.clear()


@pytest.mark.parametrize("damage", [remove_a_range, alter_a_range, remove_an_archived_hour_entry, remove_a_redriven_entry])
def test_the_command_in_the_finding_writes_the_entry_again(damage: Callable[[MemoryLedger], None]) -> None:
    world = a_world()
    damage(world.ledger)
    (finding,) = audit_chain(world.ports).findings
    assert "is missing or altered" in finding
    _, first, _, end = finding.split("`")[1].removeprefix("analytics repair ").split(" ")
    context = RepairContext(world.ports, BENCH, RULES)
    dry_run = repair_range(parse_repair_range(first, end), replace(context, dry_run=True))
    assert [change.store for change in dry_run.changes] == ["ledger_entry"]
    assert audit_chain(world.ports).findings == (finding,)
    repair_range(parse_repair_range(first, end), context)
    assert audit_chain(world.ports).findings == ()


def remove_a_checkpoint(ledger: MemoryLedger) -> None:
    del ledger._checkpoints[World().partition(0)]


def move_a_checkpoint(ledger: MemoryLedger, change: int) -> None:
    partition = World().partition(0)
    checkpoint = ledger._checkpoints[partition]
    ledger._checkpoints[partition] = replace(checkpoint, next_offset=checkpoint.next_offset + change)


def remove_a_record(ledger: MemoryLedger) -> None:
    del ledger._records[min(ledger._records)]


def remove_a_pending_entry(ledger: MemoryLedger) -> None:
    ledger._pending.clear()


def remove_a_topic(ledger: MemoryLedger) -> None:
    ledger._topics.clear()


def move_a_topic(ledger: MemoryLedger) -> None:
    ledger._topics[TOPIC] = replace(ledger._topics[TOPIC], starts={0: 4, 1: 0})


def add_a_range(ledger: MemoryLedger) -> None:
    ((_, ranges), *_) = ledger._ranges.items()
    end, closed = ranges[-1]
    ranges.append((end + 5, ClosedRange(replace(closed.range, start=end, end=end + 5), closed.batch_id[:-1] + "0", closed.outcome_counts)))


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (
            remove_a_checkpoint,
            "checkpoint#ProductDeleted/0: expected first 0, next 6, stored 3, duplicates 1, dead_letters 1, tombstones 1",
        ),
        (lambda ledger: move_a_checkpoint(ledger, 1), "checkpoint#ProductDeleted/0: expected first 0, next 6"),
        (lambda ledger: move_a_checkpoint(ledger, -1), "checkpoint#ProductDeleted/0: expected a next offset of at least 6"),
        (remove_a_record, "has no batch record. Restore the record"),
        (remove_a_pending_entry, "expected an item, because checkpoint#ProductDeleted/1 names it, found none"),
        (remove_a_topic, "topic#ProductDeleted: expected at least incarnation 0"),
        (move_a_topic, "topic#ProductDeleted: partition 0 starts at 4, and checkpoint#ProductDeleted/0 at 0"),
        (add_a_range, "has no batch record. Restore the record from a backup of the table, or remove the entry if it is foreign"),
    ],
)
def test_damage_that_no_command_repairs_is_named_with_its_remedy(damage: Callable[[MemoryLedger], None], expected: str) -> None:
    world = a_world()
    damage(world.ledger)
    findings = audit_chain(world.ports).findings
    assert any(expected in finding for finding in findings), findings


class BusyLedger(MemoryLedger):
    """A ledger in which a batch closes during every read of the records."""

    work: Callable[[], object] = staticmethod(lambda: None)

    def batch_records_from(self, batch_id: str) -> Any:
        self.work()
        records = super().batch_records_from(batch_id)
        self.work()
        return records


def test_batches_that_close_during_the_audit_are_no_finding() -> None:
    ledger = BusyLedger()
    world = World(ledger=ledger)
    world.create()
    number = 0

    def work() -> None:
        nonlocal number
        number += 1
        world.produce(event(f"e{number}"))
        world.run()

    ledger.work = work
    assert audit_chain(world.ports).findings == ()
    assert number >= 4


class HalfVisibleLedger(MemoryLedger):
    """A ledger whose first read of the checkpoints misses a batch that the other items show."""

    early: LedgerSnapshot | None = None

    def snapshot(self) -> LedgerSnapshot:
        early, self.early = self.early, None
        return early or super().snapshot()


def test_a_half_visible_close_is_no_finding() -> None:
    ledger = HalfVisibleLedger()
    world = a_world(ledger)
    partition = world.partition(0)
    full = ledger.snapshot()
    ahead = replace(full.checkpoints[partition], next_offset=7)
    ledger.early = replace(full, checkpoints={**full.checkpoints, partition: ahead})
    assert audit_chain(world.ports).findings == ()
