"""Validation and upcast of the legacy form."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given

from analytics_defs.core.events.event import Event, classify, legacy_id
from analytics_defs.core.events.rejection_reasons import RejectionReason
from analytics_defs.core.offsets import Source, TopicPartition
from tests.core.events.made_events import NOW, RULES, SOURCE, event, json_texts, record, rejection, reproducibly, text

_PRODUCT = {
    "id": "product-7",
    "sellerId": "seller-ito",
    "name": "Enamel mug",
    "description": None,
    "price": 12.5,
    "quantity": 40,
    "category": "kitchen",
    "createdAt": "2023-11-02T08:00:00Z",
    "updatedAt": "2024-01-15T10:30:00.123Z",
}
_COMMON = {"version": "1", "occurredAt": "2024-01-15T10:30:00.123Z", "sellerId": "seller-ito"}
CREATED: dict[str, Any] = {**_COMMON, "type": "ProductCreated", "product": _PRODUCT}
UPDATED: dict[str, Any] = {**_COMMON, "type": "ProductUpdated", "product": _PRODUCT, "changes": {"quantity": {"from": 41, "to": 40}}}
DELETED: dict[str, Any] = {**_COMMON, "type": "ProductDeleted", "productId": "product-7"}
LOW_STOCK: dict[str, Any] = {
    **_COMMON,
    "type": "LowStockWarning",
    "productId": "product-7",
    "quantity": 3,
    "threshold": 10,
    "category": "kitchen",
}
LEGACY = (CREATED, UPDATED, DELETED, LOW_STOCK)
ID = legacy_id(SOURCE)


def upcast(document: dict[str, Any]) -> dict[str, Any]:
    legacy_event = event(document)
    assert legacy_event.upcast_json is not None
    upcast: dict[str, Any] = json.loads(legacy_event.upcast_json)
    return upcast


@pytest.mark.parametrize("document", LEGACY, ids=lambda document: document["type"])
def test_each_type_in_the_legacy_form_is_an_event(document: dict[str, Any]) -> None:
    legacy_event = event(document)
    assert (legacy_event.id, legacy_event.type, legacy_event.version) == (ID, document["type"], "1")
    assert (legacy_event.product_id, legacy_event.seller_id) == ("product-7", "seller-ito")
    assert (legacy_event.timestamp, legacy_event.hour) == ("2024-01-15T10:30:00.123Z", "2024-01-15T10")


@pytest.mark.parametrize("document", LEGACY, ids=lambda document: document["type"])
def test_the_original_bytes_are_kept_beside_the_upcast_document(document: dict[str, Any]) -> None:
    legacy_event = event(document)
    assert legacy_event.record.value == text(document)
    assert legacy_event.data == legacy_event.upcast_json != legacy_event.record.value


def test_the_upcast_adds_fields_and_removes_none() -> None:
    added = {"id": ID, "timestamp": "2024-01-15T10:30:00.123Z"}
    assert upcast(CREATED) == CREATED | added | {"product": _PRODUCT | {"stock": 40}}
    assert upcast(UPDATED) == UPDATED | added | {"product": _PRODUCT | {"stock": 40}}
    assert upcast(DELETED) == DELETED | added
    assert upcast(LOW_STOCK) == LOW_STOCK | added | {"currentStock": 3}


@pytest.mark.parametrize("document", [CREATED, UPDATED, DELETED], ids=lambda document: document["type"])
def test_an_upcast_document_is_an_event_in_the_current_form(document: dict[str, Any]) -> None:
    upcast_event = event(event(document).data)
    assert upcast_event.upcast_json is None
    assert (upcast_event.id, upcast_event.hour, upcast_event.product_id, upcast_event.seller_id) == (
        ID,
        "2024-01-15T10",
        "product-7",
        "seller-ito",
    )


def test_the_upcast_keeps_numbers_and_texts_unchanged() -> None:
    raw = text(CREATED | {"note": "HERE"}).replace(b"12.5", b"12.50").replace(b'"HERE"', rb'["\u00e9\n\"\\/", 1e400, -0, 0.1e-500]')
    assert b'"price":12.50' in event(raw).data
    assert '"note":["é\\n\\"\\\\/",1e400,-0,0.1e-500]'.encode() in event(raw).data


@reproducibly
@given(json_texts)
def test_the_upcast_keeps_any_json_equal_by_value(extra: str) -> None:
    legacy_event = event(text(CREATED)[:-1] + b',"extra":' + extra.encode() + b"}")

    product = _PRODUCT | {"price": "12.5", "quantity": "40", "stock": "40"}
    assert _read(legacy_event.data) == _read(legacy_event.record.value or b"") | {
        "id": ID,
        "timestamp": _COMMON["occurredAt"],
        "product": product,
    }


def _read(raw: bytes) -> dict[str, Any]:
    """Parse JSON with numbers as text."""
    document: dict[str, Any] = json.loads(raw, parse_int=str, parse_float=str)
    return document


def test_legacy_ids_are_stable_and_distinct() -> None:
    other_sources = [
        Source(TopicPartition("ProductCreated", 0, 3), 1043),
        Source(TopicPartition("ProductCreated", 0, 4), 1042),
        Source(TopicPartition("ProductCreated", 1, 3), 1042),
        Source(TopicPartition("ProductDeleted", 0, 3), 1042),
    ]
    ids = {legacy_id(source) for source in other_sources}
    assert len(ids | {ID}) == 5
    assert UUID(ID).version == 5
    assert ID == "40a1c80c-ba04-587a-a085-154625af8a04"


def test_missing_ids_of_a_legacy_event_are_copied_from_its_other_fields() -> None:
    without_seller = {name: value for name, value in _PRODUCT.items() if name != "sellerId"}
    assert event(CREATED | {"product": without_seller}).seller_id == "seller-ito"
    assert upcast(CREATED | {"product": without_seller})["product"]["sellerId"] == "seller-ito"
    whole_product = {name: value for name, value in DELETED.items() if name not in {"productId", "sellerId"}} | {"product": _PRODUCT}
    assert (event(whole_product).product_id, event(whole_product).seller_id) == ("product-7", "seller-ito")
    without_any_seller = {name: value for name, value in LOW_STOCK.items() if name != "sellerId"}
    assert event(without_any_seller).seller_id is None


@pytest.mark.parametrize(
    ("document", "detail"),
    [
        (CREATED | {"occurredAt": 1}, "occurredAt: expected a string, found the number 1"),
        (CREATED | {"product": {**_PRODUCT, "quantity": "40"}}, 'product.quantity: expected a number, found the string "40"'),
        (CREATED | {"product": {**_PRODUCT, "name": None}}, "product.name: expected a string, found null"),
        (CREATED | {"product": None}, "product: expected an object, found null"),
        (LOW_STOCK | {"quantity": None}, "quantity: expected a number, found null"),
        ({**_COMMON, "type": "ProductDeleted"}, "productId: required, and missing"),
        ({"version": "1", "type": "ProductDeleted", "productId": "p"}, "occurredAt: required, and missing"),
    ],
)
def test_a_fault_is_reported_with_the_legacy_field_name(document: dict[str, Any], detail: str) -> None:
    rejected = rejection(document)
    assert (rejected.reason, rejected.detail) == (RejectionReason.SCHEMA, detail)


def test_only_version_1_without_id_and_timestamp_is_the_legacy_form() -> None:
    assert rejection(CREATED | {"version": "1.0"}).detail.startswith("id: required")
    assert rejection(CREATED | {"id": "event-1"}).detail.startswith("timestamp: required")
    assert rejection(CREATED | {"timestamp": "2024-01-15T10:30:00Z"}).detail.startswith("id: required")


def test_a_legacy_event_follows_the_same_timestamp_rules() -> None:
    assert rejection(CREATED | {"occurredAt": "2999-01-01T00:00:00Z"}).reason is RejectionReason.TIMESTAMP_IN_FUTURE
    assert rejection(CREATED | {"occurredAt": "soon"}).reason is RejectionReason.SCHEMA


def test_the_upcast_document_is_deterministic() -> None:
    first, second = (classify(record(text(UPDATED)), RULES, NOW) for _ in range(2))
    assert isinstance(first, Event)
    assert first == second
    assert first.data.startswith(f'{{"id":"{ID}","timestamp":"2024-01-15T10:30:00.123Z","version":"1"'.encode())
