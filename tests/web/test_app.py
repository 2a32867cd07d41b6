"""Every path: what it answers, what it never does, and what becomes of faults."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from analytics_defs.core.json_values import to_json_value
from analytics_defs.core.monitoring.health import SchedulerStatus
from analytics_defs.errors import Unavailable
from analytics_defs.flows.trace.trace import trace_record
from analytics_defs.ports import Ports
from tests.devstack.waiting import until
from tests.proof.doors import Call, through
from tests.proof.world import TOPIC, World, event
from tests.web.served import Client, Scheduling, real_time, served, site

PATHS = (
    "/",
    "/health",
    "/health/live",
    "/health/ready",
    "/metrics",
    "/metrics?format=prometheus",
    "/metrics?format=openmetrics",
    f"/trace/{TOPIC}/0/0",
    "/trace/event/a",
    "/openapi.json",
)
READS = {
    *("event_log.topics", "event_log.available_watermarks", "event_log.watermarks", "event_log.committed", "event_log.read"),
    *("recent_events.get_items", "object_store.list_keys", "object_store.get"),
    *(
        "ledger.snapshot",
        "ledger.counters_by_lane",
        "ledger.hourly_counters",
        "ledger.last_batches",
        "ledger.closed_range_at",
        "ledger.batch_record",
    ),
    "ledger.latest_revision",
}


@pytest.fixture
def world() -> World:
    found = World()
    found.create()
    found.produce(event("a"), event("a", note="again"), b"no event", None)
    found.settle()
    return found


def recorded(world: World, seen: list[str]) -> Ports:
    def door(call: Call, perform: Callable[[], Any]) -> Any:
        seen.append(str(call))
        return perform()

    return through(real_time(world), door)


def test_no_path_does_anything_but_read(world: World) -> None:
    world.produce(event("b"))
    seen: list[str] = []
    with served(site(recorded(world, seen))) as client:
        for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
            for path in (*PATHS, "/nowhere"):
                client.get(path, method)
        until(lambda: "event_log.read" in seen and "ledger.last_batches" in seen)
    assert set(seen) <= READS


def test_a_thousand_polls_cost_no_more_calls_than_one(world: World) -> None:
    seen: list[str] = []
    with served(site(recorded(world, seen))) as client:
        client.health()
        until(lambda: "ledger.last_batches" in seen)
        calls, started = len(seen), time.monotonic()
        for _ in range(200):
            client.get("/health")
        took = time.monotonic() - started
        assert len(seen) - calls <= 4 * took + 8
    assert calls < 20


@pytest.mark.parametrize("path", PATHS)
def test_every_path_says_how_it_may_be_asked_and_answers_head_without_a_body(world: World, path: str) -> None:
    with served(site(real_time(world))) as client:
        refused, head = client.get(path, "POST"), client.get(path, "HEAD")
    assert (refused.status, refused.json) == (405, {"error": "method not allowed", "status": 405})
    assert set(refused.headers["allow"].split(", ")) == {"GET", "HEAD"}
    assert (head.status, head.body) == (200, b"")


@pytest.mark.parametrize(
    "path", ["/nowhere", "/health/", "/Health", "/trace", "/trace/event", "/trace/a/b", "/trace/a/b/c/d", "/%2e%2e/etc", "//"]
)
def test_an_unknown_path_is_404_in_json(world: World, path: str) -> None:
    with served(site(real_time(world))) as client:
        found = client.get(path)
    assert (found.status, found.json) == (404, {"error": "not found", "status": 404})


@pytest.mark.parametrize("offset", range(5))
def test_a_trace_is_the_answer_of_the_command(world: World, offset: int) -> None:
    with served(site(real_time(world))) as client:
        found = client.get(f"/trace/{TOPIC}/0/{offset}")
    assert found.status == 200
    assert found.json == to_json_value(trace_record(f"{TOPIC}/0/{offset}", real_time(world)))


def test_an_event_is_traced_by_its_id_whatever_is_in_it_and_one_that_is_not_there_is_404() -> None:
    world, odd = World(), "a/b?c#d é%"
    world.create()
    world.produce(event(odd))
    world.settle()
    with served(site(real_time(world))) as client:
        found = client.get("/trace/event/a%2Fb%3Fc%23d%20%C3%A9%25")
        gone, long = client.get("/trace/event/zz"), client.get("/trace/event/" + "z" * 2049)
    assert (found.status, found.json["event_id"], found.json["source"]) == (200, odd, f"{TOPIC}/0/0")
    assert (gone.status, long.status) == (404, 404)
    assert "never stored" in gone.json["error"]


def test_a_topic_that_is_called_event_can_be_traced_and_so_can_an_id_that_looks_like_its_records() -> None:
    world = World(topics=["event"])
    world.create("event")
    world.produce(event("0/1"), event("5/7"), topic="event")
    world.settle()
    with served(site(real_time(world))) as client:
        record, by_id = client.get("/trace/event/0/1"), client.get("/trace/event/0%2F1")
        beyond, no_source = client.get("/trace/event/0/9"), client.get("/trace/event/5/7")
        generation = client.get("/trace/event@1/0/0")
    assert (record.json["source"], record.json["event_id"]) == ("event/0/1", "5/7")
    assert (by_id.json["source"], by_id.json["event_id"]) == ("event/0/0", "0/1")
    assert beyond.json["outcome"] == "not_read"
    assert no_source.json["event_id"] == "5/7"  # there is no partition 5
    assert generation.json["outcome"] == "unknown_partition"


def test_an_id_with_slashes_is_traced_as_it_is_where_no_topic_is_called_event() -> None:
    world = World()
    world.create()
    world.produce(event("0/1"), event("a/b/c"))
    world.settle()
    with served(site(real_time(world))) as client:
        assert [client.get(f"/trace/event/{each}").json["event_id"] for each in ("0/1", "0%2f1", "a/b/c")] == ["0/1", "0/1", "a/b/c"]


@pytest.mark.parametrize(
    "what", ["x/y/z", "T/0/-1", f"{TOPIC}/0/9223372036854775808", f"{TOPIC}/2147483648/0", "T/0/%EF%BC%91", "a%00/0/0"]
)
def test_what_is_no_source_is_400_with_an_example(world: World, what: str) -> None:
    with served(site(real_time(world))) as client:
        found = client.get(f"/trace/{what}")
    assert (found.status, "for example" in found.json["error"]) == (400, True)


def test_a_store_that_is_down_makes_a_trace_503_and_says_which(world: World) -> None:
    def door(call: Call, perform: Callable[[], Any]) -> Any:
        if str(call).startswith("ledger."):
            raise Unavailable("DynamoDB is down")
        return perform()

    with served(site(through(real_time(world), door))) as client:
        found = client.get(f"/trace/{TOPIC}/0/0")
        assert (found.status, found.json["error"]) == (503, "DynamoDB is down")
        assert client.get("/metrics").status == 503
        assert client.get("/metrics?format=prometheus").status == 200
        page = client.get("/")
        assert (page.status, "The ledger was not read yet" in page.text) == (200, True)


def test_two_traces_that_hang_keep_nothing_else_from_being_answered(world: World) -> None:
    free, hanging = threading.Event(), threading.Semaphore(0)

    def door(call: Call, perform: Callable[[], Any]) -> Any:
        if str(call) == "ledger.closed_range_at":
            hanging.release()
            assert free.wait(20)
        return perform()

    with served(site(through(real_time(world), door))) as client:
        asking = [threading.Thread(target=client.get, args=(f"/trace/{TOPIC}/0/0",)) for _ in range(2)]
        for each in asking:
            each.start()
        assert hanging.acquire(timeout=20)
        assert hanging.acquire(timeout=20)
        assert client.get(f"/trace/{TOPIC}/0/0").status == 503
        assert client.get("/health").status == 200
        free.set()
        for each in asking:
            each.join(20)
        until(lambda: client.get(f"/trace/{TOPIC}/0/0").status == 200)


def test_a_fault_of_our_own_is_a_plain_500_and_neither_answer_nor_log_says_more_than_its_kind(
    world: World, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("secret payload")

    monkeypatch.setattr("analytics_defs.web.health_json.health_json", broken)
    with caplog.at_level(logging.DEBUG), served(site(real_time(world))) as client:
        found = client.get("/health")
        assert client.get("/health/live").status == 200
    assert (found.status, found.json) == (500, {"error": "internal error", "status": 500})
    assert "GET /health failed with RuntimeError" in caplog.text
    assert "secret" not in caplog.text
    assert "Traceback" not in caplog.text


def healthy(client: Client) -> bool:
    return client.get("/health").status == 200


def test_stalled_is_503_with_the_reason_and_ready_all_the_same(world: World) -> None:
    world.produce(event("b"))
    with served(site(real_time(world), stall_timeout=timedelta(0))) as client:
        until(lambda: any(each.startswith("stalled") for each in client.health()["reasons"]))
        found = client.health()
        assert (found["status"], client.get("/health/ready").status) == ("unhealthy", 200)
        assert found["reasons"][0].startswith(f"stalled: 1 offsets of {TOPIC}/0 wait")
        world.settle()
        until(lambda: healthy(client))


def test_a_stopped_sensor_is_503_and_nothing_is_said_where_there_is_no_instance(world: World) -> None:
    scheduling = Scheduling(SchedulerStatus(sensor_stopped=True, heartbeat=datetime.now(UTC)))
    with served(site(real_time(world), scheduling=scheduling)) as client:
        until(lambda: not healthy(client))
        assert client.health()["reasons"] == ["the sensor kafka_micro_batches is stopped: no run is asked for"]
        assert "analytics_sensor_running 0.0" in client.get("/metrics?format=prometheus").text
    with served(site(real_time(world), scheduling=Scheduling(None))) as client:
        assert healthy(client)
        assert "analytics_sensor_running" not in client.get("/metrics?format=prometheus").text


def test_what_is_not_known_any_more_is_not_told_as_if_it_were_and_the_rest_says_its_age(world: World) -> None:
    """Lag of a broker that is gone is no lag; counters stay what they were."""
    down: set[str] = set()

    def door(call: Call, perform: Callable[[], Any]) -> Any:
        if str(call).partition(".")[0] in down:
            raise Unavailable("it is down")
        return perform()

    with served(site(through(real_time(world), door))) as client:
        until(lambda: "analytics_partition_lag_offsets{" in client.get("/metrics?format=prometheus").text)
        down |= {"event_log", "ledger"}
        until(lambda: client.health()["services"]["kafka"]["error"] == client.health()["services"]["dynamodb"]["error"] == "it is down")
        found, text = client.health(), client.get("/metrics?format=prometheus").text
        assert found["services"]["kafka"]["lag"] is None
        assert (found["metrics"]["totalEvents"], found["metrics"]["unaccounted"]) == (1, None)
        until(lambda: client.health()["metrics"]["ageMs"] > found["metrics"]["ageMs"] > 0)
        assert not {name for name in ("analytics_partition_", "analytics_unaccounted", "analytics_pending") if name in text}
        assert 'analytics_events_total{type="ProductDeleted"} 1.0' in text


def test_what_dagster_said_before_it_could_not_be_asked_any_more_is_not_told_as_if_it_were(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An old heartbeat of a daemon that is well would be an alarm."""
    monkeypatch.setattr("analytics_defs.web.monitor.SCHEDULER_TTL", timedelta(seconds=0.1))
    scheduling = Scheduling(SchedulerStatus(sensor_stopped=True, heartbeat=datetime.now(UTC)))

    def text() -> str:
        return client.get("/metrics?format=prometheus").text

    with served(site(real_time(world), scheduling=scheduling)) as client:
        until(lambda: "analytics_sensor_running 0.0" in text())
        assert "analytics_dagster_up 1.0" in text()
        scheduling.fault = Unavailable("database is locked")
        until(lambda: "analytics_dagster_up 0.0" in text())
        assert "analytics_sensor_running" not in text()
        assert "analytics_daemon_heartbeat" not in text()
        assert healthy(client)


