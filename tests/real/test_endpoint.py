"""The health endpoint while real servers refuse connections or never answer. It responds within a second and recovers by itself."""

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
from tests.real import data, proxy, raw_clients, world
from tests.real.proxy import Exchange, HttpProxy, KafkaProxy, http_proxy, kafka_proxy
from tests.real.scene import Scene, prepared
from tests.web.served import Client, served

pytestmark = pytest.mark.real

ALL = ("kafka", "dynamodb", "s3")
DETECTION_TIMEOUT_SECONDS = 10
READS = {"GET", "HEAD", "Query", "GetItem", "BatchGetItem"}


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    with prepared() as scene:
        yield scene


@dataclass(slots=True)
class ServedEndpoint:
    """The endpoint on real servers, each behind a proxy."""

    client: Client
    kafka: KafkaProxy
    dynamodb: HttpProxy
    s3: HttpProxy
    settings: Settings
    requests: list[str] = field(default_factory=list)
    """Operations of DynamoDB and HTTP methods of requests to S3, in order."""

    def record_and_pass(self, exchange: Exchange) -> None:
        self.requests.append(exchange.operation or exchange.method)
        proxy.pass_through(exchange)

    def disturb(self, server: str, fault: str) -> None:
        if fault == "refuses":
            getattr(self, server).refuse()
        elif server == "kafka":
            self.kafka.unresponsive = True
        else:
            getattr(self, server).rule = proxy.never_answer

    def restore(self, server: str, fault: str) -> None:
        if fault == "refuses":
            getattr(self, server).listen()
        elif server == "kafka":
            self.kafka.restore()
        else:
            getattr(self, server).rule = self.record_and_pass

    def poll(self) -> tuple[int, Mapping[str, Any]]:
        """Return HTTP status and JSON of /health. Fail if the response takes a second."""
        started = time.monotonic()
        response = self.client.get("/health")
        assert time.monotonic() - started < 1
        assert response.status == (200 if response.json["status"] == "healthy" else 503)
        assert self.client.get("/health/live").status == 200
        return response.status, response.json

    def statuses(self) -> dict[str, str]:
        return {name: service["status"] for name, service in self.poll()[1]["services"].items()}


@contextmanager
def served_endpoint(scene: Scene, ingested: bool = True) -> Iterator[ServedEndpoint]:
    with (
        scene.provisioned() as direct,
        http_proxy(direct.dynamo_endpoint) as dynamodb,
        http_proxy(direct.minio_endpoint) as s3,
        kafka_proxy() as kafka,
    ):
        if ingested:
            with scene.opened(direct) as stores:
                stores.settle()
        through = {"dynamo_endpoint": dynamodb.url, "minio_endpoint": s3.url, "kafka_brokers": kafka.brokers}
        with served(wiring.web_context(direct.model_copy(update=through), "test", None)) as client:
            endpoint = ServedEndpoint(client, kafka, dynamodb, s3, direct)
            dynamodb.rule = s3.rule = endpoint.record_and_pass
            until(lambda: client.get("/health").status == 200)  # now clients are created and libraries are loaded
            yield endpoint


@pytest.mark.parametrize("fault", ["refuses", "hangs"])
@pytest.mark.parametrize("servers", [*((server,) for server in ALL), ALL], ids="+".join)
def test_an_outage_is_reported_within_a_second_until_the_server_is_back(
    scene: Scene, servers: tuple[str, ...], fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("analytics_defs.web.monitor.SERVICE_PROBE_TTL", timedelta(seconds=1))
    with served_endpoint(scene) as endpoint:
        for server in servers:
            endpoint.disturb(server, fault)
        expected = {name: "unhealthy" if name in servers else "healthy" for name in ALL}
        until(lambda: endpoint.statuses() == expected, seconds=DETECTION_TIMEOUT_SECONDS)
        status, health = endpoint.poll()
        assert status == endpoint.client.get("/health/ready").status == 503
        assert {reason.partition(":")[0] for reason in health["reasons"]} == set(servers)
        assert all(health["services"][server]["error"] for server in servers)
        assert health["metrics"]["totalEvents"] == 88  # cached statistics are still returned, with their age
        for server in servers:
            endpoint.restore(server, fault)
        until(lambda: endpoint.poll()[0] == 200, seconds=DETECTION_TIMEOUT_SECONDS)


def test_requests_only_read_and_many_requests_cost_few_store_calls(scene: Scene) -> None:
    paths = ("/", "/health", "/health/ready", "/health/live", "/metrics", "/metrics?format=openmetrics", "/openapi.json", "/nowhere")
    with served_endpoint(scene) as endpoint:
        traces = (f"/trace/{scene.topics[0]}/0/0", "/trace/event/event-1", "/trace/event/nowhere", f"/trace/{scene.topics[1]}/0/17")
        for path in (*paths, *traces):
            for method in ("GET", "HEAD", "POST", "PUT", "DELETE"):
                endpoint.client.get(path, method)
        until(lambda: endpoint.client.get(traces[0]).status == 200)
        before, started = len(endpoint.requests), time.monotonic()
        while time.monotonic() - started < 4:
            assert endpoint.poll()[0] == 200
        assert (len(endpoint.requests) - before) / 4 <= 4
        assert set(endpoint.requests) <= READS, Counter(endpoint.requests)


def count_samples(endpoint: ServedEndpoint, series: str) -> int:
    return endpoint.client.get("/metrics?format=prometheus").text.count(f"{series}{{")


def test_the_numbers_equal_counts_of_kafka_and_the_stores(scene: Scene) -> None:
    """The expected numbers are counted with the raw clients, not with the adapters."""
    with served_endpoint(scene, ingested=False) as endpoint:
        written = len(data.mixture(*scene.topics))
        until(lambda: endpoint.poll()[1]["services"]["kafka"]["lag"] == written)
        for series in ("lag_seconds", "seconds_until_data_loss"):
            until(lambda name=series: count_samples(endpoint, f"analytics_partition_{name}") == 3)  # type: ignore[misc]
        with world.opened(endpoint.settings) as stores:
            stores.settle()
        until(lambda: endpoint.poll()[1]["services"]["kafka"]["lag"] == 0)
        until(lambda: endpoint.client.get("/metrics").json["processing"]["batches"] > 1)
        metrics = endpoint.client.get("/metrics").json
        items = raw_clients.items(endpoint.settings.recent_events_table_name)
        assert metrics["totalEvents"] == len(items)
        assert {name: count for name, count in metrics["eventsByType"].items() if count} == Counter(
            item["eventType"]["S"] for item in items
        )
        accounted = sum(metrics[name] for name in ("totalEvents", "duplicates", "deadLetters", "tombstones", "gaps", "lost", "unaccounted"))
        assert accounted == written
        dead_letter_files = raw_clients.objects(endpoint.settings.archive_bucket_name, "dead-letters/").values()
        assert metrics["deadLetters"] == sum(file.body.count(b"\n") for file in dead_letter_files)
        offsets = raw_clients.group_offsets(endpoint.settings.kafka_group_id, scene.topics)
        assert sum(offset or 0 for offset in offsets.values()) == written
