"""Events as DynamoDB items, and back."""

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


def test_the_columns_are_the_attributes_of_an_item() -> None:
    assert {name for name, _, _ in ITEM_SCHEMA} == item(CREATED).keys()


def test_an_event_becomes_the_item_that_readers_know() -> None:
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


def test_every_kind_of_json_has_its_attribute_type() -> None:
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
def test_what_comes_back_is_equal_by_value(found: str) -> None:
    try:
        value = to_attribute_value(parse(found))
    except NotRepresentable:
        return
    assert from_attribute_value(value) == json.loads(found, parse_int=Decimal, parse_float=Decimal) == parse_decimal_json(found.encode())


@reproducibly
@given(json_texts)
def test_every_event_has_an_item_that_holds_it_or_points_to_it(extra: str) -> None:
    found = event(with_extra(extra))
    data = recent_event_item(found, BATCH_TIME, TTL)["data"]
    if pointer_key(data) is None:
        assert from_attribute_value(data) == parse_decimal_json(found.data)
    else:
        assert pointer_key(data) == event_key(found.hour, found.id)


def nested(levels: int) -> bytes:
    """An event whose maps and lists nest in so many levels, itself included."""
    return with_extra("[" * (levels - 1) + "]" * (levels - 1))


UNHOLDABLE = [
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


@pytest.mark.parametrize("raw", UNHOLDABLE, ids=lambda raw: repr(raw[-60:-30]))
def test_what_dynamodb_cannot_hold_is_pointed_to(raw: bytes) -> None:
    found = item(raw)
    assert found["data"] == {"M": {"pointer": {"S": "events/2024/01/15/10/event-1.json"}}}
    assert found.keys() == item(CREATED).keys()
    assert item_size(found) < 1_000


@pytest.mark.parametrize("raw", [nested(31), with_extra("9" * 38), with_extra('{"' + "k" * 65_535 + '":1}')])
def test_what_it_can_hold_is_held(raw: bytes) -> None:
    assert pointer_key(item(raw)["data"]) is None


def test_an_event_that_looks_like_a_pointer_is_none() -> None:
    assert pointer_key(item(CREATED | {"pointer": "elsewhere"})["data"]) is None


@pytest.mark.parametrize("filler", ["x", "é", "😀"])
def test_an_item_of_exactly_400_kb_is_held_and_one_byte_more_is_not(filler: str) -> None:
    room = MAX_ITEM_BYTES - item_size(item(CREATED | {"extra": ""}))
    width = len(filler.encode())
    full = filler * (room // width) + "x" * (room % width)
    assert item_size(item(CREATED | {"extra": full})) == MAX_ITEM_BYTES
    assert pointer_key(item(CREATED | {"extra": full + "x"})["data"]) is not None


def test_sizes_follow_dynamodbs_formula() -> None:
    def size(found: str) -> int:
        return item_size({"": to_attribute_value(parse(found))})

    assert [size(found) for found in ('""', '"abc"', '"é"', "null", "true", "0", "12", "-1.5")] == [0, 3, 2, 1, 1, 1, 2, 4]
    assert [size(found) for found in ("[]", "{}", "[null]", "[[]]", '{"key":"v"}', '{"é":[]}')] == [3, 3, 5, 7, 8, 9]


@reproducibly
@given(json_texts)
def test_no_json_takes_more_than_twice_its_text(found: str) -> None:
    try:
        value = to_attribute_value(parse(found))
    except NotRepresentable:
        return
    assert item_size({"": value}) <= 2 * len(found.encode()) + 1


@pytest.mark.parametrize(
    "densest",
    ["[" * 30 + "]" * 30, "[" + "1," * 999 + "1]", "[" + "[]," * 999 + "[]]", "[" + "[1]," * 999 + "[1]]", "[" + "-1.1," * 999 + "0]"],
)
def test_nor_does_the_densest(densest: str) -> None:
    assert item_size({"": to_attribute_value(parse(densest))}) <= 2 * len(densest)


def test_a_legacy_event_is_held_in_current_form() -> None:
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


def test_readers_get_numbers_that_decimal_cannot_hold_as_text() -> None:
    assert parse_decimal_json(b"[1.10, 1e9999999999999999999999]") == [Decimal("1.1"), Number("1e9999999999999999999999")]


def test_a_type_that_json_does_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match="SS"):
        from_attribute_value({"SS": ["a"]})


def test_the_same_event_gives_the_same_item() -> None:
    assert item(text(CREATED)) == item(text(CREATED))
