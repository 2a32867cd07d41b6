"""The closed set of rejection reasons, and the exception that carries one to `classify`."""

from __future__ import annotations

from enum import StrEnum


class RejectionReason(StrEnum):
    """Reasons as written to dead letters, counters and metrics. A record with several faults gets the first of this order."""

    TOO_LARGE = "too_large"
    """The value is larger than `ValidationRules.max_event_bytes`."""
    NOT_UTF8 = "not_utf8"
    """The value is not UTF-8."""
    NOT_JSON = "not_json"
    """The value is not one JSON text of RFC 8259: truncated, `NaN`, `Infinity`, a byte order mark, two texts, …"""
    DUPLICATE_KEY = "duplicate_key"
    """An object at any depth has a key twice. Parsers disagree about the value of such a key."""
    NESTED_TOO_DEEP = "nested_too_deep"
    """Arrays and objects nest deeper than `strict_json.MAX_DEPTH`."""
    LONE_SURROGATE = "lone_surrogate"
    """A string holds half of a surrogate pair (`\\ud800`), which UTF-8 cannot encode."""
    NOT_AN_OBJECT = "not_an_object"
    """The value is valid JSON but not an object."""
    UNKNOWN_TYPE = "unknown_type"
    """`type` is a string but not one of the four event types."""
    SCHEMA = "schema"
    """A field is missing or has the wrong type, an id is empty, or a timestamp is invalid. The detail names path, expected, found."""
    ID_TOO_LONG = "id_too_long"
    """`id` is longer than a DynamoDB key allows."""
    TIMESTAMP_IN_FUTURE = "timestamp_in_future"
    """The timestamp is later than now + `ValidationRules.max_future_skew`."""


MAX_DETAIL_LENGTH = 300
"""Characters of a rejection's detail. The dead letter also holds the whole payload."""


class InvalidEvent(Exception):
    """Raised inside `core.events.event.classify`, which returns it as a `Rejection`. Callers never see it."""

    def __init__(self, reason: RejectionReason, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail if len(detail) <= MAX_DETAIL_LENGTH else detail[: MAX_DETAIL_LENGTH - 1] + "…"
