"""Schemas of the four event types, and the upcast from the legacy form to the current form.

The fields that the platform reads are validated strictly: a string or a bool is never accepted as a number.
All other fields are kept unchanged and unread.
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
    """Fields of every event in the current form."""

    id: Annotated[str, Field(min_length=1)]
    timestamp: str
    version: str = "1.0"

    def product_and_seller_id(self) -> tuple[str, str | None]:
        """Return product id and seller id."""
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
    """Fields of the legacy form only. The other fields are validated after the upcast."""

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
    """Return the event type, one of `EVENT_TYPES`.

    Raises InvalidEvent: `unknown_type` for any other string, `schema` if `type` is missing or no string.
    """
    event_type = document.get("type")
    if isinstance(event_type, str) and event_type in _CURRENT:
        return event_type
    reason = RejectionReason.UNKNOWN_TYPE if isinstance(event_type, str) else RejectionReason.SCHEMA
    description = describe(event_type) if "type" in document else "nothing"
    raise InvalidEvent(reason, f"type: expected one of {', '.join(EVENT_TYPES)}, found {description}")


def is_legacy(document: JsonObject) -> bool:
    """Return True for version "1" without `id` and `timestamp`. An upcast document has both, so it is in the current form."""
    return document.get("version") == "1" and "id" not in document and "timestamp" not in document


def parse_event_schema(document: JsonObject, event_type: str) -> EventSchema:
    """Validate an event in the current form. Raises InvalidEvent: `schema`."""
    return _validate(_CURRENT[event_type], document)


def upcast(document: JsonObject, event_type: str, event_id: str) -> tuple[JsonObject, EventSchema]:
    """Convert a legacy event to the current form. Raises InvalidEvent: `schema`.

    Fields are added, none is changed or removed: `id`, `timestamp` = `occurredAt`, `stock` and `currentStock` =
    `quantity`. A missing `product.sellerId`, or the ids of a deleted product, are copied from the place
    where the legacy form has them. `version` stays "1".
    """
    _validate(_LEGACY[event_type], document)
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
    return current, _validate(_UPCAST[event_type], current)


def _known(**fields: Json) -> JsonObject:
    return {name: value for name, value in fields.items() if value is not None}


_S = TypeVar("_S", bound=_Shape)


def _validate(shape: type[_S], document: JsonObject) -> _S:
    try:
        return shape.model_validate(document)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False)
        raise InvalidEvent(RejectionReason.SCHEMA, "; ".join(map(_message, problems))) from None


_EXPECTED = {
    "string_type": "a string",
    "string_too_short": "a string that is not empty",
    "is_instance_of": "a number",
    "model_type": "an object",
}


def _message(problem: ErrorDetails) -> str:
    path = ".".join(str(step) for step in problem["loc"])
    if problem["type"] == "missing":
        return f"{path}: required, and missing"
    return f"{path}: expected {_EXPECTED.get(problem['type'], problem['msg'])}, found {describe(problem['input'])}"
