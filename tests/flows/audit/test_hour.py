"""The audits find every planted difference, and no other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from functools import partial

import pytest

from analytics_defs.adapters.duckdb.statistics import duckdb_statistics
from analytics_defs.adapters.memory import MemoryLedger, MemoryRecentEvents
from analytics_defs.core.ledger import Lease, LedgerSnapshot
from analytics_defs.core.storage.object_keys import dead_letters_key, duplicates_key, event_key, part_key
from analytics_defs.errors import InconsistentState, Unavailable
from analytics_defs.flows.audit.balance import audit_offsets
from analytics_defs.flows.audit.hour import audit_hour
from analytics_defs.flows.audit.recent_hours import _compare_counts
from analytics_defs.flows.hours.statistics import compute_hourly_stats
from analytics_defs.flows.stored.hour_files import hour_files
from analytics_defs.ports import Ports
from tests.flows.ingest.test_execute_plan import failing_at, problems
from tests.proof.interceptors import Crashed, intercept
from tests.proof.world import HOUR, World, event, ingest_options


def a_world() -> World:
    world = World()
    world.create()
    world.produce(event("a"), event("b"), event("elsewhere", "2024-01-15T11:00:00Z"))
    world.settle()
    world.produce(event("c"), event("a"))
    world.settle()
    return world


def test_consistent_stores_have_no_findings() -> None:
    audited = audit_hour(HOUR, a_world().ports)
    assert audited.agrees
    assert (audited.recorded, audited.counted, audited.parquet, audited.parquet_distinct, audited.objects, audited.items) == (3,) * 6
    assert len(audited.batches) == 2


def test_an_hour_without_events_agrees() -> None:
    assert audit_hour("2024-01-15T23", a_world().ports).agrees


def delete_an_item(world: World) -> None:
    del world.recent_events.items["b"]


def give_an_item_to_another_source(world: World) -> None:
    world.recent_events.items["b"] = replace(world.recent_events.items["b"], source=world.source(4))


def delete_an_object(world: World) -> None:
    del world.object_store.objects[event_key(HOUR, "b")]


def add_an_object(world: World) -> None:
    object_ = world.object_store.objects[event_key(HOUR, "b")]
    world.object_store.put([replace(object_, key=event_key(HOUR, "foreign"))])


def delete_a_part(world: World) -> None:
    (first, _) = world.ledger.batches_of_hour(HOUR)
    del world.object_store.objects[part_key(HOUR, first)]


def copy_a_part_over_another(world: World) -> None:
    first, second = (part_key(HOUR, batch_id) for batch_id in world.ledger.batches_of_hour(HOUR))
    world.object_store.put([replace(world.object_store.objects[first], key=second)])


def delete_the_duplicates(world: World) -> None:
    (_, second) = world.ledger.batches_of_hour(HOUR)
    del world.object_store.objects[duplicates_key(second)]


def alter_the_duplicates(world: World) -> None:
    (_, second) = world.ledger.batches_of_hour(HOUR)
    object_ = world.object_store.objects[duplicates_key(second)]
    world.object_store.put([replace(object_, body=object_.body.replace(b"ProductDeleted/0/0", b"ProductDeleted/0/1"))])
    assert world.object_store.objects[duplicates_key(second)] != object_


def double_the_duplicates(world: World) -> None:
    (_, second) = world.ledger.batches_of_hour(HOUR)
    object_ = world.object_store.objects[duplicates_key(second)]
    world.object_store.put([replace(object_, body=object_.body * 2)])


@pytest.mark.parametrize(
    ("plant", "finding"),
    [
        (alter_the_duplicates, "1 duplicates in duplicates/2024/01/15/12/"),
        (delete_the_duplicates, "0 duplicates in duplicates/2024/01/15/12/"),
        (double_the_duplicates, "2 duplicates in duplicates/2024/01/15/12/"),
        (delete_an_item, "1 ids not held by RecentEvents under their source, for example b"),
        (give_an_item_to_another_source, "1 ids not held by RecentEvents under their source, for example b"),
        (delete_an_object, "1 ids without JSON object, for example b"),
        (add_an_object, "1 ids JSON objects without row, for example foreign"),
        (delete_a_part, "0 rows in parquet/"),
        (copy_a_part_over_another, "2 ids stored twice within 29 days, for example a, b"),
    ],
)
def test_a_planted_difference_is_found(plant: Callable[[World], None], finding: str) -> None:
    world = a_world()
    plant(world)
    audited = audit_hour(HOUR, world.ports)
    assert not audited.agrees
    assert any(finding in line for line in audited.findings), audited.findings


def a_world_with_dead_letters() -> World:
    """One batch with an event and two dead letters, one batch with only a dead letter."""
    world = World()
    world.create()
    world.produce(event("a"), b"broken", b"also broken")
    world.settle()
    world.produce(b"broken alone")
    world.settle()
    assert audit_hour(HOUR, world.ports).agrees
    assert audit_hour("2024-01-15T12", world.ports).agrees
    return world


def test_missing_dead_letters_are_found_by_event_hour_and_by_batch_hour() -> None:
    world = a_world_with_dead_letters()
    second, first = (record.batch.id for record in world.ledger.last_batches(2))
    world.object_store.delete([dead_letters_key(first), dead_letters_key(second)])
    of_first, of_second = (
        f"batch {batch_id}: 0 dead letters in {dead_letters_key(batch_id)}, {count} in its record"
        for batch_id, count in ((first, 2), (second, 1))
    )
    assert audit_hour(HOUR, world.ports).findings == (of_first,)
    assert audit_hour("2024-01-15T12", world.ports).findings == (of_first, of_second)


def test_altered_dead_letters_are_found_by_their_digest() -> None:
    world = a_world_with_dead_letters()
    (first,) = world.ledger.batches_of_hour(HOUR)
    object_ = world.object_store.objects[dead_letters_key(first)]
    world.object_store.put([replace(object_, body=object_.body.replace(b"broken", b"edited"))])
    (finding,) = audit_hour(HOUR, world.ports).findings
    assert f"batch {first}: 2 dead letters in {object_.key} as recorded, but their SHA-256 is" in finding


def test_a_damaged_part_is_named() -> None:
    world = a_world()
    (first, _) = world.ledger.batches_of_hour(HOUR)
    object_ = world.object_store.objects[part_key(HOUR, first)]
    world.object_store.put([replace(object_, body=object_.body[:-10])])
    with pytest.raises(InconsistentState, match=first):
        audit_hour(HOUR, world.ports)


@pytest.mark.parametrize("deleted", [False, True], ids=["still there", "deleted by TTL"])
def test_items_past_their_ttl_are_no_difference(deleted: bool) -> None:
    world = a_world()
    world.clock.advance(timedelta(days=30))
    if deleted:
        world.recent_events.items.clear()
    audited = audit_hour(HOUR, world.ports)
    assert audited.agrees
    assert (audited.items, audited.expired_items) == (0, 3)


def a_world_of_two_settings() -> World:
    """Three events with JSON objects, and one of a batch that wrote no JSON objects."""
    world = a_world()
    world.produce(event("d"))
    world.settle(ingest_options(write_event_json=False))
    return world


def test_a_batch_that_wrote_no_json_objects_needs_none() -> None:
    audited = audit_hour(HOUR, a_world_of_two_settings().ports)
    assert (audited.objects, audited.parquet_distinct, audited.findings) == (3, 4, ())


@pytest.mark.parametrize(
    ("plant", "finding"), [(delete_an_object, "1 ids without JSON object"), (add_an_object, "1 ids JSON objects without row")]
)
def test_json_objects_of_the_other_batches_are_still_compared(plant: Callable[[World], None], finding: str) -> None:
    world = a_world_of_two_settings()
    plant(world)
    assert any(finding in line for line in audit_hour(HOUR, world.ports).findings)


def test_a_pointer_item_needs_its_json_object_under_any_settings() -> None:
    world = World(recent_events=MemoryRecentEvents(unholdable=lambda event: event.id == "large"))
    world.create()
    world.produce(event("large"), event("small"))
    world.settle(ingest_options(write_event_json=False))
    audited = audit_hour(HOUR, world.ports)
    assert (audited.objects, audited.findings) == (1, ())
    world.object_store.delete([event_key(HOUR, "large")])
    assert audit_hour(HOUR, world.ports).findings == ("1 ids without JSON object, for example large",)


def test_without_any_written_json_objects_none_are_compared() -> None:
    world = World()
    world.create()
    world.produce(event("d"))
    world.settle(ingest_options(write_event_json=False))
    audited = audit_hour(HOUR, world.ports)
    assert (audited.objects, audited.agrees) == (None, True)


def test_a_pending_batch_is_no_difference() -> None:
    """Its item and object exist already. Its row counts once the batch is closed."""
    world = a_world()
    world.produce(event("d"))
    with pytest.raises(Crashed):
        world.run(ports=intercept(world.ports, failing_at("put")))
    assert "d" in world.recent_events.items
    assert audit_hour(HOUR, world.ports).agrees
    assert len(audit_offsets(world.ports).pending) == 1
    assert audit_offsets(world.ports).balanced


def a_world_whose_run_crashed() -> World:
    """Return a world with a pending batch of the run `crashed`, whose ids are claimed."""
    world = World()
    world.create()
    world.produce(event("a"), event("b"))
    with pytest.raises(Crashed):
        world.run(by=ingest_options("crashed"), ports=intercept(world.ports, failing_at("put")))
    assert "a" in world.recent_events.items
    return world


def test_a_batch_pending_for_ten_minutes_without_a_heartbeat_is_a_finding() -> None:
    world = a_world_whose_run_crashed()
    (pending,) = world.ledger.snapshot().pending
    world.clock.advance(timedelta(minutes=10))
    assert audit_offsets(world.ports).balanced
    world.clock.advance(timedelta(minutes=1))
    audited = audit_offsets(world.ports)
    (finding,) = audited.abandoned_batches
    assert finding.startswith(f"batch {pending} of ProductDeleted/0[0,2) is pending for 11 minutes, and its run crashed has no heartbeat")
    assert "`analytics ingest` finishes it" in finding
    assert (audited.differences, audited.unaccounted, audited.balanced) == ((), 0, False)
    world.settle()
    assert (audit_offsets(world.ports).abandoned_batches, audit_offsets(world.ports).balanced) == ((), True)


def test_a_batch_is_not_abandoned_while_its_run_has_a_heartbeat() -> None:
    world = a_world_whose_run_crashed()
    world.clock.advance(timedelta(minutes=11))
    world.ledger.renew_lease(Lease("crashed", 0, world.clock.now() - timedelta(seconds=59)))
    assert audit_offsets(world.ports).balanced
    world.clock.advance(timedelta(seconds=1))
    assert not audit_offsets(world.ports).balanced


class MiscountingLedger(MemoryLedger):
    def counters(self) -> Mapping[str, int]:
        return {**super().counters(), "duplicates": 7}


def test_counters_that_do_not_equal_the_checkpoints_are_a_difference() -> None:
    world = World(ledger=MiscountingLedger())
    world.create()
    world.produce(event("a"))
    world.settle()
    audited = audit_offsets(world.ports)
    assert audited.differences == (
        "duplicates: 7 in the counters, 0 over the checkpoints. `analytics reconcile-counters --dry-run` shows the corrections",
    )
    assert not audited.balanced


class UnreadableLedger(MemoryLedger):
    """Checkpoints and counters agree. After the damage an item of the topic cannot be read."""

    def __init__(self) -> None:
        super().__init__()
        self.damage: dict[str, str] = {}

    def snapshot(self) -> LedgerSnapshot:
        return replace(super().snapshot(), unreadable=self.damage)


def test_a_ledger_with_an_unreadable_item_is_not_balanced() -> None:
    ledger = UnreadableLedger()
    world = World(ledger=ledger)
    world.create()
    world.produce(event("a"))
    world.settle()
    assert audit_offsets(world.ports).balanced
    ledger.damage["ProductDeleted"] = "ledger item topic#ProductDeleted cannot be read"
    audited = audit_offsets(world.ports)
    assert (audited.unaccounted, audited.differences, audited.abandoned_batches) == (0, (), ())
    assert (audited.unreadable, audited.balanced) == (("ledger item topic#ProductDeleted cannot be read",), False)


class BusyLedger(MemoryLedger):
    """A ledger in which a batch closes before each of the first `times` reads of the counters."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times
        self.work: Callable[[], object] = lambda: None

    def counters(self) -> Mapping[str, int]:
        if self.times:
            self.times -= 1
            self.work()
        return super().counters()


