"""The settings as Markdown tables, and the text form of their values and bounds."""

from __future__ import annotations

from datetime import timedelta
from enum import Enum
from typing import Literal, get_args, get_origin

from pydantic import SecretStr

from analytics_defs.config.settings import Settings
from analytics_defs.config.value_types import AllowedValues

_HEADINGS = {
    "kafka_brokers": "Kafka",
    "dynamo_endpoint": "AWS and tables",
    "minio_endpoint": "Object store",
    "lanes": "Batches and runs",
    "partitions_start": "Hours",
    "max_lag": "Checks and health",
    "event_json_retention": "Retention",
}
"""Heading of each table, by the first setting in it."""


def setting_names() -> dict[str, str]:
    """Return the field of every setting by the name of its environment variable."""
    return {field.upper(): field for field in Settings.model_fields}


def settings_table() -> str:
    """Return one Markdown table for each topic, as docs/settings.md contains them."""
    lines: list[str] = []
    for name, field in setting_names().items():
        info = Settings.model_fields[field]
        if field in _HEADINGS:
            lines += [
                *([""] if lines else []),
                f"## {_HEADINGS[field]}",
                "",
                "| setting | default | allowed | meaning |",
                "|---|---|---|---|",
            ]
        lines.append(f"| `{name}` | {format_value(info.default)} | {_allowed(field)} | {info.description} |")
    return "\n".join(lines)


def _allowed(field: str) -> str:
    """Return the bounds and choices of a setting, or an empty text if it has none."""
    info = Settings.model_fields[field]
    words = [item.words for item in info.metadata if isinstance(item, AllowedValues)]
    at_least, above, at_most = (
        next((format_value(getattr(item, bound)) for item in info.metadata if hasattr(item, bound)), None) for bound in ("ge", "gt", "le")
    )
    if at_most:
        words.append(f"{at_least} to {at_most}")
    elif above or at_least:
        words.append(f"above {above}" if above else f"at least {at_least}")
    if choices := _choices(info.annotation):
        words.append(", ".join(map(format_value, choices)))
    return ", ".join(words)


def _choices(annotation: object) -> tuple[object, ...]:
    if annotation is bool:
        return True, False
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return tuple(annotation)
    return get_args(annotation) if get_origin(annotation) is Literal else ()


def format_value(value: object) -> str:
    """Return a value as it is written in the environment, as Markdown code. None is `not set`."""
    match value:
        case None:
            return "not set"
        case timedelta():
            seconds = value.total_seconds()
            return next(
                (f"`{int(seconds / size)}{unit}`" for unit, size in (("h", 3600), ("m", 60)) if seconds and seconds % size == 0),
                f"`{seconds:g}s`",
            )
        case SecretStr():
            return f"`{value.get_secret_value()}`"
        case tuple():
            return f"`{','.join(value)}`"
        case bool():
            return f"`{str(value).lower()}`"
        case _:
            return f"`{value}`"
