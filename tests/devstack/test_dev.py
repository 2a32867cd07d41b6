from __future__ import annotations

import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import boto3
import pytest
from confluent_kafka import Consumer, Producer

from analytics_defs.devstack import dev, env_file
from analytics_defs.devstack.tcp_ports import LOOPBACK
from analytics_defs.errors import StartupFailed
from tests.devstack.waiting import until


@contextmanager
def _embedded(name: str, publish: Path) -> Iterator[dict[str, str]]:
    with subprocess.Popen([sys.executable, "-m", "analytics_defs.devstack", name, str(publish)]) as server:
        try:
            until(publish.exists)
            yield env_file.read_env_file(publish)
        finally:
            server.send_signal(signal.SIGINT)
            assert server.wait(timeout=20) == 0


def test_another_process_produces_to_the_embedded_kafka_and_reads_back(tmp_path: Path) -> None:
    with _embedded("broker", tmp_path / "env") as settings:
        brokers = {"bootstrap.servers": settings["KAFKA_BROKERS"]}
        producer = Producer(brokers)
        producer.produce("topic", b"value")
        assert producer.flush(20) == 0
        consumer = Consumer(brokers | {"group.id": "g", "auto.offset.reset": "earliest"})
        consumer.subscribe(["topic"])
        message = consumer.poll(20)
        assert message is not None
        assert message.value() == b"value"
        consumer.close()


def test_another_process_uses_the_embedded_dynamodb_and_s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with _embedded("stores", tmp_path / "env") as settings:
        for key, value in settings.items():
            monkeypatch.setenv(key, value)
        bucket = uuid.uuid4().hex
        s3 = boto3.client("s3", endpoint_url=settings["MINIO_ENDPOINT"])
        s3.create_bucket(Bucket=bucket)
        assert bucket in [item["Name"] for item in s3.list_buckets()["Buckets"]]
        assert boto3.client("dynamodb", endpoint_url=settings["DYNAMO_ENDPOINT"]).list_tables()["TableNames"] == []


def test_a_port_in_use_is_reported_before_anything_starts(tmp_path: Path) -> None:
    with socket.create_server((LOOPBACK, 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(
            StartupFailed, match=f"^port {port} is in use: choose another with `analytics dev --port` or `make dev PORT=...`$"
        ):
            dev.run(tmp_path / "dev", port=port, rate=1)
    assert list((tmp_path / "dev" / "logs").iterdir()) == []


def test_the_health_endpoint_gets_another_port_if_its_own_is_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server((LOOPBACK, 0)) as listener:
        port = listener.getsockname()[1]
        monkeypatch.setenv("HEALTH_PORT", str(port))
        assert dev.health_port() not in (port, 0)
    assert dev.health_port() == port
