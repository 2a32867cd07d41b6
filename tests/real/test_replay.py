"""A replay on real servers: what was deleted or altered comes back byte for byte, from Kafka or, after retention, from the stores."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from confluent_kafka import TopicPartition

from analytics_defs import wiring
from analytics_defs.adapters.memory import ManualClock
from analytics_defs.core.repair import ComparisonResult, HourRange, StoreKind
from analytics_defs.flows.hours.compaction import compact_hour
from analytics_defs.flows.repair import repair_range as replays
from tests.real import data, plain, world
from tests.real.picture import Picture, differences, picture
from tests.real.world import World

pytestmark = pytest.mark.real

ALL = HourRange("2024-01-15T00", "2024-01-17T00")
ARCHIVED = data.HOURS[1]


@pytest.fixture(scope="module")
def drained() -> Iterator[tuple[World, tuple[str, ...], Picture]]:
    """Everything that a batch may be made of, in several batches; one of the hours is compacted."""
    with plain.topics(2, 1) as topics:
        plain.produce(data.mixture(*topics))
        with world.new_world(topics, ManualClock(world.this_second()), batch_max_ranges=2) as found:
            found.settle()
            compact_hour(ARCHIVED, found.ports, wiring.workspace_factory(found.settings))
            found.assert_sound()
            yield found, topics, picture(found.settings)


def run(found: World, *, write: bool) -> replays.RepairResult:
    rules = wiring.ingest_options(found.settings, "repair").validation_rules
    return replays.repair_range(ALL, replays.RepairContext(found.ports, wiring.workspace_factory(found.settings), rules, write))


def spoiled(found: World, prefixes: tuple[str, ...], batch: str = "") -> set[str]:
    """Every other object below these prefixes gone, every other one altered; also each third item of every three, gone or altered."""
    changed = set[str]()
    keys = [key for key in plain.keys(found.bucket) if key.startswith(prefixes) and batch in key and "archive-" not in key]
    for number, key in enumerate(key for key in keys if not key.endswith("_SUCCESS.json")):
        if number % 2:
            plain.s3().delete_object(Bucket=found.bucket, Key=key)
        else:
            there = plain.get(found.bucket, key)
            body, kind, metadata = there.body[:-7], there.content_type, dict(there.metadata)
            plain.s3().put_object(Bucket=found.bucket, Key=key, Body=body, ContentType=kind, Metadata=metadata)
        changed.add(key)
    table = found.settings.recent_events_table_name
    for number, item in enumerate(sorted(plain.items(table), key=lambda item: str(item["id"]))):
        if number % 3 == 0:
            plain.dynamo().delete_item(TableName=table, Key={"id": item["id"]})
        elif number % 3 == 1:
            altered: dict[str, Any] = item | {"data": {"M": {"altered": {"BOOL": True}}}}
            plain.dynamo().put_item(TableName=table, Item=altered)
        changed |= {item["id"]["S"]} if number % 3 < 2 else set()
    return changed


def progress(found: World, topics: tuple[str, ...]) -> Any:
    """Heads, every item of ledger and aggregates, and the group's offsets."""
    tables = (found.settings.ledger_table_name, found.settings.aggregates_table_name)
    return [sorted(map(repr, plain.items(each))) for each in tables], plain.group_offsets(found.settings.kafka_group_id, topics)


def mended(found: World, topics: tuple[str, ...], expected: Picture, changed: set[str]) -> None:
    """The dry run names exactly what was changed, and changes nothing; the replay changes that; the next one nothing."""
    before, spoilt = progress(found, topics), picture(found.settings)
    looked = run(found, write=False)
    assert differences(picture(found.settings), spoilt) == []
    assert (looked.conflicts, looked.lost) == ([], [])
    assert {each.key for each in looked.changes} ^ changed == set()
    done = run(found, write=True)
    assert (done.changes, done.counts, done.lost) == (looked.changes, looked.counts, [])
    assert differences(picture(found.settings), expected) == []
    assert progress(found, topics) == before
    found.assert_sound()
    assert run(found, write=True).changed == 0


def test_from_kafka_everything_comes_back_after_a_dry_run_has_named_it(drained: tuple[World, tuple[str, ...], Picture]) -> None:
    found, topics, expected = drained
    mended(found, topics, expected, spoiled(found, ("events/", "parquet/", "dead-letters/", "duplicates/")))


def test_after_retention_took_the_range_parquet_and_json_mend_each_other(drained: tuple[World, tuple[str, ...], Picture]) -> None:
    found, topics, expected = drained
    ends = {each: mark.high_watermark for each, mark in found.ports.event_log.watermarks(found.partitions()).items()}
    low = [TopicPartition(each.topic, each.partition, high) for each, high in ends.items()]
    for future in plain.admin().delete_records(low).values():
        future.result(plain.PATIENCE_SECONDS)
    assert {each: mark.log_start_offset for each, mark in found.ports.event_log.watermarks(ends).items()} == ends
    mended(found, topics, expected, spoiled(found, ("events/",)))
    changed = spoiled(found, ("parquet/",))
    done = run(found, write=True)
    assert (done.conflicts, done.lost, {each.key for each in done.changes}) == ([], [], changed)
    parts = done.counts[StoreKind.PART, ComparisonResult.DIFFERENT], done.counts[StoreKind.PART, ComparisonResult.MISSING]
    assert parts == (2, 2)
    found.assert_sound()
