"""The files of deploy/ecs match botocore's model of the API, each other, the image and the code."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import botocore.session
import pytest
from botocore.validate import ParamValidator

from analytics_defs.config import load_settings, setting_names
from tests.deploy.files import DEPLOY, compose, dockerfile, environment_of_dagster

ECS = DEPLOY / "ecs"
DEFINITIONS: dict[str, dict[str, Any]] = {
    file.stem: json.loads(file.read_text(encoding="utf-8")) for file in sorted((ECS / "task-definitions").glob("*.json"))
}
ROLES = ("code", "daemon", "health", "run", "setup", "webserver")
POLICIES = [*sorted((DEPLOY / "aws/policies").glob("*.json")), *sorted((ECS / "policies").glob("*.json"))]
PLACEHOLDERS = {"ACCOUNT_ID", "IMAGE", "KAFKA_BOOTSTRAP_SERVERS", "POSTGRES_HOST", "REGION"}
FARGATE = {"256": {"512", "1024", "2048"}, "512": {"1024", "2048", "3072", "4096"}, "1024": {str(gb * 1024) for gb in range(2, 9)}}
"""Allowed memory in megabytes, by CPU units (AWS, "Task CPU and memory")."""


def container(name: str) -> dict[str, Any]:
    (only,) = DEFINITIONS[name]["containerDefinitions"]
    return dict(only)


def environment(name: str) -> dict[str, str]:
    return {variable["name"]: variable["value"] for variable in container(name)["environment"]}


def test_every_role_has_a_task_definition() -> None:
    assert tuple(DEFINITIONS) == ROLES


@pytest.mark.parametrize("name", ROLES)
def test_a_task_definition_is_valid(name: str) -> None:
    model: Any = botocore.session.get_session().get_service_model("ecs").operation_model("RegisterTaskDefinition").input_shape
    report = ParamValidator().validate(DEFINITIONS[name], model)
    assert not report.has_errors(), report.generate_report()


@pytest.mark.parametrize("name", ROLES)
def test_a_task_fits_fargate_and_is_unprivileged_with_read_only_root(name: str) -> None:
    definition, only = DEFINITIONS[name], container(name)
    assert definition["requiresCompatibilities"] == ["FARGATE"]
    assert definition["memory"] in FARGATE[definition["cpu"]]
    assert only["user"] == dockerfile().user
    assert only["readonlyRootFilesystem"]
    assert only["linuxParameters"]["capabilities"] == {"drop": ["ALL"]}
    # Volumes on Fargate belong to root, except for those that the image declares and owns.
    assert [mount["containerPath"] for mount in only["mountPoints"]] == [dockerfile().environment["DAGSTER_HOME"]]
    assert environment(name)["TMPDIR"] == dockerfile().environment["DAGSTER_HOME"]


@pytest.mark.parametrize("name", ["code", "daemon", "health", "setup", "webserver"])
def test_commands_equal_those_of_compose_which_other_tests_execute(name: str) -> None:
    command = compose({})["services"][name]["command"]
    assert container(name)["command"] == [word.replace("/app/deploy/", "/app/deploy/ecs/") for word in command]


def test_runs_have_the_longest_stop_timeout_and_the_code_server_waits_for_a_tick() -> None:
    assert container("run")["stopTimeout"] == 120  # the maximum on Fargate; Dagster waits 180 s for a run
    assert container("code")["stopTimeout"] > 60  # the time limit of a sensor tick
    assert all(10 <= container(name)["stopTimeout"] <= 120 for name in ROLES)


@pytest.mark.parametrize("name", ["code", "daemon", "health", "webserver"])
def test_health_checks_equal_those_of_compose(name: str) -> None:
    assert container(name)["healthCheck"]["command"] == compose({})["services"][name]["healthcheck"]["test"]


@pytest.mark.parametrize("name", ROLES)
def test_the_environment_has_valid_settings_and_all_variables_of_dagster(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for setting in setting_names():
        monkeypatch.delenv(setting, raising=False)
    values = environment(name)
    secrets = {secret["name"] for secret in container(name)["secrets"]}
    assert environment_of_dagster() <= values.keys() | secrets
    assert values.keys() <= {*setting_names(), *environment_of_dagster(), "DAGSTER_HOME", "TMPDIR", "ANALYTICS_RUN_TASK_DEFINITION"}
    assert not any(re.search("PASSWORD|SECRET|ACCESS_KEY", variable) for variable in values)
    for variable, value in values.items():
        monkeypatch.setenv(variable, value.replace("KAFKA_BOOTSTRAP_SERVERS", "broker:9098").replace("REGION", "eu-west-1"))
    assert load_settings().region == "eu-west-1"


def test_only_the_daemon_and_the_webserver_have_the_task_definition_of_runs() -> None:
    families = {name: environment(name).get("ANALYTICS_RUN_TASK_DEFINITION") for name in ROLES}
    assert {name for name, family in families.items() if family} == {"daemon", "webserver"}
    assert families["daemon"] == families["webserver"] == DEFINITIONS["run"]["family"]


def test_the_readme_replaces_every_placeholder() -> None:
    text = "".join(file.read_text(encoding="utf-8") for file in [*(ECS / "task-definitions").glob("*.json"), *POLICIES])
    placeholders = (
        set(re.findall(r"(?<![A-Za-z_])(?:REGION|IMAGE|[A-Z]+_[A-Z_]+)(?![A-Za-z_])", text))
        - set(setting_names())
        - environment_of_dagster()
    )
    assert placeholders - {"DAGSTER_HOME", "ANALYTICS_RUN_TASK_DEFINITION"} == PLACEHOLDERS
    readme = (ECS / "README.md").read_text(encoding="utf-8")
    assert all(f"s|{placeholder}|" in readme for placeholder in PLACEHOLDERS)


def test_the_readme_creates_the_role_of_every_task() -> None:
    readme = (ECS / "README.md").read_text(encoding="utf-8")
    roles = {DEFINITIONS[name][kind].rpartition("/")[2] for name in ROLES for kind in ("taskRoleArn", "executionRoleArn")}
    assert all(role.removeprefix("analytics-") in readme for role in roles)
    assert all(policy.stem in readme for policy in POLICIES)


@pytest.mark.parametrize("policy", POLICIES, ids=[policy.stem for policy in POLICIES])
def test_a_policy_is_within_the_size_limit_and_has_no_wildcard_actions(policy: Path) -> None:
    text = policy.read_text(encoding="utf-8")
    assert len(re.sub(r"\s", "", text)) < 6_144  # the limit of a managed policy, without white space
    document = json.loads(text)
    assert document["Version"] == "2012-10-17"
    assert not [action for statement in document["Statement"] for action in statement["Action"] if "*" in action]
    sids = [statement["Sid"] for statement in document["Statement"]]
    assert len(set(sids)) == len(sids)
    assert all(re.fullmatch("[A-Za-z0-9]+", sid) for sid in sids)


def test_the_launcher_may_start_only_runs_and_pass_only_their_roles() -> None:
    statements = {statement["Sid"]: statement for statement in json.loads((ECS / "policies/launcher.json").read_text("utf-8"))["Statement"]}
    unrestricted = [action for statement in statements.values() if statement["Resource"] == ["*"] for action in statement["Action"]]
    assert unrestricted == ["ecs:DescribeTaskDefinition", "ec2:DescribeNetworkInterfaces"]  # AWS defines no resources for these
    assert statements["HandRunsTheirRoles"]["Resource"] == [DEFINITIONS["run"]["taskRoleArn"], DEFINITIONS["run"]["executionRoleArn"]]
    stream = container("run")["logConfiguration"]["options"]
    (logs,) = statements["SayWhyARunFailed"]["Resource"]
    assert logs.endswith(f"log-group:{stream['awslogs-group']}:log-stream:{stream['awslogs-stream-prefix']}/run/*")
