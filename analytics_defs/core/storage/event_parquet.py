"""The Arrow schema of parts and hour archives. pyarrow is imported on use, so that definitions load without it."""

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
    ("version", "string", "version of the event's form"),
    ("product_id", "string", "null if the event has none"),
    ("seller_id", "string", "null if the event has none"),
    ("payload", "string", "the original JSON text"),
    ("topic", "string", "Kafka topic, with @incarnation if it was recreated"),
    ("partition", "int32", "Kafka partition"),
    ("offset", "int64", "Kafka offset"),
    ("record_timestamp", "timestamp[ms, UTC]", "the record's own timestamp, null if it has none or if it is no date"),
    ("batch_id", "string", "the batch that stored it"),
    ("created_at", "timestamp[ms, UTC]", "batch time"),
)
"""Name, Arrow type and meaning of each column, in the order of the file."""


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
    """Return a Parquet file of events of one batch, in the order given. Deterministic for one pyarrow version."""
    return encode_rows([Row(event, batch_id, batch_time) for event in events])


class Row(NamedTuple):
    """An event and the batch that stored it."""

    event: Event
    batch_id: str
    batch_time: datetime


def encode_rows(rows: Sequence[Row]) -> bytes:
    """Return a Parquet file of events that may belong to several batches."""
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with writer(sink) as file:
        file.write_table(_table(rows))
    return bytes(sink.getvalue())


def writer(sink: Any) -> pq.ParquetWriter:
    """Return a writer with the schema and the encoding of all event files."""
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
        [event.record.valid_timestamp_ms for event in events],
        [row.batch_id for row in rows],
        [microseconds(row.batch_time) // 1000 for row in rows],
    ]
    return pa.Table.from_arrays(
        [_array(column, field) for column, field in zip(columns, event_schema(), strict=True)], schema=event_schema()
    )


def _array(column: list[Any], field: pa.Field) -> pa.Array:
    """Convert a column. Times are integers and payloads are validated UTF-8, so that Python decodes neither."""
    import pyarrow as pa

    raw = pa.int64() if pa.types.is_timestamp(field.type) else pa.binary() if field.name == "payload" else field.type
    return pa.array(column, raw).cast(field.type)


def event_id_at(data: bytes, source: Source, key: str) -> str | None:
    """Return the event id of this source, None if the file has no such row. Raises InconsistentState as `read_rows` does."""
    name = qualified_topic_name(source.topic_partition.topic, source.topic_partition.incarnation)
    filters = [("topic", "==", name), ("partition", "==", source.topic_partition.partition), ("offset", "==", source.offset)]
    rows = read_rows(data, ("event_id",), key, filters)
    return rows[0]["event_id"] if rows else None


def read_rows(data: bytes, columns: Sequence[str], key: str, filters: Sequence[tuple[str, str, Any]] | None = None) -> list[dict[str, Any]]:
    """Return these columns of an event file, one dict for each row that matches `filters` (pyarrow's format).

    Times are integers of their column's unit: files of older versions hold record timestamps that are no dates.
    Raises InconsistentState, naming `key`, if the bytes are not an event file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = with_integer_times(pq.read_table(pa.BufferReader(data), columns=list(columns), filters=filters))
    except (pa.ArrowInvalid, pa.ArrowKeyError, OSError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise InconsistentState(
            f"{key} is not a Parquet file of events: {reason}. Materialize event_archive for its hour, or run `analytics compact`. "
            "Both rebuild the file from JSON objects and report it."
        ) from error
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def with_integer_times(table: pa.Table) -> pa.Table:
    """Return the table with times as integers of their unit. Python's own times have fewer digits and a smaller range."""
    import pyarrow as pa

    columns = [pa.field(field.name, pa.int64()) if pa.types.is_timestamp(field.type) else field for field in table.schema]
    return table.cast(pa.schema(columns))
