"""Records, documents and JSON strategies for tests of events."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

from analytics_defs.core.events.event import ClassifiedRecord, Event, Rejection, ValidationRules, classify
from analytics_defs.core.offsets import Record, Source, TopicPartition

NOW = datetime(2024, 1, 15, 12, tzinfo=UTC)
RULES = ValidationRules(max_event_bytes=1_000_000, max_future_skew=timedelta(hours=24))
SOURCE = Source(TopicPartition("ProductCreated", 0, 3), 1042)

reproducibly = settings(derandomize=True, database=None, deadline=None, max_examples=200)
"""Uses the same examples in every run and writes nothing to disk."""

PRODUCT = {"id": "product-7", "name": "Enamel mug", "price": 12.5, "stock": 40, "sellerId": "seller-ito"}
_COMMON = {"id": "event-1", "timestamp": "2024-01-15T10:30:00.123Z", "version": "1.0"}
CREATED: dict[str, Any] = {**_COMMON, "type": "ProductCreated", "product": PRODUCT}
UPDATED: dict[str, Any] = {**_COMMON, "type": "ProductUpdated", "product": PRODUCT, "previousProduct": PRODUCT}
DELETED: dict[str, Any] = {**_COMMON, "type": "ProductDeleted", "productId": "product-7", "sellerId": "seller-ito"}
LOW_STOCK: dict[str, Any] = {
    **_COMMON,
    "type": "LowStockWarning",
    "productId": "product-7",
    "productName": "Enamel mug",
    "currentStock": 3,
    "threshold": 10,
    "sellerId": "seller-ito",
}
CURRENT = (CREATED, UPDATED, DELETED, LOW_STOCK)


def record(value: bytes | None, source: Source = SOURCE) -> Record:
    return Record(source, 1_705_314_600_123, b"product-7", value)


def text(document: object) -> bytes:
    return json.dumps(document, ensure_ascii=False).encode()


def classified(value: bytes | None) -> ClassifiedRecord:
    return classify(record(value), RULES, NOW)


def event(document: object) -> Event:
    """Return the event of a document or of bytes. Fails if it is not an event."""
    result = classified(document if isinstance(document, bytes) else text(document))
    assert isinstance(result, Event), result
    return result


def rejection(value: object) -> Rejection:
    """Return the rejection of a document or of bytes. Fails if it is not rejected."""
    result = classified(value if isinstance(value, bytes) else text(value))
    assert isinstance(result, Rejection), result
    return result


def with_timestamp(timestamp: object) -> dict[str, Any]:
    return CREATED | {"timestamp": timestamp}


def with_extra(raw: str) -> bytes:
    """Return a valid event with an additional field `extra` of this JSON text."""
    return text(CREATED)[:-1] + b',"extra":' + raw.encode() + b"}"


def _number(sign: str, whole: int, fraction: str, exponent: str) -> str:
    return f"{sign}{whole}{fraction}{exponent}"


digits = st.text("0123456789", min_size=1, max_size=45)
numbers = st.builds(
    _number,
    st.sampled_from(["", "-"]),
    st.integers(min_value=0, max_value=10**45),
    st.just("") | digits.map(lambda fraction: f".{fraction}"),
    st.just("") | st.builds("{}{}{}".format, st.sampled_from(["e", "E"]), st.sampled_from(["", "+", "-"]), st.integers(0, 200)),
)
"""JSON numbers as text, inside and outside of the range of DynamoDB."""

strings = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


def _array(items: list[str]) -> str:
    return f"[{', '.join(items)}]"


def _object(fields: dict[str, str]) -> str:
    return "{" + ",".join(f"{json.dumps(name)} : {value}" for name, value in fields.items()) + "}"


json_texts = st.recursive(
    st.sampled_from(["null", "true", "false"])
    | numbers
    | strings.map(json.dumps)
    | strings.map(lambda string: json.dumps(string, ensure_ascii=False)),
    lambda inner: st.lists(inner, max_size=5).map(_array) | st.dictionaries(strings, inner, max_size=5).map(_object),
    max_leaves=20,
)
"""Any JSON text without duplicate keys and without lone surrogates."""
