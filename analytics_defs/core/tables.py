"""The one Arrow schema of parts and archives. pyarrow is imported on use: definitions load without it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from analytics_defs.core.events import Event
from analytics_defs.core.offsets import stream
from analytics_defs.core.staging import microseconds
from analytics_defs.errors import Contradiction

if TYPE_CHECKING:
    import pyarrow as pa

COLUMNS = (
    ("event_id", "string", "the event's id"),
    ("event_type", "string", "ProductCreated, ProductUpdated, ProductDeleted or LowStockWarning"),
    ("timestamp", "timestamp[us, UTC]", "the event's own time"),
    ("version", "string", "of the event's form"),
    ("product_id", "string", "null where the event names none"),
    ("seller_id", "string", "null where the event names none"),
    ("payload", "string", "the original JSON text"),
    ("topic", "string", "Kafka topic, with @generation once it was created again"),
    ("partition", "int32", "Kafka partition"),
    ("offset", "int64", "Kafka offset"),
    ("record_timestamp", "timestamp[ms, UTC]", "the record's own timestamp, null where the broker has none"),
    ("batch_id", "string", "the batch that stored it"),
    ("created_at", "timestamp[ms, UTC]", "the batch's time"),
)
"""Name, Arrow type and meaning, in the order of the file."""


def schema() -> pa.Schema:
    import pyarrow as pa

    types = {
        "string": pa.string(),
        "int32": pa.int32(),
        "int64": pa.int64(),
        "timestamp[us, UTC]": pa.timestamp("us", "UTC"),
        "timestamp[ms, UTC]": pa.timestamp("ms", "UTC"),
    }
    return pa.schema([pa.field(name, types[kind]) for name, kind, _ in COLUMNS])


def part(batch_id: str, batch_time: datetime, events: Sequence[Event]) -> bytes:
    """One Parquet file of these events, in their order. The same events give the same bytes with one pyarrow version."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    created_ms = microseconds(batch_time) // 1000
    sources = [event.record.source for event in events]
    columns: list[list[Any]] = [
        [event.id for event in events],
        [event.type for event in events],
        [microseconds(event.time) for event in events],
        [event.version for event in events],
        [event.product_id for event in events],
        [event.seller_id for event in events],
        [event.record.value for event in events],
        [stream(source.topic_partition.topic, source.topic_partition.generation) for source in sources],
        [source.topic_partition.partition for source in sources],
        [source.offset for source in sources],
        [event.record.timestamp_ms if event.record.timestamp_ms >= 0 else None for event in events],
        [batch_id] * len(events),
        [created_ms] * len(events),
    ]
    arrays = [_array(column, field) for column, field in zip(columns, schema(), strict=True)]
    sink = pa.BufferOutputStream()
    pq.write_table(
        pa.Table.from_arrays(arrays, schema=schema()),
        sink,
        compression="zstd",
        use_dictionary=["event_type", "version", "topic", "batch_id"],
    )
    return bytes(sink.getvalue())


def _array(column: list[Any], field: pa.Field) -> pa.Array:
    """Times come as integers, payloads as UTF-8 bytes that were checked before: neither is decoded in Python."""
    import pyarrow as pa

    raw = pa.int64() if pa.types.is_timestamp(field.type) else pa.binary() if field.name == "payload" else field.type
    return pa.array(column, raw).cast(field.type)


def rows(data: bytes, columns: Sequence[str], where: str) -> list[dict[str, Any]]:
    """These columns of a part, row by row. Raises Contradiction, naming `where`, where the bytes are no Parquet file of ours."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(pa.BufferReader(data), columns=list(columns))
    except (pa.ArrowInvalid, pa.ArrowKeyError, OSError) as error:
        raise Contradiction(f"{where} is no Parquet file of ours: {error}. Its events are in the JSON tree and in RecentEvents.") from error
    found: list[dict[str, Any]] = table.to_pylist()
    return found
