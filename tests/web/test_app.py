"""Every path: its answer, its errors, and that it only reads."""

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
from tests.proof.interceptors import Call, intercept
from tests.proof.world import TOPIC, World, event
from tests.web.served import Client, FixedScheduler, real_time, served, site

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
    *("recent_events.get_items", "object_store.list_keys", "object_store.get", "object_store.get_object"),
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
    world = World()
    world.create()
    world.produce(event("a"), event("a", note="again"), b"no event", None)
    world.settle()
    return world


def recorded(world: World, calls: list[str]) -> Ports:
    """Return the world's ports. Every call is appended to `calls`."""

    def interceptor(call: Call, perform: Callable[[], Any]) -> Any:
        calls.append(str(call))
        return perform()

    return intercept(real_time(world), interceptor)


def test_every_path_only_reads(world: World) -> None:
    world.produce(event("b"))
    calls: list[str] = []
    with served(site(recorded(world, calls))) as client:
        for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
            for path in (*PATHS, "/nowhere"):
                client.get(path, method)
        until(lambda: "event_log.read" in calls and "ledger.last_batches" in calls)
    assert set(calls) <= READS


def test_many_polls_make_no_more_calls_than_one(world: World) -> None:
    calls: list[str] = []
    with served(site(recorded(world, calls))) as client:
        client.health()
        until(lambda: "ledger.last_batches" in calls)
        first, started = len(calls), time.monotonic()
        for _ in range(200):
            client.get("/health")
        seconds = time.monotonic() - started
        assert len(calls) - first <= 4 * seconds + 8
    assert first < 20


@pytest.mark.parametrize("path", PATHS)
def test_every_path_allows_get_and_head_only(world: World, path: str) -> None:
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
        response = client.get(path)
    assert (response.status, response.json) == (404, {"error": "not found", "status": 404})


@pytest.mark.parametrize("offset", range(5))
def test_a_trace_equals_the_answer_of_the_command(world: World, offset: int) -> None:
    with served(site(real_time(world))) as client:
        response = client.get(f"/trace/{TOPIC}/0/{offset}")
    assert response.status == 200
    assert response.json == to_json_value(trace_record(f"{TOPIC}/0/{offset}", real_time(world)))


def test_an_event_is_traced_by_any_id_and_an_unknown_id_is_404() -> None:
    world, odd = World(), "a/b?c#d é%"
    world.create()
    world.produce(event(odd))
    world.settle()
    with served(site(real_time(world))) as client:
        response = client.get("/trace/event/a%2Fb%3Fc%23d%20%C3%A9%25")
        unknown, too_long = client.get("/trace/event/zz"), client.get("/trace/event/" + "z" * 2049)
    assert (response.status, response.json["event_id"], response.json["source"]) == (200, odd, f"{TOPIC}/0/0")
    assert (unknown.status, too_long.status) == (404, 404)
    assert "never stored" in unknown.json["error"]


def test_records_of_a_topic_named_event_and_ids_that_look_like_them_are_traced() -> None:
    world = World(topics=["event"])
    world.create("event")
    world.produce(event("0/1"), event("5/7"), topic="event")
    world.settle()
    with served(site(real_time(world))) as client:
        record, by_id = client.get("/trace/event/0/1"), client.get("/trace/event/0%2F1")
        beyond, no_source = client.get("/trace/event/0/9"), client.get("/trace/event/5/7")
        incarnation = client.get("/trace/event@1/0/0")
    assert (record.json["source"], record.json["event_id"]) == ("event/0/1", "5/7")
    assert (by_id.json["source"], by_id.json["event_id"]) == ("event/0/0", "0/1")
    assert beyond.json["outcome"] == "not_read"
    assert no_source.json["event_id"] == "5/7"  # there is no partition 5
    assert incarnation.json["outcome"] == "unknown_partition"


