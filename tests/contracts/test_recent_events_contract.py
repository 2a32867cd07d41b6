"""The contract of the table of recent events, for the memory double, moto, and a real DynamoDB."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from analytics_defs.core.events.event import Event, classify
from analytics_defs.core.offsets import Source, TopicPartition
from analytics_defs.ports import RecentEvents, StoredEvent
from tests.contracts.recent_events_fixtures import NOW, RECENT_EVENTS
from tests.core.events.made_events import DELETED, RULES, record, text, with_extra

TTL_DAYS = 30
ONE, TWO = (TopicPartition("ProductDeleted", 0, number) for number in (1, 2))
PARALLEL = ["memory", pytest.param("real", marks=pytest.mark.real)]


@pytest.fixture(params=["memory", "moto", pytest.param("real", marks=pytest.mark.real)])
def recent(request: pytest.FixtureRequest) -> Iterator[RecentEvents]:
    with RECENT_EVENTS[request.param]() as under_test:
        yield under_test


def event(event_id: str, offset: int = 0, partition: TopicPartition = ONE, **fields: Any) -> Event:
    return classify_event(text(DELETED | {"id": event_id} | fields), Source(partition, offset))


def classify_event(value: bytes, source: Source) -> Event:
    classified = classify(record(value, source), RULES, NOW)
    assert isinstance(classified, Event), classified
    return classified


def test_a_claimed_event_is_stored_with_all_its_fields(recent: RecentEvents) -> None:
    claimed = event("a", 7, note="Ü-ber 日本語 \x00 \U0001f600")
    claims = recent.claim([claimed], NOW)
    assert (claims.duplicates, claims.pointers) == ({}, frozenset())
    assert recent.get_items(["a"]) == {
        "a": StoredEvent(
            id="a",
            type="ProductDeleted",
            timestamp="2024-01-15T10:30:00.123Z",
            source=Source(ONE, 7),
            created_at="2150-01-15T12:00:00.000Z",
            ttl=int((NOW + timedelta(days=TTL_DAYS)).timestamp()),
            data=DELETED | {"id": "a", "note": "Ü-ber 日本語 \x00 \U0001f600"},
        )
    }


def test_values_of_every_kind_come_back_equal(recent: RecentEvents) -> None:
    odd: dict[str, Any] = {
        "none": None,
        "true": True,
        "false": False,
        "empty": "",
        "list": [],
        "map": {},
        "nested": [[1, {"a": [None]}], "x"],
    }
    numbers = with_extra("[1.0, -0, 1e2, 0.1, 12345678901234567890123456789012345678, 1E-130, 9.9E+125]")
    recent.claim([event("odd", 0, odd=odd), classify_event(numbers, Source(ONE, 1))], NOW)
    owned = recent.get_items(["odd", "event-1"])
    assert owned["odd"].data == DELETED | {"id": "odd", "odd": odd}
    assert field(owned["event-1"], "extra") == [
        *(1, 0, 100, Decimal("0.1"), 12345678901234567890123456789012345678, Decimal("1E-130"), Decimal("9.9E+125"))
    ]


def field(stored: StoredEvent, name: str) -> object:
    assert isinstance(stored.data, dict)
    return stored.data[name]


def test_the_first_source_to_claim_an_id_owns_it(recent: RecentEvents) -> None:
    first, second = event("a", 1, ONE), event("a", 1, TWO, sellerId="another")
    recent.claim([first], NOW)
    before = recent.get_items(["a"])
    assert recent.claim([second], NOW + timedelta(minutes=1)).duplicates == {second.record.source: first.record.source}
    assert recent.get_items(["a"]) == before


def test_a_claim_is_idempotent_for_its_source(recent: RecentEvents) -> None:
    claimed = event("a", 1)
    recent.claim([claimed], NOW)
    before = recent.get_items(["a"])
    assert recent.claim([claimed], NOW).duplicates == {}
    assert recent.get_items(["a"]) == before


def test_duplicates_do_not_block_the_other_claims_of_their_chunk(recent: RecentEvents) -> None:
    owned = [event(f"id-{number}", number, ONE) for number in range(0, 100, 7)]
    recent.claim(owned, NOW)
    chunk = [event(f"id-{number}", number, TWO) for number in range(100)]
    duplicates = recent.claim(chunk, NOW).duplicates
    assert duplicates == {Source(TWO, item_event.record.source.offset): item_event.record.source for item_event in owned}
    owners = {item_event: stored.source for item_event, stored in recent.get_items([item_event.id for item_event in chunk]).items()}
    assert owners == {item_event.id: duplicates.get(item_event.record.source, item_event.record.source) for item_event in chunk}


def test_a_chunk_of_duplicates_only_is_refused(recent: RecentEvents) -> None:
    recent.claim([event(f"id-{number}", number, ONE) for number in range(5)], NOW)
    duplicates = recent.claim([event(f"id-{number}", number, TWO) for number in range(5)], NOW).duplicates
    assert duplicates == {Source(TWO, number): Source(ONE, number) for number in range(5)}


def test_an_id_can_be_claimed_again_one_day_before_its_ttl_and_not_earlier(recent: RecentEvents) -> None:
    recent.claim([event("a", 1, ONE)], NOW)
    late = event("a", 1, TWO)
    claimable_from = NOW + timedelta(days=TTL_DAYS - 1)
    assert recent.claim([late], claimable_from - timedelta(seconds=1)).duplicates == {late.record.source: Source(ONE, 1)}
    assert recent.claim([late], claimable_from).duplicates == {}
    assert recent.get_items(["a"])["a"].source == late.record.source


def test_a_claim_may_exceed_one_request(recent: RecentEvents) -> None:
    many = [event(f"id-{number}", number) for number in range(250)]
    large = [event(f"large-{number}", 1_000 + number, padding="x" * 390_000) for number in range(14)]
    assert recent.claim(many + large, NOW).duplicates == {}
    assert recent.get_items([claimed.id for claimed in many + large]).keys() == {claimed.id for claimed in many + large}


NOT_REPRESENTABLE = {
    "a number of 39 digits": b"1" * 39,
    "a number below the smallest": b"1E-131",
    "an empty name": b'{"": 1}',
    "forty levels": b"[" * 40 + b"]" * 40,
    "more than 400 KB": b'"' + b"x" * 420_000 + b'"',
    "more than 400 KB by DynamoDB's formula only": b"[" + b"1," * 150_000 + b"1]",
}


@pytest.mark.parametrize("extra", NOT_REPRESENTABLE.values(), ids=NOT_REPRESENTABLE.keys())
def test_only_data_that_dynamodb_cannot_hold_becomes_a_pointer(recent: RecentEvents, extra: bytes) -> None:
    odd = classify_event(with_extra(extra.decode()), Source(ONE, 1))
    claims = recent.claim([event("before", 0), odd, event("after", 2)], NOW)
    assert (claims.duplicates, claims.pointers) == ({}, frozenset({odd.record.source}))
    owned = recent.get_items(["before", odd.id, "after"])
    assert [owned[event_id].data is None for event_id in ("before", odd.id, "after")] == [False, True, False]
    assert (owned[odd.id].source, owned[odd.id].type) == (odd.record.source, odd.type)


def test_a_duplicate_is_never_a_pointer(recent: RecentEvents) -> None:
    recent.claim([event("event-1", 0, ONE)], NOW)
    odd = classify_event(with_extra("1" * 39), Source(TWO, 0))
    claims = recent.claim([odd], NOW)
    assert (claims.duplicates, claims.pointers) == ({odd.record.source: Source(ONE, 0)}, frozenset())


def test_missing_ids_are_left_out(recent: RecentEvents) -> None:
    recent.claim([event("a", 1)], NOW)
    assert recent.get_items(["b", "a", "a", "c"]).keys() == {"a"}
    assert recent.get_items([]) == {}
    assert recent.claim([], NOW).duplicates == {}


def test_ids_may_contain_any_characters(recent: RecentEvents) -> None:
    ids = ["a/b", "..", " ", "a\nb\x00c", "日本語", "e\u0301", "é", "{}", "#", "x" * 2048, "ü" * 1024]
    events = [event(event_id, number) for number, event_id in enumerate(ids)]
    assert recent.claim(events, NOW).duplicates == {}
    assert {event_id: stored.source for event_id, stored in recent.get_items(ids).items()} == {
        claimed.id: claimed.record.source for claimed in events
    }


@pytest.mark.parametrize("recent", PARALLEL, indirect=True)
def test_concurrent_claims_give_each_id_one_owner(recent: RecentEvents) -> None:
    claimants = [
        [event(f"id-{number}", number, TopicPartition("ProductDeleted", 0, thread)) for number in range(60)] for thread in range(4)
    ]
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda events: recent.claim(events, NOW).duplicates, claimants))
    owned = recent.get_items([f"id-{number}" for number in range(60)])
    for events, duplicates in zip(claimants, answers, strict=True):
        for claimed in events:
            assert owned[claimed.id].source == duplicates.get(claimed.record.source, claimed.record.source)
