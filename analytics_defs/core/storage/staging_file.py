"""Encoding of the staging file: raw records with their classification, as Arrow IPC. Deterministic for one pyarrow version."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from analytics_defs.core.events.event import ClassifiedRecord, Event, Rejection, Tombstone
from analytics_defs.core.events.rejection_reasons import RejectionReason
from analytics_defs.core.ingest.batch_builder import StagedBatch
from analytics_defs.core.ledger import Gap, GapReason
from analytics_defs.core.offsets import Range, Record, Source, TopicPartition
from analytics_defs.errors import InconsistentState

_FORMAT = "1"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def encode(staged: StagedBatch) -> bytes:
    """Return one row for each record, in the order given; gaps and lost ranges are in the schema's metadata."""
    import pyarrow as pa

    header = {
        "format": _FORMAT,
        "write_event_json": staged.write_event_json,
        "gaps": [[str(gap.range.topic_partition), gap.range.start, gap.range.end, str(gap.reason)] for gap in staged.gaps],
        "lost": [[str(lost.topic_partition), lost.start, lost.end] for lost in staged.lost],
    }
    schema = pa.schema(_fields(pa), metadata={"staged": json.dumps(header)})
    columns = zip(*map(_row, staged.records), strict=True) if staged.records else [[] for _ in schema]
    table = pa.table([pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)], schema=schema)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def decode(data: bytes, key: str) -> StagedBatch:
    """Return the staged batch. Raises InconsistentState, naming `key`, if the bytes are not a staging file."""
    import pyarrow as pa

    try:
        table = pa.ipc.open_stream(data).read_all()
        header = json.loads(table.schema.metadata[b"staged"])
        if header["format"] != _FORMAT:
            raise ValueError(f"format {header['format']}, expected {_FORMAT}")
        rows = zip(*(column.to_pylist() for column in table.columns), strict=True)
        return StagedBatch(
            tuple(_classified(*row) for row in rows),
            tuple(Gap(Range(TopicPartition.parse(name), start, end), GapReason(reason)) for name, start, end, reason in header["gaps"]),
            tuple(Range(TopicPartition.parse(name), start, end) for name, start, end in header["lost"]),
            header["write_event_json"],
        )
    except (pa.ArrowInvalid, OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise InconsistentState(
            f"{key} is damaged or from another version: {error}. The batch stays pending and its partitions wait. "
            "Restore the object, or finish the batch with the version that wrote it."
        ) from error


def _fields(pa: Any) -> list[tuple[str, Any]]:
    header = pa.struct([("name", pa.string()), ("value", pa.binary())])
    return [
        ("source", pa.string()),
        ("timestamp_ms", pa.int64()),
        ("key", pa.binary()),
        ("value", pa.binary()),
        ("headers", pa.list_(header)),
        ("outcome", pa.string()),
        ("id", pa.string()),
        ("type", pa.string()),
        ("timestamp", pa.string()),
        ("time_us", pa.int64()),
        ("hour", pa.string()),
        ("version", pa.string()),
        ("product_id", pa.string()),
        ("seller_id", pa.string()),
        ("document", pa.binary()),
        ("reason", pa.string()),
        ("detail", pa.string()),
    ]


def _row(classified: ClassifiedRecord) -> tuple[Any, ...]:
    record = classified.record
    raw = (
        str(record.source),
        record.timestamp_ms,
        record.key,
        record.value,
        [{"name": name, "value": value} for name, value in record.headers],
    )
    match classified:
        case Event(id=id, type=type, timestamp=timestamp, time=time, hour=hour):
            return (
                *raw,
                *("event", id, type, timestamp, microseconds(time), hour),
                *(classified.version, classified.product_id, classified.seller_id, classified.upcast_json, None, None),
            )
        case Rejection(reason=reason, detail=detail):
            return (*raw, "rejection", *(None,) * 9, str(reason), detail)
        case Tombstone():
            return (*raw, "tombstone", *(None,) * 11)


def _classified(*row: Any) -> ClassifiedRecord:
    source, timestamp_ms, key, value, headers, outcome, *columns = row
    record = Record(Source.parse(source), timestamp_ms, key, value, tuple((header["name"], header["value"]) for header in headers))
    id, type, timestamp, time_us, hour, version, product_id, seller_id, document, reason, detail = columns
    if outcome == "event":
        return Event(record, id, type, timestamp, from_microseconds(time_us), hour, version, product_id, seller_id, document)
    if outcome == "rejection":
        return Rejection(record, RejectionReason(reason), detail)
    if outcome == "tombstone":
        return Tombstone(record)
    raise ValueError(f"outcome {outcome!r}")


def microseconds(time: datetime) -> int:
    """Return microseconds since 1970 as an exact integer: a float of seconds loses microseconds in distant years."""
    elapsed = time - _EPOCH
    return (elapsed.days * 86_400 + elapsed.seconds) * 1_000_000 + elapsed.microseconds


def from_microseconds(value: int) -> datetime:
    return _EPOCH + timedelta(microseconds=value)
