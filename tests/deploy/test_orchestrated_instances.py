"""The instances of deploy/kubernetes and deploy/ecs, loaded by Dagster with their launchers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from dagster._core.instance.ref import InstanceRef
from dagster._core.run_coordinator.queued_run_coordinator import QueuedRunCoordinator
from dagster._core.workspace.load_target import WorkspaceFileTarget
from dagster_aws.ecs import EcsRunLauncher
from dagster_k8s import K8sRunLauncher
from moto import mock_aws

from analytics_defs.defs.runtime.compute_logs import ArchiveComputeLogManager
from tests.deploy.files import DEPLOY, compose, environment_of_dagster

PRODUCTION = yaml.safe_load((DEPLOY / "dagster.yaml").read_text(encoding="utf-8"))
FOLDERS = ("kubernetes", "ecs")


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the environment of the container without the launchers' variables: most processes load the instance without them."""
    values = compose({})["services"]["code"]["environment"]
    for name in environment_of_dagster():
        monkeypatch.setenv(name, values[name])
    for name in ("KUBERNETES_NAMESPACE", "ANALYTICS_RUN_TASK_DEFINITION"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("folder", FOLDERS)
def test_dagster_loads_every_part_of_the_instance(folder: str) -> None:
    instance = InstanceRef.from_dir(str(DEPLOY / folder))
    assert instance.storage_data
    assert instance.storage_data.class_name == "DagsterPostgresStorage"
    assert isinstance(instance.run_coordinator, QueuedRunCoordinator)
    assert isinstance(instance.compute_log_manager, ArchiveComputeLogManager)


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_instance_equals_production_except_for_launcher_and_monitoring(folder: str) -> None:
    instance = yaml.safe_load((DEPLOY / folder / "dagster.yaml").read_text(encoding="utf-8"))
    differing = {name for name in instance.keys() | PRODUCTION.keys() if instance.get(name) != PRODUCTION.get(name)}
    assert differing == {"run_launcher", "run_monitoring"}
    assert {name for name, value in instance["run_monitoring"].items() if value != PRODUCTION["run_monitoring"][name]} == {
        "start_timeout_seconds"
    }


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_sensor_gives_up_a_starting_run_before_dagster_does(folder: str) -> None:
    """Otherwise sensor and run monitoring could both start another run for the lane."""
    timeout = yaml.safe_load((DEPLOY / folder / "dagster.yaml").read_text(encoding="utf-8"))["run_monitoring"]["start_timeout_seconds"]
    if folder == "ecs":
        container = json.loads((DEPLOY / "ecs/task-definitions/code.json").read_text(encoding="utf-8"))["containerDefinitions"][0]
        settings = {variable["name"]: variable["value"] for variable in container["environment"]}
    else:
        settings = yaml.safe_load((DEPLOY / "kubernetes/settings.yaml").read_text(encoding="utf-8"))["data"]
    assert settings["RUN_START_TIMEOUT"] == "5m"
    assert timeout > 300


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_workspace_equals_the_production_workspace(folder: str) -> None:
    assert (DEPLOY / folder / "workspace.yaml").read_text("utf-8") == (DEPLOY / "workspace.yaml").read_text("utf-8")
    (origin,) = WorkspaceFileTarget([str(DEPLOY / folder / "workspace.yaml")]).create_origins()
    assert origin.location_name == "analytics"


def test_the_kubernetes_launcher_is_created_from_the_instance_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_NAMESPACE", "somewhere")
    monkeypatch.setattr("kubernetes.config.load_incluster_config", lambda: None)
    launcher = InstanceRef.from_dir(str(DEPLOY / "kubernetes")).run_launcher
    assert isinstance(launcher, K8sRunLauncher)
    assert (launcher.job_namespace, launcher.service_account_name) == ("somewhere", "analytics-run")
    assert launcher.supports_check_run_worker_health


@pytest.fixture
def region(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "fake")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    with mock_aws():
        yield "eu-west-1"


def test_the_ecs_launcher_is_created_with_the_task_definition_of_runs(region: str, monkeypatch: pytest.MonkeyPatch) -> None:
    definition: dict[str, Any] = json.loads((DEPLOY / "ecs/task-definitions/run.json").read_text(encoding="utf-8"))
    boto3.client("ecs", region_name=region).register_task_definition(**definition)
    monkeypatch.setenv("ANALYTICS_RUN_TASK_DEFINITION", definition["family"])
    launcher: Any = InstanceRef.from_dir(str(DEPLOY / "ecs")).run_launcher
    assert isinstance(launcher, EcsRunLauncher)
    assert (launcher.task_definition or "").endswith("task-definition/analytics-run:1")
    assert launcher.secrets_tags == []  # otherwise the launcher lists every secret of the account
    assert launcher.run_resources == {"cpu": definition["cpu"], "memory": definition["memory"], "ephemeral_storage": 30}


@pytest.mark.usefixtures("region")
def test_a_task_definition_without_the_run_container_is_rejected_at_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changed = (DEPLOY / "ecs/dagster.yaml").read_text(encoding="utf-8").replace("container_name: run", "container_name: another")
    (tmp_path / "dagster.yaml").write_text(changed, encoding="utf-8")
    definition = json.loads((DEPLOY / "ecs/task-definitions/run.json").read_text(encoding="utf-8"))
    boto3.client("ecs").register_task_definition(**definition)
    monkeypatch.setenv("ANALYTICS_RUN_TASK_DEFINITION", definition["family"])
    with pytest.raises(Exception, match="Cannot override container 'another'"):
        assert InstanceRef.from_dir(str(tmp_path)).run_launcher
