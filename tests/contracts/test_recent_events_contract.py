"""What every table of recent events promises: the memory double, moto, and a real DynamoDB."""

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

DAYS_KEPT = 30
ONE, TWO = (TopicPartition("ProductDeleted", 0, number) for number in (1, 2))
PARALLEL = ["memory", pytest.param("real", marks=pytest.mark.real)]


@pytest.fixture(params=["memory", "moto", pytest.param("real", marks=pytest.mark.real)])
def recent(request: pytest.FixtureRequest) -> Iterator[RecentEvents]:
    with RECENT_EVENTS[request.param]() as found:
        yield found


def event(event_id: str, offset: int = 0, partition: TopicPartition = ONE, **fields: Any) -> Event:
    return judged(text(DELETED | {"id": event_id} | fields), Source(partition, offset))


def judged(value: bytes, source: Source) -> Event:
    verdict = classify(record(value, source), RULES, NOW)
    assert isinstance(verdict, Event), verdict
    return verdict


def test_a_claimed_event_is_there_whole(recent: RecentEvents) -> None:
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
            ttl=int((NOW + timedelta(days=DAYS_KEPT)).timestamp()),
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
    recent.claim([event("odd", 0, odd=odd), judged(numbers, Source(ONE, 1))], NOW)
    held = recent.get_items(["odd", "event-1"])
    assert held["odd"].data == DELETED | {"id": "odd", "odd": odd}
    assert field(held["event-1"], "extra") == [
        *(1, 0, 100, Decimal("0.1"), 12345678901234567890123456789012345678, Decimal("1E-130"), Decimal("9.9E+125"))
    ]


def field(stored: StoredEvent, name: str) -> object:
    assert isinstance(stored.data, dict)
    return stored.data[name]


def test_the_first_source_to_claim_an_id_holds_it(recent: RecentEvents) -> None:
    first, second = event("a", 1, ONE), event("a", 1, TWO, sellerId="another")
    recent.claim([first], NOW)
    before = recent.get_items(["a"])
    assert recent.claim([second], NOW + timedelta(minutes=1)).duplicates == {second.record.source: first.record.source}
    assert recent.get_items(["a"]) == before


def test_a_source_may_claim_its_id_again_and_changes_nothing(recent: RecentEvents) -> None:
    claimed = event("a", 1)
    recent.claim([claimed], NOW)
    before = recent.get_items(["a"])
    assert recent.claim([claimed], NOW).duplicates == {}
    assert recent.get_items(["a"]) == before


def test_repeats_do_not_keep_the_others_of_their_chunk_from_being_claimed(recent: RecentEvents) -> None:
    held = [event(f"id-{number}", number, ONE) for number in range(0, 100, 7)]
    recent.claim(held, NOW)
    chunk = [event(f"id-{number}", number, TWO) for number in range(100)]
    refused = recent.claim(chunk, NOW).duplicates
    assert refused == {Source(TWO, each.record.source.offset): each.record.source for each in held}
    holders = {each: stored.source for each, stored in recent.get_items([each.id for each in chunk]).items()}
    assert holders == {each.id: refused.get(each.record.source, each.record.source) for each in chunk}


def test_a_chunk_of_nothing_but_repeats_is_refused_whole(recent: RecentEvents) -> None:
    recent.claim([event(f"id-{number}", number, ONE) for number in range(5)], NOW)
    refused = recent.claim([event(f"id-{number}", number, TWO) for number in range(5)], NOW).duplicates
    assert refused == {Source(TWO, number): Source(ONE, number) for number in range(5)}


def test_an_id_is_free_again_a_day_before_its_item_may_be_deleted_and_not_before(recent: RecentEvents) -> None:
    recent.claim([event("a", 1, ONE)], NOW)
    late = event("a", 1, TWO)
    forgotten = NOW + timedelta(days=DAYS_KEPT - 1)
    assert recent.claim([late], forgotten - timedelta(seconds=1)).duplicates == {late.record.source: Source(ONE, 1)}
    assert recent.claim([late], forgotten).duplicates == {}
    assert recent.get_items(["a"])["a"].source == late.record.source


def test_claims_may_be_larger_than_what_one_request_holds(recent: RecentEvents) -> None:
    many = [event(f"id-{number}", number) for number in range(250)]
    large = [event(f"large-{number}", 1_000 + number, padding="x" * 390_000) for number in range(14)]
    assert recent.claim(many + large, NOW).duplicates == {}
    assert recent.get_items([each.id for each in many + large]).keys() == {each.id for each in many + large}


UNHOLDABLE = {
    "a number of 39 digits": b"1" * 39,
    "a number below the smallest": b"1E-131",
    "an empty name": b'{"": 1}',
    "forty levels": b"[" * 40 + b"]" * 40,
    "more than 400 KB": b'"' + b"x" * 420_000 + b'"',
    "more than 400 KB by DynamoDB's formula only": b"[" + b"1," * 150_000 + b"1]",
}


@pytest.mark.parametrize("extra", UNHOLDABLE.values(), ids=UNHOLDABLE.keys())
def test_data_that_dynamodb_cannot_hold_becomes_a_pointer_and_its_neighbours_do_not(recent: RecentEvents, extra: bytes) -> None:
    odd = judged(with_extra(extra.decode()), Source(ONE, 1))
    claims = recent.claim([event("before", 0), odd, event("after", 2)], NOW)
    assert (claims.duplicates, claims.pointers) == ({}, frozenset({odd.record.source}))
    held = recent.get_items(["before", odd.id, "after"])
    assert [held[each].data is None for each in ("before", odd.id, "after")] == [False, True, False]
    assert (held[odd.id].source, held[odd.id].type) == (odd.record.source, odd.type)


def test_a_repeat_is_no_pointer_whatever_it_holds(recent: RecentEvents) -> None:
    recent.claim([event("event-1", 0, ONE)], NOW)
    odd = judged(with_extra("1" * 39), Source(TWO, 0))
    claims = recent.claim([odd], NOW)
    assert (claims.duplicates, claims.pointers) == ({odd.record.source: Source(ONE, 0)}, frozenset())


def test_only_ids_that_are_there_are_held(recent: RecentEvents) -> None:
    recent.claim([event("a", 1)], NOW)
    assert recent.get_items(["b", "a", "a", "c"]).keys() == {"a"}
    assert recent.get_items([]) == {}
    assert recent.claim([], NOW).duplicates == {}


def test_ids_may_hold_any_characters(recent: RecentEvents) -> None:
    ids = ["a/b", "..", " ", "a\nb\x00c", "日本語", "e\u0301", "é", "{}", "#", "x" * 2048, "ü" * 1024]
    events = [event(each, number) for number, each in enumerate(ids)]
    assert recent.claim(events, NOW).duplicates == {}
    assert {each: stored.source for each, stored in recent.get_items(ids).items()} == {each.id: each.record.source for each in events}


@pytest.mark.parametrize("recent", PARALLEL, indirect=True)
def test_each_id_has_one_holder_whoever_claims_it_at_the_same_time(recent: RecentEvents) -> None:
    claimants = [
        [event(f"id-{number}", number, TopicPartition("ProductDeleted", 0, thread)) for number in range(60)] for thread in range(4)
    ]
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda events: recent.claim(events, NOW).duplicates, claimants))
    held = recent.get_items([f"id-{number}" for number in range(60)])
    for events, refused in zip(claimants, answers, strict=True):
        for each in events:
            assert held[each.id].source == refused.get(each.record.source, each.record.source)
