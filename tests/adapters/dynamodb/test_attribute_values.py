"""Tests of events as DynamoDB items, and back."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given

from analytics_defs.adapters.dynamodb.attribute_values import (
    ITEM_SCHEMA,
    MAX_ITEM_BYTES,
    Item,
    NotRepresentable,
    document_value,
    from_attribute_value,
    item_size,
    pointer_key,
    recent_event_item,
    to_attribute_value,
)
from analytics_defs.core.events.decimal_json import parse_decimal_json
from analytics_defs.core.events.strict_json import Number, parse
from analytics_defs.core.storage.object_keys import event_key
from tests.core.events.made_events import CREATED, SOURCE, event, json_texts, reproducibly, text, with_extra

BATCH_TIME = datetime(2024, 1, 15, 12, 0, 0, 500_000, UTC)
TTL = timedelta(days=30)


def item(document: object) -> Item:
    return recent_event_item(event(document), BATCH_TIME, TTL)


def test_the_item_schema_lists_exactly_the_attributes_of_an_item() -> None:
    kinds = {"S": "string", "N": "number", "M": "map"}
    assert {name: kind for name, kind, _ in ITEM_SCHEMA} == {name: kinds[next(iter(value))] for name, value in item(CREATED).items()}


def test_an_event_becomes_the_documented_item() -> None:
    assert item(CREATED) == {
        "id": {"S": "event-1"},
        "eventId": {"S": "event-1"},
        "eventType": {"S": "ProductCreated"},
        "timestamp": {"S": "2024-01-15T10:30:00.123Z"},
        "ttl": {"N": "1707912000"},
        "createdAt": {"S": "2024-01-15T12:00:00.500Z"},
        "source": {"S": str(SOURCE)},
        "data": {
            "M": {
                "id": {"S": "event-1"},
                "timestamp": {"S": "2024-01-15T10:30:00.123Z"},
                "version": {"S": "1.0"},
                "type": {"S": "ProductCreated"},
                "product": {
                    "M": {
                        "id": {"S": "product-7"},
                        "name": {"S": "Enamel mug"},
                        "price": {"N": "12.5"},
                        "stock": {"N": "40"},
                        "sellerId": {"S": "seller-ito"},
                    }
                },
            }
        },
    }


def test_every_json_type_has_its_attribute_type() -> None:
    document = b'{"s":"","t":true,"f":false,"n":null,"i":1,"d":1.10,"l":[1,"",[]],"m":{}}'
    assert document_value(document) == {
        "M": {
            "s": {"S": ""},
            "t": {"BOOL": True},
            "f": {"BOOL": False},
            "n": {"NULL": True},
            "i": {"N": "1"},
            "d": {"N": "1.10"},
            "l": {"L": [{"N": "1"}, {"S": ""}, {"L": []}]},
            "m": {"M": {}},
        }
    }


@reproducibly
@given(json_texts)
def test_json_survives_the_round_trip_equal_by_value(json_text: str) -> None:
    try:
        value = to_attribute_value(parse(json_text))
    except NotRepresentable:
        return
    assert (
        from_attribute_value(value)
        == json.loads(json_text, parse_int=Decimal, parse_float=Decimal)
        == parse_decimal_json(json_text.encode())
    )


@reproducibly
@given(json_texts)
def test_every_event_has_an_item_that_holds_it_or_points_to_its_object(extra: str) -> None:
    valid_event = event(with_extra(extra))
    data = recent_event_item(valid_event, BATCH_TIME, TTL)["data"]
    if pointer_key(data) is None:
        assert from_attribute_value(data) == parse_decimal_json(valid_event.data)
    else:
        assert pointer_key(data) == event_key(valid_event.hour, valid_event.id)


def nested(levels: int) -> bytes:
    """Return an event whose maps and lists nest this many levels deep, the event included."""
    return with_extra("[" * (levels - 1) + "]" * (levels - 1))


NOT_REPRESENTABLE = [
    nested(32),
    with_extra('{"a":' * 40 + "1" + "}" * 40),
    with_extra("9" * 39),
    with_extra("[1E-131]"),
    with_extra("1e126"),
    with_extra("1e" + "9" * 30),
    with_extra('{"":1}'),
    with_extra('{"' + "k" * 65_536 + '":1}'),
    with_extra('"' + "x" * 410_000 + '"'),
    with_extra("[" + "1," * 150_000 + "1]"),
]


@pytest.mark.parametrize("raw", NOT_REPRESENTABLE, ids=lambda raw: repr(raw[-60:-30]))
def test_a_document_that_dynamodb_cannot_hold_becomes_a_pointer(raw: bytes) -> None:
    pointer_item = item(raw)
    assert pointer_item["data"] == {"M": {"pointer": {"S": "events/2024/01/15/10/event-1.json"}}}
    assert pointer_item.keys() == item(CREATED).keys()
    assert item_size(pointer_item) < 1_000


@pytest.mark.parametrize("raw", [nested(31), with_extra("9" * 38), with_extra('{"' + "k" * 65_535 + '":1}')])
def test_a_document_at_the_limits_is_held(raw: bytes) -> None:
    assert pointer_key(item(raw)["data"]) is None


def test_an_event_with_a_pointer_field_is_not_a_pointer() -> None:
    assert pointer_key(item(CREATED | {"pointer": "elsewhere"})["data"]) is None


@pytest.mark.parametrize("filler", ["x", "é", "😀"])
def test_an_item_of_exactly_400_kb_is_held_and_one_byte_more_is_not(filler: str) -> None:
    bytes_left = MAX_ITEM_BYTES - item_size(item(CREATED | {"extra": ""}))
    width = len(filler.encode())
    full = filler * (bytes_left // width) + "x" * (bytes_left % width)
    assert item_size(item(CREATED | {"extra": full})) == MAX_ITEM_BYTES
    assert pointer_key(item(CREATED | {"extra": full + "x"})["data"]) is not None


def test_sizes_follow_the_formula_of_dynamodb() -> None:
    def size(json_text: str) -> int:
        return item_size({"": to_attribute_value(parse(json_text))})

    assert [size(json_text) for json_text in ('""', '"abc"', '"é"', "null", "true", "0", "12", "-1.5")] == [0, 3, 2, 1, 1, 1, 2, 4]
    assert [size(json_text) for json_text in ("[]", "{}", "[null]", "[[]]", '{"key":"v"}', '{"é":[]}')] == [3, 3, 5, 7, 8, 9]


@reproducibly
@given(json_texts)
def test_an_attribute_value_takes_at_most_twice_its_json_text(json_text: str) -> None:
    try:
        value = to_attribute_value(parse(json_text))
    except NotRepresentable:
        return
    assert item_size({"": value}) <= 2 * len(json_text.encode()) + 1


@pytest.mark.parametrize(
    "densest",
    ["[" * 30 + "]" * 30, "[" + "1," * 999 + "1]", "[" + "[]," * 999 + "[]]", "[" + "[1]," * 999 + "[1]]", "[" + "-1.1," * 999 + "0]"],
)
def test_the_densest_json_also_takes_at_most_twice_its_text(densest: str) -> None:
    assert item_size({"": to_attribute_value(parse(densest))}) <= 2 * len(densest)


def test_a_legacy_event_is_stored_in_current_form() -> None:
    legacy: dict[str, Any] = {
        "version": "1",
        "type": "LowStockWarning",
        "occurredAt": "2024-01-15T10:30:00Z",
        "productId": "product-7",
        "quantity": 3,
        "threshold": 10,
    }
    data = from_attribute_value(item(legacy)["data"])
    assert isinstance(data, dict)
    assert data["currentStock"] == 3
    assert data["id"] == event(legacy).id


def test_a_number_beyond_decimal_is_read_as_text() -> None:
    assert parse_decimal_json(b"[1.10, 1e9999999999999999999999]") == [Decimal("1.1"), Number("1e9999999999999999999999")]


def test_an_attribute_type_without_json_equivalent_raises() -> None:
    with pytest.raises(ValueError, match="SS"):
        from_attribute_value({"SS": ["a"]})


def test_the_same_event_gives_the_same_item() -> None:
    assert item(text(CREATED)) == item(text(CREATED))
