"""Every kind of stored thing, removed, altered, of another type and added: something names it. The kinds are those of the layouts."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from types import ModuleType
from typing import Any

import pytest

from analytics_defs.adapters.dynamodb import ledger_keys, recent_events
from analytics_defs.adapters.dynamodb.attribute_values import ITEM_SCHEMA, Item
from analytics_defs.adapters.dynamodb.ledger import DynamoLedger
from analytics_defs.adapters.memory.parquet_workspace import memory_workspace
from analytics_defs.core.counter_adjustments import CounterItem
from analytics_defs.core.events.event import ValidationRules
from analytics_defs.core.hours.retention import DeadLetterExpiry
from analytics_defs.core.ledger import Lease
from analytics_defs.core.offsets import Range, Source
from analytics_defs.core.repair import HourRange
from analytics_defs.core.storage import object_keys
from analytics_defs.errors import AnalyticsError
from analytics_defs.flows.audit.balance import audit_offsets
from analytics_defs.flows.audit.counters import apply_adjustments, compare_counters
from analytics_defs.flows.audit.hour import audit_hour
from analytics_defs.flows.audit.hour_bytes import compare_bytes
from analytics_defs.flows.audit.ledger_chain import audit_chain
from analytics_defs.flows.hours.compaction import compact_hour
from analytics_defs.flows.hours.restore import restore_hour
from analytics_defs.flows.redrive import DeadLetterFilter, redrive_dead_letters
from analytics_defs.flows.repair.repair_range import RepairContext, repair_range
from analytics_defs.flows.setup.platform_identity import register_stores, verify_stores
from analytics_defs.flows.trace.trace import trace_record
from tests.contracts.dynamodb_fixtures import moto_dynamo
from tests.flows.audit.test_counters_in_dynamodb import corrupt
from tests.flows.hours.test_statistics import BENCH
from tests.proof.world import HOUR, RULES, World, event, ingest_options

BATCH_HOUR = "2024-01-15T12"
ALL = HourRange(HOUR, "2024-01-15T13")
DAMAGES = ("removed", "altered", "added")


@dataclass
class Platform:
    """A balanced platform: items in moto, objects in memory."""

    world: World
    dynamo: Any
    tables: dict[str, str]
    first: str = ""
    """The batch in the archive."""
    last: str = ""
    """The batch in a part, with the duplicates."""


@pytest.fixture(scope="module")
def platform() -> Iterator[Platform]:
    with moto_dynamo() as stores:
        world_class: Any = World
        world = world_class(
            recent_events=recent_events.DynamoRecentEvents(stores.dynamo, stores.recent_events),
            ledger=DynamoLedger(stores.dynamo, stores.ledger),
        )
        tables = {"ledger": stores.ledger.ledger, "aggregates": stores.ledger.aggregates, "recent": stores.recent_events}
        platform = Platform(world, stores.dynamo, tables)
        _fill(platform)
        assert reports(platform) == ""
        yield platform


def _fill(platform: Platform) -> None:
    world = platform.world
    world.create()
    world.produce(event("a"), event("large", padding="." * 400), b"broken")
    world.settle(ingest_options(validation_rules=ValidationRules(max_event_bytes=300)))
    (platform.first,) = world.ledger.batches_of_hour(HOUR)
    compact_hour(HOUR, world.ports, memory_workspace)
    redrive_dead_letters(DeadLetterFilter(), world.ports, ingest_options("redrive"))
    world.produce(event("c"), event("a", payload="again"), None)
    world.settle()
    platform.last = world.ledger.last_batches(1)[0].batch.id
    world.ledger.renew_lease(Lease("run", 0, world.clock.now()))
    world.ledger.record_dead_letter_expiry(DeadLetterExpiry(world.clock.now().replace(year=2023), world.clock.now()))
    for change in (3, -3):  # a wrong counter, its adjustment, and the adjustment back
        corrupt(world.ledger, CounterItem(0), change)  # type: ignore[arg-type]
        apply_adjustments(compare_counters(world.ports, memory_workspace, lambda *_: None), world.ports)
    register_stores("run", replace(world.ports, table_names=("recent", "aggregates")))
    world.clock.advance(timedelta(hours=1))


def reports(platform: Platform) -> str:
    """Return what every reading command names. Any other exception than ours fails the test: it would be a traceback."""
    ports = replace(platform.world.ports, table_names=("recent", "aggregates"))
    dry_run = RepairContext(ports, BENCH, RULES, dry_run=True)
    readings: tuple[Callable[[], object], ...] = (
        lambda: [*(audit := audit_offsets(ports)).differences, *audit.unreadable],
        lambda: audit_chain(ports).findings,
        *(lambda hour=hour: audit_hour(hour, ports).findings for hour in (HOUR, BATCH_HOUR)),
        lambda: compare_bytes(HOUR, ports, BENCH).findings,
        lambda: [*(compared := compare_counters(ports, memory_workspace, lambda *_: None)).counters, *compared.archive],
        lambda: [*platform.world.plan().halted.values()],
        lambda: [*(found := repair_range(ALL, dry_run)).conflicts, *found.lost, *found.changes],
        lambda: [trace_record(name, ports) for name in ("a", "ProductDeleted/0/0")][2:],
        lambda: [verify_stores(ports)][1:],
    )
    return "\n".join(line for reading in readings for line in _lines(reading))


def _lines(reading: Callable[[], Any]) -> list[str]:
    try:
        return [str(line) for line in reading() or ()]
    except AnalyticsError as error:
        return [str(error)]


# Items of the ledger, by the function of the layout that makes their key.


@dataclass(frozen=True)
class Kind:
    """A kind of item: the key of one item, the attribute to alter, and what names each damage."""

    key: Callable[[Platform], Item]
    altered: str
    removed_is: str
    altered_is: str
    added: Callable[[Platform], Item] | None = None
    """The key of a foreign item of this kind."""
    added_is: str = ""
    table: str = "ledger"


def _partition(platform: Platform) -> Any:
    return platform.world.partition(0)


def _redriven(platform: Platform) -> Item:
    return ledger_keys.redriven_key(platform.world.source(1))


UNNOTICED = "the text of this constant is in no report"
"""Expected where nothing reads the item to decide anything. The reason stands beside it."""
ITEM_KINDS = {
    "topic_state_key": Kind(
        lambda _: ledger_keys.topic_state_key("ProductDeleted"),
        "topic_id",  # another incarnation is a new topic: its records are duplicates then
        "topic#ProductDeleted: expected",
        "was deleted and created again",
        lambda _: ledger_keys.topic_state_key("Foreign"),
        UNNOTICED,  # a topic that is not configured is never read
    ),
    "checkpoint_key": Kind(
        lambda platform: ledger_keys.checkpoint_key(_partition(platform)),
        "next",
        "checkpoint#ProductDeleted/0: expected first 0, next 6",
        "checkpoint#ProductDeleted/0: expected",
        lambda _: ledger_keys.checkpoint_key(World().partition(7)),
        "no batch record does",
    ),
    "pending_key": Kind(
        lambda _: ledger_keys.pending_key("none"),
        "lane",
        UNNOTICED,
        UNNOTICED,  # removed and altered: tests of the pending batch
        lambda platform: ledger_keys.pending_key(platform.last[:-12] + "0" * 12),
        "expected checkpoint#ProductDeleted/0 to name it",
    ),
    "lease_key": Kind(
        lambda _: ledger_keys.lease_key("run"),
        "lane",
        UNNOTICED,
        UNNOTICED,  # safety never depends on a lease; its run writes it again
        lambda _: ledger_keys.lease_key("foreign"),
        UNNOTICED,
    ),
    "platform_id_key": Kind(lambda _: ledger_keys.platform_id_key(), "bucket_id", "platform/id", "platform/id"),
    "record_key": Kind(
        lambda platform: ledger_keys.record_key(platform.first),
        "hours",
        "no record",
        "in its record",
        lambda platform: ledger_keys.record_key(platform.first[:-12] + "0" * 12),
        "hold 9 offsets of [0, 6)",
    ),
    "range_key": Kind(
        lambda platform: ledger_keys.range_key(Range(_partition(platform), 0, 3)),
        "start",
        "range#ProductDeleted/0: the entry of batch",
        "range#ProductDeleted/0: the entry of batch",
        lambda platform: ledger_keys.range_key(Range(_partition(platform), 6, 9)),
        "has no such entry by its record",
    ),
    "hour_key": Kind(
        lambda platform: ledger_keys.hour_key(HOUR, platform.first),
        "",
        f"hour#{HOUR}: the entry of batch",
        "",
        lambda _: ledger_keys.hour_key(HOUR, "20240115T120000000Z-000000000000"),
        "has no batch record",
    ),
    "redriven_key": Kind(
        _redriven,
        "batch",
        "redriven#ProductDeleted/0 00000000000000000001",
        "redriven#ProductDeleted/0 00000000000000000001",
        lambda _: ledger_keys.redriven_key(Source(World().partition(0), 2)),
        UNNOTICED,  # it stops one dead letter's redrive, and nothing else
    ),
    "revision_key": Kind(
        lambda _: ledger_keys.revision_key(HOUR, 1),
        "rows",
        "expected no manifest",
        "expected the manifest of revision 1",
        lambda _: ledger_keys.revision_key(HOUR, 2),
        "expected the manifest of revision 2",
    ),
    "dead_letter_expiry_key": Kind(
        lambda _: ledger_keys.dead_letter_expiry_key(),
        "expired_through",
        UNNOTICED,
        UNNOTICED,  # it explains files that are missing
    ),
    "totals_key": Kind(
        lambda _: ledger_keys.totals_key(0),
        "events",
        "events: ",
        "events: ",
        lambda _: ledger_keys.totals_key(5),
        "in the counters",
        table="aggregates",
    ),
    "hourly_key": Kind(
        lambda _: ledger_keys.hourly_key(HOUR, 0),
        "events",
        "events in the counters",
        "events in the counters",
        lambda _: ledger_keys.hourly_key(HOUR, 5),
        "events in the counters",
        table="aggregates",
    ),
    "adjustment_key": Kind(
        lambda _: ledger_keys.adjustment_key(CounterItem(0), 1),
        "counts",
        "events",
        "events",
        lambda _: ledger_keys.adjustment_key(CounterItem(0), 3),
        "events",
        table="aggregates",
    ),
}
COMPOSED = {"item_key", "counter_key"}
"""Functions of the layout that make keys of several kinds."""


def functions_returning(layout: ModuleType, kind: str) -> set[str]:
    """Return the names of the layout's functions that make a key of this type."""
    functions = {name: function for name, function in vars(layout).items() if inspect.isfunction(function) and name.endswith("_key")}
    return {name for name, function in functions.items() if inspect.signature(function).return_annotation == kind}


