"""Repair on real servers. Deleted and altered data is restored byte for byte, from Kafka or, after its retention, from other stores."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from confluent_kafka import TopicPartition

from analytics_defs import wiring
from analytics_defs.adapters.memory import ManualClock
from analytics_defs.core.repair import ComparisonResult, HourRange, StoredKind
from analytics_defs.flows.hours.compaction import compact_hour
from analytics_defs.flows.repair import repair_range as repair
from tests.real import data, raw_clients, world
from tests.real.store_snapshot import StoreSnapshot, differences, read_snapshot
from tests.real.world import World

pytestmark = pytest.mark.real

ALL = HourRange("2024-01-15T00", "2024-01-17T00")
COMPACTED_HOUR = data.HOURS[1]


@pytest.fixture(scope="module")
def ingested() -> Iterator[tuple[World, tuple[str, ...], StoreSnapshot]]:
    """Yield a platform with several batches of every kind of record and one compacted hour, its topics, and its stores."""
    with raw_clients.topics(2, 1) as topics:
        raw_clients.produce(data.mixture(*topics))
        with world.new_world(topics, ManualClock(world.this_second()), batch_max_ranges=2) as platform:
            platform.settle()
            compact_hour(COMPACTED_HOUR, platform.ports, wiring.statistics_engine_factory(platform.settings))
            platform.assert_consistent()
            yield platform, topics, read_snapshot(platform.settings)


def run(platform: World, *, dry_run: bool) -> repair.RepairResult:
    rules = wiring.ingest_options(platform.settings, "repair").validation_rules
    return repair.repair_range(
        ALL, repair.RepairContext(platform.ports, wiring.statistics_engine_factory(platform.settings), rules, dry_run)
    )


def damage(platform: World, prefixes: tuple[str, ...]) -> set[str]:
    """Delete and alter objects below the prefixes by turns. Of each three items delete one and alter one. Return keys and ids."""
    changed = set[str]()
    keys = [key for key in raw_clients.keys(platform.bucket) if key.startswith(prefixes) and "archive-" not in key]
    for number, key in enumerate(key for key in keys if not key.endswith("_SUCCESS.json")):
        if number % 2:
            raw_clients.s3().delete_object(Bucket=platform.bucket, Key=key)
        else:
            stored = raw_clients.get(platform.bucket, key)
            body, content_type, metadata = stored.body[:-7], stored.content_type, dict(stored.metadata)
            raw_clients.s3().put_object(Bucket=platform.bucket, Key=key, Body=body, ContentType=content_type, Metadata=metadata)
        changed.add(key)
    table = platform.settings.recent_events_table_name
    for number, item in enumerate(sorted(raw_clients.items(table), key=lambda item: str(item["id"]))):
        if number % 3 == 0:
            raw_clients.dynamo().delete_item(TableName=table, Key={"id": item["id"]})
        elif number % 3 == 1:
            altered: dict[str, Any] = item | {"data": {"M": {"altered": {"BOOL": True}}}}
            raw_clients.dynamo().put_item(TableName=table, Item=altered)
        changed |= {item["id"]["S"]} if number % 3 < 2 else set()
    return changed


def ledger_and_offsets(platform: World, topics: tuple[str, ...]) -> Any:
    """Return every item of ledger and aggregates, and the offsets of the group."""
    tables = (platform.settings.ledger_table_name, platform.settings.aggregates_table_name)
    items = [sorted(map(repr, raw_clients.items(table))) for table in tables]
    return items, raw_clients.group_offsets(platform.settings.kafka_group_id, topics)


def assert_repaired(platform: World, topics: tuple[str, ...], expected: StoreSnapshot, damaged: set[str]) -> None:
    """Fail unless a dry run names exactly the damage, a repair corrects it, and a second repair changes nothing."""
    before, damaged_stores = ledger_and_offsets(platform, topics), read_snapshot(platform.settings)
    dry_run = run(platform, dry_run=True)
    assert differences(read_snapshot(platform.settings), damaged_stores) == []
    assert (dry_run.conflicts, dry_run.lost) == ([], [])
    assert {change.key for change in dry_run.changes} ^ damaged == set()
    result = run(platform, dry_run=False)
    assert (result.changes, result.counts, result.lost) == (dry_run.changes, dry_run.counts, [])
    assert differences(read_snapshot(platform.settings), expected) == []
    assert ledger_and_offsets(platform, topics) == before
    platform.assert_consistent()
    assert run(platform, dry_run=False).changed == 0


def test_damage_is_named_by_a_dry_run_and_repaired_from_kafka(ingested: tuple[World, tuple[str, ...], StoreSnapshot]) -> None:
    platform, topics, expected = ingested
    assert_repaired(platform, topics, expected, damage(platform, ("events/", "parquet/", "dead-letters/", "duplicates/")))


def test_parquet_and_json_repair_each_other_after_kafka_retention(ingested: tuple[World, tuple[str, ...], StoreSnapshot]) -> None:
    platform, topics, expected = ingested
    event_log = platform.ports.event_log
    ends = {partition: marks.high_watermark for partition, marks in event_log.watermarks(platform.partitions()).items()}
    new_starts = [TopicPartition(partition.topic, partition.partition, end) for partition, end in ends.items()]
    for future in raw_clients.admin().delete_records(new_starts).values():
        future.result(raw_clients.TIMEOUT_SECONDS)
    assert {partition: marks.log_start_offset for partition, marks in event_log.watermarks(ends).items()} == ends
    assert_repaired(platform, topics, expected, damage(platform, ("events/",)))
    damaged = damage(platform, ("parquet/",))
    result = run(platform, dry_run=False)
    assert (result.conflicts, result.lost, {change.key for change in result.changes}) == ([], [], damaged)
    parts = result.counts[StoredKind.PART, ComparisonResult.DIFFERENT], result.counts[StoredKind.PART, ComparisonResult.MISSING]
    assert parts == (2, 2)
    platform.assert_consistent()
