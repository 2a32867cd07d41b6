"""The one Arrow schema of parts and archives. pyarrow is imported on use: definitions load without it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from analytics_defs.core.events.event import Event
from analytics_defs.core.offsets import Source, qualified_topic_name
from analytics_defs.core.storage.staging_file import microseconds
from analytics_defs.errors import InconsistentState

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

EVENT_COLUMNS = (
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


def event_schema() -> pa.Schema:
    import pyarrow as pa

    types = {
        "string": pa.string(),
        "int32": pa.int32(),
        "int64": pa.int64(),
        "timestamp[us, UTC]": pa.timestamp("us", "UTC"),
        "timestamp[ms, UTC]": pa.timestamp("ms", "UTC"),
    }
    return pa.schema([pa.field(name, types[kind]) for name, kind, _ in EVENT_COLUMNS])


def encode_part(batch_id: str, batch_time: datetime, events: Sequence[Event]) -> bytes:
    """One Parquet file of these events of a batch, in their order. The same events give the same bytes with one pyarrow version."""
    return encode_rows([Row(event, batch_id, batch_time) for event in events])


class Row(NamedTuple):
    """An event, and the batch that stored it."""

    event: Event
    batch_id: str
    batch_time: datetime


def encode_rows(rows: Sequence[Row]) -> bytes:
    """One Parquet file of events that may be of several batches."""
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with writer(sink) as file:
        file.write_table(_table(rows))
    return bytes(sink.getvalue())


def writer(sink: Any) -> pq.ParquetWriter:
    """How every file of ours is written."""
    import pyarrow.parquet as pq

    return pq.ParquetWriter(sink, event_schema(), compression="zstd", use_dictionary=["event_type", "version", "topic", "batch_id"])


def _table(rows: Sequence[Row]) -> pa.Table:
    import pyarrow as pa

    events = [row.event for row in rows]
    sources = [event.record.source for event in events]
    columns: list[list[Any]] = [
        [event.id for event in events],
        [event.type for event in events],
        [microseconds(event.time) for event in events],
        [event.version for event in events],
        [event.product_id for event in events],
        [event.seller_id for event in events],
        [event.record.value for event in events],
        [qualified_topic_name(source.topic_partition.topic, source.topic_partition.incarnation) for source in sources],
        [source.topic_partition.partition for source in sources],
        [source.offset for source in sources],
        [event.record.timestamp_ms if event.record.timestamp_ms >= 0 else None for event in events],
        [row.batch_id for row in rows],
        [microseconds(row.batch_time) // 1000 for row in rows],
    ]
    return pa.Table.from_arrays(
        [_array(column, field) for column, field in zip(columns, event_schema(), strict=True)], schema=event_schema()
    )


def _array(column: list[Any], field: pa.Field) -> pa.Array:
    """Times come as integers, payloads as UTF-8 bytes that were checked before: neither is decoded in Python."""
    import pyarrow as pa

    raw = pa.int64() if pa.types.is_timestamp(field.type) else pa.binary() if field.name == "payload" else field.type
    return pa.array(column, raw).cast(field.type)


def event_id_at(data: bytes, source: Source, where: str) -> str | None:
    """The id of the event of this source in a file of ours, None where it has no such row. Raises InconsistentState like `rows`."""
    name = qualified_topic_name(source.topic_partition.topic, source.topic_partition.incarnation)
    wanted = [("topic", "==", name), ("partition", "==", source.topic_partition.partition), ("offset", "==", source.offset)]
    found = read_rows(data, ("event_id",), where, wanted)
    return found[0]["event_id"] if found else None


def read_rows(
    data: bytes, columns: Sequence[str], where: str, wanted: Sequence[tuple[str, str, Any]] | None = None
) -> list[dict[str, Any]]:
    """These columns of a file of ours, row by row; only rows that fit `wanted`, in pyarrow's form.

    Raises InconsistentState, naming `where`, where the bytes are no Parquet file of ours.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(pa.BufferReader(data), columns=list(columns), filters=wanted)
    except (pa.ArrowInvalid, pa.ArrowKeyError, OSError) as error:
        why = str(error).partition("\n")[0].rstrip(".")
        raise InconsistentState(
            f"{where} is no Parquet file of ours: {why}. Materialize event_archive for its hour, or run `analytics compact`: it is rebuilt "
            "from the JSON tree, which the message then says."
        ) from error
    found: list[dict[str, Any]] = table.to_pylist()
    return found
