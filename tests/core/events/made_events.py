"""What the tests of events share: records, documents, and strategies for JSON as strange as RFC 8259 allows."""

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
"""The same examples in every run, and nothing left on disk."""

PRODUCT = {"id": "product-7", "name": "Enamel mug", "price": 12.5, "stock": 40, "sellerId": "seller-ito"}
_HEAD = {"id": "event-1", "timestamp": "2024-01-15T10:30:00.123Z", "version": "1.0"}
CREATED: dict[str, Any] = {**_HEAD, "type": "ProductCreated", "product": PRODUCT}
UPDATED: dict[str, Any] = {**_HEAD, "type": "ProductUpdated", "product": PRODUCT, "previousProduct": PRODUCT}
DELETED: dict[str, Any] = {**_HEAD, "type": "ProductDeleted", "productId": "product-7", "sellerId": "seller-ito"}
LOW_STOCK: dict[str, Any] = {
    **_HEAD,
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


def judged(value: bytes | None) -> ClassifiedRecord:
    return classify(record(value), RULES, NOW)


def event(document: object) -> Event:
    """The event that this document, or these bytes, are. Fails where it is none."""
    verdict = judged(document if isinstance(document, bytes) else text(document))
    assert isinstance(verdict, Event), verdict
    return verdict


def rejection(value: object) -> Rejection:
    """The rejection of this document, or these bytes. Fails where it is none."""
    verdict = judged(value if isinstance(value, bytes) else text(value))
    assert isinstance(verdict, Rejection), verdict
    return verdict


def stamped(timestamp: object) -> dict[str, Any]:
    return CREATED | {"timestamp": timestamp}


def with_extra(raw: str) -> bytes:
    """A valid event with one more field, `extra`, whose value is this JSON text."""
    return text(CREATED)[:-1] + b',"extra":' + raw.encode() + b"}"


def _number(sign: str, whole: int, fraction: str, exponent: str) -> str:
    return f"{sign}{whole}{fraction}{exponent}"


digits = st.text("0123456789", min_size=1, max_size=45)
numbers = st.builds(
    _number,
    st.sampled_from(["", "-"]),
    st.integers(min_value=0, max_value=10**45),
    st.just("") | digits.map(lambda found: f".{found}"),
    st.just("") | st.builds("{}{}{}".format, st.sampled_from(["e", "E"]), st.sampled_from(["", "+", "-"]), st.integers(0, 200)),
)
"""JSON numbers as text: inside and outside of what DynamoDB holds."""

strings = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


def _array(items: list[str]) -> str:
    return f"[{', '.join(items)}]"


def _object(fields: dict[str, str]) -> str:
    return "{" + ",".join(f"{json.dumps(name)} : {value}" for name, value in fields.items()) + "}"


json_texts = st.recursive(
    st.sampled_from(["null", "true", "false"])
    | numbers
    | strings.map(json.dumps)
    | strings.map(lambda each: json.dumps(each, ensure_ascii=False)),
    lambda inner: st.lists(inner, max_size=5).map(_array) | st.dictionaries(strings, inner, max_size=5).map(_object),
    max_leaves=20,
)
"""Any JSON text without a key twice and without half a surrogate pair."""
