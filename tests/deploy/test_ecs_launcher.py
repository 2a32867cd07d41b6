"""The policy of the ECS launcher allows exactly the requests that are recorded while it starts, monitors and ends a run on moto."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import boto3
import botocore.client
import dagster as dg
import pytest
from dagster._core.code_pointer import ModuleCodePointer
from dagster._core.instance.ref import InstanceRef
from dagster._core.launcher.base import LaunchRunContext, WorkerStatus
from dagster._core.origin import DEFAULT_DAGSTER_ENTRY_POINT, JobPythonOrigin, RepositoryPythonOrigin
from moto import mock_aws

from tests.deploy.files import DEPLOY, compose, environment_of_dagster

ECS = DEPLOY / "ecs"
REGION = "eu-west-1"
CLIENT: Any = botocore.client.BaseClient
POLICY = json.loads((ECS / "policies/launcher.json").read_text(encoding="utf-8"))["Statement"]
IMPLIED = {"iam:PassRole", "ecs:TagResource"}
"""Rights that AWS checks within `RunTask`: for the roles of the task definition, and for the tags of the task."""


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, dict[str, Any]]]]:
    """Yield the list of requests of all clients, as action and parameters."""
    for name in environment_of_dagster():
        monkeypatch.setenv(name, compose({})["services"]["code"]["environment"][name])
    for name, value in {"AWS_ACCESS_KEY_ID": "fake", "AWS_SECRET_ACCESS_KEY": "fake", "AWS_DEFAULT_REGION": REGION}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("ANALYTICS_RUN_TASK_DEFINITION", "analytics-run")
    recorded: list[tuple[str, dict[str, Any]]] = []
    original: Callable[..., Any] = CLIENT._make_api_call

    def recording(self: Any, operation: str, params: dict[str, Any]) -> Any:
        recorded.append((f"{self.meta.service_model.service_name}:{operation}", params))
        return original(self, operation, params)

    monkeypatch.setattr(CLIENT, "_make_api_call", recording)
    with mock_aws():
        yield recorded


def daemon_task() -> SimpleNamespace:
    """Create a cluster, the task definitions and a task of the daemon. Return the metadata of this task."""
    ec2, ecs, logs = (boto3.client(name, region_name=REGION) for name in ("ec2", "ecs", "logs"))
    subnet, group = ec2.describe_subnets()["Subnets"][0], ec2.describe_security_groups()["SecurityGroups"][0]
    ecs.create_cluster(clusterName="analytics")
    for name in ("daemon", "run"):
        definition = json.loads((ECS / f"task-definitions/{name}.json").read_text(encoding="utf-8"))
        definition["containerDefinitions"][0]["memory"] = int(definition["memory"])  # moto requires it, Fargate does not
        ecs.register_task_definition(**definition)
    logs.create_log_group(logGroupName="/analytics")
    network = {"awsvpcConfiguration": {"subnets": [subnet["SubnetId"]], "securityGroups": [group["GroupId"]]}}
    (task,) = ecs.run_task(cluster="analytics", launchType="FARGATE", taskDefinition="analytics-daemon", networkConfiguration=network)[
        "tasks"
    ]
    return SimpleNamespace(cluster=task["clusterArn"], task_arn=task["taskArn"])


def add_run(instance: dg.DagsterInstance) -> dg.DagsterRun:
    pointer = ModuleCodePointer("analytics_defs.definitions", "defs", None)
    repository = RepositoryPythonOrigin("python", pointer, "an image", DEFAULT_DAGSTER_ENTRY_POINT)
    run = dg.DagsterRun(job_name="micro_batch", job_code_origin=JobPythonOrigin("micro_batch", repository), tags={"analytics/lane": "0"})
    return instance.add_run(run)


def test_the_policy_allows_exactly_the_requests_of_the_launcher(
    calls: list[tuple[str, dict[str, Any]]], monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    metadata = daemon_task()
    monkeypatch.setattr("dagster_aws.ecs.launcher.get_current_ecs_task_metadata", lambda: metadata)
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        run = add_run(instance)
        calls.clear()
        launcher: Any = InstanceRef.from_dir(str(ECS)).run_launcher
        launcher.register_instance(instance)
        launcher.launch_run(LaunchRunContext(run, None))
        assert launcher.check_run_worker_health(run).status is WorkerStatus.RUNNING
        assert launcher.terminate(run.run_id)
        stopped = instance.get_run_by_id(run.run_id)
        assert stopped
        requested = {action for action, _ in calls}
        fail_the_container(calls, monkeypatch)
        assert launcher.check_run_worker_health(stopped).status is WorkerStatus.FAILED
    requested |= {action for action, _ in calls}
    assert {action for statement in POLICY for action in statement["Action"]} == requested | IMPLIED
    (started,) = [params for action, params in calls if action == "ecs:RunTask"]
    assert started["taskDefinition"].partition("task-definition/")[2] == "analytics-run:1"
    assert {"key": "analytics/lane", "value": "0"} in started["tags"]
    assert started["overrides"]["memory"] == "2048"
    (logs,) = {
        (params["logGroupName"], params["logStreamName"].rpartition("/")[0]) for action, params in calls if action == "logs:GetLogEvents"
    }
    assert logs == ("/analytics", "run/run")


def fail_the_container(calls: list[tuple[str, dict[str, Any]]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Change the responses of moto, whose tasks never fail, so that the container was killed. The launcher then reads its log."""
    recording: Callable[..., Any] = CLIENT._make_api_call

    def killed(self: Any, operation: str, params: dict[str, Any]) -> Any:
        if operation == "GetLogEvents":
            calls.append(("logs:GetLogEvents", params))
            return {"events": [{"message": "Killed"}]}
        response = recording(self, operation, params)
        if operation == "DescribeTasks":
            for task in response["tasks"]:
                task |= {"lastStatus": "STOPPED", "containers": [{"name": "run", "exitCode": 137}]}
        return response

    monkeypatch.setattr(CLIENT, "_make_api_call", killed)
