"""Statistics equal a count in plain Python, at every edge of time, and are refused if the stores disagree."""

from __future__ import annotations

import io
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from analytics_defs.adapters.duckdb.statistics import duckdb_statistics
from analytics_defs.core.storage.object_keys import aggregate_key, part_key
from analytics_defs.errors import InconsistentState
from analytics_defs.flows.hours.compaction import compact_hour
from analytics_defs.flows.hours.statistics import HourlyResult, compute_daily_stats, compute_hourly_stats, compute_product_activity
from tests.flows.hours.test_compaction import flip, lose
from tests.proof.actors import Actor
from tests.proof.interceptors import intercept
from tests.proof.world import HOUR, World, event

ENGINE_FACTORY = partial(duckdb_statistics, 128, 1)
BENCH = ENGINE_FACTORY
DAY = "2024-01-15"


def shop(kind: str, product: str, second: float, **fields: Any) -> bytes:
    """Encode an event of the shop at this second of the day."""
    at = datetime(2024, 1, 15, tzinfo=UTC) + timedelta(seconds=second)
    document = {"id": f"{kind}-{product}-{second}", "timestamp": at.isoformat(), "type": kind}
    if kind in ("ProductCreated", "ProductUpdated"):
        known = {"id": product, "name": "n", "price": 1, "stock": 1, "sellerId": f"seller of {product}"}
        return json.dumps(document | {"product": known | fields}).encode()
    known = {"productId": product, "sellerId": f"seller of {product}", "productName": "n", "currentStock": 1, "threshold": 9}
    return json.dumps(document | known | fields).encode()


def a_world(*events: bytes) -> World:
    world = World()
    world.create()
    for value in events:
        world.produce(value)
    world.settle()
    return world


def stats_of(world: World, hour: str = HOUR) -> HourlyResult:
    return compute_hourly_stats(hour, world.ports, ENGINE_FACTORY)


