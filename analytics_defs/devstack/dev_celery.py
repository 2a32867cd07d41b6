"""`make dev-celery`: runs are executed by Celery workers, as in production with the profile `celery`, beside a Redis of one's own."""

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

LANES_EACH = 2
"""Lanes for each worker, where LANES is not set."""
PRODUCTION = Path("deploy/celery/dagster.yaml")


def engine(workers: int) -> Launcher:
    """Raises StartupFailed where there is no Redis on this machine, or Celery is not installed, before anything is started."""
    install.tool("redis-server")
    if importlib.util.find_spec("dagster_celery") is None:
        raise StartupFailed("dagster-celery is not installed: `make venv`, or pip install -c constraints.txt '.[celery]'")
    return Launcher(partial(_prepare, workers=workers), partial(_start, workers=workers), keeps_endless_runs=False)


def _prepare(stack: Supervisor, workers: int) -> dict[str, str]:
    server = redis_server(stack.folder / "redis")
    click.echo("starting Redis")
    stack.start("redis", server.command, server.environment)
    stack.wait_until(lambda: accepts(server.port) and server.answers(server.port), what="starting Redis", limit=timedelta(seconds=20))
    home = dagster_home(stack)
    with_launcher(home / "dagster.yaml")
    lanes = os.environ.get("LANES") or str(LANES_EACH * workers)
    return {**server.settings, "DAGSTER_HOME": str(home), "LANES": lanes}


def with_launcher(file: Path) -> None:
    """The development's dagster.yaml with how production hands runs to workers and watches over them."""
    own, production = (yaml.safe_load(each.read_text(encoding="utf-8")) for each in (file, PRODUCTION))
    watching = own["run_monitoring"] | {
        key: production["run_monitoring"][key] for key in ("start_timeout_seconds", "poll_interval_seconds")
    }
    file.write_text(yaml.safe_dump(own | {"run_launcher": production["run_launcher"], "run_monitoring": watching}), encoding="utf-8")


def _start(stack: Supervisor, settings: Mapping[str, str], workers: int) -> None:
    slots = -(-int(settings["LANES"]) // workers) + 1  # one more: backfills and automation want to run as well
    click.echo(f"starting {workers} Celery workers for {settings['LANES']} lanes")
    names = [f"worker-{number}" for number in range(1, workers + 1)]
    for name in names:
        stack.start(name, (ANALYTICS, "worker", "--name", name, "--slots", str(slots)), settings, kind="worker")
    stack.wait_until(lambda: all(_ready(stack.log(name)) for name in names), what="starting the workers", limit=timedelta(minutes=2))


def _ready(log: Path) -> bool:
    return " ready." in log.read_text(encoding="utf-8", errors="replace")
