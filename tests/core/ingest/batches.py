"""Classified records, batches and batch records for tests."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from analytics_defs.core.events.event import ClassifiedRecord, Event, Rejection, Tombstone, ValidationRules, classify
from analytics_defs.core.ingest.batch_accounting import BatchTimings, WriteResult, build_batch_record
from analytics_defs.core.ingest.batch_builder import StagedBatch
from analytics_defs.core.ledger import Batch, BatchKind, BatchRecord
from analytics_defs.core.offsets import Range, Record, Source, TopicPartition
from tests.core.events.made_events import DELETED, NOW, RULES, text

AT = TopicPartition("ProductDeleted", 0, 3)
BESIDE = TopicPartition("ProductDeleted", 0, 4)
BROKEN = b'{"id": NaN}'
TIMESTAMP_MS = 1_705_314_600_123


def source(offset: int, at: TopicPartition = AT) -> Source:
    return Source(at, offset)


def classified(
    offset: int, value: bytes | None, at: TopicPartition = AT, rules: ValidationRules = RULES, **fields: Any
) -> ClassifiedRecord:
    defaults: dict[str, Any] = {"timestamp_ms": TIMESTAMP_MS, "key": b"k", "value": value}
    return classify(Record(source(offset, at), **(defaults | fields)), rules, NOW)


def event(offset: int, event_id: str = "", at: TopicPartition = AT, **fields: Any) -> Event:
    result = classified(offset, text(DELETED | {"id": event_id or f"event {offset}"} | fields), at)
    assert isinstance(result, Event), result
    return result


def rejection(offset: int, at: TopicPartition = AT) -> Rejection:
    result = classified(offset, BROKEN, at)
    assert isinstance(result, Rejection)
    return result


def tombstone(offset: int, at: TopicPartition = AT) -> Tombstone:
    result = classified(offset, None, at)
    assert isinstance(result, Tombstone)
    return result


def batch(*ranges: Range, time: datetime = NOW, **fields: Any) -> Batch:
    defaults: dict[str, Any] = {"id": "batch", "kind": BatchKind.INGEST, "lane": 0, "time": time, "ranges": ranges, "run_id": "run"}
    return Batch(**(defaults | fields))


def redrive(events: Sequence[Event], reasons: Sequence[str]) -> Batch:
    range_ = Range(TopicPartition("~redrive", 0, 0), 0, 1)
    return batch(
        range_,
        kind=BatchKind.REDRIVE,
        lane=-1,
        redriven_sources=tuple(event.record.source for event in events),
        redrive_reasons=tuple(reasons),
    )


def batch_record(
    for_batch: Batch, staged: StagedBatch, duplicates: dict[Source, Source] | None = None, closed_at: datetime = NOW
) -> BatchRecord:
    return build_batch_record(for_batch, staged, WriteResult(duplicates or {}, {}, None, None), BatchTimings(closed_at, duration_ms=7))
