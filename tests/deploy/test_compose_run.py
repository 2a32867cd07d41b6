"""docker-compose.yml's own services, natively: their commands, environment and health checks as written, on real servers.

Only places differ: hosts, ports, folders. What Docker adds (restarts, limits, the read-only file system) is not tried here.
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
from tests.deploy.files import DEPLOY, compose, dockerfile, here
from tests.deploy.postgres import Postgres, postgres
from tests.deploy.programs import Program, succeeds, surroundings
from tests.deploy.stores import endpoints, keys, own_names
from tests.devstack.waiting import until

LISTENS = {"code": "4000", "webserver": "3000", "health": "8080"}


class Composed:
    """The services of the file, one program each."""

    def __init__(self, folder: Path, servers: dict[str, str], names: dict[str, str], database: Postgres) -> None:
        self._folder = folder
        self._services = compose(os.environ)["services"]
        self.redis_port = str(free_port())
        self._places = {
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
            "0.0.0.0": LOOPBACK,  # noqa: S104 - the very address that is not bound here
            "/app/deploy": str(_read_only_copy(folder)),
        }
        self._common = {
            **dockerfile().environment,
            "HEALTH_HOST": LOOPBACK,
            "HEALTH_PORT": self._places["8080"],
            **names,
            **surroundings(folder, database.programs),
        }
        self._programs: list[Program] = []

    def start(self, name: str, *more: str) -> Program:
        """`more`: words at the end of the service's own command."""
        return self.run(name, [*self._services[name]["command"], *more])

    def run(self, name: str, command: list[str]) -> Program:
        """Another command in a service's environment."""
        words = [here(word, self._places) for word in command]
        program = Program(words, self._environment(name), self._folder / f"{name}-{words[0]}.log")
        self._programs.append(program)
        return program

    def becomes_healthy(self, name: str) -> None:
        if name in LISTENS:  # a check is a Python of its own: none before it can succeed
            until(lambda: accepts(int(self._places[LISTENS[name]])), seconds=60)
        kind, *test = self._services[name]["healthcheck"]["test"]
        check = [here(word, self._places) for word in (["sh", "-c", *test] if kind == "CMD-SHELL" else test)]
        succeeds(check, self._environment(name), self._folder / f"{name}-health.log", seconds=60)

    def status(self, name: str) -> int | None:
        return http_status(f"http://{LOOPBACK}:{self._places[LISTENS[name]]}/health")

    def grace(self, name: str) -> int:
        return int(self._services[name]["stop_grace_period"].removesuffix("s"))

    def _environment(self, name: str) -> dict[str, str]:
        own = {key: here(str(value), self._places) for key, value in self._services[name].get("environment", {}).items()}
        return self._common | own

    def end(self) -> None:
        for program in self._programs:
            program.kill()


def _read_only_copy(folder: Path) -> Path:
    copy = folder / "deploy"
    shutil.copytree(DEPLOY, copy, ignore=shutil.ignore_patterns("__pycache__"))
    copy.chmod(0o555)
    return copy


@contextmanager
def composed(folder: Path) -> Iterator[tuple[Composed, Postgres, dict[str, str]]]:
    """The services, their database, and the names of what is theirs on the servers."""
    servers, own = endpoints(), compose(os.environ)["services"]["postgres"]["environment"]
    with postgres(own["POSTGRES_USER"], own["POSTGRES_PASSWORD"], own["POSTGRES_DB"]) as database, own_names(servers) as names:
        services = Composed(folder, servers, names, database)
        try:
            yield services, database, names
        finally:
            services.end()


@pytest.mark.real
@pytest.mark.timeout(300)
def test_the_services_come_up_healthy_move_events_and_stop_in_order_without_cutting_a_run_short(tmp_path: Path) -> None:
    with composed(tmp_path) as (services, database, names):
        health = services.start("health")
        services.becomes_healthy("health")
        services.becomes_healthy("postgres")
        assert services.start("setup").end(60) == 0
        code = services.start("code")
        services.becomes_healthy("code")
        webserver, daemon = services.start("webserver"), services.start("daemon")
        services.becomes_healthy("webserver")
        services.becomes_healthy("daemon")
        until(lambda: services.status("health") == 200, seconds=60)
        assert services.run("code", ["analytics", "produce", "--count", "1000", "--broken", "0"]).end(60) == 0
        until(lambda: "STARTED" in database.column("SELECT status FROM runs"), seconds=60)

        runs = [process for process in code.session() if process.pid != code.pid]
        for process in runs:
            process.suspend()
        for program, name in ((daemon, "daemon"), (webserver, "webserver")):
            program.tell(signal.SIGTERM)
            assert program.end(services.grace(name)) == 0
        code.tell(signal.SIGTERM)
        assert database.column("SELECT status FROM runs") == ["STARTED"]
        for process in runs:
            process.resume()
        assert code.end(services.grace("code")) == 0

        assert database.column("SELECT status FROM runs") == ["SUCCESS"]
        health.tell(signal.SIGTERM)
        assert health.end(services.grace("health")) == 0
        until(lambda: not any(program.session() for program in (code, webserver, daemon, health)))
        assert keys(endpoints(), names["ARCHIVE_BUCKET_NAME"], "events/")


@pytest.mark.real
@pytest.mark.timeout(300)
def test_with_the_profile_celery_workers_execute_the_runs_and_stop_when_these_have_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMPOSE_PROFILES", "celery")
    monkeypatch.setenv("LANES", "2")
    with composed(tmp_path) as (services, database, names):
        services.start("redis", "--port", services.redis_port, "--bind", LOOPBACK, "--dir", str(tmp_path))
        assert services.start("setup").end(60) == 0
        worker = services.start("worker")
        services.start("code")
        services.becomes_healthy("code")
        services.becomes_healthy("worker")
        daemon = services.start("daemon")
        assert services.run("code", ["analytics", "produce", "--count", "1000", "--broken", "0"]).end(60) == 0
        until(lambda: "STARTED" in database.column("SELECT status FROM runs"), seconds=60)
        worker.tell(signal.SIGTERM)
        daemon.tell(signal.SIGTERM)
        assert worker.end(services.grace("worker")) == 0
        assert daemon.end(services.grace("daemon")) == 0

        assert set(database.column("SELECT status FROM runs")) <= {"SUCCESS", "STARTING", "QUEUED"}
        assert "SUCCESS" in database.column("SELECT status FROM runs")
        until(lambda: not worker.session())
        assert keys(endpoints(), names["ARCHIVE_BUCKET_NAME"], "events/")