def test_an_id_with_slashes_needs_no_escape_without_a_topic_named_event() -> None:
    world = World()
    world.create()
    world.produce(event("0/1"), event("a/b/c"))
    world.settle()
    with served(site(real_time(world))) as client:
        assert [client.get(f"/trace/event/{event_id}").json["event_id"] for event_id in ("0/1", "0%2f1", "a/b/c")] == [
            "0/1",
            "0/1",
            "a/b/c",
        ]


@pytest.mark.parametrize(
    "source", ["x/y/z", "T/0/-1", f"{TOPIC}/0/9223372036854775808", f"{TOPIC}/2147483648/0", "T/0/%EF%BC%91", "a%00/0/0"]
)
def test_an_invalid_source_is_400_with_an_example(world: World, source: str) -> None:
    with served(site(real_time(world))) as client:
        response = client.get(f"/trace/{source}")
    assert (response.status, "for example" in response.json["error"]) == (400, True)


def test_a_trace_is_503_and_names_the_store_that_is_down(world: World) -> None:
    def interceptor(call: Call, perform: Callable[[], Any]) -> Any:
        if str(call).startswith("ledger."):
            raise Unavailable("DynamoDB is down")
        return perform()

    with served(site(intercept(real_time(world), interceptor))) as client:
        response = client.get(f"/trace/{TOPIC}/0/0")
        assert (response.status, response.json["error"]) == (503, "DynamoDB is down")
        assert client.get("/metrics").status == 503
        assert client.get("/metrics?format=prometheus").status == 200
        page = client.get("/")
        assert (page.status, "The ledger has not been read yet" in page.text) == (200, True)


def test_hanging_traces_do_not_block_other_requests(world: World) -> None:
    released, hanging = threading.Event(), threading.Semaphore(0)

    def interceptor(call: Call, perform: Callable[[], Any]) -> Any:
        if str(call) == "ledger.closed_range_at":
            hanging.release()
            assert released.wait(20)
        return perform()

    with served(site(intercept(real_time(world), interceptor))) as client:
        requests = [threading.Thread(target=client.get, args=(f"/trace/{TOPIC}/0/0",)) for _ in range(2)]
        for request in requests:
            request.start()
        assert hanging.acquire(timeout=20)
        assert hanging.acquire(timeout=20)
        assert client.get(f"/trace/{TOPIC}/0/0").status == 503
        assert client.get("/health").status == 200
        released.set()
        for request in requests:
            request.join(20)
        until(lambda: client.get(f"/trace/{TOPIC}/0/0").status == 200)


