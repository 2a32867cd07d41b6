"""Conversion of this package's values to JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import datetime
from enum import Enum
from math import isfinite
from typing import Any

from analytics_defs.core.offsets import Range, Source, TopicPartition
from analytics_defs.core.timestamps import iso_milliseconds


def to_json_value(value: Any) -> Any:  # noqa: PLR0911 - one return for each kind of value
    """Return a value that `json.dumps` accepts: coordinates as text, times as ISO 8601, dataclasses as objects.

    NaN and infinite numbers, which JSON does not have, are null.
    """
    match value:
        case Source() | TopicPartition() | Range():
            return str(value)
        case Enum():
            return value.value
        case datetime():
            return iso_milliseconds(value)
        case float() if not isfinite(value):
            return None
        case Mapping():
            return {str(to_json_value(key)): to_json_value(item) for key, item in value.items()}
        case tuple() | list() | set() | frozenset():
            return [to_json_value(item) for item in value]
        case _ if is_dataclass(value):
            return {field.name: to_json_value(getattr(value, field.name)) for field in fields(value)}
        case _:
            return value
