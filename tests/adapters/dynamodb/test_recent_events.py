"""Tests of claims as DynamoDB requests, and of answers that a real server does not give on demand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any

import pytest

from analytics_defs.adapters.dynamodb.errors import RequestRejected
from analytics_defs.adapters.dynamodb.recent_events import DynamoRecentEvents
from analytics_defs.core.events.event import Event, classify
from analytics_defs.core.offsets import Source, TopicPartition
from analytics_defs.core.storage.object_keys import event_key
from analytics_defs.errors import InconsistentState
from tests.adapters.dynamodb.scripted_dynamodb import DONE, Answer, Scripted, scripted
from tests.contracts.dynamodb_fixtures import DYNAMOS, DynamoUnderTest
from tests.core.events.made_events import DELETED, NOW, RULES, record, text

ONE, TWO = (TopicPartition("ProductDeleted", 0, number) for number in (1, 2))
TABLE = "recent"


@pytest.fixture(params=["moto", pytest.param("real", marks=pytest.mark.real)])
def store(request: pytest.FixtureRequest) -> Iterator[DynamoUnderTest]:
    with DYNAMOS[request.param]() as dynamo_under_test:
        yield dynamo_under_test


def event(event_id: str, offset: int = 0, partition: TopicPartition = ONE, **fields: Any) -> Event:
    classified = classify(record(text(DELETED | {"id": event_id} | fields), Source(partition, offset)), RULES, NOW)
    assert isinstance(classified, Event), classified
    return classified


def sent_ids(server: Scripted) -> list[list[str]]:
    """Return the ids of each transaction. A `*` marks a pointer."""
    puts = [[action["Put"]["Item"] for action in transaction["TransactItems"]] for transaction in server.transactions]
    return [[item["id"]["S"] + "*" * ("pointer" in item["data"]["M"]) for item in items] for items in puts]


def rejecting(is_rejected: Callable[[str, bool], bool], named: bool = False) -> AbstractContextManager[Scripted]:
    """Return a server that rejects every transaction with an item for which `is_rejected(id, is pointer)` is true."""

    def answer(params: dict[str, Any]) -> Answer:
        items = [action["Put"]["Item"] for action in params["TransactItems"]]
        rejections = [is_rejected(item["id"]["S"], "pointer" in item["data"]["M"]) for item in items]
        if not any(rejections):
            return DONE
        return (
            Answer.cancelled(*(["None", "ValidationError"][rejection] for rejection in rejections))
            if named
            else Answer.error("ValidationException")
        )

    return scripted(script=answer)


def test_a_claim_writes_the_documented_item(store: DynamoUnderTest) -> None:
    DynamoRecentEvents(store.dynamo, store.recent_events).claim([event("a", 7, price=1.50)], NOW)
    assert store.dynamo.get(store.recent_events, {"id": {"S": "a"}}) == {
        "id": {"S": "a"},
        "eventId": {"S": "a"},
        "eventType": {"S": "ProductDeleted"},
        "timestamp": {"S": "2024-01-15T10:30:00.123Z"},
        "data": {
            "M": {
                "id": {"S": "a"},
                "timestamp": {"S": "2024-01-15T10:30:00.123Z"},
                "version": {"S": "1.0"},
                "type": {"S": "ProductDeleted"},
                "productId": {"S": "product-7"},
                "sellerId": {"S": "seller-ito"},
                "price": {"N": "1.5"},
            }
        },
        "ttl": {"N": str(int((NOW + timedelta(days=30)).timestamp()))},
        "createdAt": {"S": "2024-01-15T12:00:00.000Z"},
        "source": {"S": "ProductDeleted/1/7"},
    }


def test_an_item_without_source_is_claimed(store: DynamoUnderTest) -> None:
    recent = DynamoRecentEvents(store.dynamo, store.recent_events)
    store.dynamo.put(store.recent_events, {"id": {"S": "a"}, "eventType": {"S": "ProductDeleted"}, "ttl": {"N": "9999999999"}})
    assert recent.get_items(["a"]) == {}
    assert recent.claim([event("a", 7)], NOW).duplicates == {}
    assert recent.get_items(["a"])["a"].source == Source(ONE, 7)


def test_an_item_with_an_invalid_source_raises(store: DynamoUnderTest) -> None:
    store.dynamo.put(store.recent_events, {"id": {"S": "a"}, "source": {"S": "other-program"}, "ttl": {"N": "9999999999"}})
    with pytest.raises(InconsistentState, match=r"'a' has source .*other-program"):
        DynamoRecentEvents(store.dynamo, store.recent_events).claim([event("a")], NOW)


def test_refused_events_are_left_out_and_the_others_are_sent_again() -> None:
    def owned_by(source: str) -> dict[str, Any]:
        return {"Code": "ConditionalCheckFailed", "Item": {"id": {"S": "?"}, "source": {"S": source}}}

    answers = Answer.cancelled("None", owned_by("t/0/1"), "None", owned_by("t/0/2")), Answer.cancelled(owned_by("t/0/3"), "None"), DONE
    with scripted(*answers) as server:
        claims = DynamoRecentEvents(server.dynamo, TABLE).claim([event(event_id, number) for number, event_id in enumerate("abcd")], NOW)
    assert claims.duplicates == {Source(ONE, offset): Source.parse(f"t/0/{holder}") for offset, holder in ((1, 1), (3, 2), (0, 3))}
    assert sent_ids(server) == [["a", "b", "c", "d"], ["a", "c"], ["c"]]
    assert len({transaction["ClientRequestToken"] for transaction in server.transactions}) == 3


def test_a_conflict_refuses_no_event() -> None:
    with scripted(Answer.cancelled("TransactionConflict", "None"), DONE) as server:
        assert DynamoRecentEvents(server.dynamo, TABLE).claim([event("a"), event("b", 1)], NOW).duplicates == {}
    assert sent_ids(server) == [["a", "b"], ["a", "b"]]


def test_an_item_that_dynamodb_rejects_is_found_and_becomes_a_pointer() -> None:
    events = [event(f"id-{number:02d}", number) for number in range(16)]
    with rejecting(lambda event_id, pointer: event_id == "id-11" and not pointer) as server:
        claims = DynamoRecentEvents(server.dynamo, TABLE).claim(events, NOW)
    assert (claims.duplicates, claims.pointers) == ({}, frozenset({events[11].record.source}))
    done = [ids for ids in sent_ids(server) if "id-11" not in ids]
    assert sorted(event_id for ids in done for event_id in ids) == sorted(f"{event.id}{'*' * (event.id == 'id-11')}" for event in events)
    assert len(server.transactions) == 10


def test_the_pointer_names_the_json_object_of_the_event() -> None:
    with rejecting(lambda _, pointer: not pointer) as server:
        DynamoRecentEvents(server.dynamo, TABLE).claim([event("a")], NOW)
    item = server.transactions[-1]["TransactItems"][0]["Put"]["Item"]
    assert item["data"] == {"M": {"pointer": {"S": event_key("2024-01-15T10", "a")}}}


def test_items_that_dynamodb_names_become_pointers_at_once() -> None:
    with rejecting(lambda event_id, pointer: event_id in ("b", "d") and not pointer, named=True) as server:
        claims = DynamoRecentEvents(server.dynamo, TABLE).claim([event(event_id, number) for number, event_id in enumerate("abcd")], NOW)
    assert claims.pointers == {Source(ONE, 1), Source(ONE, 3)}
    assert sent_ids(server) == [["a", "b", "c", "d"], ["a", "b*", "c", "d*"]]


@pytest.mark.parametrize("named", [False, True])
def test_a_rejection_that_is_not_caused_by_data_is_raised_after_few_attempts(named: bool) -> None:
    with rejecting(lambda *_: True, named) as server, pytest.raises(RequestRejected):
        DynamoRecentEvents(server.dynamo, TABLE).claim([event(f"id-{number}", number) for number in range(100)], NOW)
    assert len(server.transactions) <= 9


def test_a_transaction_has_at_most_100_events_and_4_megabytes() -> None:
    small = [event(f"small-{number}", number) for number in range(250)]
    large = [event(f"large-{number}", 1_000 + number, padding="x" * 300_000) for number in range(30)]
    with scripted() as server:
        DynamoRecentEvents(server.dynamo, TABLE).claim(small + large, NOW)
    transactions = sent_ids(server)
    assert sorted(event_id for ids in transactions for event_id in ids) == sorted(event.id for event in small + large)
    assert max(map(len, transactions)) == 100
    assert max(sum(event_id.startswith("large") for event_id in ids) for ids in transactions) == 13
    assert len(transactions) == 5
