"""The services of docker-compose.yml without Docker: their commands, environment and health checks, on real servers.

Only hosts, ports and folders differ. Features of Docker (restarts, limits, the read-only file system) are not tested localized.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from analytics_defs.devstack.tcp_ports import LOOPBACK, accepts, free_port, http_status
from tests.deploy.files import DEPLOY, compose, dockerfile, localized
from tests.deploy.postgres import Postgres, postgres
from tests.deploy.programs import Program, await_success, surroundings
from tests.deploy.stores import endpoints, keys, unique_names
from tests.devstack.waiting import until

PORTS = {"code": "4000", "webserver": "3000", "health": "8080"}


class LocalServices:
    """The services of docker-compose.yml, each as a local program."""

    def __init__(self, folder: Path, servers: dict[str, str], names: dict[str, str], database: Postgres) -> None:
        self._folder = folder
        self._services = compose(os.environ)["services"]
        self.redis_port = str(free_port())
        self._addresses = {
            "kafka:9092": servers["KAFKA_BROKERS"],
            "http://dynamodb:8000": servers["DYNAMO_ENDPOINT"],
            "http://minio:9000": servers["MINIO_ENDPOINT"],
            "postgres": LOOPBACK,
            "5432": str(database.port),
            "redis://redis:6379": f"redis://{LOOPBACK}:{self.redis_port}",
            "code": LOOPBACK,
            "4000": str(free_port()),
            "3000": str(free_port()),
            "8080": str(free_port()),
            "0.0.0.0": LOOPBACK,  # noqa: S104 - replaced, so that it is not bound localized
            "/app/deploy": str(_read_only_copy(folder)),
        }
        self._common = {
            **dockerfile().environment,
            "HEALTH_HOST": LOOPBACK,
            "HEALTH_PORT": self._addresses["8080"],
            **names,
            **surroundings(folder, database.programs),
        }
        self._programs: list[Program] = []

    def start(self, name: str, *more: str) -> Program:
        """Start the service with its command and `more` arguments."""
        return self.run(name, [*self._services[name]["command"], *more])

    def run(self, name: str, command: list[str]) -> Program:
        """Start another command in the environment of a service."""
        words = [localized(word, self._addresses) for word in command]
        program = Program(words, self._environment(name), self._folder / f"{name}-{words[0]}.log")
        self._programs.append(program)
        return program

    def await_healthy(self, name: str) -> None:
        if name in PORTS:  # a health check starts a Python process, so the port is polled first
            until(lambda: accepts(int(self._addresses[PORTS[name]])), seconds=60)
        kind, *test = self._services[name]["healthcheck"]["test"]
        check = [localized(word, self._addresses) for word in (["sh", "-c", *test] if kind == "CMD-SHELL" else test)]
        await_success(check, self._environment(name), self._folder / f"{name}-health.log", seconds=60)

    def status(self, name: str) -> int | None:
        return http_status(f"http://{LOOPBACK}:{self._addresses[PORTS[name]]}/health")

    def grace_seconds(self, name: str) -> int:
        return int(self._services[name]["stop_grace_period"].removesuffix("s"))

    def _environment(self, name: str) -> dict[str, str]:
        environment = {key: localized(str(value), self._addresses) for key, value in self._services[name].get("environment", {}).items()}
        return self._common | environment

    def end(self) -> None:
        for program in self._programs:
            program.kill()


def _read_only_copy(folder: Path) -> Path:
    copy = folder / "deploy"
    shutil.copytree(DEPLOY, copy, ignore=shutil.ignore_patterns("__pycache__"))
    copy.chmod(0o555)
    return copy


@contextmanager
def local_services(folder: Path) -> Iterator[tuple[LocalServices, Postgres, dict[str, str]]]:
    """Yield the services, their database, and the settings with unique names on the real servers."""
    servers, login = endpoints(), compose(os.environ)["services"]["postgres"]["environment"]
    with postgres(login["POSTGRES_USER"], login["POSTGRES_PASSWORD"], login["POSTGRES_DB"]) as database, unique_names(servers) as names:
        services = LocalServices(folder, servers, names, database)
        try:
            yield services, database, names
        finally:
            services.end()


@pytest.mark.real
@pytest.mark.timeout(300)
def test_the_services_become_healthy_ingest_events_and_stop_after_the_run(tmp_path: Path) -> None:
    with local_services(tmp_path) as (services, database, names):
        health = services.start("health")
        services.await_healthy("health")
        services.await_healthy("postgres")
        assert services.start("setup").end(60) == 0
        code = services.start("code")
        services.await_healthy("code")
        webserver, daemon = services.start("webserver"), services.start("daemon")
        services.await_healthy("webserver")
        services.await_healthy("daemon")
        until(lambda: services.status("health") == 200, seconds=60)
        assert services.run("code", ["analytics", "produce", "--count", "1000", "--broken", "0"]).end(60) == 0
        until(lambda: "STARTED" in database.column("SELECT status FROM runs"), seconds=60)

        runs = [process for process in code.session() if process.pid != code.pid]
        for process in runs:
            process.suspend()
        for program, name in ((daemon, "daemon"), (webserver, "webserver")):
            program.send_signal(signal.SIGTERM)
            assert program.end(services.grace_seconds(name)) == 0
        code.send_signal(signal.SIGTERM)
        assert database.column("SELECT status FROM runs") == ["STARTED"]
        for process in runs:
            process.resume()
        assert code.end(services.grace_seconds("code")) == 0

        assert database.column("SELECT status FROM runs") == ["SUCCESS"]
        health.send_signal(signal.SIGTERM)
        assert health.end(services.grace_seconds("health")) == 0
        until(lambda: not any(program.session() for program in (code, webserver, daemon, health)))
        assert keys(endpoints(), names["ARCHIVE_BUCKET_NAME"], "events/")


@pytest.mark.real
@pytest.mark.timeout(300)
def test_workers_of_the_celery_profile_execute_runs_and_stop_after_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMPOSE_PROFILES", "celery")
    monkeypatch.setenv("LANES", "2")
    with local_services(tmp_path) as (services, database, names):
        services.start("redis", "--port", services.redis_port, "--bind", LOOPBACK, "--dir", str(tmp_path))
        assert services.start("setup").end(60) == 0
        worker = services.start("worker")
        services.start("code")
        services.await_healthy("code")
        services.await_healthy("worker")
        daemon = services.start("daemon")
        assert services.run("code", ["analytics", "produce", "--count", "1000", "--broken", "0"]).end(60) == 0
        until(lambda: "STARTED" in database.column("SELECT status FROM runs"), seconds=60)
        worker.send_signal(signal.SIGTERM)
        daemon.send_signal(signal.SIGTERM)
        assert worker.end(services.grace_seconds("worker")) == 0
        assert daemon.end(services.grace_seconds("daemon")) == 0

        assert set(database.column("SELECT status FROM runs")) <= {"SUCCESS", "STARTING", "QUEUED"}
        assert "SUCCESS" in database.column("SELECT status FROM runs")
        until(lambda: not worker.session())
        assert keys(endpoints(), names["ARCHIVE_BUCKET_NAME"], "events/")
