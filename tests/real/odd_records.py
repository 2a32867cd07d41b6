"""Unusual records: dead letters with their rejection reason, and valid events that are hard to store."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from analytics_defs.core.events.rejection_reasons import RejectionReason
from tests.real.data import text

MAX_EVENT_BYTES = 950_000
_EVENT = {"id": "event", "timestamp": "2024-01-15T10:30:00Z", "type": "ProductDeleted", "productId": "p-1", "sellerId": "s-1"}
_PRODUCT = {"id": "p-1", "name": "Enamel mug", "price": 12.5, "stock": 40, "sellerId": "s-1"}
_LEGACY = {"version": "1", "type": "ProductCreated", "occurredAt": "2024-01-15T10:30:00Z", "sellerId": "s-1"}
_LEGACY_PRODUCT = {"id": "p-1", "sellerId": "s-1", "name": "Mug", "description": None, "price": 1.5, "quantity": 3, "category": "k"}


def _event(**fields: object) -> bytes:
    return text(_EVENT | fields)


def _without(name: str) -> bytes:
    return text({key: value for key, value in _EVENT.items() if key != name})


def _created(**fields: object) -> bytes:
    return text(_EVENT | {"type": "ProductCreated", "product": _PRODUCT | fields})


def _raw(event_id: str, extra: str) -> bytes:
    """Return an event with the field `extra`, whose value is this JSON text."""
    return text(_EVENT | {"id": event_id})[:-1] + f',"extra":{extra}}}'.encode()


def _nested(levels: int) -> str:
    """Return arrays that make an event nested `levels` deep. The event itself is a level."""
    return "[" * (levels - 1) + "]" * (levels - 1)


def _hours_from_now(hours: float) -> str:
    return (datetime.now(UTC) + timedelta(hours=hours)).isoformat()


REJECTED: dict[str, tuple[RejectionReason, bytes]] = {
    "larger than allowed": (RejectionReason.TOO_LARGE, _event(text="x" * MAX_EVENT_BYTES)),
    "not UTF-8": (RejectionReason.NOT_UTF8, b'{"id":"\xff"}'),
    "UTF-16": (RejectionReason.NOT_UTF8, _event().decode().encode("utf-16")),
    "overlong UTF-8": (RejectionReason.NOT_UTF8, b'{"id":"\xc0\xaf"}'),
    "an encoded surrogate": (RejectionReason.NOT_UTF8, b'{"id":"\xed\xa0\x80"}'),
    "an empty value, not a tombstone": (RejectionReason.NOT_JSON, b""),
    "cut off": (RejectionReason.NOT_JSON, _event()[:-9]),
    "two JSON documents": (RejectionReason.NOT_JSON, _event() + _event()),
    "a byte order mark": (RejectionReason.NOT_JSON, b"\xef\xbb\xbf" + _event()),
    "NaN": (RejectionReason.NOT_JSON, _raw("nan", "NaN")),
    "Infinity": (RejectionReason.NOT_JSON, _raw("inf", "[1,Infinity]")),
    "-Infinity": (RejectionReason.NOT_JSON, _raw("-inf", "-Infinity")),
    "a control character in a string": (RejectionReason.NOT_JSON, _raw("control", '"\x01"')),
    "a leading zero": (RejectionReason.NOT_JSON, _raw("zero", "012")),
    "a trailing comma": (RejectionReason.NOT_JSON, _event()[:-1] + b",}"),
    "single quotes": (RejectionReason.NOT_JSON, b"{'id': 'x'}"),
    "a duplicate key": (RejectionReason.DUPLICATE_KEY, _event()[:-1] + b',"id":"other"}'),
    "a nested duplicate key": (RejectionReason.DUPLICATE_KEY, _raw("dup", '[{"a":{"b":1,"b":1}}]')),
    "a duplicate key, once escaped": (RejectionReason.DUPLICATE_KEY, _raw("dup2", r'{"a":1,"\u0061":2}')),
    "129 levels": (RejectionReason.NESTED_TOO_DEEP, _raw("deep", _nested(129))),
    "100,000 levels": (RejectionReason.NESTED_TOO_DEEP, _raw("deeper", "[" * 100_000 + "]" * 100_000)),
    "half a surrogate pair": (RejectionReason.LONE_SURROGATE, _raw("half", r'"\ud83d"')),
    "half a surrogate pair in a key": (RejectionReason.LONE_SURROGATE, _raw("half2", r'{"\udc00":1}')),
    "half a surrogate pair as an id": (RejectionReason.LONE_SURROGATE, _event(id="@").replace(b'"@"', rb'"\ud83d"')),
    "an array": (RejectionReason.NOT_AN_OBJECT, b"[" + _event() + b"]"),
    "a string": (RejectionReason.NOT_AN_OBJECT, b'"event"'),
    "JSON null": (RejectionReason.NOT_AN_OBJECT, b"null"),
    "an unknown type": (RejectionReason.UNKNOWN_TYPE, _event(type="ProductViewed")),
    "a type in lower case": (RejectionReason.UNKNOWN_TYPE, _event(type="productdeleted")),
    "no type": (RejectionReason.SCHEMA, _without("type")),
    "a type that is a number": (RejectionReason.SCHEMA, _event(type=1)),
    "no id": (RejectionReason.SCHEMA, _without("id")),
    "an empty id": (RejectionReason.SCHEMA, _event(id="")),
    "an id that is a number": (RejectionReason.SCHEMA, _event(id=7)),
    "no timestamp": (RejectionReason.SCHEMA, _without("timestamp")),
    "an invalid timestamp": (RejectionReason.SCHEMA, _event(timestamp="yesterday")),
    "a timestamp that is a number": (RejectionReason.SCHEMA, _event(timestamp=1_705_314_600)),
    "a day that does not exist": (RejectionReason.SCHEMA, _event(timestamp="2023-02-29T10:00:00Z")),
    "before year 1": (RejectionReason.SCHEMA, _event(timestamp="0001-01-01T00:00:00+01:00")),
    "no product": (RejectionReason.SCHEMA, _event(type="ProductCreated")),
    "a price that is a string": (RejectionReason.SCHEMA, _created(price="12.5")),
    "a stock that is a bool": (RejectionReason.SCHEMA, _created(stock=True)),
    "a seller that is null": (RejectionReason.SCHEMA, _created(sellerId=None)),
    "legacy without occurredAt": (
        RejectionReason.SCHEMA,
        text({"version": "1", "type": "ProductDeleted", "productId": "p", "sellerId": "s"}),
    ),
    "legacy without a quantity": (RejectionReason.SCHEMA, text(_LEGACY | {"product": {"id": "p", "name": "n", "price": 1}})),
    "an id of 3 KB": (RejectionReason.ID_TOO_LONG, _event(id="i" * 3072)),
    "an id of 2,049 bytes": (RejectionReason.ID_TOO_LONG, _event(id="é" * 1024 + "e")),
    "25 hours ahead": (RejectionReason.TIMESTAMP_IN_FUTURE, _event(id="ahead", timestamp=_hours_from_now(25))),
    "year 9999": (RejectionReason.TIMESTAMP_IN_FUTURE, _event(id="9999", timestamp="9999-12-31T23:59:59.999999-23:59")),
}
"""Rejection reason and value, by the defect."""

IDS = (
    *("a/b", "a%2Fb", "a%2fb", "a%252Fb", "..", ".", "../../escape", "/", "//", "a/", "/a", "a//b", "a/./b"),
    *("with space", " ", "trailing ", "a+b", "a%20b", "a?b=c&d#e", "a\\b", "a:b*c|d", "tab\there", "line\nbreak", "nul\x00byte", "\x7f"),
    *("Case", "case", "CASE", "grün", "gru\u0308n", "日本語", "😀", "\u202eright to left", "\ufeffmark", "%", "%2", "%zz", "~", "~" * 64),
    *(".hidden", "_hidden", "-dash", "__pycache__", "con", "xl.meta", "a.json", "a", '"quoted"', "<&>", "${x}", "{0}"),
    *("i" * 2048, "i" * 2047 + "j", "é" * 1024, "/" * 300, "x" * 250, "x" * 251, "x" * 256),
)
"""Each id belongs to a separate event and needs a separate object key."""

TIMESTAMPS = {
    "2024-01-15T10:59:59.999999999Z": datetime(2024, 1, 15, 10, 59, 59, 999_999, UTC),
    "2024-01-15T12:30:00+02:00": datetime(2024, 1, 15, 10, 30, tzinfo=UTC),
    "2024-01-15T10:30": datetime(2024, 1, 15, 10, 30, tzinfo=UTC),
    "2024-01-15 10:30:00-0000": datetime(2024, 1, 15, 10, 30, tzinfo=UTC),
    "20240115T103000Z": datetime(2024, 1, 15, 10, 30, tzinfo=UTC),
    "2024-W03-1T10:30:00,5Z": datetime(2024, 1, 15, 10, 30, 0, 500_000, UTC),
    "2024-015T16:00:00+05:30": datetime(2024, 1, 15, 10, 30, tzinfo=UTC),
    "2024-01-14T24:00:00Z": datetime(2024, 1, 15, tzinfo=UTC),
    "2016-12-31T23:59:60Z": datetime(2016, 12, 31, 23, 59, 59, 999_999, UTC),
    "1969-12-31T23:59:59.000001Z": datetime(1969, 12, 31, 23, 59, 59, 1, UTC),
    "0001-01-02T00:00:00+23:59": datetime(1, 1, 1, 0, 1, tzinfo=UTC),
}
"""The instant that each timestamp stands for."""

STORABLE = {
    "numbers": "[0,-0,0.0,1.0,1.10,100,1e2,1E-2,-1.5e+3,12345678901234567890,0.1,123456789.987654321e-50]",
    "38 digits": "[99999999999999999999999999999999999999,0.12345678901234567890123456789012345678,"
    "1234567890123456789012345678901234567800000]",
    "the largest and the smallest": "[9.9999999999999999999999999999999999999E+125,-1E+125,1E-130,-1E-130]",
    "32 levels": _nested(31),
    "strings": r'["","\u0000\u0001\u001f","\"\\\/\b\f\n\r\t","\ud83d\ude00😀","\u2028\u2029","ü\u0308",null,true,false]',
    "empty values": '{"a":{},"b":[],"c":"","d":null,"e":[{}],"f":[[]]}',
    "keys": r'{"a.b":1,"#a":2,":a":3,"$":4," ":5,"ü":6,"\u0000":7,"pointer":8,"😀":9,"\u0041":10}',
    "a long key": f'{{"{"k" * 60_000}":1}}',
    "300 KB": f'"{"x" * 300_000}"',
    "1 KB below 400 KB": f'"{"y" * 408_000}"',
}
"""JSON that DynamoDB can hold. The data of the item equals it by value."""

POINTER_ONLY = {
    "39 digits": "123456789012345678901234567890123456789",
    "above the largest": "1E+126",
    "below the smallest": "1E-131",
    "10,000 digits": "9" * 10_000,
    "a huge exponent": "1e999999999999",
    "33 levels": _nested(33),
    "128 levels": _nested(128),
    "an empty key": '{"a":{"":1}}',
    "a key of 70 KB": f'{{"{"k" * 70_000}":1}}',
    "500 KB": f'"{"z" * 500_000}"',
    "900 KB": f'"{"ß" * 450_000}"',
    "small numbers that take more space in DynamoDB": "[" + ",".join(["1"] * 150_000) + "]",
}
"""JSON that DynamoDB cannot hold. The item points to the JSON object."""

LEGACY = {
    "created": text(_LEGACY | {"product": _LEGACY_PRODUCT, "extra": {"kept": 1.10}}),
    "updated": text(_LEGACY | {"type": "ProductUpdated", "product": _LEGACY_PRODUCT, "changes": {"price": {"from": 1, "to": 1.5}}}),
    "deleted": text(_LEGACY | {"type": "ProductDeleted", "productId": "p-1"}),
    "low stock": text(_LEGACY | {"type": "LowStockWarning", "productId": "p-1", "quantity": 2, "threshold": 10, "category": "k"}),
}

ACCEPTED: dict[str, bytes] = {
    **{f"id {number}: {event_id[:40]!a}": _event(id=event_id) for number, event_id in enumerate(IDS)},
    **{f"timestamp {timestamp}": _event(id=f"at {timestamp}", timestamp=timestamp) for timestamp in TIMESTAMPS},
    **{f"storable {name}": _raw(name, extra) for name, extra in STORABLE.items()},
    **{f"pointer only {name}": _raw(name, extra) for name, extra in POINTER_ONLY.items()},
    "an empty key at the top": _event(id="empty key")[:-1] + b',"":1}',
    "white space": b" \r\n\t" + _event(id="white").replace(b",", b" ,\n") + b"\n",
    "escaped keys and values": b'{"id":"\\u0065scaped","\\u0074ype":"ProductDeleted","timestamp":"2024-01-15T10:30:00Z",'
    b'"productId":"\\/","sellerId":""}',
    "almost a day ahead": _event(id="tomorrow", timestamp=_hours_from_now(23.5)),
    "null in ignored fields": _event(id="nulls", version="2.0", name=None, tags=[None]),
}
"""Events in current form, by their peculiarity."""
