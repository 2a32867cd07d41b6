"""A trace answers for every source, and for every event id that RecentEvents holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from analytics_defs.adapters.memory import MemoryLedger
from analytics_defs.adapters.memory.parquet_workspace import memory_workspace
from analytics_defs.core.events.event import ValidationRules
from analytics_defs.core.ledger import ClosedRange, LedgerSnapshot
from analytics_defs.core.offsets import Source
from analytics_defs.core.storage.object_keys import event_key, part_key
from analytics_defs.errors import NotFound
from analytics_defs.flows.hours.compaction import compact_hour
from analytics_defs.flows.redrive import DeadLetterFilter, redrive_dead_letters
from analytics_defs.flows.trace.outcome import RecordOutcome
from analytics_defs.flows.trace.trace import trace_record
from tests.flows.ingest.test_execute_plan import failing_at
from tests.proof.interceptors import Call, Crashed, intercept
from tests.proof.world import HOUR, TOPIC, World, event, ingest_options

BROKEN = b'{"id": NaN}'


def a_world(**settings: Any) -> World:
    world = World(**settings)
    world.create()
    world.produce(event("a"), event("a"), BROKEN, None)
    world.event_log.append_marker(TOPIC, 0)
    world.settle()
    return world


@pytest.mark.parametrize(
    ("offset", "outcome", "detail"),
    [
        (0, RecordOutcome.STORED, "stored in hour 2024-01-15T10"),
        (1, RecordOutcome.DUPLICATE, "its id is held by ProductDeleted/0/0"),
        (2, RecordOutcome.DEAD_LETTER, "not_json: "),
        (3, RecordOutcome.TOMBSTONE, "null value: counted, nothing stored"),
        (4, RecordOutcome.GAP, "control"),
        (5, RecordOutcome.NOT_READ, "Kafka's log of ProductDeleted/0 ends at 5 and has no such record yet; the next offset to read is 5"),
    ],
)
def test_every_source_has_an_outcome(offset: int, outcome: RecordOutcome, detail: str) -> None:
    world = a_world()
    trace = trace_record(f"ProductDeleted/0/{offset}", world.ports)
    assert (trace.outcome, trace.detail[: len(detail)]) == (outcome, detail)
    assert (trace.batch_id is None) == (outcome is RecordOutcome.NOT_READ)


def test_the_trace_of_a_stored_event_names_its_part_object_and_item() -> None:
    world = a_world()
    trace = trace_record("a", world.ports)
    assert trace.batch_id is not None
    assert (trace.source, trace.event_id) == (world.source(0), "a")
    assert (trace.part, trace.event_json, trace.item) == (part_key(HOUR, trace.batch_id), event_key(HOUR, "a"), "held")


def test_the_trace_of_an_event_without_json_object_names_none() -> None:
    world = World()
    world.create()
    world.produce(event("a"))
    world.settle(ingest_options(write_event_json=False))
    assert trace_record("a", world.ports).event_json is None


def test_an_item_past_its_ttl_is_expired() -> None:
    world = a_world()
    world.clock.advance(timedelta(days=30))
    assert trace_record("a", world.ports).item == "expired"
    world.recent_events.items.clear()
    assert trace_record("ProductDeleted/0/0", world.ports).item is None


def test_an_unknown_id_is_not_found() -> None:
    with pytest.raises(NotFound, match="event 'unknown' is not in RecentEvents"):
        trace_record("unknown", a_world().ports)


def test_a_partition_that_was_never_read_is_unknown() -> None:
    assert trace_record("ProductDeleted/7/0", a_world().ports).outcome is RecordOutcome.UNKNOWN_PARTITION


def test_an_id_that_looks_like_a_source_is_found() -> None:
    world = World()
    world.create()
    world.produce(event("orders/7/5"), event("ProductDeleted/0/2"), BROKEN)
    world.settle()
    trace = trace_record("orders/7/5", world.ports)
    assert (trace.outcome, trace.source, trace.event_id) == (RecordOutcome.STORED, world.source(0), "orders/7/5")
    assert trace_record("ProductDeleted/0/2", world.ports).outcome is RecordOutcome.DEAD_LETTER
    assert trace_record("orders/7/6", world.ports).outcome is RecordOutcome.UNKNOWN_PARTITION


def a_redriven_world() -> World:
    """One event that was too large for the first rules, redriven under the default rules."""
    world = World()
    world.create()
    world.produce(event("a", padding="." * 400))
    world.settle(ingest_options(validation_rules=ValidationRules(max_event_bytes=300)))
    world.clock.advance(timedelta(seconds=1))
    redrive_dead_letters(DeadLetterFilter(), world.ports, ingest_options("redrive"))
    return world


def test_the_trace_of_a_redriven_event_contains_its_rejection() -> None:
    world = a_redriven_world()
    trace = trace_record("a", world.ports)
    assert (trace.outcome, trace.item, trace.redrive) == (RecordOutcome.STORED, "held", None)
    assert trace.before is not None
    assert (trace.before.outcome, trace.before.source, trace.before.redrive) == (RecordOutcome.DEAD_LETTER, world.source(0), None)
    assert trace.before.detail.startswith("too_large")
    by_source = trace_record(str(world.source(0)), world.ports)
    assert (by_source.outcome, by_source.redrive) == (RecordOutcome.DEAD_LETTER, replace(trace, before=None))


@pytest.mark.parametrize("method", ["begin_batch", "mark_staged", "claim", "put"])
def test_a_record_of_a_pending_batch_is_pending_and_its_run_is_named(method: str) -> None:
    world = a_world()
    world.produce(event("b"))
    with pytest.raises(Crashed):
        world.run(by=ingest_options("run 7"), ports=intercept(world.ports, failing_at(method)))
    trace = trace_record("ProductDeleted/0/5", world.ports)
    assert (trace.outcome, trace.detail) == (RecordOutcome.PENDING, "begun by run run 7 at 2024-01-15T12:00:02Z")
    assert trace_record("ProductDeleted/0/6", world.ports).outcome is RecordOutcome.NOT_READ


class InterruptedLedger(MemoryLedger):
    """A ledger in which `work` runs once after the first read of a closed range."""

    def __init__(self) -> None:
        super().__init__()
        self.work: Callable[[], object] | None = None

    def closed_range_at(self, source: Source) -> ClosedRange | None:
        found = super().closed_range_at(source)
        work, self.work = self.work, None
        if work:
            work()
        return found


def test_a_batch_that_closes_during_the_trace_is_found() -> None:
    ledger = InterruptedLedger()
    world = a_world(ledger=ledger)
    world.produce(event("b"))
    ledger.work = world.settle
    assert trace_record("ProductDeleted/0/5", world.ports).outcome is RecordOutcome.STORED


class LedgerWithoutClosedRanges(MemoryLedger):
    def closed_range_at(self, source: Source) -> None:  # noqa: ARG002 - the port's signature
        return None


def test_an_offset_before_the_checkpoint_without_a_record_is_unaccounted() -> None:
    assert trace_record("ProductDeleted/0/0", a_world(ledger=LedgerWithoutClosedRanges()).ports).outcome is RecordOutcome.UNACCOUNTED


def test_a_record_whose_files_are_missing_is_unaccounted() -> None:
    world = a_world()
    trace = trace_record("ProductDeleted/0/2", world.ports)
    assert trace.batch_id is not None
    for key in [key for key in world.object_store.objects if key.startswith("dead-letters/")]:
        del world.object_store.objects[key]
    trace = trace_record("ProductDeleted/0/2", world.ports)
    assert trace.outcome is RecordOutcome.UNACCOUNTED
    assert "none of its files names it" in trace.detail


def alter_dead_letters(world: World, old: bytes, new: bytes) -> None:
    (key,) = (key for key in world.object_store.objects if key.startswith("dead-letters/"))
    object_ = world.object_store.objects[key]
    assert old in object_.body
    world.object_store.put([replace(object_, body=object_.body.replace(old, new))])


@pytest.mark.parametrize(
    ("old", "new"), [(b"ProductDeleted/0/2", b"ProductDeleted/0/0"), (b"not_json", b"made_up"), (b'"source"', b"source")]
)
def test_an_altered_dead_letter_file_is_no_evidence(old: bytes, new: bytes) -> None:
    world = a_world()
    alter_dead_letters(world, old, new)
    trace = trace_record("ProductDeleted/0/2", world.ports)
    assert trace.outcome is RecordOutcome.UNACCOUNTED
    assert "is not the file that batch" in trace.detail
    assert [trace_record(f"ProductDeleted/0/{offset}", world.ports).outcome for offset in (0, 1)] == [
        RecordOutcome.STORED,
        RecordOutcome.DUPLICATE,
    ]


def test_a_redriven_event_is_found_although_its_dead_letter_file_was_altered() -> None:
    world = a_redriven_world()
    alter_dead_letters(world, b"too_large", b"made_up")
    trace = trace_record("a", world.ports)
    assert (trace.outcome, trace.item) == (RecordOutcome.STORED, "held")
    assert trace.before is not None
    assert trace.before.outcome is RecordOutcome.DEAD_LETTER
    assert "it was redriven" in trace.before.detail


@pytest.mark.parametrize("before", ["latest_revision", "get"])
def test_an_event_whose_hour_is_compacted_during_the_trace_is_found(before: str) -> None:
    world = a_world()
    work = [lambda: compact_hour(HOUR, world.ports, memory_workspace)]

    def compact_once(call: Call, perform: Callable[[], Any]) -> Any:
        if work and call.method == before and (before == "latest_revision" or call.args[0].startswith("parquet/")):
            work.pop()()
        return perform()

    trace = trace_record("ProductDeleted/0/0", intercept(world.ports, compact_once))
    assert work == []
    assert trace.outcome is RecordOutcome.STORED
    assert trace.part is not None


class HalfSeenLedger(MemoryLedger):
    """A batch closes during the query: the checkpoint is read before the close, the pending entries after it."""

    def snapshot(self) -> LedgerSnapshot:
        return replace(super().snapshot(), pending={})


def test_a_batch_whose_close_is_half_visible_is_not_reported_as_unread() -> None:
    """A query may see half of a transaction."""

    class Closing(HalfSeenLedger):
        work: Callable[[], object] | None = None

        def snapshot(self) -> LedgerSnapshot:
            work, self.work = self.work, None
            found = super().snapshot()
            if work is None:
                return MemoryLedger.snapshot(self)
            work()
            return found

    ledger = Closing()
    world = a_world(ledger=ledger)
    world.produce(event("b"))
    with pytest.raises(Crashed):
        world.run(by=ingest_options("run 7"), ports=intercept(world.ports, failing_at("claim")))
    ledger.work = world.settle
    assert trace_record("ProductDeleted/0/5", world.ports).outcome is RecordOutcome.STORED
