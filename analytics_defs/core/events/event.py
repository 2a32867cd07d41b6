r"""Classification of records: event, rejection with its reason, or tombstone. A bad record is a value, never an error.

Result for unusual JSON, here and in the stores (the bucket always holds the record's original bytes):

| in the record                                  | result                                                                |
|------------------------------------------------|-----------------------------------------------------------------------|
| unknown fields, null or `""` in unread fields  | event, kept                                                           |
| numbers of any length or exponent              | event; a pointer in DynamoDB if beyond its 38 digits or its range     |
| nesting to 128 levels                          | event; a pointer in DynamoDB if deeper than its 32 levels             |
| more than 400 KB by DynamoDB's size formula    | event; a pointer in DynamoDB                                          |
| the empty string as a key                      | event; a pointer in DynamoDB if DynamoDB rejects the key              |
| ids with any characters, up to 2,048 bytes     | event                                                                 |
| an empty id                                    | `schema`                                                              |
| an id over 2,048 bytes of UTF-8                | `id_too_long`                                                         |
| a timestamp before year 1 in UTC               | `schema`                                                              |
| `NaN`, `Infinity`, a byte order mark           | `not_json`                                                            |
| a key twice in one object, at any depth        | `duplicate_key`                                                       |
| nesting deeper than 128 levels                 | `nested_too_deep`                                                     |
| half a surrogate pair (`\ud800`) anywhere       | `lone_surrogate`                                                      |
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
"""UUID namespace of the ids of legacy events. It must never change: a record must always get the same id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationRules:
    """Limits for records, applied when a record is read from Kafka or redriven.

    A retry reads the staged classification and does not apply them again.
    """

    max_event_bytes: int
    """Maximum size of a record's value."""
    max_future_skew: timedelta = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class Event:
    """A record that is a valid event, in current or legacy form."""

    record: Record
    id: str
    """1 to `MAX_ID_BYTES` bytes of UTF-8, any characters. For a legacy event: `legacy_id` of its source."""
    type: str
    """One of `EVENT_TYPES`. The topic of the record may have another name."""
    timestamp: str
    """The original text: ISO 8601, ASCII, at most 64 characters."""
    time: datetime
    """Instant in UTC, truncated to microseconds."""
    hour: str
    """The UTC hour of `time`: `2024-01-15T10`."""
    version: str
    """The original text, or "1.0" if the event has none. "1" means the legacy form."""
    product_id: str | None
    seller_id: str | None
    upcast_json: bytes | None
    """A legacy event upcast to the current form, as deterministic UTF-8 JSON. None if the record is in the current form."""

    @property
    def data(self) -> bytes:
        """Return the event in the current form, as UTF-8 JSON."""
        return self.upcast_json if self.upcast_json is not None else self.record.value or b""


@dataclass(frozen=True, slots=True)
class Rejection:
    """A record that is not an event. It becomes a dead letter with its original payload."""

    record: Record
    reason: RejectionReason
    detail: str
    """Field path, expected, found. At most `MAX_DETAIL_LENGTH` characters."""


@dataclass(frozen=True, slots=True)
class Tombstone:
    """A record without a value. It is counted, and nothing is stored."""

    record: Record


ClassifiedRecord: TypeAlias = Event | Rejection | Tombstone


def classify(record: Record, rules: ValidationRules, now: datetime) -> ClassifiedRecord:
    """Return the record as an event, a rejection or a tombstone. Deterministic; never raises, for any bytes."""
    if record.value is None:
        return Tombstone(record)
    try:
        return _event(record, record.value, rules, now)
    except InvalidEvent as error:
        return Rejection(record, error.reason, error.detail)


def legacy_id(source: Source) -> str:
    """Return the id of the legacy event at `source`: UUIDv5 of `topic/partition/offset`, hence stable."""
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
    except UnicodeDecodeError as error:
        raise InvalidEvent(RejectionReason.NOT_UTF8, f"expected UTF-8, found at byte {error.start}: {error.reason}") from None
    document = strict_json.parse(text)
    if not isinstance(document, dict):
        raise InvalidEvent(RejectionReason.NOT_AN_OBJECT, f"expected an object, found {describe(document)}")
    return document


def _time(timestamp: str, latest: datetime) -> datetime:
    try:
        time = parse_timestamp(timestamp)
    except NotATimestamp as error:
        raise InvalidEvent(RejectionReason.SCHEMA, f"timestamp: expected {error}, found {describe(timestamp)}") from None
    if time > latest:
        raise InvalidEvent(
            RejectionReason.TIMESTAMP_IN_FUTURE, f"timestamp: expected at most {latest.isoformat()}, found {describe(timestamp)}"
        )
    return time
