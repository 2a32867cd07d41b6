"""The port of recent events over each store that implements it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime

from analytics_defs.adapters.dynamodb.attribute_values import pointer_key, recent_event_item
from analytics_defs.adapters.dynamodb.recent_events import DynamoRecentEvents
from analytics_defs.adapters.memory import MemoryRecentEvents
from analytics_defs.core.events.event import Event
from analytics_defs.ports import RECENT_EVENTS_TTL, RecentEvents
from tests.contracts.dynamodb_fixtures import moto_dynamo, real_dynamo

NOW = datetime(2150, 1, 15, 12, tzinfo=UTC)
"""Ahead of every machine's clock: a real DynamoDB deletes items after their TTL."""


@contextmanager
def memory_recent_events() -> Iterator[RecentEvents]:
    yield MemoryRecentEvents(_needs_pointer)


@contextmanager
def moto_recent_events() -> Iterator[RecentEvents]:
    with moto_dynamo() as under_test:
        yield DynamoRecentEvents(under_test.dynamo, under_test.recent_events)


@contextmanager
def real_recent_events() -> Iterator[RecentEvents]:
    with real_dynamo() as under_test:
        yield DynamoRecentEvents(under_test.dynamo, under_test.recent_events)


RECENT_EVENTS: dict[str, Callable[[], AbstractContextManager[RecentEvents]]] = {
    "memory": memory_recent_events,
    "moto": moto_recent_events,
    "real": real_recent_events,
}


def _needs_pointer(event: Event) -> bool:
    return pointer_key(recent_event_item(event, NOW, RECENT_EVENTS_TTL)["data"]) is not None
