"""The shapes of events, and the way from the legacy form to the current one.

The fields the platform reads are checked here, strictly: a string is never taken for a number, nor a bool. All other fields are
kept as they came, unread.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, Field, InstanceOf, ValidationError
from pydantic.alias_generators import to_camel
from pydantic_core import ErrorDetails

from analytics_defs.core.events.rejection_reasons import InvalidEvent, RejectionReason
from analytics_defs.core.events.strict_json import Json, Number, describe

JsonObject: TypeAlias = dict[str, Json]


class _Shape(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", alias_generator=to_camel)


class EventSchema(_Shape):
    """The current form: what every event says of itself."""

    id: Annotated[str, Field(min_length=1)]
    timestamp: str
    version: str = "1.0"

    def product_and_seller_id(self) -> tuple[str, str | None]:
        """Product id and seller id."""
        raise NotImplementedError


class _Product(_Shape):
    id: str
    name: str
    price: InstanceOf[Number]
    stock: InstanceOf[Number]
    seller_id: str


class _Created(EventSchema):
    product: _Product

    def product_and_seller_id(self) -> tuple[str, str | None]:
        return self.product.id, self.product.seller_id


class _Updated(_Created):
    previous_product: _Product | None = None


class _Deleted(EventSchema):
    product_id: str
    seller_id: str

    def product_and_seller_id(self) -> tuple[str, str | None]:
        return self.product_id, self.seller_id


class _UpcastLowStock(EventSchema):
    product_id: str
    current_stock: InstanceOf[Number]
    threshold: InstanceOf[Number]
    seller_id: str | None = None

    def product_and_seller_id(self) -> tuple[str, str | None]:
        return self.product_id, self.seller_id


class _LowStock(_UpcastLowStock):
    product_name: str
    seller_id: str


class _Legacy(_Shape):
    """What only the legacy form has; the rest is checked after the upcast."""

    occurred_at: str


class _LegacyStock(_Shape):
    quantity: InstanceOf[Number]


class _LegacyChanged(_Legacy):
    product: _LegacyStock


class _LegacyLowStock(_Legacy, _LegacyStock):
    pass


_CURRENT: dict[str, type[EventSchema]] = {
    "ProductCreated": _Created,
    "ProductUpdated": _Updated,
    "ProductDeleted": _Deleted,
    "LowStockWarning": _LowStock,
}
_UPCAST: dict[str, type[EventSchema]] = {**_CURRENT, "LowStockWarning": _UpcastLowStock}
_LEGACY: dict[str, type[_Legacy]] = {
    "ProductCreated": _LegacyChanged,
    "ProductUpdated": _LegacyChanged,
    "ProductDeleted": _Legacy,
    "LowStockWarning": _LegacyLowStock,
}
EVENT_TYPES = tuple(_CURRENT)


def type_of(document: JsonObject) -> str:
    """The event's type, one of `EVENT_TYPES`. Raises NotAnEvent: `schema` where there is none, `unknown_type`."""
    found = document.get("type")
    if isinstance(found, str) and found in _CURRENT:
        return found
    reason = RejectionReason.UNKNOWN_TYPE if isinstance(found, str) else RejectionReason.SCHEMA
    what = describe(found) if "type" in document else "nothing"
    raise InvalidEvent(reason, f"type: expected one of {', '.join(EVENT_TYPES)}, found {what}")


def is_legacy(document: JsonObject) -> bool:
    """Version "1" with neither `id` nor `timestamp`: so an upcast document, which has both, is in current form."""
    return document.get("version") == "1" and "id" not in document and "timestamp" not in document


def parse_event_schema(document: JsonObject, event_type: str) -> EventSchema:
    """What an event in current form says. Raises NotAnEvent: `schema`."""
    return _check(_CURRENT[event_type], document)


def upcast(document: JsonObject, event_type: str, event_id: str) -> tuple[JsonObject, EventSchema]:
    """An event in legacy form as one in current form, and what it says. Raises NotAnEvent: `schema`.

    Fields are added, none is changed or dropped: `id`; `timestamp` = `occurredAt`; `stock` and `currentStock` = `quantity`;
    a product's `sellerId` and a deleted product's id from where the legacy form has them. `version` stays "1".
    """
    _check(_LEGACY[event_type], document)
    current: JsonObject = {"id": event_id, "timestamp": document["occurredAt"], **document}
    product = document.get("product")
    if event_type == "LowStockWarning":
        current = {"currentStock": document["quantity"], **current}
    elif event_type == "ProductDeleted":
        if isinstance(product, dict):
            current = {**_known(productId=product.get("id"), sellerId=product.get("sellerId")), **current}
    elif isinstance(product, dict):
        seller = _known(sellerId=document.get("sellerId"))
        current["product"] = {**seller, "stock": product["quantity"], **product}
    return current, _check(_UPCAST[event_type], current)


def _known(**fields: Json) -> JsonObject:
    return {name: value for name, value in fields.items() if value is not None}


_S = TypeVar("_S", bound=_Shape)


def _check(shape: type[_S], document: JsonObject) -> _S:
    try:
        return shape.model_validate(document)
    except ValidationError as fault:
        problems = fault.errors(include_url=False, include_context=False)
        raise InvalidEvent(RejectionReason.SCHEMA, "; ".join(map(_in_words, problems))) from None


_EXPECTED = {
    "string_type": "a string",
    "string_too_short": "a string that is not empty",
    "is_instance_of": "a number",
    "model_type": "an object",
}


def _in_words(problem: ErrorDetails) -> str:
    path = ".".join(str(step) for step in problem["loc"])
    if problem["type"] == "missing":
        return f"{path}: required, and missing"
    return f"{path}: expected {_EXPECTED.get(problem['type'], problem['msg'])}, found {describe(problem['input'])}"
