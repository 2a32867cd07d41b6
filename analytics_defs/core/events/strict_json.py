"""Lossless JSON of RFC 8259: numbers keep their text, and text that two parsers could read differently is rejected."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from json.encoder import encode_basestring
from typing import NamedTuple, NoReturn, TypeAlias, cast

from analytics_defs.core.events.rejection_reasons import InvalidEvent, RejectionReason

MAX_DEPTH = 128
"""Levels of arrays and objects, including the outermost. serde_json has the same limit."""

_ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class Number(NamedTuple):
    """A JSON number as its original text, for example `1.10`, `-0` or a million digits."""

    text: str


Json: TypeAlias = "bool | str | Number | list[Json] | dict[str, Json] | None"


def parse(text: str) -> Json:
    """Parse one JSON text. Keys keep their order.

    Raises InvalidEvent: `not_json`, `duplicate_key`, `nested_too_deep` or `lone_surrogate`. The result does not depend
    on the depth of the caller's stack: Python's parser accepts more than `MAX_DEPTH` levels, and the limit is
    checked on the parsed value.
    """
    try:
        value = cast(Json, _DECODER.decode(text))
    except json.JSONDecodeError as error:
        raise InvalidEvent(RejectionReason.NOT_JSON, f"expected JSON, found at character {error.pos}: {error.msg}") from None
    except RecursionError:
        raise _too_deep() from None
    if text.count("[") + text.count("{") > MAX_DEPTH and is_deeper_than(value, MAX_DEPTH):
        raise _too_deep()
    if _ESCAPED_SURROGATE.search(text):
        _reject_lone_surrogates(value)
    return value


def dump(value: Json) -> str:
    """Return compact, deterministic JSON: keys in order, numbers as parsed, only the necessary escapes."""
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
    """Return True if arrays and objects nest in more than `limit` levels, including the outermost."""
    level: list[Json] = [value]
    for _ in range(limit + 1):
        containers = [item for item in level if isinstance(item, (list, dict))]
        if not containers:
            return False
        level = [child for parent in containers for child in (parent.values() if isinstance(parent, dict) else parent)]
    return True


_CONSTANTS: dict[bool | None, str] = {None: "null", True: "true", False: "false"}


def describe(value: Json) -> str:
    """Return a short ASCII description for a message. It is bounded because the dead letter holds the whole payload."""
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
    repeated = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
    raise InvalidEvent(RejectionReason.DUPLICATE_KEY, f"expected every key once in an object, found {json.dumps(repeated[:80])} twice")


def _reject_constant(name: str) -> NoReturn:
    raise InvalidEvent(RejectionReason.NOT_JSON, f"expected JSON, found {name}, which is not a JSON number")


def _too_deep() -> InvalidEvent:
    return InvalidEvent(RejectionReason.NESTED_TOO_DEEP, f"expected at most {MAX_DEPTH} levels of arrays and objects, found more")


def _reject_lone_surrogates(value: Json) -> None:
    try:
        dump(value).encode("utf-8")
    except UnicodeEncodeError as error:
        half = ascii(error.object[error.start])
        raise InvalidEvent(RejectionReason.LONE_SURROGATE, f"expected Unicode text, found half of a surrogate pair: {half}") from None


_NUMBER: Callable[[str], Number] = Number
_DECODER = json.JSONDecoder(object_pairs_hook=_without_duplicates, parse_float=_NUMBER, parse_int=_NUMBER, parse_constant=_reject_constant)
