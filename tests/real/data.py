"""Events to produce: small ones on request, and a mixture of everything that a batch can contain."""

from __future__ import annotations

import json
from typing import Any

from tests.real.raw_clients import Written

HOUR = "2024-01-15T10"
HOURS = ("2024-01-15T10", "2024-01-15T11", "2024-01-16T23")


def text(document: object) -> bytes:
    return json.dumps(document, ensure_ascii=False).encode()


def event(event_id: str, hour: str = HOUR, **fields: Any) -> bytes:
    """Return a valid event in current form. Different `fields` make a different payload with the same id."""
    document = {"id": event_id, "timestamp": f"{hour}:30:00.125Z", "type": "ProductDeleted", "productId": "p-1", "sellerId": "s-1"}
    return text(document | fields)


def legacy_event(number: int, hour: str = HOUR) -> bytes:
    """Return a valid event in legacy form, which has no id."""
    stock = {"productId": f"p-{number}", "quantity": 2, "threshold": 10, "category": "küche"}
    return text({"version": "1", "type": "LowStockWarning", "occurredAt": f"{hour}:31:00Z", **stock})


def mixture(first: str, second: str, *, hours: tuple[str, str, str] = HOURS) -> list[Written]:
    """Return records for two topics, the first with two partitions, the second with one.

    They are of several hours and contain duplicates within and across batches, dead letters, tombstones, legacy events,
    ids that differ only by case or percent-encoding, and an event of 320 KB.
    """
    main: list[bytes | None] = [event(f"event-{number}", hours[number % 3], price=number / 8) for number in range(50)]
    twins = [event(event_id, hours[0], note="ü") for event_id in ("Twin", "twin", "a/b", "a%2Fb", "a%2fb", "../up", "großer Name")]
    main += [*twins, legacy_event(1, hours[0]), event("large", hours[0], text="x" * 320_000)]
    main += [b"{cut of", None, event("event-3", hours[0], again=True)]
    side: list[bytes | None] = [event(f"side-{number}", hours[number % 2]) for number in range(12)]
    side += [event("event-5", hours[2], other="payload"), legacy_event(2, hours[0]), b"\xff\xfe", None, event("side-0", hours[0])]
    late: list[bytes | None] = [event(f"late-{number}", hours[number % 3]) for number in range(15)]
    late += [event("event-7", hours[0], topic="another"), event("side-1", hours[0]), legacy_event(3, hours[0])]
    late += [text([1, 2]), None, event("", hours[0], why="no id")]
    return [
        *(Written(first, 0, value, key=b"main", headers=(("trace", b"\x00\xff"), ("none", None))) for value in main),
        *(Written(first, 1, value) for value in side),
        *(Written(second, 0, value) for value in late),
    ]
