"""The single container without Docker: command, environment and health check of the image, with SQLite, on real servers."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from analytics_defs.devstack.tcp_ports import LOOPBACK, accepts, free_port, http_status
from tests.deploy.files import dockerfile
from tests.deploy.programs import Program, await_success, surroundings
from tests.deploy.stores import endpoints, keys, unique_names
from tests.devstack.waiting import until
from tests.web.served import Client


@contextmanager
def environment(folder: Path) -> Iterator[dict[str, str]]:
    """Yield the environment of the image with local ports and folders, and the settings of `docker run -e`."""
    servers = endpoints()
    ports = {name: str(free_port()) for name in ("DAGSTER_GRPC_PORT", "DAGSTER_WEBSERVER_PORT", "HEALTH_PORT")}
    local = {"DAGSTER_HOME": str(folder / "home"), "DAGSTER_WEBSERVER_HOST": LOOPBACK}
    with unique_names(servers) as names:
        yield {**dockerfile().environment, **ports, **local, **servers, **names, **surroundings(folder)}


def test_the_container_reports_unavailable_servers_on_its_port_and_can_be_stopped(tmp_path: Path) -> None:
    """With the programs of the image: the setup is retried while the health endpoint responds."""
    port = free_port()
    unavailable = {"KAFKA_BROKERS": f"{LOOPBACK}:1", "DYNAMO_ENDPOINT": f"http://{LOOPBACK}:1", "MINIO_ENDPOINT": f"http://{LOOPBACK}:1"}
    local = {"DAGSTER_HOME": str(tmp_path / "home"), "HEALTH_HOST": LOOPBACK, "HEALTH_PORT": str(port)}
    settings = {**dockerfile().environment, **local, **unavailable, **surroundings(tmp_path)}
    container = Program(dockerfile().command, settings, tmp_path / "container.log")
    client = Client(port)
    try:
        until(lambda: http_status(f"http://{LOOPBACK}:{port}/health/live") == 200, seconds=60)
        until(lambda: all("no answer yet" not in reason for reason in client.health()["reasons"]), seconds=30)
        assert [reason.partition(":")[0] for reason in client.health()["reasons"]] == ["kafka", "dynamodb", "s3"]
        assert client.get("/health").status == 503
        container.send_signal(signal.SIGTERM)
        assert container.end(60) == 0, container.output[-3000:]
        until(lambda: not container.session())
    finally:
        container.kill()


@pytest.mark.real
@pytest.mark.timeout(300)
def test_the_container_becomes_healthy_ingests_events_and_stops_with_status_0(tmp_path: Path) -> None:
    with environment(tmp_path) as settings:
        container = Program(dockerfile().command, settings, tmp_path / "container.log")
        try:
            until(lambda: accepts(int(settings["DAGSTER_WEBSERVER_PORT"])), seconds=90)
            check = ("sh", "-c", dockerfile().health_check)
            await_success(check, settings, tmp_path / "health.log", seconds=90)
            until(lambda: http_status(f"http://{LOOPBACK}:{settings['HEALTH_PORT']}/health") == 200, seconds=60)
            assert Program(("analytics", "produce", "--count", "100"), settings, tmp_path / "produce.log").end(60) == 0
            until(lambda: bool(keys(endpoints(), settings["ARCHIVE_BUCKET_NAME"], "events/")), seconds=60)
            container.send_signal(signal.SIGTERM)
            assert container.end(145) == 0, container.output[-3000:]
            until(lambda: not container.session())
        finally:
            container.kill()