def test_the_table_has_every_kind_of_ledger_item() -> None:
    assert ITEM_KINDS.keys() == functions_returning(ledger_keys, "Item") - COMPOSED


def read_item(platform: Platform, table: str, key: Item) -> Item | None:
    item: Item | None = platform.dynamo.get(platform.tables[table], key)
    return item


def write(platform: Platform, table: str, key: Item, item: Item | None) -> None:
    if item is None:
        platform.dynamo.delete(platform.tables[table], key)
    else:
        platform.dynamo.put(platform.tables[table], item)


def altered(value: dict[str, Any]) -> dict[str, Any]:
    ((kind, content),) = value.items()
    match kind:
        case "N":
            return {"N": str(int(content) + 1)}
        case "S":
            return {"S": f"2023{content[4:]}"} if content[:2] == "20" else {"S": f"{content}x"}
        case "M":
            return {"M": {name: altered(field) for name, field in content.items()}}
        case _:
            return value


def damaged(platform: Platform, kind: Kind, damage: str) -> tuple[Item, Item | None]:
    """Return the key and the item to write, None for a removed item."""
    key = kind.key(platform)
    item = read_item(platform, kind.table, key)
    if damage == "added":
        assert kind.added is not None
        return kind.added(platform), (item or read_item(platform, "ledger", ledger_keys.record_key(platform.last)) or {}) | kind.added(
            platform
        )
    if damage == "removed" or item is None:
        return key, None
    return key, item | {kind.altered: altered(item[kind.altered])}


