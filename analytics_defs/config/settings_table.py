"""The settings as a table, and their values and bounds in words."""

from __future__ import annotations

from datetime import timedelta
from enum import Enum
from typing import Literal, get_args, get_origin

from pydantic import SecretStr

from analytics_defs.config.settings import Settings
from analytics_defs.config.value_types import AllowedValues


def setting_names() -> dict[str, str]:
    """Every setting by its name in the environment, with its field."""
    return {field.upper(): field for field in Settings.model_fields}


def settings_table() -> str:
    """The settings as a Markdown table, for the README."""
    rows = [
        f"| `{name}` | {format_default(Settings.model_fields[field].default)} | {_allowed(field)} | {Settings.model_fields[field].description} |"
        for name, field in setting_names().items()
    ]
    return "\n".join(["| setting | default | allowed | what it is |", "|---|---|---|---|", *rows])


def _allowed(field: str) -> str:
    """Bounds and choices of a setting. Empty where its description says enough."""
    info = Settings.model_fields[field]
    words = [each.words for each in info.metadata if isinstance(each, AllowedValues)]
    at_least, above, at_most = (
        next((format_default(getattr(each, bound)) for each in info.metadata if hasattr(each, bound)), None) for bound in ("ge", "gt", "le")
    )
    if at_most:
        words.append(f"{at_least} to {at_most}")
    elif above or at_least:
        words.append(f"above {above}" if above else f"at least {at_least}")
    if choices := _choices(info.annotation):
        words.append(", ".join(map(format_default, choices)))
    return ", ".join(words)


def _choices(kind: object) -> tuple[object, ...]:
    if kind is bool:
        return True, False
    if isinstance(kind, type) and issubclass(kind, Enum):
        return tuple(kind)
    return get_args(kind) if get_origin(kind) is Literal else ()


def format_default(default: object) -> str:
    match default:
        case None:
            return "not set"
        case timedelta():
            seconds = default.total_seconds()
            return next(
                (f"`{int(seconds / size)}{unit}`" for unit, size in (("h", 3600), ("m", 60)) if seconds and seconds % size == 0),
                f"`{seconds:g}s`",
            )
        case SecretStr():
            return f"`{default.get_secret_value()}`"
        case tuple():
            return f"`{','.join(default)}`"
        case bool():
            return f"`{str(default).lower()}`"
        case _:
            return f"`{default}`"
