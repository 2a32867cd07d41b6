"""Lines of the dead-letter and repeat files: one JSON object a line, keys sorted, the same bytes for the same values."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from analytics_defs.core.events.event import Event, Rejection
from analytics_defs.core.ledger import BatchRecord
from analytics_defs.core.offsets import Record, Source
from analytics_defs.errors import InconsistentState

DEAD_LETTER_COLUMNS = (
    ("source", "string", "topic/partition/offset of the record"),
    ("timestampMs", "int", "the record's own time, null where it has none"),
    ("key", "string", "base64, null where it has none"),
    ("value", "string", "base64: the record's bytes"),
    ("valueText", "string", "the same as text, where it is UTF-8"),
    ("headers", "list", "pairs of name and base64"),
    ("reason", "string", "why it is no event, in one word"),
    ("detail", "string", "where in it the fault lies"),
)
"""Fields of a dead letter: name, type, what it is."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A rejected record as it is kept: whole, so that it can be put through again without Kafka."""

    record: Record
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Duplicate:
    """An event whose id another source holds."""

    source: Source
    event_id: str
    original_source: Source


def encode_dead_letters(rejections: Sequence[Rejection]) -> bytes:
    """`source, timestampMs, key, value (base64), valueText where it is UTF-8, headers, reason, detail`; one line a rejection."""
    return b"".join(_line(_dead_letter(each)) for each in rejections)


def encode_duplicates(repeats: Sequence[tuple[Event, Source]]) -> bytes:
    """`source, eventId, heldBy`; one line a repeat."""
    return b"".join(
        _line({"source": str(event.record.source), "eventId": event.id, "originalSource": str(holder)}) for event, holder in repeats
    )


def file_sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def read_dead_letters(record: BatchRecord, data: bytes | None) -> list[DeadLetter]:
    """The dead letters of a closed batch, from what its file holds now. `data`: None where the file is gone.

    Raises InconsistentState, naming the file, what was expected and what was found, where it is not the file that the batch wrote. A record
    without a digest is of an older version: then every source must lie in the batch's ranges, once.
    """
    key = record.dead_letters_key
    if key is None:
        return []
    expected, found = record.dead_letters_digest, None if data is None else file_sha256(data)
    if data is None or expected not in (None, found):
        noted = f"a file of SHA-256 {expected}" if expected else "a file"
        raise _not_as_written(record, noted, f"SHA-256 {found}" if found else "no object")
    lines = parse_dead_letters(data, key)
    sources = [each.record.source for each in lines]
    inside = {each for each in sources if any(one.holds(each) for one in record.batch.ranges)}
    if len(inside) != len(sources):
        strangers = sorted({str(each) for each in sources if each not in inside or sources.count(each) > 1})
        raise _not_as_written(record, f"sources of {', '.join(map(str, record.batch.ranges))}, each once", ", ".join(strangers))
    return lines


def _not_as_written(record: BatchRecord, expected: str, found: str) -> InconsistentState:
    return InconsistentState(
        f"{record.dead_letters_key} is not the file that batch {record.batch.id} wrote: expected {expected}, found {found}. "
        "Restore the object from the bucket's versions or backup; nothing was changed."
    )


def parse_dead_letters(data: bytes, where: str) -> list[DeadLetter]:
    """Raises InconsistentState, naming `where` and the line, where a line was altered."""
    return [_parsed(line, f"{where} line {number}") for number, line in enumerate(data.split(b"\n"), 1) if line]


def parse_duplicates(data: bytes, where: str) -> list[Duplicate]:
    """Raises InconsistentState, naming `where`, where a line was altered."""
    try:
        lines = [json.loads(line) for line in data.split(b"\n") if line]
        return [Duplicate(Source.parse(line["source"]), line["eventId"], Source.parse(line["originalSource"])) for line in lines]
    except (ValueError, KeyError, TypeError) as error:
        raise InconsistentState(f"{where} is not a duplicates file: {error}. Restore the object; nothing was changed.") from error


def _dead_letter(rejection: Rejection) -> dict[str, Any]:
    record = rejection.record
    line: dict[str, Any] = {
        "source": str(record.source),
        "timestampMs": record.timestamp_ms,
        "key": _base64(record.key),
        "value": _base64(record.value),
        "headers": [[name, _base64(value)] for name, value in record.headers],
        "reason": str(rejection.reason),
        "detail": rejection.detail,
    }
    try:
        line["valueText"] = (record.value or b"").decode()
    except UnicodeDecodeError:
        pass  # the base64 form is the value; text is for people, where it is text
    return line


def _parsed(line: bytes, where: str) -> DeadLetter:
    try:
        found = json.loads(line)
        headers = tuple((name, _bytes(value)) for name, value in found["headers"])
        record = Record(Source.parse(found["source"]), found["timestampMs"], _bytes(found["key"]), _bytes(found["value"]), headers)
        return DeadLetter(record, found["reason"], found["detail"])
    except (ValueError, KeyError, TypeError) as error:
        raise InconsistentState(f"{where} is no dead letter: {error}. Restore the object; nothing was changed.") from error


def _line(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode("utf-8", "surrogatepass") + b"\n"


def _base64(value: bytes | None) -> str | None:
    return None if value is None else base64.b64encode(value).decode()


def _bytes(value: str | None) -> bytes | None:
    return None if value is None else base64.b64decode(value, validate=True)
