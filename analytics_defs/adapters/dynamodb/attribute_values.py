"""Events as DynamoDB items, and back. Written by hand, because boto3's serializer takes sixteen times as long (measured).

An event's `data` is its document as a map, `{"M": …}`, equal by value. If DynamoDB cannot hold the document, `data` is a pointer:
`{"M": {"pointer": {"S": <key of the event's JSON object>}}}`. A document always has an `id`, so the two forms cannot be confused.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, TypeAlias

from analytics_defs.adapters.dynamodb.numbers import number_size, number_text
from analytics_defs.core.events import strict_json
from analytics_defs.core.events.decimal_json import DecimalJson, to_decimal
from analytics_defs.core.events.event import Event
from analytics_defs.core.events.strict_json import Json, Number
from analytics_defs.core.storage.object_keys import event_key
from analytics_defs.core.timestamps import iso_milliseconds

AttributeValue: TypeAlias = dict[str, Any]
Item: TypeAlias = dict[str, AttributeValue]

MAX_ITEM_BYTES = 400 * 1024
"""Names and values together (AWS, "Quotas in Amazon DynamoDB")."""
MAX_TRANSACT_ACTIONS = 100
MAX_TRANSACT_BYTES = 4_000_000
"""Limits of one transaction (AWS, "Quotas in Amazon DynamoDB")."""
MAX_NAME_BYTES = 65535
"""Bytes of an attribute's name, also inside a map. An empty name is invalid (same page; measured on DynamoDB Local 3.1)."""
MAX_CONTAINERS = 31
"""Nested maps and lists, `data` included. A scalar in the innermost one is level 32, the last (measured likewise)."""

_POINTER = "pointer"
_SURELY_SMALL = MAX_ITEM_BYTES // 2 - 8192
"""Bytes of a document that is small enough without measuring it.

An attribute value takes at most twice the bytes of its JSON text. The other attributes take less than 8 KB.
"""


class NotRepresentable(ValueError):
    """A JSON value that DynamoDB cannot hold. The message gives the reason."""


ITEM_SCHEMA = (
    ("id", "string", "the event's id: the table's key"),
    ("eventId", "string", "the event's id again, for readers"),
    ("eventType", "string", "ProductCreated, ProductUpdated, ProductDeleted or LowStockWarning"),
    ("timestamp", "string", "the event's own time, as received"),
    ("data", "map", "the event's document, or a pointer to its JSON object if an item cannot hold it"),
    ("ttl", "number", "epoch seconds after which DynamoDB deletes the item: 30 days after its batch"),
    ("createdAt", "string", "the time of its batch, UTC"),
    ("source", "string", "topic/partition/offset of the record that owns the id"),
)
"""The attributes of an item: name, type, meaning."""


def recent_event_item(event: Event, batch_time: datetime, ttl: timedelta) -> Item:
    """Return the event's item in the table of recent events. The same arguments give the same item.

    `data` is a pointer if DynamoDB cannot hold the document. `pointer_key` distinguishes the two.
    """
    item: Item = {
        "id": {"S": event.id},
        "eventId": {"S": event.id},
        "eventType": {"S": event.type},
        "timestamp": {"S": event.timestamp},
        "ttl": {"N": str(int((batch_time + ttl).timestamp()))},
        "createdAt": {"S": iso_milliseconds(batch_time)},
        "source": {"S": str(event.record.source)},
    }
    try:
        item["data"] = document_value(event.data)
    except NotRepresentable:
        return item | {"data": pointer_value(event)}
    if len(event.data) > _SURELY_SMALL and item_size(item) > MAX_ITEM_BYTES:
        return item | {"data": pointer_value(event)}
    return item


def pointer_value(event: Event) -> AttributeValue:
    """Return the `data` of an event whose document DynamoDB cannot hold."""
    return {"M": {_POINTER: {"S": event_key(event.hour, event.id)}}}


def pointer_key(data: AttributeValue) -> str | None:
    """Return the key of the JSON object that `data` points to. None if `data` is the document itself."""
    fields: Mapping[str, AttributeValue] = data["M"]
    return fields[_POINTER].get("S") if fields.keys() == {_POINTER} else None


def document_value(document: bytes) -> AttributeValue:
    """Return an event's JSON text as an attribute value. Raise NotRepresentable, without regard to the item's other attributes."""
    text = document.decode()
    value = strict_json.parse(text)
    if text.count("[") + text.count("{") > MAX_CONTAINERS and strict_json.is_deeper_than(value, MAX_CONTAINERS):
        raise NotRepresentable(f"nests deeper than {MAX_CONTAINERS} maps and lists")
    return to_attribute_value(value)


def to_attribute_value(value: Json) -> AttributeValue:
    """Return a JSON value as an attribute value. Raise NotRepresentable for numbers and names that DynamoDB rejects.

    Depth and size are not checked here: see `document_value` and `item_size`.
    """
    kind = type(value)
    if kind is str:
        return {"S": value}
    if isinstance(value, Number):
        return {"N": _number(value.text)}
    if isinstance(value, dict):
        return {"M": {_valid_name(name): to_attribute_value(field) for name, field in value.items()}}
    if isinstance(value, list):
        return {"L": [to_attribute_value(element) for element in value]}
    return {"NULL": True} if value is None else {"BOOL": value}


def item_size(item: Item) -> int:
    """Return the bytes of an item by DynamoDB's formula (AWS, "DynamoDB item sizes and formats"). Exact on DynamoDB Local 3.1."""
    return sum(len(name.encode()) + _size(value) for name, value in item.items())


def from_attribute_value(value: AttributeValue) -> DecimalJson:
    """Return an attribute value as JSON: the inverse of `to_attribute_value`, equal by value."""
    ((kind, content),) = value.items()
    match kind:
        case "S" | "BOOL":
            scalar: DecimalJson = content
            return scalar
        case "N":
            return to_decimal(content)
        case "NULL":
            return None
        case "M":
            return {name: from_attribute_value(field) for name, field in content.items()}
        case "L":
            return [from_attribute_value(element) for element in content]
    raise ValueError(f"attribute type {kind} does not exist in JSON")


def _number(text: str) -> str:
    number = number_text(text)
    if number is None:
        raise NotRepresentable(f"the number {text[:60]} has more than 38 significant digits, or lies outside 1E-130 to 9.99…E+125")
    return number


def _valid_name(name: str) -> str:
    if not name or (len(name) > MAX_NAME_BYTES // 4 and len(name.encode()) > MAX_NAME_BYTES):
        raise NotRepresentable(f"a key of {len(name)} characters: expected 1 to {MAX_NAME_BYTES} bytes")
    return name


def _size(value: AttributeValue) -> int:
    ((kind, content),) = value.items()
    match kind:
        case "S":
            return len(content.encode())
        case "N":
            return number_size(content)
        case "M":
            return 3 + sum(1 + len(name.encode()) + _size(field) for name, field in content.items())
        case "L":
            return 3 + sum(1 + _size(element) for element in content)
        case _:
            return 1
