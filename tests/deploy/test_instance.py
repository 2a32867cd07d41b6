"""The production instance and workspace, as Dagster itself reads them."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest
import yaml
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.instance.config import get_default_tick_retention_settings, get_tick_retention_settings
from dagster._core.instance.ref import InstanceRef
from dagster._core.remote_origin import GrpcServerCodeLocationOrigin
from dagster._core.run_coordinator.queued_run_coordinator import QueuedRunCoordinator
from dagster._core.workspace.load_target import WorkspaceFileTarget
from dagster_celery.launcher import CeleryRunLauncher
from dagster_postgres.utils import pg_url_from_config

from analytics_defs.defs.ingest.job import micro_batch_job
from analytics_defs.defs.runtime.compute_logs import ArchiveComputeLogManager
from tests.deploy.files import DEPLOY, ROOT, compose, environment_of_dagster

ENVIRONMENT = compose({})["services"]["code"]["environment"]
PRODUCTION = yaml.safe_load((DEPLOY / "dagster.yaml").read_text(encoding="utf-8"))


@pytest.fixture
def instance(monkeypatch: pytest.MonkeyPatch) -> InstanceRef:
    """Raises where Dagster would refuse the file."""
    for name in environment_of_dagster():
        monkeypatch.setenv(name, ENVIRONMENT[name])
    return InstanceRef.from_dir(str(DEPLOY))


def test_storage_is_postgres_by_the_driver_that_is_installed(instance: InstanceRef) -> None:
    assert instance.storage_data
    assert instance.storage_data.class_name == "DagsterPostgresStorage"
    address = {
        name: ENVIRONMENT[value["env"]] if isinstance(value, dict) else value
        for name, value in PRODUCTION["storage"]["postgres"]["postgres_db"].items()
    }
    assert pg_url_from_config({"postgres_db": address}) == "postgresql+psycopg2://dagster:dagster@postgres:5432/dagster"


def test_runs_wait_in_a_queue_that_is_looked_at_every_second(instance: InstanceRef) -> None:
    coordinator = instance.run_coordinator
    assert isinstance(coordinator, QueuedRunCoordinator)
    assert coordinator.dequeue_interval_seconds == 1


def test_lost_runs_are_found_and_started_again_but_never_a_micro_batch_or_a_step_that_failed() -> None:
    assert PRODUCTION["run_monitoring"]["enabled"]
    assert PRODUCTION["run_monitoring"]["max_runtime_seconds"] > 0
    assert PRODUCTION["run_retries"] == {"enabled": True, "max_retries": 2, "retry_on_asset_or_op_failure": False}
    assert (micro_batch_job.tags or {})["dagster/max_retries"] == "0"


def test_compute_logs_are_written_to_the_archive_bucket(instance: InstanceRef) -> None:
    assert isinstance(instance.compute_log_manager, ArchiveComputeLogManager)


@pytest.mark.parametrize("file", [DEPLOY / "dagster.yaml", ROOT / "dagster.yaml"], ids=["production", "development"])
def test_ticks_of_every_kind_and_status_are_forgotten_after_days(file: Path) -> None:
    retention = yaml.safe_load(file.read_text(encoding="utf-8"))["retention"]
    for kind, most in (("SENSOR", 14), ("SCHEDULE", 30), ("AUTO_MATERIALIZE", 14)):
        never = get_default_tick_retention_settings(InstigatorType[kind])
        assert all(0 < days <= most for days in get_tick_retention_settings(retention[kind.lower()], never).values()), kind


def test_nobody_is_told_what_runs_here() -> None:
    assert PRODUCTION["telemetry"] == {"enabled": False}


@pytest.mark.usefixtures("instance")
def test_the_code_location_has_one_name_in_production_and_development() -> None:
    (production,) = WorkspaceFileTarget([str(DEPLOY / "workspace.yaml")]).create_origins()
    (development,) = yaml.safe_load((ROOT / "workspace.yaml").read_text(encoding="utf-8"))["load_from"]
    found = cast("GrpcServerCodeLocationOrigin", production)
    assert (found.host, found.port) == ("code", 4000)
    assert found.location_name == development["python_module"]["location_name"]


def test_the_instance_of_several_machines_differs_in_who_executes_runs_and_how_they_are_watched_over() -> None:
    several = yaml.safe_load((DEPLOY / "celery" / "dagster.yaml").read_text(encoding="utf-8"))
    differing = {key for key in several.keys() | PRODUCTION.keys() if several.get(key) != PRODUCTION.get(key)}
    assert differing == {"run_launcher", "run_monitoring", "concurrency"}
    assert several["concurrency"] | {"runs": {}} == PRODUCTION["concurrency"] | {"runs": {}}
    assert several["run_monitoring"].keys() == PRODUCTION["run_monitoring"].keys()


def test_runs_go_to_celery_by_dagsters_own_launcher_and_are_acknowledged_when_they_have_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in environment_of_dagster("celery/dagster.yaml"):
        monkeypatch.setenv(name, ENVIRONMENT[name])
    launcher = InstanceRef.from_dir(str(DEPLOY / "celery")).run_launcher
    assert isinstance(launcher, CeleryRunLauncher)
    conf = launcher.celery.conf
    assert (conf.task_acks_late, conf.worker_prefetch_multiplier, conf.broker_url) == (True, 1, ENVIRONMENT["DAGSTER_CELERY_BROKER"])
    assert conf.broker_transport_options["visibility_timeout"] == 60
