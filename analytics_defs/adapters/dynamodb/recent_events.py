"""The table of recent events in DynamoDB: claims by conditional transactions, and consistent reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from analytics_defs.adapters.dynamodb.attribute_values import (
    MAX_TRANSACT_ACTIONS,
    MAX_TRANSACT_BYTES,
    AttributeValue,
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
from analytics_defs.ports import DEDUPLICATION_WINDOW, NO_TTL, RECENT_EVENTS_TTL, ClaimResult, StoredEvent

_CLAIMABLE = "attribute_not_exists(#source) OR #source = :source OR #ttl <= :claimable_until"
"""The condition of a claim: one of three facts.

1. There is no item, or no claim wrote it.
2. This source wrote it.
3. The deduplication window is over, although TTL has not deleted the item yet.
"""
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
    """DynamoDB table of recent events: see `ports.RecentEvents`. Thread-safe."""

    def __init__(self, dynamo: DynamoClient, table: str) -> None:
        self._dynamo = dynamo
        self._table = table

    def claim(self, events: Sequence[Event], batch_time: datetime) -> ClaimResult:
        """Claim ids in transactions of at most 100 puts. One refused put cancels its transaction, which is then sent without it.

        If DynamoDB rejects an item although its computed size and shape are valid, the item is sent again as a pointer.
        """
        duplicates: dict[Source, Source] = {}
        pointers: set[Source] = set()
        claimable_until = {"N": str(int((batch_time + RECENT_EVENTS_TTL - DEDUPLICATION_WINDOW).timestamp()))}
        transactions = list(_transactions([_Put(event, recent_event_item(event, batch_time, RECENT_EVENTS_TTL)) for event in events]))
        while transactions:
            puts = transactions.pop()
            try:
                owners = self._dynamo.transact([self._action(put, claimable_until) for put in puts])
            except RequestRejected as error:
                transactions += _split_rejected(puts, error)
                continue
            if owners:
                duplicates |= {puts[position].event.record.source: self._owner(item) for position, item in owners.items()}
                transactions += [others] if (others := [put for position, put in enumerate(puts) if position not in owners]) else []
            else:
                pointers.update(put.event.record.source for put in puts if put.is_pointer)
        return ClaimResult(duplicates, frozenset(pointers))

    def get_items(self, ids: Sequence[str]) -> Mapping[str, StoredEvent]:
        """Return items that a claim wrote. Items without a source count as missing."""
        items = self._dynamo.get_many(self._table, [{"id": {"S": event_id}} for event_id in dict.fromkeys(ids)])
        return {item["id"]["S"]: self._stored(item) for item in items if "source" in item}

    def needs_pointer(self, event: Event, batch_time: datetime) -> bool:
        return pointer_key(recent_event_item(event, batch_time, RECENT_EVENTS_TTL)["data"]) is not None

    def _action(self, put: _Put, claimable_until: Mapping[str, str]) -> dict[str, dict[str, Any]]:
        return {
            "Put": {
                "TableName": self._table,
                "Item": put.item,
                "ConditionExpression": _CLAIMABLE,
                "ExpressionAttributeNames": _NAMES,
                "ExpressionAttributeValues": {":source": put.item["source"], ":claimable_until": claimable_until},
                "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
            }
        }

    def _stored(self, item: Item) -> StoredEvent:
        """Return the item. A missing attribute, or one of another type, gets a value that no claim writes."""
        kind, timestamp, created_at = (item.get(name, {}).get("S", "") for name in ("eventType", "timestamp", "createdAt"))
        ttl = item.get("ttl", {}).get("N")
        return StoredEvent(
            id=item["id"]["S"],
            type=kind,
            timestamp=timestamp,
            source=self._owner(item),
            created_at=created_at,
            ttl=NO_TTL if ttl is None else int(Decimal(ttl)),
            data=_document(item.get("data", {})) if item.get("eventId") == item["id"] else "",
        )

    def _owner(self, item: Item) -> Source:
        try:
            return Source.parse(item["source"]["S"])
        except (KeyError, ValueError) as error:
            raise InconsistentState(
                f"table {self._table}: the item of id {item.get('id', {}).get('S')!r} has source {item.get('source')}, expected "
                "topic/partition/offset as this service writes it. Find out which other program writes to the table. Then remove the item "
                "or its source. Until then the batch stays pending."
            ) from error


def _document(data: AttributeValue) -> object:
    """Return the document, None if `data` is a pointer, and an empty text if it is neither."""
    if "M" not in data:
        return ""
    try:
        return None if pointer_key(data) else from_attribute_value(data)
    except ValueError:
        return ""


def _transactions(puts: Sequence[_Put]) -> Iterator[list[_Put]]:
    """Yield as many puts as fit one transaction, in their order."""
    transaction: list[_Put] = []
    bytes_left = MAX_TRANSACT_BYTES
    for put in puts:
        size = _size(put)
        if transaction and (len(transaction) == MAX_TRANSACT_ACTIONS or size > bytes_left):
            yield transaction
            transaction, bytes_left = [], MAX_TRANSACT_BYTES
        transaction.append(put)
        bytes_left -= size
    if transaction:
        yield transaction


def _size(put: _Put) -> int:
    """Return the bytes of the item, or an upper bound if a hundred such items fit anyway. Measuring costs more than building the item.

    An attribute value takes at most twice the bytes of its JSON text. Id, source and the other attributes take less than 8 KB.
    """
    bound = 2 * len(put.event.data) + 8192
    return bound if bound * MAX_TRANSACT_ACTIONS <= MAX_TRANSACT_BYTES else item_size(put.item)


def _split_rejected(puts: list[_Put], error: RequestRejected) -> list[list[_Put]]:
    """Return the transactions to send instead of a rejected one. Raise the error if an item is rejected even as a pointer."""
    rejected = error.positions or ({0} if len(puts) == 1 else frozenset())
    if any(puts[position].is_pointer for position in rejected):
        raise error
    if rejected:
        return [[put.as_pointer() if position in rejected else put for position, put in enumerate(puts)]]
    return [puts[: len(puts) // 2], puts[len(puts) // 2 :]]
