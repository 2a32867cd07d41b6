"""Values of ours as JSON has them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import datetime
from enum import Enum
from typing import Any

from analytics_defs.core.offsets import Range, Source, TopicPartition
from analytics_defs.core.timestamps import iso_milliseconds


def to_json_value(value: Any) -> Any:  # noqa: PLR0911 - one answer for each kind of value
    """A value of ours as JSON has it: coordinates as text, dataclasses as objects."""
    match value:
        case Source() | TopicPartition() | Range():
            return str(value)
        case Enum():
            return value.value
        case datetime():
            return iso_milliseconds(value)
        case Mapping():
            return {str(to_json_value(key)): to_json_value(each) for key, each in value.items()}
        case tuple() | list() | set() | frozenset():
            return [to_json_value(each) for each in value]
        case _ if is_dataclass(value):
            return {each.name: to_json_value(getattr(value, each.name)) for each in fields(value)}
        case _:
            return value
