"""The simulated shop: its events are deterministic, consistent, and mixed as configured."""

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
    """A clock that advances by one second at each call."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        self.now += timedelta(seconds=1)
        return self.now


def produce(mix: TrafficMix, count: int = 5_000, seed: int = 7) -> list[Message]:
    return list(islice(messages(seed, _Ticking(), mix), count))


def classified(records: list[Message]) -> Iterator[ClassifiedRecord]:
    rules = ValidationRules(max_event_bytes=1_000_000)
    for offset, message in enumerate(records):
        source = Source(TopicPartition(message.topic, 0, 0), offset)
        yield classify(Record(source, 0, message.key, message.value), rules, START + timedelta(days=1))


def test_the_same_seed_and_clock_give_the_same_bytes() -> None:
    assert produce(DEFAULT_MIX) == produce(DEFAULT_MIX)
    assert produce(DEFAULT_MIX) != produce(DEFAULT_MIX, seed=8)


def test_a_clean_mix_has_distinct_valid_timely_events_in_current_form() -> None:
    records = produce(CLEAN_MIX)
    events = [record for record in classified(records) if isinstance(record, Event)]
    assert len(events) == len({event.id for event in events}) == len(records)
    assert all(event.upcast_json is None and event.version == "1.0" for event in events)
    assert [event.time for event in events] == [START + timedelta(seconds=tick) for tick in range(1, len(records) + 1)]
    assert all(
        event.type == message.topic and event.product_id == message.key.decode() for event, message in zip(events, records, strict=True)
    )


def test_all_four_types_occur_and_an_event_has_about_400_bytes() -> None:
    records = produce(CLEAN_MIX)
    ratios = {topic: count / len(records) for topic, count in Counter(record.topic for record in records).items()}
    assert ratios.keys() == set(EVENT_TYPES)
    assert min(ratios.values()) > 0.02
    assert 350 < sum(len(record.value) for record in records) / len(records) < 450


def test_the_events_of_each_product_are_consistent() -> None:
    products: dict[str, dict[str, Any]] = {}
    warnings = 0
    for message in produce(CLEAN_MIX):
        event = json.loads(message.value)
        match event["type"]:
            case "ProductCreated":
                assert event["product"]["id"] not in products
                products[event["product"]["id"]] = event["product"]
            case "ProductUpdated":
                before, after = products[event["product"]["id"]], event["product"]
                assert before.items() >= event["previousProduct"].items()
                assert after["stock"] >= 0
                assert after["price"] > 0
                products[after["id"]] = after
            case "ProductDeleted":
                assert products.pop(event["productId"])["sellerId"] == event["sellerId"]
            case "LowStockWarning":
                warnings += 1
                assert products[event["productId"]]["stock"] == event["currentStock"] <= event["threshold"] == LOW_STOCK
    assert warnings > 50


@pytest.mark.parametrize("ratio", [0.0, 0.2, 1.0])
def test_legacy_events_occur_at_the_configured_ratio(ratio: float) -> None:
    records = list(classified(produce(TrafficMix(legacy=ratio, late=0, duplicated=0, broken=0), 2_000)))
    legacy = [record for record in records if isinstance(record, Event) and record.upcast_json is not None]
    assert all(isinstance(record, Event) for record in records)
    assert len(legacy) / len(records) == pytest.approx(ratio, abs=0.04)
    assert not ratio or {event.type for event in legacy} == set(EVENT_TYPES)


@pytest.mark.parametrize("ratio", [0.2, 1.0])
def test_duplicates_have_the_bytes_of_an_earlier_event(ratio: float) -> None:
    records = produce(TrafficMix(legacy=0.5, late=0, duplicated=ratio, broken=0), 2_000)
    duplicates = len(records) - len({record.value for record in records})
    assert duplicates / len(records) == pytest.approx(ratio, abs=0.04)


def test_late_events_are_late_by_an_hour_to_three_days() -> None:
    records = classified(produce(TrafficMix(legacy=0, late=1, duplicated=0, broken=0), 500))
    events = [record for record in records if isinstance(record, Event)]
    delays = [START + timedelta(seconds=tick) - event.time for tick, event in enumerate(events, 1)]
    assert min(delays) >= timedelta(hours=1)
    assert timedelta(days=2) < max(delays) <= timedelta(days=3)


def test_broken_records_are_rejected_for_every_reason_of_the_shop() -> None:
    records = list(classified(produce(TrafficMix(legacy=0, late=0, duplicated=0, broken=1), 500)))
    assert {record.reason for record in records if isinstance(record, Rejection)} == BROKEN.keys()
    assert all(isinstance(record, Rejection) for record in records)
    assert RejectionReason.TOO_LARGE not in BROKEN


@pytest.mark.parametrize("reason", BROKEN)
@pytest.mark.parametrize("topic", EVENT_TYPES)
def test_each_broken_record_is_rejected_for_its_own_reason(reason: RejectionReason, topic: str) -> None:
    message = next(record for record in produce(CLEAN_MIX, 300) if record.topic == topic)
    broken = Message(message.topic, message.key, BROKEN[reason](json.loads(message.value)))
    (rejection,) = classified([broken])
    assert isinstance(rejection, Rejection)
    assert rejection.reason is reason
