"""The ledger's port over each store that implements it, and small batches to write into it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from analytics_defs.adapters.dynamodb import ledger_items, ledger_keys
from analytics_defs.adapters.dynamodb.ledger import DynamoLedger
from analytics_defs.adapters.memory import MemoryLedger
from analytics_defs.core.ledger import (
    REDRIVE_CHECKPOINT,
    REDRIVE_LANE,
    Batch,
    BatchKind,
    BatchRecord,
    Checkpoint,
    OutcomeCounts,
    RedrivenRecord,
)
from analytics_defs.core.offsets import Range, Source, TopicPartition
from analytics_defs.core.storage.object_keys import batch_id
from analytics_defs.ports import Ledger
from tests.contracts.dynamodb_fixtures import DynamoUnderTest, moto_dynamo, real_dynamo

TIME = datetime(2024, 1, 15, 12, tzinfo=UTC)
HOUR = "2024-01-15T10"
ONE, TWO = (TopicPartition("ProductDeleted", 0, number) for number in (1, 2))


@contextmanager
def memory_ledger() -> Iterator[Ledger]:
    yield MemoryLedger()


@contextmanager
def moto_ledger() -> Iterator[Ledger]:
    with moto_dynamo() as under_test:
        yield DynamoLedger(under_test.dynamo, under_test.ledger)
        require_expected_attributes(under_test)


@contextmanager
def real_ledger() -> Iterator[Ledger]:
    with real_dynamo() as under_test:
        yield DynamoLedger(under_test.dynamo, under_test.ledger)


def require_expected_attributes(under_test: DynamoUnderTest) -> None:
    """Fail if an item has an attribute or a type that the check of indexes does not know."""
    for table in under_test.tables:
        for item in under_test.dynamo.call("scan", [table.name], TableName=table.name)["Items"]:
            for name, value in item.items():
                assert next(iter(value)) in table.attributes.get(name, "").split(", "), f"{table.name}: {item}"


LEDGERS: dict[str, Callable[[], AbstractContextManager[Ledger]]] = {"memory": memory_ledger, "moto": moto_ledger, "real": real_ledger}


def delete_checkpoint(ledger: Ledger, topic_partition: TopicPartition) -> None:
    """Delete the checkpoint behind the ledger's back, as an operator could."""
    match ledger:
        case MemoryLedger():
            del ledger._checkpoints[topic_partition]
        case DynamoLedger():
            ledger._dynamo.delete(ledger._tables.ledger, ledger_keys.checkpoint_key(topic_partition))


def set_checkpoint_back(ledger: Ledger, topic_partition: TopicPartition) -> None:
    """Set the checkpoint back to its first offset, as the restore of an old backup would."""
    match ledger:
        case MemoryLedger():
            ledger._checkpoints[topic_partition] = Checkpoint(topic_partition, 0, 0)
        case DynamoLedger():
            fields = {"first": 0, "next": 0}
            ledger._dynamo.put(ledger._tables.ledger, ledger_items.to_item(ledger_keys.checkpoint_key(topic_partition), fields))


def remove_entries(ledger: Ledger, record: BatchRecord) -> None:
    """Delete the entries of the record's first range and first hour, and those of its redriven records."""
    range_, hour = record.batch.ranges[0], next(iter(record.hours))
    match ledger:
        case MemoryLedger():
            ledger._ranges[range_.topic_partition].clear()
            ledger._hours[hour].remove(record.batch.id)
            ledger._redriven.clear()
        case DynamoLedger():
            redriven = [ledger_keys.redriven_key(redriven.source) for redriven in record.redriven]
            for key in (ledger_keys.range_key(range_), ledger_keys.hour_key(hour, record.batch.id), *redriven):
                ledger._dynamo.delete(ledger._tables.ledger, key)


def batch(*ranges: Range, minute: float = 0, run_id: str = "run-1", lane: int = 0) -> Batch:
    time = TIME + timedelta(minutes=minute)
    return Batch(batch_id(time, ranges), BatchKind.INGEST, lane, time, ranges, run_id)


def redrive(number: int, *sources: Source, minute: float = 0) -> Batch:
    time, ranges = TIME + timedelta(minutes=minute), (Range(REDRIVE_CHECKPOINT, number, number + 1),)
    begun = Batch(batch_id(time, ranges), BatchKind.REDRIVE, REDRIVE_LANE, time, ranges, "run-redrive")
    return replace(begun, redriven_sources=sources, redrive_keys=("dead-letters/x.ndjson",), redrive_reasons=("schema",) * len(sources))


def all_stored(begun: Batch, hour: str = HOUR, **fields: Any) -> BatchRecord:
    """Return the record of a batch in which every record is a new event of one hour."""
    range_outcome_counts = tuple(OutcomeCounts(stored=len(range_)) for range_ in begun.ranges)
    count = sum(map(len, begun.ranges))
    types = {"ProductDeleted": count}
    values: dict[str, Any] = {"range_outcome_counts": range_outcome_counts, "types": types, "hours": {hour: types}, "reasons": {}} | fields
    return BatchRecord(begun, begun.time + timedelta(seconds=2), **values)


def redriven_record(begun: Batch, **outcomes: str) -> BatchRecord:
    """Return the record of a redrive. Its records became `stored`, unless `outcomes` has another outcome as `o<offset>`."""
    redriven = tuple(RedrivenRecord(source, "schema", outcomes.get(f"o{source.offset}", "stored")) for source in begun.redriven_sources)
    stored = sum(record.outcome == "stored" for record in redriven)
    outcome_counts = OutcomeCounts(stored=stored, duplicates=len(redriven) - stored)
    types = {"ProductDeleted": stored} if stored else {}
    hours = {HOUR: types} if stored else {}
    return BatchRecord(begun, begun.time, (outcome_counts,), types, hours, {}, redriven=redriven)


def close(ledger: Ledger, begun: Batch, **fields: Any) -> BatchRecord:
    """Begin and close the batch. Return its record."""
    record = all_stored(begun, **fields)
    assert ledger.begin_batch(begun)
    assert ledger.close_batch(record)
    return record
