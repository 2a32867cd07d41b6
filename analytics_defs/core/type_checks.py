"""Comparison of decoded values with the type hints of their fields. Stores hold whatever was written into them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import is_dataclass
from functools import lru_cache
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints


def require_type(value: object, hint: Any, name: str) -> None:
    """Raise TypeError, naming the field, if the value or one of its fields or elements is not of the hinted type.

    A `bool` is no `int`. Handles the hints of the ledger's values: dataclasses, mappings, tuples, optional values and plain types.
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        if not any(_has_type(value, option) for option in arguments):
            raise TypeError(f"{name}: expected {hint}, found {type(value).__name__}")
    elif origin is tuple:
        _require_tuple(value, arguments, name)
    elif isinstance(origin, type) and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise TypeError(f"{name}: expected a map, found {type(value).__name__}")
        for key, element in value.items():
            require_type(key, arguments[0], f"{name} {key}")
            require_type(element, arguments[1], f"{name} {key}")
    elif not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise TypeError(f"{name}: expected {hint.__name__}, found {type(value).__name__}")
    elif isinstance(hint, type) and is_dataclass(hint):
        for field, field_hint in _field_hints(hint).items():
            require_type(getattr(value, field), field_hint, field)


def _require_tuple(value: object, arguments: tuple[Any, ...], name: str) -> None:
    if not isinstance(value, tuple):
        raise TypeError(f"{name}: expected a list, found {type(value).__name__}")
    hints = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else arguments
    for element, hint in zip(value, hints, strict=True):
        require_type(element, hint, name)


def _has_type(value: object, hint: Any) -> bool:
    try:
        require_type(value, hint, "")
    except TypeError:
        return False
    return True


@lru_cache
def _field_hints(hint: type) -> dict[str, Any]:
    return get_type_hints(hint)
