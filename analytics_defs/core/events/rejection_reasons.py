"""Why a record is not an event: the closed set of reasons, and how one travels from where it is found to the verdict."""

from __future__ import annotations

from enum import StrEnum


class RejectionReason(StrEnum):
    """Used as they are in dead letters, counters and metrics. A record that has several faults gets the first, in this order."""

    TOO_LARGE = "too_large"
    """The value is larger than `Rules.max_event_bytes`."""
    NOT_UTF8 = "not_utf8"
    """The value is not UTF-8."""
    NOT_JSON = "not_json"
    """The value is not one JSON text of RFC 8259: cut off, `NaN`, `Infinity`, a byte order mark, two texts in a row …"""
    DUPLICATE_KEY = "duplicate_key"
    """An object, at any depth, names a key twice: readers disagree about which one counts."""
    NESTED_TOO_DEEP = "nested_too_deep"
    """Arrays and objects nest deeper than `json_text.MAX_DEPTH`."""
    LONE_SURROGATE = "lone_surrogate"
    """A string holds half of a surrogate pair (`\\ud800`): no Unicode text, UTF-8 cannot hold it."""
    NOT_AN_OBJECT = "not_an_object"
    """Valid JSON, and not an object."""
    UNKNOWN_TYPE = "unknown_type"
    """`type` is a string, and none of the four."""
    SCHEMA = "schema"
    """A field is missing or of the wrong kind, an id is empty, a timestamp is not one. The detail names path, expected, found."""
    ID_TOO_LONG = "id_too_long"
    """`id` is longer than a DynamoDB key may be."""
    TIMESTAMP_IN_FUTURE = "timestamp_in_future"
    """The timestamp lies later than now + `Rules.max_future_skew`."""


MAX_DETAIL_LENGTH = 300
"""Characters of a rejection's detail. The payload itself lies beside it in the dead letter, whole."""


class InvalidEvent(Exception):
    """A record's fault on its way to the `Rejection` that `core.events.event.classify` returns. It never leaves `judge`."""

    def __init__(self, reason: RejectionReason, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail if len(detail) <= MAX_DETAIL_LENGTH else detail[: MAX_DETAIL_LENGTH - 1] + "…"
