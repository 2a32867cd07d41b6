"""Classification of records into events, rejections and tombstones."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics_defs.core.events.event import Event, Rejection, Tombstone, ValidationRules, classify
from analytics_defs.core.events.rejection_reasons import MAX_DETAIL_LENGTH, RejectionReason
from tests.core.events.made_events import (
    CREATED,
    CURRENT,
    DELETED,
    LOW_STOCK,
    NOW,
    PRODUCT,
    UPDATED,
    classified,
    event,
    json_texts,
    record,
    rejection,
    reproducibly,
    text,
    with_extra,
    with_timestamp,
)


@pytest.mark.parametrize("document", CURRENT, ids=lambda document: document["type"])
def test_each_type_in_the_current_form_is_an_event(document: dict[str, Any]) -> None:
    classified_event = event(document)
    assert (classified_event.id, classified_event.type, classified_event.version) == ("event-1", document["type"], "1.0")
    assert (classified_event.product_id, classified_event.seller_id) == ("product-7", "seller-ito")
    assert (classified_event.timestamp, classified_event.hour) == ("2024-01-15T10:30:00.123Z", "2024-01-15T10")
    assert classified_event.time == datetime(2024, 1, 15, 10, 30, 0, 123_000, UTC)


def test_data_of_an_event_in_the_current_form_is_the_records_bytes() -> None:
    raw = b'\n{ "unknown" : {"\\u00e9": 1.10} , ' + text(CREATED)[1:] + b"\t"
    classified_event = event(raw)
    assert classified_event.upcast_json is None
    assert classified_event.data == raw


def test_a_null_value_is_a_tombstone_and_an_empty_one_is_not() -> None:
    assert classified(None) == Tombstone(record(None))
    assert rejection(b"").reason is RejectionReason.NOT_JSON


def test_the_version_is_1_0_if_absent_and_any_text_otherwise() -> None:
    without = {name: value for name, value in CREATED.items() if name != "version"}
    assert event(without).version == "1.0"
    assert event(CREATED | {"version": "2.1-beta"}).version == "2.1-beta"


def test_the_topic_may_have_another_name_than_the_type() -> None:
    assert event(DELETED).record.source.topic_partition.topic == "ProductCreated"


def test_an_optional_field_may_be_null() -> None:
    assert event(UPDATED | {"previousProduct": None}).type == "ProductUpdated"


MISSING = [
    *((CREATED, f"product.{name}") for name in PRODUCT),
    *((UPDATED, f"previousProduct.{name}") for name in PRODUCT),
    *((document, name) for document in CURRENT for name in document if name not in {"version", "previousProduct"}),
]


@pytest.mark.parametrize(("document", "path"), MISSING, ids=lambda value: value if isinstance(value, str) else value["type"])
def test_a_missing_field_is_named_with_its_path(document: dict[str, Any], path: str) -> None:
    *parents, name = path.split(".")
    changed = json.loads(json.dumps(document))
    parent = changed[parents[0]] if parents else changed
    del parent[name]
    rejected = rejection(changed)
    assert rejected.reason is RejectionReason.SCHEMA
    assert rejected.detail.startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("document", "detail"),
    [
        (CREATED | {"id": ""}, 'id: expected a string that is not empty, found the string ""'),
        (CREATED | {"id": 17}, "id: expected a string, found the number 17"),
        (CREATED | {"id": None}, "id: expected a string, found null"),
        (CREATED | {"version": 1.0}, "version: expected a string, found the number 1.0"),
        (CREATED | {"product": "product-7"}, 'product: expected an object, found the string "product-7"'),
        (CREATED | {"product": [PRODUCT]}, "product: expected an object, found an array"),
        (CREATED | {"product": PRODUCT | {"price": "12.50"}}, 'product.price: expected a number, found the string "12.50"'),
        (CREATED | {"product": PRODUCT | {"price": None}}, "product.price: expected a number, found null"),
        (CREATED | {"product": PRODUCT | {"stock": True}}, "product.stock: expected a number, found true"),
        (LOW_STOCK | {"threshold": {}}, "threshold: expected a number, found an object"),
        (CREATED | {"type": None}, "type: expected one of ProductCreated, ProductUpdated, ProductDeleted, LowStockWarning, found null"),
        (
            CREATED | {"type": ["ProductCreated"]},
            "type: expected one of ProductCreated, ProductUpdated, ProductDeleted, LowStockWarning, found an array",
        ),
        ({}, "type: expected one of ProductCreated, ProductUpdated, ProductDeleted, LowStockWarning, found nothing"),
    ],
)
def test_a_field_of_the_wrong_type_is_named_with_expected_and_found(document: dict[str, Any], detail: str) -> None:
    assert rejection(document) == Rejection(record(text(document)), RejectionReason.SCHEMA, detail)


def test_all_schema_faults_are_in_the_detail() -> None:
    rejected = rejection(CREATED | {"product": PRODUCT | {"name": 1, "price": "2"}})
    assert rejected.detail == 'product.name: expected a string, found the number 1; product.price: expected a number, found the string "2"'


@pytest.mark.parametrize("event_type", ["ProductViewed", "productcreated", "", " ProductCreated"])
def test_any_other_type_is_unknown(event_type: str) -> None:
    assert rejection(CREATED | {"type": event_type}).reason is RejectionReason.UNKNOWN_TYPE


@pytest.mark.parametrize("price", ["-0", "0.10", "1e400", "1E-131", "9" * 39, "1" + "0" * 1_000, "9" * 100_000, "1e" + "9" * 30])
def test_any_json_number_is_a_valid_price(price: str) -> None:
    raw = text(CREATED).replace(b"12.5", price.encode())
    assert event(raw).data == raw


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"\xff\xfe{}", RejectionReason.NOT_UTF8),
        (b'{"id":"\xed\xa0\x80"}', RejectionReason.NOT_UTF8),
        (b'{"id":"\xc0\xaf"}', RejectionReason.NOT_UTF8),
        (text(CREATED)[:-1], RejectionReason.NOT_JSON),
        (text(CREATED) + b"\x00", RejectionReason.NOT_JSON),
        (text(CREATED) * 2, RejectionReason.NOT_JSON),
        (b"\xef\xbb\xbf" + text(CREATED), RejectionReason.NOT_JSON),
        (b"Product{id=7}", RejectionReason.NOT_JSON),
        (b"{'id': 'single quotes'}", RejectionReason.NOT_JSON),
        (b'{"a":1,}', RejectionReason.NOT_JSON),
        (b'{"a":"\n"}', RejectionReason.NOT_JSON),
        (b'{"a":012}', RejectionReason.NOT_JSON),
        (b'{"a":+1}', RejectionReason.NOT_JSON),
        (b'{"a":1.}', RejectionReason.NOT_JSON),
        ('{"a":\u0661}'.encode(), RejectionReason.NOT_JSON),
        (with_extra("NaN"), RejectionReason.NOT_JSON),
        (with_extra("[-Infinity]"), RejectionReason.NOT_JSON),
        (b"[]", RejectionReason.NOT_AN_OBJECT),
        (b"null", RejectionReason.NOT_AN_OBJECT),
        (b'"ProductCreated"', RejectionReason.NOT_AN_OBJECT),
        (with_extra('{"a":1,"b":{"a":1,"a":1}}'), RejectionReason.DUPLICATE_KEY),
        (with_extra(r'{"a":1,"\u0061":1}'), RejectionReason.DUPLICATE_KEY),
        (b'{"id":"other",' + text(CREATED)[1:], RejectionReason.DUPLICATE_KEY),
        (with_extra(r'"\ud800"'), RejectionReason.LONE_SURROGATE),
        (with_extra(r'"\udc00\ud83d"'), RejectionReason.LONE_SURROGATE),
        (with_extra(r'{"\uDFFF":1}'), RejectionReason.LONE_SURROGATE),
        (b"[" * 100_000 + b"]" * 100_000, RejectionReason.NESTED_TOO_DEEP),
        (b"[" * 100_000, RejectionReason.NESTED_TOO_DEEP),
        (b'{"a":' * 100_000, RejectionReason.NESTED_TOO_DEEP),
        (with_extra("[" * 128 + "]" * 128), RejectionReason.NESTED_TOO_DEEP),
        (b" " * 1_000_001, RejectionReason.TOO_LARGE),
    ],
    ids=lambda value: repr(value[:40]) if isinstance(value, bytes) else value,
)
def test_an_invalid_record_is_rejected_with_its_reason_and_unchanged_bytes(value: bytes, reason: RejectionReason) -> None:
    rejected = rejection(value)
    assert rejected.reason is reason
    assert rejected.record.value == value
    assert 0 < len(rejected.detail) <= MAX_DETAIL_LENGTH
    rejected.detail.encode("utf-8")


@pytest.mark.parametrize(
    "extra",
    [
        "[" * 127 + "]" * 127,
        '{"":{"":""}}',
        r'"😀 \ud83d\ude00 \\ud800 \u0000"',
        '"[[[["',
        "[" + "[]," * 1_000 + "[]]",
        "1E-131",
        '{"a":{"id":"b"},"id":{"a":1}}',
    ],
    ids=lambda extra: extra[:20],
)
def test_unusual_valid_json_is_kept_unchanged(extra: str) -> None:
    raw = with_extra(extra)
    assert event(raw).data == raw


@pytest.mark.parametrize(
    "event_id", ["a/b", "..", ".", " ", "a%2Fb", "日本", "\x00", "😀" * 512, "a" * 2048], ids=lambda event_id: repr(event_id[:8])
)
def test_an_id_may_hold_any_characters_up_to_the_length_of_a_dynamodb_key(event_id: str) -> None:
    assert event(CREATED | {"id": event_id}).id == event_id


@pytest.mark.parametrize("event_id", ["a" * 2049, "é" * 1025, "a" * 3_000])
def test_an_id_longer_than_a_dynamodb_key_is_too_long(event_id: str) -> None:
    assert rejection(CREATED | {"id": event_id}).reason is RejectionReason.ID_TOO_LONG


def test_a_value_of_exactly_the_maximum_size_is_an_event() -> None:
    rules = ValidationRules(max_event_bytes=len(text(CREATED)))
    assert isinstance(classify(record(text(CREATED)), rules, NOW), Event)
    assert classify(record(text(CREATED) + b" "), rules, NOW) == Rejection(
        record(text(CREATED) + b" "),
        RejectionReason.TOO_LARGE,
        f"expected at most {len(text(CREATED))} bytes, found {len(text(CREATED)) + 1}",
    )


def test_a_timestamp_beyond_the_allowed_skew_is_in_the_future() -> None:
    assert event(with_timestamp("2024-01-16T12:00:00Z")).hour == "2024-01-16T12"
    assert rejection(with_timestamp("2024-01-16T12:00:00.000001Z")).reason is RejectionReason.TIMESTAMP_IN_FUTURE
    assert rejection(with_timestamp("2999-01-01T00:00:00Z")).reason is RejectionReason.TIMESTAMP_IN_FUTURE
    assert rejection(with_timestamp("9999-12-31T23:59:59-12:00")).reason is RejectionReason.TIMESTAMP_IN_FUTURE


def test_an_old_event_belongs_to_its_own_hour() -> None:
    assert event(with_timestamp("1969-07-20T20:17:40Z")).hour == "1969-07-20T20"
    assert event(with_timestamp("0001-01-01T00:00:00Z")).hour == "0001-01-01T00"


@pytest.mark.parametrize("timestamp", ["0001-01-01T00:00:00+05:30", "yesterday", "", "1705314600", 1_705_314_600, None])
def test_an_invalid_timestamp_is_rejected_as_a_schema_fault(timestamp: object) -> None:
    rejected = rejection(with_timestamp(timestamp))
    assert rejected.reason is RejectionReason.SCHEMA
    assert rejected.detail.startswith("timestamp: expected ")


@pytest.fixture(params=["Pacific/Kiritimati", "America/St_Johns", "UTC"])
def zone(request: pytest.FixtureRequest) -> Iterator[str]:
    before = os.environ.get("TZ")
    os.environ["TZ"] = request.param
    time.tzset()
    yield request.param
    if before is None:
        del os.environ["TZ"]
    else:
        os.environ["TZ"] = before
    time.tzset()


@pytest.mark.usefixtures("zone")
def test_the_hour_is_utc_in_any_time_zone_of_the_machine() -> None:
    assert event(with_timestamp("2024-01-15T00:30:00")).hour == "2024-01-15T00"
    assert event(with_timestamp("2024-01-15T00:30:00+01:00")).hour == "2024-01-14T23"


def test_classification_is_deterministic() -> None:
    assert classified(text(CREATED)) == classified(text(CREATED))


def test_the_depth_of_the_callers_stack_does_not_change_the_result() -> None:
    nested = with_extra("[" * 127 + "]" * 127)

    def from_below(levels: int) -> object:
        return from_below(levels - 1) if levels else classified(nested)

    assert from_below(500) == classified(nested)


@reproducibly
@given(st.binary() | st.text().map(str.encode))
def test_no_bytes_raise(value: bytes) -> None:
    assert isinstance(classified(value), Rejection)


@reproducibly
@given(st.sampled_from(CURRENT), st.data())
def test_no_mutation_of_an_event_raises_and_its_bytes_are_kept(document: dict[str, Any], data: st.DataObject) -> None:
    raw = bytearray(text(document))
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(raw) - 1))
        raw[position : position + data.draw(st.integers(0, 3))] = data.draw(
            st.binary(max_size=3) | st.sampled_from([b"NaN", b"1e999", b"[", b"}", b"\\ud800"])
        )
    assert classified(bytes(raw)).record.value == bytes(raw)


@reproducibly
@given(st.sampled_from(CURRENT), st.data())
def test_any_json_in_a_field_gives_an_event_or_a_rejection_that_names_the_field(document: dict[str, Any], data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(document)))
    raw = text({**document, name: "HERE"}).replace(b'"HERE"', data.draw(json_texts).encode())
    result = classified(raw)
    assert result.record.value == raw
    if isinstance(result, Rejection):
        assert result.detail.startswith(name)
        assert len(result.detail) <= MAX_DETAIL_LENGTH
