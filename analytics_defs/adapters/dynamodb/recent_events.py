"""The table of recent events in DynamoDB: claims by conditional transactions, and consistent reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from analytics_defs.adapters.dynamodb.attribute_values import (
    MAX_TRANSACT_ACTIONS,
    MAX_TRANSACT_BYTES,
    Item,
    from_attribute_value,
    item_size,
    pointer_key,
    pointer_value,
    recent_event_item,
)
from analytics_defs.adapters.dynamodb.errors import RequestRejected
from analytics_defs.adapters.dynamodb.requests import DynamoClient
from analytics_defs.core.events.event import Event
from analytics_defs.core.offsets import Source
from analytics_defs.errors import InconsistentState
from analytics_defs.ports import DEDUPLICATION_WINDOW, RECENT_EVENTS_TTL, ClaimResult, StoredEvent

_FREE = "attribute_not_exists(#source) OR #source = :mine OR #ttl <= :forgotten"
"""No item, or one that no claim wrote; ours; or one whose id is not remembered any more, though TTL has not deleted it yet."""
_NAMES = {"#source": "source", "#ttl": "ttl"}


@dataclass(frozen=True, slots=True)
class _Put:
    event: Event
    item: Item

    @property
    def is_pointer(self) -> bool:
        return pointer_key(self.item["data"]) is not None

    def as_pointer(self) -> _Put:
        return _Put(self.event, self.item | {"data": pointer_value(self.event)})


class DynamoRecentEvents:
    """Implements `ports.RecentEvents`. Thread-safe."""

    def __init__(self, dynamo: DynamoClient, table: str) -> None:
        self._dynamo = dynamo
        self._table = table

    def claim(self, events: Sequence[Event], batch_time: datetime) -> ClaimResult:
        """Each call is one transaction of at most 100 puts. One refused put cancels its call: the call goes again without it.

        An item that DynamoDB refuses to hold although its size and shape seemed right goes again as a pointer.
        """
        refused: dict[Source, Source] = {}
        pointers: set[Source] = set()
        forgotten = {"N": str(int((batch_time + RECENT_EVENTS_TTL - DEDUPLICATION_WINDOW).timestamp()))}
        todo = list(_calls([_Put(event, recent_event_item(event, batch_time, RECENT_EVENTS_TTL)) for event in events]))
        while todo:
            puts = todo.pop()
            try:
                holders = self._dynamo.transact([self._action(put, forgotten) for put in puts])
            except RequestRejected as fault:
                todo += _apart(puts, fault)
                continue
            if holders:
                refused |= {puts[position].event.record.source: self._holder(item) for position, item in holders.items()}
                todo += [rest] if (rest := [put for position, put in enumerate(puts) if position not in holders]) else []
            else:
                pointers.update(put.event.record.source for put in puts if put.is_pointer)
        return ClaimResult(refused, frozenset(pointers))

    def get_items(self, ids: Sequence[str]) -> Mapping[str, StoredEvent]:
        """Items that no claim wrote, so without a source, count as not there."""
        found = self._dynamo.get_many(self._table, [{"id": {"S": each}} for each in dict.fromkeys(ids)])
        return {item["id"]["S"]: self._stored(item) for item in found if "source" in item}

    def needs_pointer(self, event: Event, batch_time: datetime) -> bool:
        return pointer_key(recent_event_item(event, batch_time, RECENT_EVENTS_TTL)["data"]) is not None

    def _action(self, put: _Put, forgotten: Mapping[str, str]) -> dict[str, dict[str, Any]]:
        return {
            "Put": {
                "TableName": self._table,
                "Item": put.item,
                "ConditionExpression": _FREE,
                "ExpressionAttributeNames": _NAMES,
                "ExpressionAttributeValues": {":mine": put.item["source"], ":forgotten": forgotten},
                "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
            }
        }

    def _stored(self, item: Item) -> StoredEvent:
        data = item["data"]
        return StoredEvent(
            id=item["id"]["S"],
            type=item["eventType"]["S"],
            timestamp=item["timestamp"]["S"],
            source=self._holder(item),
            created_at=item["createdAt"]["S"],
            ttl=int(item["ttl"]["N"]),
            data=None if pointer_key(data) else from_attribute_value(data),
        )

    def _holder(self, item: Item) -> Source:
        try:
            return Source.parse(item["source"]["S"])
        except (KeyError, ValueError) as fault:
            raise InconsistentState(
                f"table {self._table}: the item of id {item.get('id', {}).get('S')!r} has source {item.get('source')}, expected "
                "topic/partition/offset as this service writes it. Who else writes there? Remove the item or its source; the batch waits."
            ) from fault


def _calls(puts: Sequence[_Put]) -> Iterator[list[_Put]]:
    """As many puts as fit one transaction, in their order."""
    call: list[_Put] = []
    room = MAX_TRANSACT_BYTES
    for put in puts:
        size = _size(put)
        if call and (len(call) == MAX_TRANSACT_ACTIONS or size > room):
            yield call
            call, room = [], MAX_TRANSACT_BYTES
        call.append(put)
        room -= size
    if call:
        yield call


def _size(put: _Put) -> int:
    """Bytes of the item, or a bound above them where a hundred such items fit anyway: measuring costs more than writing the item down.

    No JSON takes more than twice its text in DynamoDB; id, source and the other attributes take less than 8 KB.
    """
    bound = 2 * len(put.event.data) + 8192
    return bound if bound * MAX_TRANSACT_ACTIONS <= MAX_TRANSACT_BYTES else item_size(put.item)


def _apart(puts: list[_Put], fault: RequestRejected) -> list[list[_Put]]:
    """What to send instead of a call that DynamoDB refuses as wrong. Raises the fault where an item is refused even as a pointer."""
    named = fault.positions or ({0} if len(puts) == 1 else frozenset())
    if any(puts[position].is_pointer for position in named):
        raise fault
    if named:
        return [[put.as_pointer() if position in named else put for position, put in enumerate(puts)]]
    return [puts[: len(puts) // 2], puts[len(puts) // 2 :]]
