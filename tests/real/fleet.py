"""The platform on Celery workers without containers: Redis, Postgres, code server, daemon and any number of workers.

Configured by deploy/celery. Each program is a separate process group that a test can kill, stop, continue and restart.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import dagster as dg
import psutil
from sqlalchemy.engine import URL

from analytics_defs.config import Settings
from analytics_defs.core.ledger import Lease
from analytics_defs.defs.ingest.job import LANE_TAG, MICRO_BATCH_JOB
from analytics_defs.devstack import servers
from analytics_defs.devstack.processes import ProcessRecord, end_group, last_lines, signal_group, spawn
from analytics_defs.devstack.servers import NativeServer
from analytics_defs.devstack.tcp_ports import LOOPBACK, accepts, free_port
from tests.deploy.files import DEPLOY
from tests.deploy.postgres import Postgres, postgres
from tests.devstack.waiting import until

BIN = Path(sys.executable).parent
IN_PROGRESS = [dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.STARTING]


@dataclass(slots=True)
class Fleet:
    """The programs of one platform, by name, and the servers that they use."""

    folder: Path
    environment: dict[str, str]
    """The environment of every program that is started later."""
    redis: NativeServer
    postgres: Postgres
    module: str = "analytics_defs.definitions"
    programs: dict[str, ProcessRecord] = field(default_factory=dict)

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def start(self, name: str, *command: str, **changes: str) -> None:
        temporary = self.folder / "tmp"
        temporary.mkdir(exist_ok=True)
        environment = self.environment | changes | {"TMPDIR": str(temporary)}
        self.programs[name] = spawn([str(BIN / command[0]), *command[1:]], log=self.log(name), environment=environment)

    def start_code(self, **changes: str) -> None:
        """Start the code server. It evaluates the sensor, so a change of LANES in `changes` starts here."""
        port = self.environment["DAGSTER_GRPC_PORT"]
        self.start("code", "dagster", "api", "grpc", "-h", LOOPBACK, "-p", port, "-m", self.module, **changes)
        until(lambda: accepts(int(port)), seconds=60)

    def start_daemon(self) -> None:
        self.start("daemon", "dagster-daemon", "run", "-w", str(DEPLOY / "workspace.yaml"))

    def start_worker(self, name: str, slots: int = 4, **changes: str) -> None:
        self.start(name, "analytics", "worker", "--name", name, "--slots", str(slots), **changes)

    def await_workers(self, *workers: str) -> None:
        for name in workers:
            until(lambda name=name: " ready." in self.log(name).read_text(errors="replace"), seconds=90)  # type: ignore[misc]

    def end(self, name: str) -> None:
        end_group(self.programs.pop(name))

    def kill(self, name: str) -> None:
        """Kill all processes of a program at once, as when its machine loses power."""
        end_group(self.programs.pop(name), first=signal.SIGKILL)

    def signal(self, name: str, number: signal.Signals) -> None:
        signal_group(self.programs[name], number)

    def end_all(self) -> None:
        for name in reversed(list(self.programs)):
            record = self.programs.pop(name)
            signal_group(record, signal.SIGCONT)
            end_group(record, first=signal.SIGKILL)

    @contextmanager
    def instance(self) -> Iterator[dg.DagsterInstance]:
        with dg.DagsterInstance.from_config(str(self.folder / "home")) as instance:
            yield instance

    def runs(self, *statuses: dg.DagsterRunStatus) -> list[dg.DagsterRun]:
        with self.instance() as instance:
            return list(instance.get_runs(dg.RunsFilter(job_name=MICRO_BATCH_JOB, statuses=list(statuses) or None)))

    def executors(self) -> dict[int, dg.DagsterRun]:
        """Return the runs in progress, by the id of the process that executes them."""
        with self.instance() as instance:
            runs_by_pid: dict[int, dg.DagsterRun] = {}
            for run in instance.get_runs(dg.RunsFilter(job_name=MICRO_BATCH_JOB, statuses=[dg.DagsterRunStatus.STARTED])):
                messages = [entry.message for entry in instance.all_logs(run.run_id) if "Started process for run" in (entry.message or "")]
                pids = [int(pid) for message in messages for pid in re.findall(r"pid: (\d+)", message)]
                runs_by_pid |= {pid: run for pid in pids if psutil.pid_exists(pid)}
            return runs_by_pid

    def owner(self, pid: int) -> str | None:
        """Return the name of the program that the process belongs to, None if the process ended."""
        return next((name for name, record in self.programs.items() if pid in record.group()), None)

    def diagnostics(self, leases: Mapping[str, Lease]) -> str:
        """Return runs with their last heartbeat, and the last lines of all logs, for a failed test."""
        with self.instance() as instance:
            records = instance.get_run_records(dg.RunsFilter(job_name=MICRO_BATCH_JOB), limit=30)
        lines = []
        for record in records:
            run, lease = record.dagster_run, leases.get(record.dagster_run.run_id)
            times = f"created {record.create_timestamp:%X}, started {record.start_time}, heartbeat {lease and lease.renewed_at}"
            lines.append(f"{run.run_id[:8]} lane {run.tags.get(LANE_TAG)} {run.status.value}, {times}")
        return "\n".join([*lines, *(f"--- {name}\n{last_lines(self.log(name))}" for name in self.programs)])


@contextmanager
def new_fleet(folder: Path, settings: Settings, **changes: str) -> Iterator[Fleet]:
    """Start Redis and Postgres, and no other program yet. End all programs after the block."""
    with servers.redis(folder / "redis") as redis, postgres("dagster", "dagster", "dagster") as database:
        home = folder / "home"
        shutil.copytree(DEPLOY / "celery", home)
        environment = (
            environment_of(settings) | dict(redis.settings) | _dagster_environment(database.address) | {"DAGSTER_HOME": str(home)} | changes
        )
        before = {name: os.environ.get(name) for name in environment}
        os.environ.update(environment)  # this process opens the same Dagster instance
        fleet = Fleet(folder, environment, redis, database)
        try:
            yield fleet
        finally:
            fleet.end_all()
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name)
                else:
                    os.environ[name] = value


def environment_of(settings: Settings) -> dict[str, str]:
    """Return the settings in which test platforms differ, as environment variables."""
    fields = ("kafka_group_id", "recent_events_table_name", "ledger_table_name", "aggregates_table_name", "archive_bucket_name")
    limits = ("lanes", "max_offsets_per_run", "batch_max_records", "write_event_json")
    values = {name: getattr(settings, name) for name in (*fields, *limits)}
    values["kafka_topics"] = ",".join(settings.kafka_topics)
    return {name.upper(): str(value) for name, value in values.items()}


def _dagster_environment(database: URL) -> dict[str, str]:
    return {
        "DAGSTER_GRPC_HOST": LOOPBACK,
        "DAGSTER_GRPC_PORT": str(free_port()),
        "DAGSTER_POSTGRES_HOST": str(database.host),
        "DAGSTER_POSTGRES_PORT": str(database.port),
        "DAGSTER_POSTGRES_USER": str(database.username),
        "DAGSTER_POSTGRES_PASSWORD": str(database.password),
        "DAGSTER_POSTGRES_DB": str(database.database),
    }
