"""`make dev-celery`: Celery workers execute the runs, as in production with the profile `celery`. Starts its own Redis."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from datetime import timedelta
from functools import partial
from pathlib import Path

import click
import yaml

from analytics_defs.devstack import install
from analytics_defs.devstack.dev import ANALYTICS, Launcher, dagster_home
from analytics_defs.devstack.servers import redis_server
from analytics_defs.devstack.supervisor import Supervisor
from analytics_defs.devstack.tcp_ports import accepts
from analytics_defs.errors import StartupFailed

LANES_PER_WORKER = 2
"""Number of lanes for each worker if LANES is not set."""
PRODUCTION = Path("deploy/celery/dagster.yaml")


def celery_launcher(workers: int) -> Launcher:
    """Return the launcher. Raise StartupFailed if redis-server or Celery is not installed, before anything is started."""
    install.tool("redis-server")
    if importlib.util.find_spec("dagster_celery") is None:
        raise StartupFailed("dagster-celery is not installed: `make venv`, or pip install -c constraints.txt '.[celery]'")
    return Launcher(partial(_prepare, workers=workers), partial(_start, workers=workers), supports_endless_runs=False)


def _prepare(stack: Supervisor, workers: int) -> dict[str, str]:
    server = redis_server(stack.folder / "redis")
    click.echo("starting Redis")
    stack.start("redis", server.command, server.environment)
    stack.wait_until(lambda: accepts(server.port) and server.answers(server.port), what="starting Redis", limit=timedelta(seconds=20))
    home = dagster_home(stack)
    use_production_launcher(home / "dagster.yaml")
    lanes = os.environ.get("LANES") or str(LANES_PER_WORKER * workers)
    return {**server.settings, "DAGSTER_HOME": str(home), "LANES": lanes}


def use_production_launcher(file: Path) -> None:
    """Replace the run launcher and the timing of run monitoring in `file` with those of production."""
    development, production = (yaml.safe_load(path.read_text(encoding="utf-8")) for path in (file, PRODUCTION))
    monitoring = development["run_monitoring"] | {
        key: production["run_monitoring"][key] for key in ("start_timeout_seconds", "poll_interval_seconds")
    }
    file.write_text(
        yaml.safe_dump(development | {"run_launcher": production["run_launcher"], "run_monitoring": monitoring}), encoding="utf-8"
    )


def _start(stack: Supervisor, settings: Mapping[str, str], workers: int) -> None:
    slots = -(-int(settings["LANES"]) // workers) + 1  # one more slot for backfills and automation
    click.echo(f"starting {workers} Celery workers for {settings['LANES']} lanes")
    names = [f"worker-{number}" for number in range(1, workers + 1)]
    for name in names:
        stack.start(name, (ANALYTICS, "worker", "--name", name, "--slots", str(slots)), settings, kind="worker")
    stack.wait_until(lambda: all(_ready(stack.log(name)) for name in names), what="starting the workers", limit=timedelta(minutes=2))


def _ready(log: Path) -> bool:
    return " ready." in log.read_text(encoding="utf-8", errors="replace")
