"""The endpoint before real servers that stop, refuse, or accept and never answer: right within a second, and well again by itself."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest

from analytics_defs import wiring
from analytics_defs.config import Settings
from tests.devstack.waiting import until
from tests.real import data, plain, proxy, world
from tests.real.proxy import Exchange, HttpProxy, KafkaProxy, http_proxy, kafka_proxy
from tests.real.scene import Scene, prepared
from tests.web.served import Client, served

pytestmark = pytest.mark.real

ALL = ("kafka", "dynamodb", "s3")
NOTICED_WITHIN_SECONDS = 10
READS = {"GET", "HEAD", "Query", "GetItem", "BatchGetItem"}


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    with prepared() as found:
        yield found


@dataclass(slots=True)
class Watched:
    """The endpoint over real servers, each behind a proxy."""

    client: Client
    kafka: KafkaProxy
    dynamodb: HttpProxy
    s3: HttpProxy
    settings: Settings
    asked: list[str] = field(default_factory=list)
    """What went over the wire to the stores."""

    def passing(self, exchange: Exchange) -> None:
        self.asked.append(exchange.operation or exchange.method)
        proxy.passing(exchange)

    def disturb(self, server: str, fault: str) -> None:
        if fault == "refuses":
            getattr(self, server).refuse()
        elif server == "kafka":
            self.kafka.silent = True
        else:
            getattr(self, server).rule = proxy.hanging

    def mend(self, server: str, fault: str) -> None:
        if fault == "refuses":
            getattr(self, server).listen()
        elif server == "kafka":
            self.kafka.behave()
        else:
            getattr(self, server).rule = self.passing

    def polled(self) -> tuple[int, Mapping[str, Any]]:
        """One poll, which must not take a second."""
        started = time.monotonic()
        found = self.client.get("/health")
        assert time.monotonic() - started < 1
        assert found.status == (200 if found.json["status"] == "healthy" else 503)
        assert self.client.get("/health/live").status == 200
        return found.status, found.json

    def statuses(self) -> dict[str, str]:
        return {name: each["status"] for name, each in self.polled()[1]["services"].items()}


@contextmanager
def watched(scene: Scene, ingested: bool = True) -> Iterator[Watched]:
    with (
        scene.founded() as direct,
        http_proxy(direct.dynamo_endpoint) as dynamodb,
        http_proxy(direct.minio_endpoint) as s3,
        kafka_proxy() as kafka,
    ):
        if ingested:
            with scene.opened(direct) as stores:
                stores.settle()
        through = {"dynamo_endpoint": dynamodb.url, "minio_endpoint": s3.url, "kafka_brokers": kafka.brokers}
        with served(wiring.web_context(direct.model_copy(update=through), "test", None)) as client:
            found = Watched(client, kafka, dynamodb, s3, direct)
            dynamodb.rule = s3.rule = found.passing
            until(lambda: client.get("/health").status == 200)  # clients are made, libraries are loaded
            yield found


@pytest.mark.parametrize("fault", ["refuses", "hangs"])
@pytest.mark.parametrize("servers", [*((each,) for each in ALL), ALL], ids="+".join)
def test_an_outage_is_told_within_a_second_by_name_and_is_over_when_it_is(
    scene: Scene, servers: tuple[str, ...], fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("analytics_defs.web.monitor.SERVICE_PROBE_TTL", timedelta(seconds=1))
    with watched(scene) as site:
        for each in servers:
            site.disturb(each, fault)
        expected = {name: "unhealthy" if name in servers else "healthy" for name in ALL}
        until(lambda: site.statuses() == expected, seconds=NOTICED_WITHIN_SECONDS)
        status, told = site.polled()
        assert status == site.client.get("/health/ready").status == 503
        assert {reason.partition(":")[0] for reason in told["reasons"]} == set(servers)
        assert all(told["services"][each]["error"] for each in servers)
        assert told["metrics"]["totalEvents"] == 88  # what was known is still told, with its age
        for each in servers:
            site.mend(each, fault)
        until(lambda: site.polled()[0] == 200, seconds=NOTICED_WITHIN_SECONDS)


def test_no_request_writes_or_creates_anything_and_many_cost_few_calls(scene: Scene) -> None:
    paths = ("/", "/health", "/health/ready", "/health/live", "/metrics", "/metrics?format=openmetrics", "/openapi.json", "/nowhere")
    with watched(scene) as site:
        traces = (f"/trace/{scene.topics[0]}/0/0", "/trace/event/event-1", "/trace/event/nowhere", f"/trace/{scene.topics[1]}/0/17")
        for path in (*paths, *traces):
            for method in ("GET", "HEAD", "POST", "PUT", "DELETE"):
                site.client.get(path, method)
        until(lambda: site.client.get(traces[0]).status == 200)
        before, started = len(site.asked), time.monotonic()
        while time.monotonic() - started < 4:
            assert site.polled()[0] == 200
        assert (len(site.asked) - before) / 4 <= 4
        assert set(site.asked) <= READS, Counter(site.asked)


def samples(site: Watched, series: str) -> int:
    return site.client.get("/metrics?format=prometheus").text.count(f"{series}{{")


def test_the_numbers_are_those_of_kafka_and_the_stores_themselves(scene: Scene) -> None:
    """Counted here with clients of the test's own, not with ours."""
    with watched(scene, ingested=False) as site:
        written = len(data.mixture(*scene.topics))
        until(lambda: site.polled()[1]["services"]["kafka"]["lag"] == written)
        for series in ("lag_seconds", "seconds_until_data_loss"):
            until(lambda name=series: samples(site, f"analytics_partition_{name}") == 3)  # type: ignore[misc]
        with world.opened(site.settings) as stores:
            stores.settle()
        until(lambda: site.polled()[1]["services"]["kafka"]["lag"] == 0)
        until(lambda: site.client.get("/metrics").json["processing"]["batches"] > 1)
        metrics = site.client.get("/metrics").json
        items = plain.items(site.settings.recent_events_table_name)
        assert metrics["totalEvents"] == len(items)
        assert {name: count for name, count in metrics["eventsByType"].items() if count} == Counter(
            item["eventType"]["S"] for item in items
        )
        accounted = sum(metrics[name] for name in ("totalEvents", "duplicates", "deadLetters", "tombstones", "gaps", "lost", "unaccounted"))
        assert accounted == written
        letters = b"".join(each.body for each in plain.objects(site.settings.archive_bucket_name, "dead-letters/").values())
        assert metrics["deadLetters"] == letters.count(b"\n")
        groups = plain.group_offsets(site.settings.kafka_group_id, scene.topics)
        assert sum(offset or 0 for offset in groups.values()) == written
