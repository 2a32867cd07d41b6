"""What a record is: an event, a rejection with its reason, or a tombstone. A bad record is a value here, never an error.

What becomes of unusual JSON, here and in the stores (the archive always holds the record's own bytes):

| in the record                                  | verdict                                                               |
|------------------------------------------------|-----------------------------------------------------------------------|
| unknown fields, null or `""` in unread fields  | event, kept                                                           |
| numbers of any length or exponent              | event; beyond DynamoDB's 38 digits or range its item holds a pointer  |
| nesting to 128 levels                          | event; deeper than DynamoDB's 32 its item holds a pointer             |
| more than 400 KB by DynamoDB's size formula    | event; its item holds a pointer                                       |
| the empty string as a key                      | event; where DynamoDB refuses it its item holds a pointer             |
| ids with any characters, up to 2,048 bytes     | event                                                                 |
| an empty id                                    | `schema`                                                              |
| an id over 2,048 bytes of UTF-8                | `id_too_long`                                                         |
| a timestamp before year 1 in UTC               | `schema`                                                              |
| `NaN`, `Infinity`, a byte order mark           | `not_json`                                                            |
| a key twice in one object, at any depth        | `duplicate_key`                                                       |
| nesting deeper than 128 levels                 | `nested_too_deep`                                                     |
| half a surrogate pair (`\\ud800`) anywhere      | `lone_surrogate`                                                      |
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeAlias

from analytics_defs.core.events import schema, strict_json
from analytics_defs.core.events.rejection_reasons import InvalidEvent, RejectionReason
from analytics_defs.core.events.schema import JsonObject
from analytics_defs.core.events.strict_json import describe
from analytics_defs.core.offsets import Record, Source
from analytics_defs.core.timestamps import NotATimestamp, hour_of, parse_timestamp

MAX_ID_BYTES = 2048
"""Bytes of UTF-8 in a DynamoDB partition key (AWS, "Quotas in Amazon DynamoDB")."""

LEGACY_NAMESPACE = uuid.UUID("b1001660-82b4-4e47-9cb9-3a9c3c588cbf")
"""The namespace of the ids given to legacy events. Never changes: the same record must get the same id for ever."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationRules:
    """What a record must keep to. They apply when a batch is staged, and never again: a retry reads the staged verdicts."""

    max_event_bytes: int
    """Of a record's value."""
    max_future_skew: timedelta = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class Event:
    """A record that is a valid event, in current or legacy form."""

    record: Record
    id: str
    """Not empty, at most `MAX_TRACE_ID_BYTES` of UTF-8, any characters. A legacy event's is `legacy_id` of its source."""
    type: str
    """One of `EVENT_TYPES`. The topic it came by need not have the same name."""
    timestamp: str
    """As the event had it: ISO-8601, ASCII, at most 64 characters."""
    time: datetime
    """The same instant, aware UTC, cut off at microseconds."""
    hour: str
    """The UTC hour of `time`: `2024-01-15T10`."""
    version: str
    """As the event had it; "1.0" where it had none. "1" marks the legacy form."""
    product_id: str | None
    seller_id: str | None
    document: bytes | None
    """A legacy event in current form, as deterministic UTF-8 JSON text. None: the record's own bytes are in current form."""

    @property
    def data(self) -> bytes:
        """The event in current form, as UTF-8 JSON text."""
        return self.document if self.document is not None else self.record.value or b""


@dataclass(frozen=True, slots=True)
class Rejection:
    """A record that is not an event: it goes to the dead letters with its payload as it came."""

    record: Record
    reason: RejectionReason
    detail: str
    """Field path, expected, found. Bounded, and never the whole payload."""


@dataclass(frozen=True, slots=True)
class Tombstone:
    """A record with a null value: counted, nothing stored."""

    record: Record


ClassifiedRecord: TypeAlias = Event | Rejection | Tombstone


def classify(record: Record, rules: ValidationRules, now: datetime) -> ClassifiedRecord:
    """What `record` is at `now` (aware). Never raises, whatever its bytes; the same arguments give the same verdict."""
    if record.value is None:
        return Tombstone(record)
    try:
        return _event(record, record.value, rules, now)
    except InvalidEvent as fault:
        return Rejection(record, fault.reason, fault.detail)


def legacy_id(source: Source) -> str:
    """The id of the legacy event at `source`: UUIDv5 of `topic/partition/offset`, so the same record always gets the same."""
    return str(uuid.uuid5(LEGACY_NAMESPACE, str(source)))


def _event(record: Record, value: bytes, rules: ValidationRules, now: datetime) -> Event:
    document = _document(value, rules.max_event_bytes)
    event_type = schema.type_of(document)
    if legacy := schema.is_legacy(document):
        document, form = schema.upcast(document, event_type, legacy_id(record.source))
    else:
        form = schema.parse_event_schema(document, event_type)
    if len(form.id) > MAX_ID_BYTES // 4 and (size := len(form.id.encode())) > MAX_ID_BYTES:
        raise InvalidEvent(
            RejectionReason.ID_TOO_LONG, f"id: expected at most {MAX_ID_BYTES} bytes of UTF-8, found {size}: {describe(form.id)}"
        )
    time = _time(form.timestamp, now + rules.max_future_skew)
    product_id, seller_id = form.product_and_seller_id()
    return Event(
        record,
        form.id,
        event_type,
        form.timestamp,
        time,
        hour_of(time),
        form.version,
        product_id,
        seller_id,
        strict_json.dump(document).encode() if legacy else None,
    )


def _document(value: bytes, max_bytes: int) -> JsonObject:
    if len(value) > max_bytes:
        raise InvalidEvent(RejectionReason.TOO_LARGE, f"expected at most {max_bytes} bytes, found {len(value)}")
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError as fault:
        raise InvalidEvent(RejectionReason.NOT_UTF8, f"expected UTF-8, found at byte {fault.start}: {fault.reason}") from None
    document = strict_json.parse(text)
    if not isinstance(document, dict):
        raise InvalidEvent(RejectionReason.NOT_AN_OBJECT, f"expected an object, found {describe(document)}")
    return document


def _time(timestamp: str, latest: datetime) -> datetime:
    try:
        time = parse_timestamp(timestamp)
    except NotATimestamp as fault:
        raise InvalidEvent(RejectionReason.SCHEMA, f"timestamp: expected {fault}, found {describe(timestamp)}") from None
    if time > latest:
        raise InvalidEvent(
            RejectionReason.TIMESTAMP_IN_FUTURE, f"timestamp: expected at most {latest.isoformat()}, found {describe(timestamp)}"
        )
    return time
