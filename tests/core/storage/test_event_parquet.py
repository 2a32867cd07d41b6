"""Parquet parts have a fixed schema, exact values and deterministic bytes."""

from __future__ import annotations

import io
from dataclasses import replace
from datetime import UTC, datetime

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from analytics_defs.core.events.event import Event
from analytics_defs.core.offsets import MAX_TIMESTAMP_MS, TopicPartition
from analytics_defs.core.storage.event_parquet import EVENT_COLUMNS, encode_part, event_schema, read_rows
from analytics_defs.errors import InconsistentState
from tests.core.events.made_events import CREATED, LOW_STOCK, NOW, text
from tests.core.ingest.batches import AT, TIMESTAMP_MS, classified, event

BATCH_TIME = NOW.replace(microsecond=123_000)
RECREATED = TopicPartition("ProductDeleted", 2, 1)


def read(data: bytes) -> pa.Table:
    return pq.read_table(io.BytesIO(data))


def sample_events() -> list[Event]:
    records = [
        event(5, "ä/1", timestamp="2024-01-15T11:30:00.123456789+01:00", nested={"n": [1.50, None]}),
        event(6, at=RECREATED),
        classified(7, text(CREATED | {"id": "c"}), timestamp_ms=-1),
        classified(8, text(LOW_STOCK | {"id": "l"})),
    ]
    return [record for record in records if isinstance(record, Event)]


def test_the_schema_matches_event_columns() -> None:
    assert [(field.name, str(field.type).replace("tz=", "")) for field in event_schema()] == [
        (name, kind) for name, kind, _ in EVENT_COLUMNS
    ]
    assert read(encode_part("batch", BATCH_TIME, sample_events())).schema.equals(event_schema())


def test_a_row_holds_the_values_of_event_record_and_batch() -> None:
    events = sample_events()
    first, second, third, fourth = read(encode_part("batch", BATCH_TIME, events)).to_pylist()
    assert first == {
        "event_id": "ä/1",
        "event_type": "ProductDeleted",
        "timestamp": datetime(2024, 1, 15, 10, 30, 0, 123_456, tzinfo=UTC),
        "version": "1.0",
        "product_id": "product-7",
        "seller_id": "seller-ito",
        "payload": (events[0].record.value or b"").decode(),
        "topic": "ProductDeleted",
        "partition": AT.partition,
        "offset": 5,
        "record_timestamp": datetime.fromtimestamp(TIMESTAMP_MS / 1000, UTC),
        "batch_id": "batch",
        "created_at": BATCH_TIME,
    }
    assert (second["topic"], second["partition"]) == ("ProductDeleted@2", 1)
    assert third["record_timestamp"] is None
    assert [row["event_id"] for row in (third, fourth)] == ["c", "l"]


@pytest.mark.parametrize(
    ("timestamp_ms", "expected"),
    [(-1, None), (-5, None), (0, 0), (MAX_TIMESTAMP_MS, MAX_TIMESTAMP_MS), (MAX_TIMESTAMP_MS + 1, None), (2**63 - 1, None)],
)
def test_only_a_record_timestamp_that_is_a_date_is_in_the_column(timestamp_ms: int, expected: int | None) -> None:
    record = replace(event(0).record, timestamp_ms=timestamp_ms)
    part = encode_part("batch", BATCH_TIME, [replace(event(0), record=record)])
    assert read_rows(part, ("record_timestamp",), "part") == [{"record_timestamp": expected}]
    times = (read(part)["record_timestamp"].to_pandas(), duckdb.from_arrow(read(part)).df()["record_timestamp"])
    assert [None if column.isna()[0] else column[0].timestamp() for column in times] == [expected and expected / 1000] * 2


def test_a_part_is_deterministic() -> None:
    assert encode_part("batch", BATCH_TIME, sample_events()) == encode_part("batch", BATCH_TIME, sample_events())


def test_rows_keep_the_order_of_the_events() -> None:
    events = [event(offset) for offset in range(1000)]
    assert [row["offset"] for row in read_rows(encode_part("batch", BATCH_TIME, events), ("offset",), "part")] == list(range(1000))


@pytest.mark.parametrize("damage", [b"", b"PAR1", b"no parquet at all"])
def test_damaged_bytes_raise_with_the_key(damage: bytes) -> None:
    with pytest.raises(InconsistentState, match=r"parquet/x is not a Parquet file of events"):
        read_rows(damage, ("offset",), "parquet/x")


def test_a_foreign_parquet_file_raises_with_the_key() -> None:
    sink = io.BytesIO()
    pq.write_table(pa.table({"other": [1]}), sink)
    with pytest.raises(InconsistentState, match=r"parquet/x is not a Parquet file of events"):
        read_rows(sink.getvalue(), ("offset",), "parquet/x")