def busy(times: int) -> World:
    ledger = BusyLedger(times)
    world = World(ledger=ledger)
    world.create()

    def work() -> None:
        world.produce(event(f"e{ledger.times}"))
        world.run()

    ledger.work = work
    return world


def test_counters_are_read_again_if_a_batch_closed_meanwhile() -> None:
    world = busy(3)
    assert audit_offsets(world.ports).balanced
    assert world.ledger.counters()["events"] == 3
    assert problems(world) == []


def test_an_audit_beside_constant_closes_fails_with_instructions() -> None:
    with pytest.raises(Unavailable, match="audit again when ingest is quieter"):
        audit_offsets(busy(1_000).ports)


class LateCounters(MemoryLedger):
    """A ledger as DynamoDB shows it during a transaction: the checkpoints are moved, the counters are not moved yet."""

    def __init__(self) -> None:
        super().__init__()
        self.late: dict[str, int] | None = None

    def counters(self) -> Mapping[str, int]:
        found, self.late = self.late, None
        return super().counters() if found is None else found


def test_a_half_visible_close_is_no_difference() -> None:
    ledger = LateCounters()
    world = World(ledger=ledger)
    world.create()
    world.produce(event("a"))
    world.settle()
    before = dict(ledger.counters())
    world.produce(event("b"))
    world.settle()
    ledger.late = before
    assert audit_offsets(world.ports).differences == ()


class LateHours(MemoryLedger):
    """A ledger that shows the hourly counters of a close one read later."""

    def __init__(self) -> None:
        super().__init__()
        self.late: Mapping[str, Mapping[str, int]] | None = None

    def hourly_counters(self, first: str, last: str) -> Mapping[str, Mapping[str, int]]:
        found, self.late = self.late, None
        return super().hourly_counters(first, last) if found is None else found


@pytest.mark.parametrize(
    "read",
    [
        lambda ports: audit_hour(HOUR, ports).findings,
        lambda ports: tuple(_compare_counts(hour_files(HOUR, ports), ports)),
        lambda ports: compute_hourly_stats(HOUR, ports, partial(duckdb_statistics, 128, 1)).stats.events - 2,
    ],
    ids=["audit", "check", "statistics"],
)
def test_a_close_that_the_hourly_counters_show_later_is_no_difference(read: Callable[[Ports], object]) -> None:
    ledger = LateHours()
    world = World(ledger=ledger)
    world.create()
    world.produce(event("a"))
    world.settle()
    before = dict(ledger.hourly_counters(HOUR, HOUR))
    world.produce(event("b"))
    world.settle()
    ledger.late = before
    assert not read(world.ports)