ITEM_CASES = [
    (name, damage)
    for name, kind in ITEM_KINDS.items()
    for damage in DAMAGES
    if not (damage == "altered" and not kind.altered) and not (damage == "added" and kind.added is None)
]


@pytest.mark.parametrize(("name", "damage"), ITEM_CASES)
def test_a_damaged_item_of_the_ledger_is_named(platform: Platform, name: str, damage: str) -> None:
    kind = ITEM_KINDS[name]
    expected = {"removed": kind.removed_is, "altered": kind.altered_is, "added": kind.added_is}[damage]
    key, item = damaged(platform, kind, damage)
    before = read_item(platform, kind.table, key)
    write(platform, kind.table, key, item)
    try:
        found = reports(platform)
    finally:
        write(platform, kind.table, key, before)
    assert (found == "") if expected == UNNOTICED else (expected in found), found


@pytest.mark.parametrize("name", [name for name, kind in ITEM_KINDS.items() if kind.altered and name not in ("pending_key", "lease_key")])
def test_an_item_with_an_attribute_of_another_type_is_named(platform: Platform, name: str) -> None:
    kind = ITEM_KINDS[name]
    key = kind.key(platform)
    before = read_item(platform, kind.table, key)
    assert before is not None
    for attribute in before.keys() - key.keys():
        other = {"B": b"x"} if "S" in before[attribute] else {"S": "x"}
        write(platform, kind.table, key, before | {attribute: other})
        try:
            found = reports(platform)
        finally:
            write(platform, kind.table, key, before)
        assert found, attribute


