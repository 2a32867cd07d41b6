"""Tests of what begin and close change, and that it fits DynamoDB's transactions."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import pytest

from analytics_defs.adapters.dynamodb.attribute_values import MAX_TRANSACT_ACTIONS
from analytics_defs.adapters.dynamodb.ledger_transactions import (
    Action,
    LedgerTables,
    begin_batch_actions,
    close_batch_actions,
    max_close_actions,
)
from analytics_defs.core.ingest.batch_builder import MAX_HOURS_PER_BATCH, MAX_RANGES_PER_BATCH
from analytics_defs.core.ledger import REDRIVE_CHECKPOINT, Batch, BatchKind, BatchRecord, OutcomeCounts, RedrivenRecord
from analytics_defs.core.offsets import Range, Source, TopicPartition
from analytics_defs.core.storage.object_keys import batch_id
from analytics_defs.errors import AnalyticsError

TIME = datetime(2024, 1, 15, 12, tzinfo=UTC)
TABLES = LedgerTables("ledger", "aggregates")


def partition(number: int) -> TopicPartition:
    return TopicPartition("ProductDeleted", 0, number)


def batch(ranges: Iterable[Range], kind: BatchKind = BatchKind.INGEST, **fields: Any) -> Batch:
    batch_ranges = tuple(ranges)
    return Batch(batch_id(TIME, batch_ranges), kind, 0, TIME, batch_ranges, "run", **fields)


def ingest_record(ranges: int, hours: int, **fields: Any) -> BatchRecord:
    begun = batch(Range(partition(number), 0, hours) for number in range(ranges))
    hourly_types = {f"2024-01-{1 + number // 24:02d}T{number % 24:02d}": {"ProductDeleted": ranges} for number in range(hours)}
    return BatchRecord(begun, TIME, (OutcomeCounts(stored=hours),) * ranges, {"ProductDeleted": ranges * hours}, hourly_types, {}, **fields)


def redrive_record(sources: Iterable[Source], hours: int = 1) -> BatchRecord:
    redriven_sources = tuple(sources)
    begun = batch([Range(REDRIVE_CHECKPOINT, 0, 1)], BatchKind.REDRIVE, redriven_sources=redriven_sources)
    by_hour = {f"2024-01-15T{number:02d}": {"ProductDeleted": 1} for number in range(hours)}
    redriven = tuple(RedrivenRecord(source, "schema", "stored") for source in redriven_sources)
    return BatchRecord(
        begun,
        TIME,
        (OutcomeCounts(stored=len(redriven_sources)),),
        {"ProductDeleted": len(redriven_sources)},
        by_hour,
        {},
        redriven=redriven,
    )


def key_of(action: Action) -> tuple[str, str, str]:
    ((_, params),) = action.items()
    key = params.get("Key") or params["Item"]
    return params["TableName"], key["pk"]["S"], key["sk"]["S"]


def test_a_batch_at_the_limits_fits_one_transaction() -> None:
    record = ingest_record(MAX_RANGES_PER_BATCH, MAX_HOURS_PER_BATCH)
    assert len(close_batch_actions(record, TABLES)) <= MAX_TRANSACT_ACTIONS
    assert len(begin_batch_actions(record.batch, TABLES)) == MAX_RANGES_PER_BATCH + 1


@pytest.mark.parametrize(("ranges", "hours"), [(1, 47), (47, 1)])
def test_a_batch_may_have_more_hours_if_it_has_fewer_ranges(ranges: int, hours: int) -> None:
    assert len(close_batch_actions(ingest_record(ranges, hours), TABLES)) <= MAX_TRANSACT_ACTIONS


def test_no_two_actions_of_a_transaction_write_the_same_item() -> None:
    for record in (ingest_record(24, 24), redrive_record([Source(partition(number % 3), number) for number in range(30)], 12)):
        for actions in (begin_batch_actions(record.batch, TABLES), close_batch_actions(record, TABLES)):
            touched = list(map(key_of, actions))
            assert len(set(touched)) == len(touched)


def conditions(actions: list[Action]) -> list[tuple[str, str | None]]:
    operations = [(operation, params, key_of(action)[1]) for action in actions for operation, params in action.items()]
    return [(f"{operation} {pk.partition('#')[0]}", params.get("ConditionExpression")) for operation, params, pk in operations]


def test_every_action_that_must_happen_once_has_a_condition() -> None:
    record = redrive_record([Source(partition(0), 7)])
    assert conditions(begin_batch_actions(record.batch, TABLES)) == [
        ("Update progress", "#next = :start AND attribute_not_exists(#batch)"),
        ("Put progress", "attribute_not_exists(pk)"),
    ]
    new = [range_.topic_partition for range_ in record.batch.ranges]
    assert conditions(begin_batch_actions(record.batch, TABLES, new))[0] == ("Update progress", "attribute_not_exists(pk)")
    assert conditions(close_batch_actions(record, TABLES)) == [
        ("Update progress", "#batch = :batch"),
        ("Update progress", "attribute_exists(pk)"),
        ("Put range", "attribute_not_exists(pk)"),
        ("Put batches", "attribute_not_exists(pk)"),
        ("Delete progress", "attribute_exists(pk)"),
        ("Update totals", None),
        ("Update hours", None),
        ("Put hour", None),
        ("Put redriven", "attribute_not_exists(pk)"),
    ]


def test_each_lane_has_its_own_counter_items() -> None:
    touched = [key_of(action)[1:] for action in close_batch_actions(ingest_record(1, 1), TABLES) if key_of(action)[0] == "aggregates"]
    assert touched == [("totals", "lane#0"), ("hours", "2024-01-01T00#0")]


def test_twenty_redriven_records_of_distinct_partitions_fit() -> None:
    sources = [Source(partition(number), number) for number in range(20)]
    assert len(close_batch_actions(redrive_record(sources, 20), TABLES)) <= MAX_TRANSACT_ACTIONS


@pytest.mark.parametrize(
    "record",
    [
        ingest_record(24, 24),
        ingest_record(1, 0),
        redrive_record([Source(partition(number), number) for number in range(20)], 20),
        redrive_record([Source(partition(number % 3), number) for number in range(9)], 2),
    ],
)
def test_the_number_of_close_actions_is_known_before_the_close(record: BatchRecord) -> None:
    assert max_close_actions(record.batch, len(record.hours)) == len(close_batch_actions(record, TABLES))


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (ingest_record(30, 24), "111 actions, expected at most 100"),
        (redrive_record(Source(partition(0), number) for number in range(95)), "103 actions, expected at most 100"),
        (ingest_record(1, 1, steps_ms={"x" * 500_000: 1}), "bytes in one item, expected at most 409600"),
    ],
    ids=["too many ranges", "too many redriven", "too large an item"],
)
def test_a_close_that_does_not_fit_raises_with_a_remedy(record: BatchRecord, message: str) -> None:
    with pytest.raises(AnalyticsError, match=message) as raised:
        close_batch_actions(record, TABLES)
    assert not raised.value.retryable
    assert record.batch.id in str(raised.value)
    assert "Smaller batches fit" in str(raised.value)
