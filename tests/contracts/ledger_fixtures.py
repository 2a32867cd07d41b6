"""The ledger's port over each store that implements it, and small batches to put into it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from analytics_defs.adapters.dynamodb.ledger import DynamoLedger
from analytics_defs.adapters.memory import MemoryLedger
from analytics_defs.core.ledger import REDRIVE_CHECKPOINT, REDRIVE_LANE, Batch, BatchKind, BatchRecord, OutcomeCounts, RedrivenRecord
from analytics_defs.core.offsets import Range, Source, TopicPartition
from analytics_defs.core.storage.object_keys import batch_id
from analytics_defs.ports import Ledger
from tests.contracts.dynamodb_fixtures import moto_dynamo, real_dynamo

TIME = datetime(2024, 1, 15, 12, tzinfo=UTC)
HOUR = "2024-01-15T10"
ONE, TWO = (TopicPartition("ProductDeleted", 0, number) for number in (1, 2))


@contextmanager
def memory_ledger() -> Iterator[Ledger]:
    yield MemoryLedger()


@contextmanager
def moto_ledger() -> Iterator[Ledger]:
    with moto_dynamo() as found:
        yield DynamoLedger(found.dynamo, found.ledger)


@contextmanager
def real_ledger() -> Iterator[Ledger]:
    with real_dynamo() as found:
        yield DynamoLedger(found.dynamo, found.ledger)


LEDGERS: dict[str, Callable[[], AbstractContextManager[Ledger]]] = {"memory": memory_ledger, "moto": moto_ledger, "real": real_ledger}


def batch(*ranges: Range, minute: float = 0, run_id: str = "run-1", lane: int = 0) -> Batch:
    time = TIME + timedelta(minutes=minute)
    return Batch(batch_id(time, ranges), BatchKind.INGEST, lane, time, ranges, run_id)


def redrive(turn: int, *sources: Source, minute: float = 0) -> Batch:
    time, ranges = TIME + timedelta(minutes=minute), (Range(REDRIVE_CHECKPOINT, turn, turn + 1),)
    taken = Batch(batch_id(time, ranges), BatchKind.REDRIVE, REDRIVE_LANE, time, ranges, "run-redrive")
    return replace(taken, redriven_sources=sources, redrive_keys=("dead-letters/x.ndjson",), redrive_reasons=("schema",) * len(sources))


def all_stored(taken: Batch, hour: str = HOUR, **more: Any) -> BatchRecord:
    """The record of a batch that holds nothing but new events of one hour."""
    tallies = tuple(OutcomeCounts(stored=len(each)) for each in taken.ranges)
    count = sum(map(len, taken.ranges))
    types = {"ProductDeleted": count}
    fields: dict[str, Any] = {"tallies": tallies, "types": types, "hours": {hour: types}, "reasons": {}} | more
    return BatchRecord(taken, taken.time + timedelta(seconds=2), **fields)


def redriven_record(taken: Batch, **outcomes: str) -> BatchRecord:
    """Of a redrive whose records, in their order, became `stored` unless `outcomes` says otherwise by `o<offset>`."""
    redriven = tuple(RedrivenRecord(each, "schema", outcomes.get(f"o{each.offset}", "stored")) for each in taken.redriven_sources)
    stored = sum(each.outcome == "stored" for each in redriven)
    tally = OutcomeCounts(stored=stored, duplicates=len(redriven) - stored)
    types = {"ProductDeleted": stored} if stored else {}
    hours = {HOUR: types} if stored else {}
    return BatchRecord(taken, taken.time, (tally,), types, hours, {}, redriven=redriven)


def close(ledger: Ledger, taken: Batch, **more: Any) -> BatchRecord:
    """Take and close."""
    record = all_stored(taken, **more)
    assert ledger.begin_batch(taken)
    assert ledger.close_batch(record)
    return record