def test_counters_that_cannot_be_read_make_it_unhealthy_although_the_heads_can(world: World) -> None:
    def door(call: Call, perform: Callable[[], Any]) -> Any:
        if str(call) == "ledger.counters_by_lane":
            raise Unavailable("no table EventAggregates")
        return perform()

    with served(site(through(real_time(world), door))) as client:
        until(lambda: client.health()["reasons"] == ["counters: no table EventAggregates"])
        assert client.get("/health").status == 503
        assert client.health()["services"]["dynamodb"]["status"] == "healthy"


class HangingScheduling(Scheduling):
    """A database that accepts and never answers."""

    def __init__(self) -> None:
        super().__init__(None)
        self.asked, self.free = threading.Event(), threading.Event()

    def scheduler_status(self) -> SchedulerStatus | None:
        self.asked.set()
        assert self.free.wait(20)
        return None


def test_an_instance_that_never_answers_makes_nothing_slow_and_nothing_unhealthy(world: World) -> None:
    scheduling = HangingScheduling()
    with served(site(real_time(world), scheduling=scheduling)) as client:
        until(lambda: healthy(client))
        assert scheduling.asked.wait(20)
        started = time.monotonic()
        assert [client.get("/health").status for _ in range(5)] == [200] * 5
        assert time.monotonic() - started < 1
        scheduling.free.set()
