"""JSON with Decimal numbers: the form in which readers of the RecentEvents table get an event."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import TypeAlias

from analytics_defs.core.events.strict_json import Json, Number, parse

DecimalJson: TypeAlias = "bool | str | Decimal | Number | list[DecimalJson] | dict[str, DecimalJson] | None"
"""JSON values. A number that Decimal cannot hold stays a `Number`."""


def parse_decimal_json(document: bytes) -> DecimalJson:
    """Parse an event's JSON text. Raises InvalidEvent as `strict_json.parse` does."""
    return _with_decimals(parse(document.decode()))


def to_decimal(text: str) -> Decimal | Number:
    """Return a JSON number as Decimal, or as `Number` if Decimal cannot hold it."""
    try:
        return Decimal(text)
    except InvalidOperation:
        return Number(text)


def _with_decimals(value: Json) -> DecimalJson:
    match value:
        case Number(text):
            return to_decimal(text)
        case dict():
            return {name: _with_decimals(item) for name, item in value.items()}
        case list():
            return [_with_decimals(item) for item in value]
        case _:
            return value