def test_an_unexpected_error_is_500_and_only_its_type_is_logged(
    world: World, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("secret payload")

    monkeypatch.setattr("analytics_defs.web.health_json.health_json", broken)
    with caplog.at_level(logging.DEBUG), served(site(real_time(world))) as client:
        response = client.get("/health")
        assert client.get("/health/live").status == 200
    assert (response.status, response.json) == (500, {"error": "internal error", "status": 500})
    assert "GET /health failed with RuntimeError" in caplog.text
    assert "secret" not in caplog.text
    assert "Traceback" not in caplog.text


def is_healthy(client: Client) -> bool:
    return client.get("/health").status == 200


def test_a_stall_is_503_with_the_reason_but_ready(world: World) -> None:
    world.produce(event("b"))
    with served(site(real_time(world), stall_timeout=timedelta(0))) as client:
        until(lambda: any(reason.startswith("stalled") for reason in client.health()["reasons"]))
        health = client.health()
        assert (health["status"], client.get("/health/ready").status) == ("unhealthy", 200)
        assert health["reasons"][0].startswith(f"stalled: 1 offsets of {TOPIC}/0 are waiting")
        world.settle()
        until(lambda: is_healthy(client))


def test_a_stopped_sensor_is_503_if_a_dagster_instance_is_configured(world: World) -> None:
    scheduling = FixedScheduler(SchedulerStatus(sensor_stopped=True, heartbeat=datetime.now(UTC)))
    with served(site(real_time(world), scheduling=scheduling)) as client:
        until(lambda: not is_healthy(client))
        assert client.health()["reasons"] == ["the sensor kafka_micro_batches is stopped: no runs are requested"]
        assert "analytics_sensor_running 0.0" in client.get("/metrics?format=prometheus").text
    with served(site(real_time(world), scheduling=FixedScheduler(None))) as client:
        assert is_healthy(client)
        assert "analytics_sensor_running" not in client.get("/metrics?format=prometheus").text


def test_an_unknown_lag_is_not_reported_and_counters_have_an_age(world: World) -> None:
    """The lag of an unreachable broker is unknown. Counters keep their last values."""
    down: set[str] = set()

    def interceptor(call: Call, perform: Callable[[], Any]) -> Any:
        if str(call).partition(".")[0] in down:
            raise Unavailable("it is down")
        return perform()

    with served(site(intercept(real_time(world), interceptor))) as client:
        until(lambda: "analytics_partition_lag_offsets{" in client.get("/metrics?format=prometheus").text)
        down |= {"event_log", "ledger"}
        until(lambda: client.health()["services"]["kafka"]["error"] == client.health()["services"]["dynamodb"]["error"] == "it is down")
        health, text = client.health(), client.get("/metrics?format=prometheus").text
        assert health["services"]["kafka"]["lag"] is None
        assert (health["metrics"]["totalEvents"], health["metrics"]["unaccounted"]) == (1, None)
        until(lambda: client.health()["metrics"]["ageMs"] > health["metrics"]["ageMs"] > 0)
        assert not {name for name in ("analytics_partition_", "analytics_unaccounted", "analytics_pending") if name in text}
        assert 'analytics_events_total{type="ProductDeleted"} 1.0' in text


def test_an_old_status_of_dagster_is_not_reported_while_it_does_not_answer(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """An old heartbeat of a healthy daemon would raise an alert."""
    monkeypatch.setattr("analytics_defs.web.monitor.SCHEDULER_TTL", timedelta(seconds=0.1))
    scheduling = FixedScheduler(SchedulerStatus(sensor_stopped=True, heartbeat=datetime.now(UTC)))

    def text() -> str:
        return client.get("/metrics?format=prometheus").text

    with served(site(real_time(world), scheduling=scheduling)) as client:
        until(lambda: "analytics_sensor_running 0.0" in text())
        assert "analytics_dagster_up 1.0" in text()
        scheduling.error = Unavailable("database is locked")
        until(lambda: "analytics_dagster_up 0.0" in text())
        assert "analytics_sensor_running" not in text()
        assert "analytics_daemon_heartbeat" not in text()
        assert is_healthy(client)


def test_unreadable_counters_are_unhealthy_although_checkpoints_are_readable(world: World) -> None:
    def interceptor(call: Call, perform: Callable[[], Any]) -> Any:
        if str(call) == "ledger.counters_by_lane":
            raise Unavailable("no table EventAggregates")
        return perform()

    with served(site(intercept(real_time(world), interceptor))) as client:
        until(lambda: client.health()["reasons"] == ["counters: no table EventAggregates"])
        assert client.get("/health").status == 503
        assert client.health()["services"]["dynamodb"]["status"] == "healthy"


class HangingScheduler(FixedScheduler):
    """A database that accepts connections and never answers."""

    def __init__(self) -> None:
        super().__init__(None)
        self.queried, self.released = threading.Event(), threading.Event()

    def scheduler_status(self) -> SchedulerStatus | None:
        self.queried.set()
        assert self.released.wait(20)
        return None


def test_a_hanging_dagster_instance_slows_no_answer_and_is_not_unhealthy(world: World) -> None:
    scheduling = HangingScheduler()
    with served(site(real_time(world), scheduling=scheduling)) as client:
        until(lambda: is_healthy(client))
        assert scheduling.queried.wait(20)
        started = time.monotonic()
        assert [client.get("/health").status for _ in range(5)] == [200] * 5
        assert time.monotonic() - started < 1
        scheduling.released.set()