# Items of RecentEvents, by the attributes of their schema.

ATTRIBUTES = [name for name, _, _ in ITEM_SCHEMA if name != "id"]
OTHER_TYPES = {"string": {"N": "1"}, "map": {"S": "{}"}, "number": {"S": "1"}}


def item_of(platform: Platform, event_id: str) -> Item:
    item = read_item(platform, "recent", {"id": {"S": event_id}})
    assert item is not None
    return item


def damaged_attribute(item: Item, name: str, damage: str) -> Item:
    if damage == "removed":
        return {other: value for other, value in item.items() if other != name}
    kind = next(kind for attribute, kind, _ in ITEM_SCHEMA if attribute == name)
    if damage == "of another type":
        return item | {name: OTHER_TYPES[kind]}
    return item | {name: {"S": "ProductDeleted/0/4"} if name == "source" else altered(item[name])}


@pytest.mark.parametrize("damage", ["removed", "altered", "of another type"])
@pytest.mark.parametrize("name", ATTRIBUTES)
@pytest.mark.parametrize("event_id", ["a", "c"], ids=["in the archive", "in a part"])
def test_a_damaged_attribute_is_named_and_repaired_or_its_remedy_is_named(
    platform: Platform, event_id: str, name: str, damage: str
) -> None:
    before = item_of(platform, event_id)
    write(platform, "recent", {}, damaged_attribute(before, name, damage))
    context = RepairContext(platform.world.ports, BENCH, RULES)
    try:
        found = reports(platform)
        assert event_id in found
        restore_or_error(platform)
        repaired = repair_range(ALL, context)
        if repaired.conflicts or repaired.lost:
            assert name == "source"
            assert any("Remove the item" in line or "remove the item" in line for line in (*repaired.conflicts, *repaired.lost))
            platform.dynamo.delete(platform.tables["recent"], {"id": {"S": event_id}})
            repaired = repair_range(ALL, context)
            assert [*repaired.conflicts, *repaired.lost] == []
        assert item_of(platform, event_id) == before
    finally:
        write(platform, "recent", {}, before)
    assert reports(platform) == ""


def restore_or_error(platform: Platform) -> None:
    """Restore the hour. A damaged item may be named by an error, and is never a traceback."""
    with suppress(AnalyticsError):
        restore_hour(HOUR, platform.world.ports, BENCH)


def test_a_removed_item_is_named_and_restored(platform: Platform) -> None:
    before = item_of(platform, "a")
    platform.dynamo.delete(platform.tables["recent"], {"id": {"S": "a"}})
    assert "not held by RecentEvents under their source, for example a" in reports(platform)
    restore_hour(HOUR, platform.world.ports, BENCH)
    assert item_of(platform, "a") == before


# Objects, by the function of the layout that makes their key.


@dataclass(frozen=True)
class ObjectKind:
    """A kind of object: the key of one object, what names each damage, and the key of a foreign object of this kind."""

    key: Callable[[Platform], str] | None
    removed_is: str = UNNOTICED
    altered_is: str = UNNOTICED
    added: str = ""
    added_is: str = UNNOTICED


