"""`make dev`: embedded Kafka, DynamoDB and S3, a simulated shop, and Dagster with its UI, in one folder (`.dev`)."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import click

from analytics_defs.devstack import env_file
from analytics_defs.devstack.supervisor import StopRequested, Supervisor, supervised
from analytics_defs.devstack.tcp_ports import LOOPBACK, accepts, free_port, http_status, is_taken
from analytics_defs.errors import StartupFailed

HEALTH_PORT = 8080
_SERVERS = ("broker", "stores")
ANALYTICS = str(Path(sys.executable).with_name("analytics"))


@dataclass(frozen=True, slots=True)
class Launcher:
    """What executes the runs."""

    prepare: Callable[[Supervisor], dict[str, str]]
    """Writes dagster.yaml, starts what has to be there before Dagster, and answers the settings that follow: DAGSTER_HOME and others."""
    start: Callable[[Supervisor, Mapping[str, str]], None]
    """Starts what executes runs, with all settings, and waits until it can."""
    keeps_endless_runs: bool
    """Whether the health endpoint may be a run; else it is a process beside them."""


def run(folder: Path, *, port: int, rate: float, engine: Launcher | None = None) -> None:
    """Runs everything until SIGINT, SIGTERM or SIGHUP; then ends it all and returns.

    Everything is in memory and starts empty, Dagster's history included: the run keys and offsets of an earlier shop
    would contradict this one's.
    """
    with supervised(folder) as stack:
        if is_taken(port) or accepts(port):  # after `opened`, which ends what a killed stack left on this port
            raise StartupFailed(f"port {port} is taken: name another with `make dev PORT=...`")
        try:
            _start(stack, port, rate, engine or PROCESSES)
            stack.watch()
        except StopRequested:
            click.echo("stopping; what does not end within 20 s is killed")
    click.echo("stopped: no process is left, the logs are in " + str(folder / "logs"))


def _start(stack: Supervisor, port: int, rate: float, engine: Launcher) -> None:
    click.echo("starting an embedded Kafka broker, DynamoDB and S3")
    url, status_port = f"http://{LOOPBACK}:{port}", health_port()
    settings = _start_servers(stack) | {"DAGSTER_UI_URL": url, "HEALTH_HOST": LOOPBACK, "HEALTH_PORT": str(status_port)}
    settings |= engine.prepare(stack) | {"RUN_HEALTH_IN_DAGSTER": str(engine.keeps_endless_runs).lower()}
    click.echo("creating tables and bucket")
    stack.run((ANALYTICS, "setup", "--no-topics"), settings, limit=timedelta(minutes=1))
    env_file.write_env_file(stack.folder / "env", settings)
    click.echo(f"starting a simulated shop ({rate:g} events/s) and Dagster")
    stack.start("producer", (ANALYTICS, "produce", "--rate", f"{rate:g}"), settings)
    options = ("-h", LOOPBACK, "-p", str(port), "-w", "workspace.yaml")
    stack.start("dagster", (sys.executable, "-m", "dagster", "dev", *options), settings)
    stack.wait_until(lambda: http_status(f"{url}/server_info") == 200, what="Dagster's UI", limit=timedelta(minutes=3))
    if not engine.keeps_endless_runs:
        stack.start("health", (ANALYTICS, "serve"), settings)
    engine.start(stack, settings)
    click.echo(_welcome(stack.folder, url, settings))


def _start_servers(stack: Supervisor) -> dict[str, str]:
    """Each server publishes its address when it can be reached."""
    published = {name: stack.folder / f"{name}.env" for name in _SERVERS}
    for name, path in published.items():
        stack.start(name, (sys.executable, "-m", "analytics_defs.devstack", name, str(path)), {})
    stack.wait_until(lambda: all(path.exists() for path in published.values()), what="starting the servers", limit=timedelta(minutes=1))
    return {key: value for path in published.values() for key, value in env_file.read_env_file(path).items()}


def health_port() -> int:
    """HEALTH_PORT where it is free, else any that is: it is a common one, and no reason not to start."""
    wanted = int(os.environ.get("HEALTH_PORT") or HEALTH_PORT)
    return free_port() if is_taken(wanted) or accepts(wanted) else wanted


def dagster_home(stack: Supervisor) -> Path:
    """With DAGSTER_HOME set, Dagster reads the dagster.yaml there and not the one in the working directory."""
    home = stack.folder / "dagster_home"
    home.mkdir()
    shutil.copy("dagster.yaml", home)
    return home


PROCESSES = Launcher(lambda stack: {"DAGSTER_HOME": str(dagster_home(stack))}, lambda _stack, _settings: None, keeps_endless_runs=True)
"""A process of its own for each run: Dagster's default."""


def _welcome(folder: Path, url: str, settings: Mapping[str, str]) -> str:
    return f"""
  UI         {url}
  status     http://{settings["HEALTH_HOST"]}:{settings["HEALTH_PORT"]} (a few seconds later)
  Kafka      {settings["KAFKA_BROKERS"]}
  DynamoDB   {settings["DYNAMO_ENDPOINT"]}
  S3         {settings["MINIO_ENDPOINT"]}
  logs       {folder / "logs"}
  settings   set -a; . {folder / "env"}; set +a
             points the `analytics` command and any Kafka, DynamoDB or S3 client of this shell here

Ctrl-C stops everything.
"""
