"""JSON as RFC 8259 has it, without a loss: numbers keep their text, and what two readers could understand differently is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from json.encoder import encode_basestring
from typing import NamedTuple, NoReturn, TypeAlias, cast

from analytics_defs.core.events.rejection_reasons import InvalidEvent, RejectionReason

MAX_DEPTH = 128
"""Levels of arrays and objects, the outermost counted: what common readers take (serde_json's limit is the same)."""

_ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class Number(NamedTuple):
    """A JSON number, as it was written: `1.10`, `-0` and a million digits stay what they are."""

    text: str


Json: TypeAlias = "bool | str | Number | list[Json] | dict[str, Json] | None"


def parse(text: str) -> Json:
    """The value of one JSON text, keys in their order.

    Raises NotAnEvent: `not_json`, `duplicate_key`, `nested_too_deep` or `lone_surrogate`. How deep the caller's own stack is
    changes nothing: Python's parser goes deeper than `MAX_DEPTH`, and the limit is checked on the result.
    """
    try:
        value = cast(Json, _DECODER.decode(text))
    except json.JSONDecodeError as fault:
        raise InvalidEvent(RejectionReason.NOT_JSON, f"expected JSON, found at character {fault.pos}: {fault.msg}") from None
    except RecursionError:
        raise _too_deep() from None
    if text.count("[") + text.count("{") > MAX_DEPTH and is_deeper_than(value, MAX_DEPTH):
        raise _too_deep()
    if _ESCAPED_SURROGATE.search(text):
        _refuse_lone_surrogates(value)
    return value


def dump(value: Json) -> str:
    """Compact JSON text: keys in their order, numbers as they were written, nothing escaped that need not be. Deterministic."""
    match value:
        case Number(text):
            return text
        case str():
            return encode_basestring(value)
        case dict():
            return "{" + ",".join([f"{encode_basestring(key)}:{dump(item)}" for key, item in value.items()]) + "}"
        case list():
            return "[" + ",".join([dump(item) for item in value]) + "]"
        case _:
            return _CONSTANTS[value]


def is_deeper_than(value: Json, limit: int) -> bool:
    """Whether arrays and objects nest in more than `limit` levels, the outermost counted."""
    level: list[Json] = [value]
    for _ in range(limit + 1):
        containers = [each for each in level if isinstance(each, (list, dict))]
        if not containers:
            return False
        level = [child for each in containers for child in (each.values() if isinstance(each, dict) else each)]
    return True


_CONSTANTS: dict[bool | None, str] = {None: "null", True: "true", False: "false"}


def describe(value: Json) -> str:
    """`value` in a few words for a message, in ASCII and bounded: a dead letter holds the whole payload already."""
    match value:
        case None | bool():
            return _CONSTANTS[value]
        case Number(text):
            return f"the number {text[:40]}"
        case str():
            return f"the string {json.dumps(value[:40])}" + ("…" if len(value) > 40 else "")
        case list():
            return "an array"
        case dict():
            return "an object"


def _without_duplicates(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    unique = dict(pairs)
    if len(unique) == len(pairs):
        return unique
    seen: set[str] = set()
    twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
    raise InvalidEvent(RejectionReason.DUPLICATE_KEY, f"expected every key once in an object, found {json.dumps(twice[:80])} twice")


def _refuse_constant(name: str) -> NoReturn:
    raise InvalidEvent(RejectionReason.NOT_JSON, f"expected JSON, found {name}, which is not a JSON number")


def _too_deep() -> InvalidEvent:
    return InvalidEvent(RejectionReason.NESTED_TOO_DEEP, f"expected at most {MAX_DEPTH} levels of arrays and objects, found more")


def _refuse_lone_surrogates(value: Json) -> None:
    try:
        dump(value).encode("utf-8")
    except UnicodeEncodeError as fault:
        half = ascii(fault.object[fault.start])
        raise InvalidEvent(RejectionReason.LONE_SURROGATE, f"expected Unicode text, found half of a surrogate pair: {half}") from None


_NUMBER: Callable[[str], Number] = Number
_DECODER = json.JSONDecoder(object_pairs_hook=_without_duplicates, parse_float=_NUMBER, parse_int=_NUMBER, parse_constant=_refuse_constant)
