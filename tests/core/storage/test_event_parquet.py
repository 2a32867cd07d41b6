"""The Parquet part: one fixed schema, exact values, the same bytes for the same events."""

from __future__ import annotations

import io
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from analytics_defs.core.events.event import Event
from analytics_defs.core.offsets import TopicPartition
from analytics_defs.core.storage.event_parquet import EVENT_COLUMNS, encode_part, event_schema, read_rows
from analytics_defs.errors import InconsistentState
from tests.core.events.made_events import CREATED, LOW_STOCK, NOW, text
from tests.core.ingest.batches import AT, TIMESTAMP_MS, event, verdict

BATCH_TIME = NOW.replace(microsecond=123_000)
AGAIN = TopicPartition("ProductDeleted", 2, 1)


def read(data: bytes) -> pa.Table:
    return pq.read_table(io.BytesIO(data))


def some_events() -> list[Event]:
    found = [
        event(5, "ä/1", timestamp="2024-01-15T11:30:00.123456789+01:00", nested={"n": [1.50, None]}),
        event(6, at=AGAIN),
        verdict(7, text(CREATED | {"id": "c"}), timestamp_ms=-1),
        verdict(8, text(LOW_STOCK | {"id": "l"})),
    ]
    return [each for each in found if isinstance(each, Event)]


def test_the_schema_matches_event_columns() -> None:
    assert [(field.name, str(field.type).replace("tz=", "")) for field in event_schema()] == [
        (name, kind) for name, kind, _ in EVENT_COLUMNS
    ]
    assert read(encode_part("batch", BATCH_TIME, some_events())).schema.equals(event_schema())


def test_a_row_holds_the_values_of_event_record_and_batch() -> None:
    found = some_events()
    first, second, third, fourth = read(encode_part("batch", BATCH_TIME, found)).to_pylist()
    assert first == {
        "event_id": "ä/1",
        "event_type": "ProductDeleted",
        "timestamp": datetime(2024, 1, 15, 10, 30, 0, 123_456, tzinfo=UTC),
        "version": "1.0",
        "product_id": "product-7",
        "seller_id": "seller-ito",
        "payload": (found[0].record.value or b"").decode(),
        "topic": "ProductDeleted",
        "partition": AT.partition,
        "offset": 5,
        "record_timestamp": datetime.fromtimestamp(TIMESTAMP_MS / 1000, UTC),
        "batch_id": "batch",
        "created_at": BATCH_TIME,
    }
    assert (second["topic"], second["partition"]) == ("ProductDeleted@2", 1)
    assert third["record_timestamp"] is None
    assert [each["event_id"] for each in (third, fourth)] == ["c", "l"]


def test_a_part_is_deterministic() -> None:
    assert encode_part("batch", BATCH_TIME, some_events()) == encode_part("batch", BATCH_TIME, some_events())


def test_rows_keep_the_order_of_the_events() -> None:
    found = [event(offset) for offset in range(1000)]
    assert [row["offset"] for row in read_rows(encode_part("batch", BATCH_TIME, found), ("offset",), "part")] == list(range(1000))


@pytest.mark.parametrize("damage", [b"", b"PAR1", b"no parquet at all"])
def test_damaged_bytes_raise_with_the_key(damage: bytes) -> None:
    with pytest.raises(InconsistentState, match=r"parquet/x is no Parquet file of ours"):
        read_rows(damage, ("offset",), "parquet/x")


def test_a_foreign_parquet_file_raises_with_the_key() -> None:
    sink = io.BytesIO()
    pq.write_table(pa.table({"other": [1]}), sink)
    with pytest.raises(InconsistentState, match=r"parquet/x is no Parquet file of ours"):
        read_rows(sink.getvalue(), ("offset",), "parquet/x")
