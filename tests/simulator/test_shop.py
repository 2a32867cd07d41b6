"""The simulated shop: what it sells to the tests and to the benchmark."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

import pytest

from analytics_defs.core.events.event import ClassifiedRecord, Event, Rejection, ValidationRules, classify
from analytics_defs.core.events.rejection_reasons import RejectionReason
from analytics_defs.core.events.schema import EVENT_TYPES
from analytics_defs.core.offsets import Record, Source, TopicPartition
from analytics_defs.simulator.shop import BROKEN, CLEAN_MIX, DEFAULT_MIX, LOW_STOCK, Message, TrafficMix, messages

START = datetime(2024, 1, 15, 10, 30, tzinfo=UTC)


class _Ticking:
    """A clock that goes on by a second whenever it is looked at."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        self.now += timedelta(seconds=1)
        return self.now


def some(shares: TrafficMix, count: int = 5_000, seed: int = 7) -> list[Message]:
    return list(islice(messages(seed, _Ticking(), shares), count))


def verdicts(found: list[Message]) -> Iterator[ClassifiedRecord]:
    rules = ValidationRules(max_event_bytes=1_000_000)
    for offset, message in enumerate(found):
        source = Source(TopicPartition(message.topic, 0, 0), offset)
        yield classify(Record(source, 0, message.key, message.value), rules, START + timedelta(days=1))


def test_the_same_seed_and_clock_give_the_same_bytes_and_another_seed_gives_others() -> None:
    assert some(DEFAULT_MIX) == some(DEFAULT_MIX)
    assert some(DEFAULT_MIX) != some(DEFAULT_MIX, seed=8)


def test_a_flawless_shop_sends_distinct_valid_timely_events_in_current_form() -> None:
    found = some(CLEAN_MIX)
    judged = list(verdicts(found))
    events = [each for each in judged if isinstance(each, Event)]
    assert len(events) == len({event.id for event in events}) == len(found)
    assert all(event.document is None and event.version == "1.0" for event in events)
    assert [event.time for event in events] == [START + timedelta(seconds=tick) for tick in range(1, len(found) + 1)]
    assert all(
        event.type == message.topic and event.product_id == message.key.decode() for event, message in zip(events, found, strict=True)
    )


def test_all_four_types_come_and_an_event_has_about_400_bytes() -> None:
    found = some(CLEAN_MIX)
    share = {topic: count / len(found) for topic, count in Counter(message.topic for message in found).items()}
    assert share.keys() == set(EVENT_TYPES)
    assert min(share.values()) > 0.02
    assert 350 < sum(len(message.value) for message in found) / len(found) < 450


def test_the_story_of_each_product_makes_sense() -> None:
    shelves: dict[str, dict[str, Any]] = {}
    warned = 0
    for message in some(CLEAN_MIX):
        event = json.loads(message.value)
        match event["type"]:
            case "ProductCreated":
                assert event["product"]["id"] not in shelves
                shelves[event["product"]["id"]] = event["product"]
            case "ProductUpdated":
                before, after = shelves[event["product"]["id"]], event["product"]
                assert before.items() >= event["previousProduct"].items()
                assert after["stock"] >= 0
                assert after["price"] > 0
                shelves[after["id"]] = after
            case "ProductDeleted":
                assert shelves.pop(event["productId"])["sellerId"] == event["sellerId"]
            case "LowStockWarning":
                warned += 1
                assert shelves[event["productId"]]["stock"] == event["currentStock"] <= event["threshold"] == LOW_STOCK
    assert warned > 50


@pytest.mark.parametrize("share", [0.0, 0.2, 1.0])
def test_legacy_events_come_as_often_as_asked_for(share: float) -> None:
    judged = list(verdicts(some(TrafficMix(legacy=share, late=0, duplicated=0, broken=0), 2_000)))
    legacy = [each for each in judged if isinstance(each, Event) and each.document is not None]
    assert all(isinstance(each, Event) for each in judged)
    assert len(legacy) / len(judged) == pytest.approx(share, abs=0.04)
    assert not share or {each.type for each in legacy} == set(EVENT_TYPES)


@pytest.mark.parametrize("share", [0.2, 1.0])
def test_repeats_are_the_same_bytes_again(share: float) -> None:
    found = some(TrafficMix(legacy=0.5, late=0, duplicated=share, broken=0), 2_000)
    repeats = len(found) - len({message.value for message in found})
    assert repeats / len(found) == pytest.approx(share, abs=0.04)


def test_late_events_are_late_by_an_hour_to_three_days() -> None:
    events = [each for each in verdicts(some(TrafficMix(legacy=0, late=1, duplicated=0, broken=0), 500)) if isinstance(each, Event)]
    delays = [START + timedelta(seconds=tick) - event.time for tick, event in enumerate(events, 1)]
    assert min(delays) >= timedelta(hours=1)
    assert timedelta(days=2) < max(delays) <= timedelta(days=3)


def test_broken_records_are_rejected_for_every_reason_the_shop_knows() -> None:
    judged = list(verdicts(some(TrafficMix(legacy=0, late=0, duplicated=0, broken=1), 500)))
    assert {each.reason for each in judged if isinstance(each, Rejection)} == BROKEN.keys()
    assert all(isinstance(each, Rejection) for each in judged)
    assert RejectionReason.TOO_LARGE not in BROKEN


@pytest.mark.parametrize("reason", BROKEN)
@pytest.mark.parametrize("topic", EVENT_TYPES)
def test_each_way_to_break_an_event_is_rejected_for_its_own_reason(reason: RejectionReason, topic: str) -> None:
    message = next(each for each in some(CLEAN_MIX, 300) if each.topic == topic)
    broken = Message(message.topic, message.key, BROKEN[reason](json.loads(message.value)))
    (verdict,) = verdicts([broken])
    assert isinstance(verdict, Rejection)
    assert verdict.reason is reason