def table(world: World, name: str, period: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(io.BytesIO(world.object_store.objects[aggregate_key(name, period)].body)).to_pylist()
    return rows


def subject(document: dict[str, Any]) -> str:
    """Return the product id of an event."""
    return str(document["product"]["id"] if "product" in document else document["productId"])


@dataclass
class Plain:
    """The expected statistics, counted in plain Python from the produced documents."""

    documents: list[dict[str, Any]] = field(default_factory=list)

    def product(self, product_id: str) -> dict[str, Any]:
        documents = sorted(
            (document for document in self.documents if subject(document) == product_id),
            key=lambda document: (document["timestamp"], document["id"]),
        )
        kinds = Counter(document["type"] for document in documents)
        prices = [float(document["product"]["price"]) for document in documents if "product" in document]
        stocks = [
            float(document["product"]["stock"] if "product" in document else document["currentStock"])
            for document in documents
            if "product" in document or document["type"] == "LowStockWarning"
        ]
        return {
            "product_id": product_id,
            "seller_ids": [f"seller of {product_id}"],
            "events": len(documents),
            "created": kinds["ProductCreated"],
            "updated": kinds["ProductUpdated"],
            "deleted": kinds["ProductDeleted"],
            "low_stock": kinds["LowStockWarning"],
            "first_price": prices[0] if prices else None,
            "last_price": prices[-1] if prices else None,
            "price_changes": sum(one != two for one, two in pairwise(prices)),
            "first_stock": stocks[0] if stocks else None,
            "last_stock": stocks[-1] if stocks else None,
            "stock_outs": sum(two <= 0 < one for one, two in pairwise([1.0, *stocks])),
            "net_stock_change": stocks[-1] - stocks[0] if stocks else None,
            "out_of_range_numbers": 0,
        }


@pytest.fixture
def in_zone() -> Iterator[Callable[[str], None]]:
    """Yield a call that sets the time zone of this process. The zone is reset after the test."""
    with pytest.MonkeyPatch.context() as patch:

        def move(zone: str) -> None:
            patch.setenv("TZ", zone)
            time.tzset()

        yield move
    time.tzset()


def a_day(count: int = 400) -> tuple[World, Plain]:
    """Return unsorted events of 12 products over three hours, in several batches, with one hour compacted."""
    chance, plain, world = random.Random(7), Plain(), World()
    world.create()
    seconds = chance.sample(range(3 * 3600 * 10), count)
    for number, second in enumerate(seconds):
        kind = chance.choice(["ProductCreated", "ProductUpdated", "ProductUpdated", "ProductDeleted", "LowStockWarning"])
        amounts = {"price": chance.choice([1.5, 2, 3]), "stock": chance.choice([0, -1, 5, 9])}
        fields = amounts if kind in ("ProductCreated", "ProductUpdated") else {"currentStock": chance.choice([0, 4])}
        value = shop(kind, f"p{chance.randrange(12):02d}", 9 * 3600 + second / 10, **fields)
        plain.documents.append(json.loads(value))
        world.produce(value)
        if number % 90 == 0:
            world.settle()
    world.settle()
    compact_hour("2024-01-15T09", world.ports, ENGINE_FACTORY)
    return world, plain


def test_every_number_of_an_hour_equals_a_count_in_plain_python() -> None:
    world, plain = a_day()
    for hour in ("2024-01-15T09", "2024-01-15T10", "2024-01-15T11"):
        expected = Plain([document for document in plain.documents if document["timestamp"].startswith(hour)])
        result = stats_of(world, hour)
        kinds = Counter(document["type"] for document in expected.documents)
        times = sorted(datetime.fromisoformat(document["timestamp"]) for document in expected.documents)
        ids = sorted({subject(document) for document in expected.documents})
        stats = result.stats
        assert stats.events == len(expected.documents)
        assert (stats.created, stats.updated) == (kinds["ProductCreated"], kinds["ProductUpdated"])
        assert (stats.deleted, stats.low_stock) == (kinds["ProductDeleted"], kinds["LowStockWarning"])
        assert (stats.products, stats.sellers) == (len(ids), len(ids))
        assert (stats.first_event, stats.last_event) == (times[0], times[-1])
        assert table(world, "hourly_products", hour) == [expected.product(product_id) for product_id in ids]
        minutes = Counter((document["timestamp"][:16], document["type"]) for document in expected.documents)
        assert {(row.minute.isoformat()[:16], row.event_type): row.events for row in result.minutes} == minutes
        assert table(world, "hourly", hour)[0]["events"] == stats.events
        assert sum(row["events"] for row in table(world, "hourly_minutes", hour)) == stats.events


def test_a_day_equals_a_count_in_plain_python_across_its_hours() -> None:
    world, plain = a_day()
    for hour in ("2024-01-15T11", "2024-01-15T09", "2024-01-15T10"):
        stats_of(world, hour)
    daily, activity = compute_daily_stats(DAY, world.ports, ENGINE_FACTORY), compute_product_activity(DAY, world.ports, ENGINE_FACTORY)
    ids = sorted({subject(document) for document in plain.documents})
    assert (daily.stats.events, daily.stats.products, daily.stats.sellers, daily.stats.hours) == (400, len(ids), len(ids), 3)
    assert daily.stale_hours == ()
    assert table(world, "daily", DAY)[0]["events"] == 400
    assert table(world, "product_activity", DAY) == [plain.product(product_id) for product_id in ids]
    events = {product_id: plain.product(product_id)["events"] for product_id in ids}
    assert [product.product_id for product in activity.top_products] == sorted(
        ids, key=lambda product_id: (-events[product_id], product_id)
    )


def test_computing_statistics_again_gives_the_same_bytes() -> None:
    world, _ = a_day(100)
    stats_of(world, "2024-01-15T09")
    before = {key: object_.body for key, object_ in world.object_store.objects.items()}
    stats_of(world, "2024-01-15T09")
    assert {key: object_.body for key, object_ in world.object_store.objects.items()} == before


def test_statistics_do_not_depend_on_whether_the_hour_is_compacted() -> None:
    world, _ = a_day(100)
    stats_of(world)
    products = table(world, "hourly_products", HOUR)
    compact_hour(HOUR, world.ports, ENGINE_FACTORY)
    result = stats_of(world)
    assert result.stats.revision == 1
    assert table(world, "hourly_products", HOUR) == products


def huge(product: str, second: float, **numbers: str) -> bytes:
    """Encode a ProductCreated with these JSON numbers, which Python's own encoder cannot write."""
    value = shop("ProductCreated", product, second, **{name: f"<{name}>" for name in numbers}).decode()
    for name, number in numbers.items():
        value = value.replace(f'"<{name}>"', number)
    return value.encode()


NUMBERS = ("first_price", "last_price", "first_stock", "last_stock", "net_stock_change", "stock_outs", "out_of_range_numbers")


def test_numbers_beyond_float64_are_null_and_counted() -> None:
    at = 10 * 3600
    world = a_world(
        *(huge("beyond", at, stock="1e400", price="-1e999"), huge("beyond", at + 1, stock="5"), huge("beyond", at + 2, stock="1e400")),
        *(huge("opposite", at, stock="-1.7e308"), huge("opposite", at + 1, stock="1.7e308")),
    )
    stats_of(world)
    compute_product_activity(DAY, world.ports, ENGINE_FACTORY)
    for name, period in (("hourly_products", HOUR), ("product_activity", DAY)):
        beyond, opposite = ([row[number] for number in NUMBERS] for row in table(world, name, period))
        assert beyond == [1, 1, 5, 5, 0, 0, 3]
        assert opposite == [1, 1, -1.7e308, 1.7e308, None, 1, 0]


@pytest.mark.parametrize("recomputed", [(), (HOUR,)], ids=["all files of older versions", "one of this version"])
def test_a_day_reads_hours_of_older_versions_that_hold_infinity(recomputed: tuple[str, ...]) -> None:
    other = "2024-01-15T11"
    world = a_world(*(shop("ProductCreated", "p", hour * 3600, stock=hour) for hour in (10, 11)))
    for hour in (HOUR, other):
        stats_of(world, hour)
        key = aggregate_key("hourly_products", hour)
        rows = pq.read_table(io.BytesIO(world.object_store.objects[key].body)).drop_columns(["out_of_range_numbers"])
        if hour == other:
            rows = rows.set_column(rows.schema.get_field_index("last_stock"), "last_stock", pa.array([float("inf")]))
        if hour not in recomputed:
            sink = io.BytesIO()
            pq.write_table(rows, sink)
            world.object_store.objects[key] = replace(world.object_store.objects[key], body=sink.getvalue())
    compute_product_activity(DAY, world.ports, ENGINE_FACTORY)
    (row,) = table(world, "product_activity", DAY)
    assert [row[name] for name in ("events", "first_stock", "last_stock", "net_stock_change", "out_of_range_numbers")] == [2, 10, 10, 0, 0]


def test_an_empty_hour_and_an_empty_day_have_zero_counts() -> None:
    world = a_world(event("a"))
    assert stats_of(world, "2024-01-15T23").stats.events == 0
    assert table(world, "hourly", "2024-01-15T23")[0]["events"] == 0
    assert compute_daily_stats("2024-01-16", world.ports, ENGINE_FACTORY).stats.events == 0
    assert compute_product_activity("2024-01-16", world.ports, ENGINE_FACTORY).products == 0
    assert table(world, "product_activity", "2024-01-16") == []


@pytest.mark.parametrize(
    ("timestamp", "hour", "minute"),
    [
        ("2024-01-15T10:00:00Z", "2024-01-15T10", 0),
        ("2024-01-15T10:59:59.999999999Z", "2024-01-15T10", 59),
        ("2024-01-15T11:00:00+01:00", "2024-01-15T10", 0),
        ("2024-01-15T16:29:59.5+05:30", "2024-01-15T10", 59),
        ("2016-12-31T23:59:60Z", "2016-12-31T23", 59),
        ("1969-12-31T23:59:59.999999Z", "1969-12-31T23", 59),
        ("1969-12-31T23:00:00Z", "1969-12-31T23", 0),
        ("0001-01-01T00:00:00Z", "0001-01-01T00", 0),
        ("2024-01-15T10:30", "2024-01-15T10", 30),
    ],
)
@pytest.mark.parametrize("zone", ["UTC", "America/St_Johns"])
def test_an_event_is_counted_in_exactly_its_own_hour(
    timestamp: str, hour: str, minute: int, zone: str, in_zone: Callable[[str], None]
) -> None:
    in_zone(zone)
    world = a_world(event("edge", timestamp))
    compact_hour(hour, world.ports, ENGINE_FACTORY)
    result = stats_of(world, hour)
    assert [(row.minute.minute, row.events) for row in result.minutes] == [(minute, 1)]
    assert result.stats.events == 1
    assert sum(counters["events"] for counters in world.ledger.hourly_counters("0000", "9999").values()) == 1


def test_an_event_of_the_year_2999_is_counted_in_its_hour() -> None:
    world = World()
    world.create()
    world.clock.time = datetime(2999, 6, 1, 12, 30, tzinfo=UTC)
    world.produce(event("far", "2999-06-01T12:00:00Z"))
    world.settle()
    compact_hour("2999-06-01T12", world.ports, ENGINE_FACTORY)
    assert stats_of(world, "2999-06-01T12").stats.events == 1


def test_the_duplicates_of_an_hour_are_those_of_batches_read_in_it() -> None:
    world = a_world(event("a"), event("b"))
    world.produce(event("a"), event("a"), event("b"))
    world.settle()
    assert stats_of(world, "2024-01-15T12").stats.duplicates == 3
    assert stats_of(world).stats.duplicates == 0


def test_legacy_events_count_for_price_and_stock() -> None:
    product = {"id": "p", "sellerId": "s", "name": "n", "description": None, "price": 7, "quantity": 4, "category": "c"}
    legacy = {"version": "1", "type": "ProductCreated", "occurredAt": "2024-01-15T10:31:00Z", "sellerId": "s"}
    low = {"version": "1", "type": "LowStockWarning", "occurredAt": "2024-01-15T10:32:00Z", "sellerId": "s"}
    times = {"createdAt": "2024-01-15T10:31:00Z", "updatedAt": "2024-01-15T10:31:00Z"}
    world = a_world(
        json.dumps(legacy | {"product": product | times}).encode(),
        json.dumps(low | {"productId": "p", "quantity": 0, "threshold": 5, "category": "c"}).encode(),
    )
    stats_of(world)
    (row,) = table(world, "hourly_products", HOUR)
    assert (row["last_price"], row["first_stock"], row["last_stock"], row["stock_outs"]) == (7.0, 4.0, 0.0, 1)


def test_an_hour_whose_counters_differ_is_named_and_nothing_is_written() -> None:
    world = a_world(event("a"), event("b"))
    world.ledger._hourly[HOUR, 0]["type.ProductDeleted"] += 1
    (batch,) = world.ledger.batches_of_hour(HOUR)
    with pytest.raises(InconsistentState, match="its files hold .*: 2}, the live counters say .*: 3}.*" + batch):
        stats_of(world)
    assert list(world.object_store.list_keys("aggregates/")) == []


@pytest.mark.parametrize("damage", [lose, flip])
def test_a_part_that_is_lost_or_damaged_is_an_error_until_it_is_rebuilt(damage: Callable[[World, str], None]) -> None:
    world = a_world(event("a"), event("b"))
    damage(world, part_key(HOUR, world.ledger.batches_of_hour(HOUR)[0]))
    with pytest.raises(
        InconsistentState, match=r"hour 2024-01-15T10: .*parquet is (not there|damaged), and closed batches have rows in it"
    ):
        stats_of(world)
    compact_hour(HOUR, world.ports, ENGINE_FACTORY)
    assert stats_of(world).stats.events == 2


def test_a_day_names_the_hours_that_its_statistics_do_not_contain_yet() -> None:
    world = a_world(event("a"), event("b", "2024-01-15T09:00:00Z"))
    stats_of(world)
    assert compute_daily_stats(DAY, world.ports, ENGINE_FACTORY).stale_hours == ("2024-01-15T09",)


@pytest.mark.parametrize("flow", [compute_daily_stats, compute_product_activity])
@pytest.mark.parametrize("body", [b"", b"PAR1 and no Parquet"])
def test_damaged_statistics_of_an_hour_are_named_with_the_action_to_take(flow: Callable[..., object], body: bytes) -> None:
    world = a_world(event("a"), event("b"))
    stats_of(world)
    key = aggregate_key("hourly", HOUR)
    world.object_store.objects[key] = replace(world.object_store.objects[key], body=body)
    with pytest.raises(InconsistentState, match=f"{key} is damaged .*materialize hourly_event_stats for {HOUR}"):
        flow(HOUR[:10], world.ports, ENGINE_FACTORY)
    stats_of(world)
    flow(HOUR[:10], world.ports, ENGINE_FACTORY)


@pytest.mark.parametrize("period", ["yesterday", "2024-01-15", "2024-13-01T00", ""])
def test_an_invalid_hour_is_refused(period: str) -> None:
    with pytest.raises(ValueError, match=r"not an hour|month must be"):
        stats_of(a_world(event("a")), period)


@pytest.mark.parametrize("at", range(3))
def test_a_zombie_leaves_no_older_statistics_over_newer_ones(at: int) -> None:
    """Every step is idempotent for any executor at any later time, including a run that was paused for an hour."""
    world = a_world(shop("ProductDeleted", "a", 36_000))
    writes = ("put_if", "put")
    zombie = Actor(
        lambda interceptor: compute_hourly_stats(HOUR, intercept(world.ports, interceptor), ENGINE_FACTORY),
        lambda call: call.method not in writes,
    )
    for _ in range(at):
        zombie.step()
    assert zombie.call is not None
    world.produce(shop("ProductDeleted", "b", 36_001))
    world.settle()
    stats_of(world)
    zombie.finish()
    assert zombie.failure is None
    assert [row["events"] for row in table(world, "hourly", HOUR)] == [2]
    assert sum(row["events"] for row in table(world, "hourly_minutes", HOUR)) == 2
    assert len(table(world, "hourly_products", HOUR)) == 2


@pytest.mark.parametrize(("flow", "name"), [(compute_daily_stats, "daily"), (compute_product_activity, "product_activity")])
def test_a_zombie_leaves_no_older_day_over_a_newer_one(flow: Callable[..., object], name: str) -> None:
    """Every step of a day is idempotent for any executor too."""
    world = a_world(shop("ProductDeleted", "a", 36_000))
    stats_of(world)
    zombie = Actor(lambda interceptor: flow(DAY, intercept(world.ports, interceptor), ENGINE_FACTORY), lambda call: call.method != "put")
    assert zombie.call is not None
    world.produce(shop("ProductDeleted", "b", 36_001))
    world.settle()
    stats_of(world)
    flow(DAY, world.ports, ENGINE_FACTORY)
    zombie.finish()
    assert zombie.failure is None
    assert sum(row["events"] for row in table(world, name, DAY)) == 2
