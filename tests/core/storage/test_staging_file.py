"""Staging files are decoded to exactly the staged batch, and they are deterministic."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics_defs.core.events.event import Event, classify
from analytics_defs.core.ingest.batch_builder import StagedBatch
from analytics_defs.core.ledger import Gap, GapReason
from analytics_defs.core.offsets import Range, Record, TopicPartition
from analytics_defs.core.sha256 import sha256_hex
from analytics_defs.core.storage.staging_file import decode, encode, from_microseconds, microseconds
from analytics_defs.errors import InconsistentState
from tests.core.events.made_events import CREATED, LOW_STOCK, NOW, RULES, reproducibly, text
from tests.core.ingest.batches import AT, classified, event, rejection, source, tombstone

LEGACY = b'{"version":"1","type":"ProductDeleted","occurredAt":"2024-01-15T10:31:00.123456789+01:00","productId":"p","sellerId":"s"}'
EVERYTHING = StagedBatch(
    (
        event(0),
        classified(1, text(CREATED), key=None, headers=(("h", b"\xff\x00"), ("h", None), ("ü", b""))),
        classified(2, text(LOW_STOCK), timestamp_ms=-1, key=b""),
        classified(3, LEGACY),
        rejection(4),
        classified(5, b"\xff\xfe"),
        classified(6, b""),
        tombstone(7),
    ),
    gaps=tuple(Gap(Range(AT, 8 + number, 9 + number), reason) for number, reason in enumerate(GapReason)),
    lost=(Range(TopicPartition("ProductDeleted", 2, 0), 0, 2**62),),
    write_event_json=False,
)


@pytest.mark.parametrize("staged", [EVERYTHING, StagedBatch(())], ids=["everything", "nothing"])
def test_a_decoded_staging_file_equals_the_staged_batch(staged: StagedBatch) -> None:
    assert decode(encode(staged), "staging/b") == staged


@reproducibly
@given(
    st.binary() | st.none(),
    st.binary() | st.none(),
    st.lists(st.tuples(st.text(), st.binary() | st.none())),
    st.integers(-(2**63), 2**63 - 1),
)
def test_any_record_is_decoded_byte_for_byte(
    key: bytes | None, value: bytes | None, headers: list[tuple[str, bytes | None]], time: int
) -> None:
    staged = StagedBatch((classify(Record(source(0), time, key, value, tuple(headers)), RULES, NOW),))
    assert decode(encode(staged), "staging/b") == staged


def test_a_staging_file_is_deterministic() -> None:
    assert encode(EVERYTHING) == encode(decode(encode(EVERYTHING), "staging/b"))
    assert sha256_hex(encode(EVERYTHING)) == sha256_hex(encode(EVERYTHING))
    assert sha256_hex(encode(EVERYTHING)) != sha256_hex(encode(StagedBatch(EVERYTHING.records)))


def test_times_are_exact_to_the_microsecond_in_every_century() -> None:
    for year in (1, 1969, 1970, 2024, 9999):
        time = datetime(year, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)
        assert from_microseconds(microseconds(time)) == time


def test_a_legacy_event_keeps_its_original_bytes_and_its_current_form() -> None:
    (decoded,) = decode(encode(StagedBatch((classified(3, LEGACY),))), "staging/b").events
    assert decoded.record.value == LEGACY
    assert decoded.upcast_json is not None
    assert isinstance(decoded, Event)
    assert decoded.time == datetime(2024, 1, 15, 9, 31, 0, 123_456, tzinfo=UTC)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda _: b"", id="empty"),
        pytest.param(lambda _: b"not arrow at all", id="another file"),
        pytest.param(lambda data: data[: len(data) // 2], id="truncated"),
        pytest.param(lambda data: data.replace(b'"format": "1"', b'"format": "2"'), id="of another version"),
        pytest.param(lambda data: data.replace(b'"aborted"', b'"unknown"'), id="with an unknown reason"),
    ],
)
def test_a_damaged_staging_file_raises_with_its_key(damage: object) -> None:
    assert callable(damage)
    with pytest.raises(InconsistentState, match="staging/b is damaged or from another version"):
        decode(damage(encode(EVERYTHING)), "staging/b")


def test_a_staged_time_outside_the_calendar_raises_with_its_key() -> None:
    table = pa.ipc.open_stream(encode(StagedBatch((event(0),)))).read_all()
    altered = table.set_column(table.schema.get_field_index("time_us"), "time_us", pa.array([2**63 - 1]))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, altered.schema) as writer:
        writer.write_table(altered)
    with pytest.raises(InconsistentState, match="staging/b is damaged or from another version"):
        decode(bytes(sink.getvalue()), "staging/b")


def test_a_millisecond_is_1000_microseconds() -> None:
    assert microseconds(NOW + timedelta(milliseconds=1)) - microseconds(NOW) == 1000