FOREIGN_BATCH = "20240115T120000000Z-000000000000"
OBJECT_KINDS = {
    "event_key": ObjectKind(
        lambda _: object_keys.event_key(HOUR, "a"),
        "without JSON object, for example a",
        "with other bytes than Parquet, for example a",
        object_keys.event_key(HOUR, "foreign"),
        "JSON objects without row, for example foreign",
    ),
    "reused_id_event_key": ObjectKind(  # only an id that is reused after 29 days has one
        None, added=object_keys.reused_id_event_key(HOUR, "a", Source(World().partition(0), 0)), added_is="JSON objects without row"
    ),
    "part_key": ObjectKind(
        lambda platform: object_keys.part_key(HOUR, platform.last),
        "0 rows in parquet/",
        "is not a Parquet file",
        object_keys.part_key(HOUR, FOREIGN_BATCH),
        "names this file. Remove it",
    ),
    "archive_key": ObjectKind(
        lambda platform: platform.world.ledger.latest_revision(HOUR).keys[0],  # type: ignore[union-attr]
        "0 rows in parquet/",
        "is not a Parquet file",
        object_keys.archive_key(HOUR, 9, ["foreign"]),
        "names this file. Remove it",
    ),
    "manifest_key": ObjectKind(
        lambda _: object_keys.manifest_key(HOUR),
        "expected the manifest of revision 1, found none",
        "expected the manifest of revision 1, found other bytes",
        object_keys.manifest_key(BATCH_HOUR),
        "expected no manifest. Remove it",
    ),
    "dead_letters_key": ObjectKind(
        lambda platform: object_keys.dead_letters_key(platform.first),
        "0 dead letters in",
        "dead letters in",
        object_keys.dead_letters_key(FOREIGN_BATCH),
        "names this file. Remove it",
    ),
    "duplicates_key": ObjectKind(
        lambda platform: object_keys.duplicates_key(platform.last),
        "0 duplicates in",
        "duplicates in",
        object_keys.duplicates_key(FOREIGN_BATCH),
        "names this file. Remove it",
    ),
    "staging_key": ObjectKind(None, added=object_keys.staging_key(FOREIGN_BATCH)),  # no reader lists it; a pending batch names its file
    "aggregate_key": ObjectKind(None, added=object_keys.aggregate_key("hourly", HOUR)),  # derived: materialize the statistics again
    "tar_probe_key": ObjectKind(None, added=object_keys.tar_probe_key("foreign")),  # nothing reads it
}


def test_the_table_has_every_kind_of_object() -> None:
    assert OBJECT_KINDS.keys() == functions_returning(object_keys, "str")


OBJECT_CASES = [
    (name, damage)
    for name, kind in OBJECT_KINDS.items()
    for damage in DAMAGES
    if (kind.added if damage == "added" else kind.key is not None)
]


@pytest.mark.parametrize(("name", "damage"), OBJECT_CASES)
def test_a_damaged_object_is_named(platform: Platform, name: str, damage: str) -> None:
    kind, objects = OBJECT_KINDS[name], platform.world.object_store.objects
    before, key = dict(objects), kind.added if damage == "added" else (kind.key or str)(platform)
    expected = {"removed": kind.removed_is, "altered": kind.altered_is, "added": kind.added_is}[damage]
    if damage == "removed":
        del objects[key]
    else:
        copied = objects.get(key) or next(iter(objects.values()))
        objects[key] = replace(copied, key=key, body=b"garbage" if damage == "altered" else copied.body)
    try:
        found = reports(platform)
    finally:
        objects.clear()
        objects.update(before)
    assert (found == "") if expected == UNNOTICED else (expected in found), found


@pytest.mark.parametrize("damage", ["removed", "altered"])
def test_a_damaged_platform_id_of_the_bucket_is_named(platform: Platform, damage: str) -> None:
    objects, key = platform.world.object_store.objects, object_keys.PLATFORM_ID_KEY
    before = objects[key]
    if damage == "removed":
        del objects[key]
    else:
        objects[key] = replace(before, body=b"garbage")
    try:
        assert "platform/id" in reports(platform)
    finally:
        objects[key] = before


def test_a_manifest_of_lies_is_named_and_written_again(platform: Platform) -> None:
    objects, key = platform.world.object_store.objects, object_keys.manifest_key(HOUR)
    before = objects[key]
    objects[key] = replace(before, body=before.body.replace(b'"rows": 1', b'"rows": 7'))
    assert objects[key] != before
    found = reports(platform)
    repair_range(ALL, RepairContext(platform.world.ports, BENCH, RULES))
    assert "found other bytes. `analytics repair`" in found
    assert objects[key].body == before.body
