"""`analytics dev` and `make dev`: embedded Kafka, DynamoDB and S3, a simulated shop, and Dagster with its UI.

All files are in one folder (`.dev`).
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click

from analytics_defs.devstack import env_file
from analytics_defs.devstack.supervisor import StopRequested, Supervisor, supervised
from analytics_defs.devstack.tcp_ports import LOOPBACK, accepts, free_port, http_status, is_taken
from analytics_defs.errors import StartupFailed

HEALTH_PORT = 8080
SHOWN_DAYS = timedelta(days=3)
"""Age of the first hour in Dagster's catalog. The simulated shop's late events are at most as old, so that most hours get events soon."""
_SERVERS = ("broker", "stores")
ANALYTICS = str(Path(sys.executable).with_name("analytics"))
DAGSTER_FILES = Path(__file__).parent
"""The folder of dagster.yaml and workspace.yaml. The root of the repository has links to them, for a plain `dagster dev`."""


@dataclass(frozen=True, slots=True)
class Launcher:
    """A way to execute runs, together with the programs that it needs."""

    prepare: Callable[[Supervisor], dict[str, str]]
    """Writes dagster.yaml, starts the programs that Dagster needs, and returns DAGSTER_HOME and further settings."""
    start: Callable[[Supervisor, Mapping[str, str]], None]
    """Starts the programs that execute runs, with all settings, and waits until they are ready."""
    supports_endless_runs: bool
    """True if the health endpoint can be a Dagster run. Otherwise it is a separate process."""


def run(folder: Path, *, port: int, rate: float, launcher: Launcher | None = None) -> None:
    """Run the platform until SIGINT, SIGTERM or SIGHUP. Then stop all programs and return.

    All state is in memory and starts empty, including Dagster's history. The run keys and offsets of an earlier
    shop would contradict the new one's.
    """
    with supervised(folder) as stack:
        if is_taken(port) or accepts(port):  # checked here: `supervised` has stopped the programs that a killed stack left on this port
            raise StartupFailed(f"port {port} is in use: choose another with `analytics dev --port` or `make dev PORT=...`")
        try:
            _start(stack, port, rate, launcher or PROCESSES)
            stack.watch()
        except StopRequested:
            click.echo("stopping; programs that do not end within 20 s are killed")
    click.echo("stopped: no process is left; the logs are in " + str(folder / "logs"))


def _start(stack: Supervisor, port: int, rate: float, launcher: Launcher) -> None:
    click.echo("starting an embedded Kafka broker, DynamoDB and S3")
    url, status_port = f"http://{LOOPBACK}:{port}", health_port()
    settings = _start_servers(stack) | {"DAGSTER_UI_URL": url, "HEALTH_HOST": LOOPBACK, "HEALTH_PORT": str(status_port)}
    settings |= {"PARTITIONS_START": os.environ.get("PARTITIONS_START") or f"{datetime.now(UTC) - SHOWN_DAYS:%Y-%m-%dT%H}"}
    settings |= launcher.prepare(stack) | {"RUN_HEALTH_IN_DAGSTER": str(launcher.supports_endless_runs).lower()}
    click.echo("creating tables and bucket")
    stack.run((ANALYTICS, "setup", "--no-topics"), settings, limit=timedelta(minutes=1))
    env_file.write_env_file(stack.folder / "env", settings)
    click.echo(f"starting a simulated shop ({rate:g} events/s) and Dagster")
    stack.start("producer", (ANALYTICS, "produce", "--rate", f"{rate:g}"), settings)
    options = ("-h", LOOPBACK, "-p", str(port), "-w", str(DAGSTER_FILES / "workspace.yaml"))
    stack.start("dagster", (sys.executable, "-m", "dagster", "dev", *options), settings)
    stack.wait_until(lambda: http_status(f"{url}/server_info") == 200, what="Dagster's UI", limit=timedelta(minutes=3))
    if not launcher.supports_endless_runs:
        stack.start("health", (ANALYTICS, "serve"), settings)
    launcher.start(stack, settings)
    click.echo(_welcome(stack.folder, url, settings))


def _start_servers(stack: Supervisor) -> dict[str, str]:
    """Start the embedded servers and return their settings. Each server writes a file when it is reachable."""
    published = {name: stack.folder / f"{name}.env" for name in _SERVERS}
    for name, path in published.items():
        stack.start(name, (sys.executable, "-m", "analytics_defs.devstack", name, str(path)), {})
    stack.wait_until(lambda: all(path.exists() for path in published.values()), what="starting the servers", limit=timedelta(minutes=1))
    return {key: value for path in published.values() for key, value in env_file.read_env_file(path).items()}


def health_port() -> int:
    """Return HEALTH_PORT (8080) if it is free, otherwise any free port, because 8080 is often in use."""
    wanted = int(os.environ.get("HEALTH_PORT") or HEALTH_PORT)
    return free_port() if is_taken(wanted) or accepts(wanted) else wanted


def dagster_home(stack: Supervisor) -> Path:
    """Create the folder for DAGSTER_HOME with a copy of dagster.yaml.

    If DAGSTER_HOME is set, Dagster does not read the dagster.yaml of the working directory.
    """
    home = stack.folder / "dagster_home"
    home.mkdir()
    shutil.copy(DAGSTER_FILES / "dagster.yaml", home)
    return home


PROCESSES = Launcher(lambda stack: {"DAGSTER_HOME": str(dagster_home(stack))}, lambda _stack, _settings: None, supports_endless_runs=True)
"""One process for each run, which is Dagster's default."""


def _welcome(folder: Path, url: str, settings: Mapping[str, str]) -> str:
    return f"""
  UI         {url}
  status     http://{settings["HEALTH_HOST"]}:{settings["HEALTH_PORT"]} (available after a few seconds)
  Kafka      {settings["KAFKA_BROKERS"]}
  DynamoDB   {settings["DYNAMO_ENDPOINT"]}
  S3         {settings["MINIO_ENDPOINT"]}
  logs       {folder / "logs"}
  settings   set -a; . {folder / "env"}; set +a
             configures the `analytics` command and the Kafka, DynamoDB and S3 clients of a shell

Ctrl-C stops everything.
"""
