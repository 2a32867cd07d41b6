"""Every JSON field and every series equals a count made by the test, from the produced records and the stored events."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from math import isfinite
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from analytics_defs.core.counter_adjustments import Adjustment, CounterItem
from analytics_defs.core.events.event import ValidationRules
from analytics_defs.core.ledger import REDRIVE_CHECKPOINT
from analytics_defs.core.timestamps import iso_milliseconds
from analytics_defs.flows.redrive import DeadLetterFilter, redrive_dead_letters
from tests.devstack.waiting import until
from tests.proof.world import TOPIC, World, event, ingest_options
from tests.web.served import Client, real_time, served, site

HOUR = datetime(2026, 3, 1, 10, tzinfo=UTC)
TYPES = ("ProductCreated", "ProductUpdated", "ProductDeleted", "LowStockWarning")
PRODUCT = {"id": "p", "name": "n", "price": 1, "stock": 1, "sellerId": "s"}
PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;version=0.0.1;q=0.5,"
    "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
"""Accept header of Prometheus 3 without protobuf."""
TEXT_0 = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS_1 = "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=allow-utf-8"


def made(event_id: str, kind: str, hours_ago: int, **fields: Any) -> bytes:
    body: dict[str, Any] = {"id": event_id, "timestamp": (HOUR - timedelta(hours=hours_ago)).isoformat(), "type": kind, "version": "1.0"}
    body |= {"product": PRODUCT} if kind in TYPES[:2] else {"productId": "p", "sellerId": "s"}
    body |= {"productName": "n", "currentStock": 1, "threshold": 2} if kind == "LowStockWarning" else {}
    return json.dumps(body | fields).encode()


@pytest.fixture
def world() -> World:
    """Return events of three hours and of two days ago, duplicates, dead letters of three reasons, a tombstone, a gap, lost records."""
    world = World(clock=_now())
    world.create(partitions=2)
    for number in range(30):
        world.produce(made(f"e{number}", TYPES[number % 7 % 4], number % 3), partition=number % 2)
    world.produce(
        made("old", TYPES[0], 48),
        made("e1", TYPES[1], 1),
        made("e2", TYPES[2], 2),
        None,
        b"{",
        b"\xff",
        made("big", TYPES[0], 1, x="x" * 500),
    )
    world.settle(ingest_options("first", validation_rules=ValidationRules(max_event_bytes=400)))
    for number in range(5):
        world.produce(made(f"lost{number}", TYPES[0], 0))
    world.event_log.retain_from(TOPIC, 0, world.plan().lags[0].next_offset + 3)
    world.event_log.append_marker(TOPIC, 1)
    world.settle()
    return world


def _now() -> Any:
    from analytics_defs.adapters.memory import ManualClock

    return ManualClock(HOUR + timedelta(minutes=30))


def items(world: World) -> list[dict[str, Any]]:
    """Return type and hour of each item in RecentEvents."""
    return [{"type": item.type, "hour": item.timestamp[:13]} for item in world.recent_events.items.values()]


def test_health_and_metrics_equal_the_stored_events(world: World) -> None:
    stored = items(world)
    types, hours = Counter(item["type"] for item in stored), Counter(item["hour"] for item in stored)
    with served(site(real_time(world))) as client:
        health, metrics = client.health(), client.get("/metrics").json
    assert health["status"] == "healthy", health["reasons"]
    assert {key: value for key, value in health["metrics"].items() if key != "ageMs"} == {
        key: value for key, value in metrics.items() if key not in ("ageMs", "timestamp")
    }
    assert metrics["totalEvents"] == len(stored) == 33
    assert metrics["eventsByType"] == dict.fromkeys(TYPES, 0) | types
    assert metrics["productsByStatus"] == {
        "created": types[TYPES[0]],
        "updated": types[TYPES[1]],
        "deleted": types[TYPES[2]],
        "lowStock": types[TYPES[3]],
    }
    assert metrics["totalProducts"] == max(0, types[TYPES[0]] - types[TYPES[2]])
    last_24 = [(HOUR - timedelta(hours=back)).strftime("%Y-%m-%dT%H") for back in reversed(range(24))]
    assert metrics["hourlyStats"] == {hour: hours[hour] for hour in last_24}
    assert sum(metrics["hourlyStats"].values()) == len(stored) - 1
    assert (metrics["duplicates"], metrics["tombstones"], metrics["gaps"], metrics["lost"], metrics["unaccounted"]) == (2, 1, 1, 3, 0)
    assert metrics["deadLettersByReason"] == {"not_json": 1, "not_utf8": 1, "too_large": 1}
    assert metrics["deadLetters"] == 3
    records = world.ledger.last_batches(20)
    assert metrics["processing"]["batches"] == len(records) == health["metrics"]["processing"]["recentBatches"]


def series(client: Client, accept: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    response = client.get("/metrics", accept=accept)
    parse = parse_openmetrics if "openmetrics" in response.headers["content-type"] else parse_text
    samples = [sample for family in parse(response.text) for sample in family.samples]
    return {(sample.name, tuple(sorted(sample.labels.items()))): sample.value for sample in samples}


def test_both_prometheus_formats_equal_the_json(world: World) -> None:
    with served(site(real_time(world))) as client:
        metrics = client.get("/metrics").json
        text, openmetrics = series(client, "text/plain"), series(client, PROMETHEUS)
    assert text.keys() == openmetrics.keys()
    for kind in TYPES:
        assert text["analytics_events_total", (("type", kind),)] == metrics["eventsByType"][kind]
    for reason, count in metrics["deadLettersByReason"].items():
        assert openmetrics["analytics_dead_letters_total", (("reason", reason),)] == count
    for name, field in (("duplicates", "duplicates"), ("tombstones", "tombstones"), ("gap_offsets", "gaps"), ("data_loss_offsets", "lost")):
        assert openmetrics[f"analytics_{name}_total", ()] == metrics[field]
    assert openmetrics["analytics_products", ()] == metrics["totalProducts"]
    assert (openmetrics["analytics_healthy", ()], openmetrics["analytics_unaccounted_offsets", ()]) == (1, 0)
    nexts = {str(lag.topic_partition.partition): lag.next_offset for lag in world.plan().lags}
    assert {
        dict(labels)["partition"]: value for (name, labels), value in text.items() if name == "analytics_partition_next_offset"
    } == nexts


def test_a_redrive_lowers_no_counter_and_is_a_separate_series(world: World) -> None:
    with served(site(real_time(world))) as client:
        before = series(client, "text/plain")
    last_commit = world.ledger.last_batches(1)[0].closed_at
    world.clock.advance(timedelta(minutes=20))
    redrive_dead_letters(DeadLetterFilter("too_large", None, None), world.ports, ingest_options("redrive"))
    assert world.ledger.snapshot().checkpoints[REDRIVE_CHECKPOINT].next_offset == 1
    with served(site(real_time(world))) as client:
        after, metrics = series(client, "text/plain"), client.get("/metrics").json
    lowered = {key for key, value in before.items() if key[0].endswith("_total") and after[key] < value}
    assert lowered == set()
    assert (
        after["analytics_last_commit_timestamp_seconds", ()] == before["analytics_last_commit_timestamp_seconds", ()]
    )  # a redrive is not a commit
    assert after["analytics_dead_letters_redriven_total", (("reason", "too_large"),)] == 1
    assert after["analytics_dead_letters_total", (("reason", "too_large"),)] == 1
    assert metrics["deadLettersByReason"] == {"not_json": 1, "not_utf8": 1}
    assert metrics["totalEvents"] == len(world.recent_events.items) == 34
    assert metrics["processing"]["lastCommit"] == iso_milliseconds(last_commit)


def test_lag_reaches_the_high_watermark_and_is_as_old_as_the_oldest_record(world: World) -> None:
    written = int((world.clock.now() - timedelta(minutes=2)).timestamp() * 1000)
    world.event_log.append(TOPIC, 0, event("late"), timestamp_ms=written)
    world.event_log.append(TOPIC, 0, event("later"))
    with served(site(real_time(world))) as client:

        def kafka() -> dict[str, Any]:
            service: dict[str, Any] = client.health()["services"]["kafka"]
            return service

        until(lambda: kafka()["partitions"][f"{TOPIC}/0"]["lagSeconds"] is not None)
        assert kafka()["lag"] == 2
        assert kafka()["partitions"][f"{TOPIC}/1"] == {
            "lag": 0,
            "transactionLag": 0,
            "next": world.plan().lags[1].next_offset,
            "lagSeconds": 0,
        }
        assert 120 <= kafka()["partitions"][f"{TOPIC}/0"]["lagSeconds"] < 180
        samples = series(client, "text/plain")
    labels = (("partition", "0"), ("topic", TOPIC))
    assert samples["analytics_partition_lag_offsets", labels] == 2
    assert 120 <= samples["analytics_partition_lag_seconds", labels] < 180
    week = timedelta(days=7).total_seconds()
    assert week - 180 < samples["analytics_partition_seconds_until_data_loss", labels] <= week - 120


def test_no_answer_has_an_infinite_number_or_nan() -> None:
    """One partition has nothing to lose, the next record of the other has a timestamp that is no date."""
    world = World(clock=_now())
    world.create(partitions=2)
    world.event_log.append(TOPIC, 0, made("e", TYPES[0], 0), timestamp_ms=2**63 - 1)
    world.settle()
    world.event_log.append(TOPIC, 1, made("f", TYPES[0], 0), timestamp_ms=2**63 - 1)
    with served(site(real_time(world))) as client:
        until(lambda: client.get("/health").json["services"]["kafka"].get("lag") == 1)
        for accept in ("text/plain", PROMETHEUS):
            samples = series(client, accept)
            assert samples["analytics_invalid_record_timestamps_total", ()] == 1
            assert all(isfinite(value) for value in samples.values())
        for path in ("/health", "/metrics", "/trace/ProductDeleted/0/0"):
            json.loads(client.get(path).text, parse_constant=pytest.fail)
        assert client.get("/metrics").json["invalidRecordTimestamps"] == 1


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        (PROMETHEUS, OPENMETRICS_1),
        ("", "application/json"),
        ("*/*", "application/json"),
        ("application/json, text/plain, */*", "application/json"),
        ("text/html,application/xhtml+xml,*/*;q=0.8", "application/json"),
        ("text/plain", TEXT_0),
        ("TEXT/PLAIN; charset=utf-8", TEXT_0),
        ("text/plain;version=0.0.4;q=0.5,*/*;q=0.1", TEXT_0),
        ("application/openmetrics-text; version=1.0.0", "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=underscores"),
        ("text/plain;q=0.5, */*", TEXT_0),
        ("text/*", "application/json"),
        ("text/html", "application/json"),
        (",;q=1,,", "application/json"),
    ],
)
def test_metrics_are_json_unless_accept_names_a_prometheus_format(world: World, accept: str, kind: str) -> None:
    with served(site(real_time(world))) as client:
        assert client.get("/metrics", accept=accept).headers["content-type"] == kind


def test_the_format_parameter_decides_before_accept(world: World) -> None:
    with served(site(real_time(world))) as client:
        assert client.get("/metrics?format=prometheus", accept="application/json").headers["content-type"].startswith("text/plain")
        assert client.get("/metrics?format=openmetrics").headers["content-type"].startswith("application/openmetrics-text")
        assert client.get("/metrics?format=json", accept="text/plain").json["totalEvents"] == 33
        unknown = client.get("/metrics?format=xml")
        assert (unknown.status, unknown.json["error"]) == (400, "format: expected one of json, prometheus, openmetrics")


def test_an_adjustment_lowers_no_counter_and_is_a_separate_series(world: World) -> None:
    with served(site(real_time(world))) as client:
        before, metrics_before = series(client, "text/plain"), client.get("/metrics").json
    world.ledger.put_adjustment(Adjustment(CounterItem(0), 1, {"events": -3, "type.ProductCreated": -3, "bytes": 5}, 2, world.clock.now()))
    with served(site(real_time(world))) as client:
        after, metrics = series(client, "text/plain"), client.get("/metrics").json
    assert {key: after[key] for key in before if key[0].endswith("_total")} == {
        key: before[key] for key in before if key[0].endswith("_total")
    }
    adjusted = {dict(labels)["counter"]: value for (name, labels), value in after.items() if name == "analytics_counter_adjustments"}
    assert adjusted == {"events": -3, "type.ProductCreated": -3, "bytes": 5}
    assert (metrics["totalEvents"], after["analytics_products", ()]) == (metrics_before["totalEvents"] - 3, metrics["totalProducts"])
    assert metrics["totalProducts"] == metrics_before["totalProducts"] - 3 >= 0
