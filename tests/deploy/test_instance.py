"""The production instance and workspace, loaded by Dagster."""

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
    """Load dagster.yaml. Fail if Dagster rejects the file."""
    for name in environment_of_dagster():
        monkeypatch.setenv(name, ENVIRONMENT[name])
    return InstanceRef.from_dir(str(DEPLOY))


def test_storage_is_postgres_with_the_installed_driver(instance: InstanceRef) -> None:
    assert instance.storage_data
    assert instance.storage_data.class_name == "DagsterPostgresStorage"
    address = {
        name: ENVIRONMENT[value["env"]] if isinstance(value, dict) else value
        for name, value in PRODUCTION["storage"]["postgres"]["postgres_db"].items()
    }
    assert pg_url_from_config({"postgres_db": address}) == "postgresql+psycopg2://dagster:dagster@postgres:5432/dagster"


def test_the_run_queue_is_polled_every_second(instance: InstanceRef) -> None:
    coordinator = instance.run_coordinator
    assert isinstance(coordinator, QueuedRunCoordinator)
    assert coordinator.dequeue_interval_seconds == 1


@pytest.mark.parametrize("file", [DEPLOY / "dagster.yaml", ROOT / "dagster.yaml"], ids=["production", "development"])
def test_crashed_runs_are_retried_except_micro_batches_and_failed_steps(file: Path) -> None:
    instance = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert instance["run_monitoring"]["enabled"]
    assert instance["run_retries"] == {"enabled": True, "max_retries": 2, "retry_on_asset_or_op_failure": False}
    assert (micro_batch_job.tags or {})["dagster/max_retries"] == "0"


def test_a_run_that_hangs_in_production_is_ended_by_its_age() -> None:
    assert PRODUCTION["run_monitoring"]["max_runtime_seconds"] > 0


def test_compute_logs_are_written_to_the_archive_bucket(instance: InstanceRef) -> None:
    assert isinstance(instance.compute_log_manager, ArchiveComputeLogManager)


@pytest.mark.parametrize("file", [DEPLOY / "dagster.yaml", ROOT / "dagster.yaml"], ids=["production", "development"])
def test_ticks_of_every_kind_and_status_are_purged_after_days(file: Path) -> None:
    retention = yaml.safe_load(file.read_text(encoding="utf-8"))["retention"]
    for kind, max_days in (("SENSOR", 14), ("SCHEDULE", 30), ("AUTO_MATERIALIZE", 14)):
        defaults = get_default_tick_retention_settings(InstigatorType[kind])
        assert all(0 < days <= max_days for days in get_tick_retention_settings(retention[kind.lower()], defaults).values()), kind


def test_telemetry_is_disabled() -> None:
    assert PRODUCTION["telemetry"] == {"enabled": False}


@pytest.mark.usefixtures("instance")
def test_the_code_location_has_the_same_name_in_production_and_development() -> None:
    (production,) = WorkspaceFileTarget([str(DEPLOY / "workspace.yaml")]).create_origins()
    (development,) = yaml.safe_load((ROOT / "workspace.yaml").read_text(encoding="utf-8"))["load_from"]
    origin = cast("GrpcServerCodeLocationOrigin", production)
    assert (origin.host, origin.port) == ("code", 4000)
    assert origin.location_name == development["python_module"]["location_name"]


def test_the_celery_instance_differs_only_in_launcher_monitoring_and_concurrency() -> None:
    celery = yaml.safe_load((DEPLOY / "celery" / "dagster.yaml").read_text(encoding="utf-8"))
    differing = {key for key in celery.keys() | PRODUCTION.keys() if celery.get(key) != PRODUCTION.get(key)}
    assert differing == {"run_launcher", "run_monitoring", "concurrency"}
    assert celery["concurrency"] | {"runs": {}} == PRODUCTION["concurrency"] | {"runs": {}}
    assert celery["run_monitoring"].keys() == PRODUCTION["run_monitoring"].keys()


def test_celery_messages_are_acknowledged_after_the_run_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in environment_of_dagster("celery/dagster.yaml"):
        monkeypatch.setenv(name, ENVIRONMENT[name])
    launcher = InstanceRef.from_dir(str(DEPLOY / "celery")).run_launcher
    assert isinstance(launcher, CeleryRunLauncher)
    conf = launcher.celery.conf
    assert (conf.task_acks_late, conf.worker_prefetch_multiplier, conf.broker_url) == (True, 1, ENVIRONMENT["DAGSTER_CELERY_BROKER"])
    assert conf.broker_transport_options["visibility_timeout"] == 60
