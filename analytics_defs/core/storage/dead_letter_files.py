"""Files of dead letters and duplicates: NDJSON with sorted keys, deterministic bytes."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from analytics_defs.core.events.event import Event, Rejection
from analytics_defs.core.ledger import BatchRecord
from analytics_defs.core.offsets import Record, Source
from analytics_defs.core.sha256 import sha256_hex
from analytics_defs.errors import InconsistentState

DEAD_LETTER_COLUMNS = (
    ("source", "string", "topic/partition/offset of the record"),
    ("timestampMs", "int", "the record's own timestamp, -1 if it has none"),
    ("key", "string", "base64, null if it has none"),
    ("value", "string", "base64: the record's bytes"),
    ("valueText", "string", "the same as text, if it is UTF-8"),
    ("headers", "list", "pairs of name and base64"),
    ("reason", "string", "reason of the rejection"),
    ("detail", "string", "field path, expected, found"),
)
"""Name, type and meaning of each field of a dead letter."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A rejected record as stored: complete, so that a redrive does not need Kafka."""

    record: Record
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Duplicate:
    """An event whose id another source owns."""

    source: Source
    event_id: str
    original_source: Source


def encode_dead_letters(rejections: Sequence[Rejection]) -> bytes:
    """Return one line for each rejection, with the fields of `DEAD_LETTER_COLUMNS`."""
    return b"".join(_line(dead_letter_fields(rejection)) for rejection in rejections)


def encode_duplicates(duplicates: Sequence[tuple[Event, Source]]) -> bytes:
    """Return one line for each duplicate and the source that owns its id: `source`, `eventId`, `originalSource`."""
    return b"".join(
        _line({"source": str(event.record.source), "eventId": event.id, "originalSource": str(owner)}) for event, owner in duplicates
    )


def read_dead_letters(record: BatchRecord, data: bytes | None) -> list[DeadLetter]:
    """Return the dead letters of a closed batch. `data`: content of its file now, None if the file is missing.

    Raises InconsistentState if it is not the file that the batch wrote. A record of an older version has no digest;
    then each line must have a distinct source inside the batch's ranges.
    """
    key = record.dead_letters_key
    if key is None:
        return []
    expected, found = record.dead_letters_digest, None if data is None else sha256_hex(data)
    if data is None or expected not in (None, found):
        description = f"a file of SHA-256 {expected}" if expected else "a file"
        raise _not_as_written(record, description, f"SHA-256 {found}" if found else "no object")
    letters = parse_dead_letters(data, key)
    if wrong := _wrong_sources([letter.record.source for letter in letters], record):
        raise _not_as_written(record, f"sources of {', '.join(map(str, record.batch.ranges))}, each once", ", ".join(wrong))
    return letters


def _wrong_sources(sources: Sequence[Source], record: BatchRecord) -> list[str]:
    """Return the sources that are outside the batch's ranges or that occur twice."""
    inside = {source for source in sources if any(range_.contains(source) for range_ in record.batch.ranges)}
    if len(inside) == len(sources):
        return []
    return sorted({str(source) for source in sources if source not in inside or sources.count(source) > 1})


def _not_as_written(record: BatchRecord, expected: str, found: str) -> InconsistentState:
    return InconsistentState(
        f"{record.dead_letters_key} is not the file that batch {record.batch.id} wrote: expected {expected}, found {found}. "
        "Restore the object from the bucket's versions or backup. Nothing was changed."
    )


def parse_dead_letters(data: bytes, name: str) -> list[DeadLetter]:
    """Parse a dead-letter file. Raises InconsistentState, with `name` and line number, for an invalid line."""
    return [_parse_dead_letter(line, f"{name} line {number}") for number, line in enumerate(data.split(b"\n"), 1) if line]


def parse_duplicates(data: bytes, name: str) -> list[Duplicate]:
    """Parse a duplicates file. Raises InconsistentState, with `name`, for an invalid line."""
    try:
        lines = [json.loads(line) for line in data.split(b"\n") if line]
        return [Duplicate(Source.parse(line["source"]), line["eventId"], Source.parse(line["originalSource"])) for line in lines]
    except (ValueError, KeyError, TypeError) as error:
        raise InconsistentState(f"{name} is not a duplicates file: {error}. Restore the object. Nothing was changed.") from error


def dead_letter_fields(letter: DeadLetter | Rejection) -> dict[str, Any]:
    """Return the fields of `DEAD_LETTER_COLUMNS`. `valueText` is left out if the value is not UTF-8."""
    record = letter.record
    line: dict[str, Any] = {
        "source": str(record.source),
        "timestampMs": record.timestamp_ms,
        "key": _base64(record.key),
        "value": _base64(record.value),
        "headers": [[name, _base64(value)] for name, value in record.headers],
        "reason": str(letter.reason),
        "detail": letter.detail,
    }
    try:
        line["valueText"] = (record.value or b"").decode()
    except UnicodeDecodeError:
        pass  # `value` holds the bytes; `valueText` is only for human readers
    return line


def _parse_dead_letter(line: bytes, name: str) -> DeadLetter:
    try:
        fields = json.loads(line)
        headers = tuple((header, _bytes(value)) for header, value in fields["headers"])
        record = Record(
            Source.parse(fields["source"]), _int64(fields["timestampMs"]), _bytes(fields["key"]), _bytes(fields["value"]), headers
        )
        return DeadLetter(record, fields["reason"], fields["detail"])
    except (ValueError, KeyError, TypeError) as error:
        raise InconsistentState(f"{name} is not a dead letter: {error}. Restore the object. Nothing was changed.") from error


def _int64(value: object) -> int:
    if type(value) is not int or not -(2**63) <= value < 2**63:
        raise ValueError(f"timestampMs: expected a 64-bit integer, found {value!r}"[:200])
    return value


def _line(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode("utf-8", "surrogatepass") + b"\n"


def _base64(value: bytes | None) -> str | None:
    return None if value is None else base64.b64encode(value).decode()


def _bytes(value: str | None) -> bytes | None:
    return None if value is None else base64.b64decode(value, validate=True)
