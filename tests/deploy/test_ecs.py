"""deploy/ecs as ECS and IAM would read it: botocore's own model of the API, and how the files fit each other, the image and the code."""

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
    each.stem: json.loads(each.read_text(encoding="utf-8")) for each in sorted((ECS / "task-definitions").glob("*.json"))
}
ROLES = ("code", "daemon", "health", "run", "setup", "webserver")
POLICIES = [*sorted((DEPLOY / "aws/policies").glob("*.json")), *sorted((ECS / "policies").glob("*.json"))]
PLACEHOLDERS = {"ACCOUNT_ID", "IMAGE", "KAFKA_BOOTSTRAP_SERVERS", "POSTGRES_HOST", "REGION"}
FARGATE = {"256": {"512", "1024", "2048"}, "512": {"1024", "2048", "3072", "4096"}, "1024": {str(gb * 1024) for gb in range(2, 9)}}
"""Megabytes by CPU units (AWS, "Task CPU and memory")."""


def container(name: str) -> dict[str, Any]:
    (found,) = DEFINITIONS[name]["containerDefinitions"]
    return dict(found)


def environment(name: str) -> dict[str, str]:
    return {each["name"]: each["value"] for each in container(name)["environment"]}


def test_there_is_a_definition_for_every_part() -> None:
    assert tuple(DEFINITIONS) == ROLES


@pytest.mark.parametrize("name", ROLES)
def test_a_definition_is_what_the_api_takes(name: str) -> None:
    model: Any = botocore.session.get_session().get_service_model("ecs").operation_model("RegisterTaskDefinition").input_shape
    report = ParamValidator().validate(DEFINITIONS[name], model)
    assert not report.has_errors(), report.generate_report()


@pytest.mark.parametrize("name", ROLES)
def test_a_task_fits_fargate_runs_as_nobody_special_and_writes_to_its_own_volume_only(name: str) -> None:
    definition, only = DEFINITIONS[name], container(name)
    assert definition["requiresCompatibilities"] == ["FARGATE"]
    assert definition["memory"] in FARGATE[definition["cpu"]]
    assert only["user"] == dockerfile().user
    assert only["readonlyRootFilesystem"]
    assert only["linuxParameters"]["capabilities"] == {"drop": ["ALL"]}
    # Fargate's volumes belong to root, but for those that the image declares and owns.
    assert [each["containerPath"] for each in only["mountPoints"]] == [dockerfile().environment["DAGSTER_HOME"]]
    assert environment(name)["TMPDIR"] == dockerfile().environment["DAGSTER_HOME"]


@pytest.mark.parametrize("name", ["code", "daemon", "health", "setup", "webserver"])
def test_commands_are_those_of_compose_which_run_in_a_test(name: str) -> None:
    theirs = compose({})["services"][name]["command"]
    assert container(name)["command"] == [word.replace("/app/deploy/", "/app/deploy/ecs/") for word in theirs]


def test_runs_have_time_to_end_as_far_as_fargate_gives_it_and_a_tick_is_waited_for() -> None:
    assert container("run")["stopTimeout"] == 120  # the most that Fargate has; Dagster gives a run 180 s
    assert container("code")["stopTimeout"] > 60  # what a sensor's tick may take
    assert all(10 <= container(name)["stopTimeout"] <= 120 for name in ROLES)


@pytest.mark.parametrize("name", ["code", "daemon", "health", "webserver"])
def test_services_are_asked_for_their_health_as_in_compose(name: str) -> None:
    theirs = compose({})["services"][name]["healthcheck"]["test"]
    assert container(name)["healthCheck"]["command"] == theirs


@pytest.mark.parametrize("name", ROLES)
def test_its_environment_makes_valid_settings_and_all_that_dagster_asks_for(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for each in setting_names():
        monkeypatch.delenv(each, raising=False)
    given = environment(name)
    secrets = {each["name"] for each in container(name)["secrets"]}
    assert environment_of_dagster() <= given.keys() | secrets
    assert given.keys() <= {*setting_names(), *environment_of_dagster(), "DAGSTER_HOME", "TMPDIR", "ANALYTICS_RUN_TASK_DEFINITION"}
    assert not any(re.search("PASSWORD|SECRET|ACCESS_KEY", each) for each in given)
    for each, value in given.items():
        monkeypatch.setenv(each, value.replace("KAFKA_BOOTSTRAP_SERVERS", "broker:9098").replace("REGION", "eu-west-1"))
    assert load_settings().region == "eu-west-1"


def test_only_those_that_start_or_end_runs_are_told_their_definition() -> None:
    told = {name: environment(name).get("ANALYTICS_RUN_TASK_DEFINITION") for name in ROLES}
    assert {name for name, value in told.items() if value} == {"daemon", "webserver"}
    assert told["daemon"] == told["webserver"] == DEFINITIONS["run"]["family"]


def test_every_placeholder_is_one_that_the_instructions_replace() -> None:
    text = "".join(each.read_text(encoding="utf-8") for each in [*(ECS / "task-definitions").glob("*.json"), *POLICIES])
    found = (
        set(re.findall(r"(?<![A-Za-z_])(?:REGION|IMAGE|[A-Z]+_[A-Z_]+)(?![A-Za-z_])", text))
        - set(setting_names())
        - environment_of_dagster()
    )
    assert found - {"DAGSTER_HOME", "ANALYTICS_RUN_TASK_DEFINITION"} == PLACEHOLDERS
    readme = (ECS / "README.md").read_text(encoding="utf-8")
    assert all(f"s|{each}|" in readme for each in PLACEHOLDERS)


def test_every_role_that_a_task_takes_is_made_by_the_instructions() -> None:
    readme = (ECS / "README.md").read_text(encoding="utf-8")
    taken = {DEFINITIONS[name][kind].rpartition("/")[2] for name in ROLES for kind in ("taskRoleArn", "executionRoleArn")}
    assert all(each.removeprefix("analytics-") in readme for each in taken)
    assert all(f"{each.stem}.json" in readme or each.stem in readme for each in POLICIES)


@pytest.mark.parametrize("policy", POLICIES, ids=[each.stem for each in POLICIES])
def test_a_policy_is_small_enough_and_names_its_actions(policy: Path) -> None:
    text = policy.read_text(encoding="utf-8")
    assert len(re.sub(r"\s", "", text)) < 6_144  # a managed policy's limit; white space does not count
    document = json.loads(text)
    assert document["Version"] == "2012-10-17"
    assert not [each for statement in document["Statement"] for each in statement["Action"] if "*" in each]
    sids = [statement["Sid"] for statement in document["Statement"]]
    assert len(set(sids)) == len(sids)
    assert all(re.fullmatch("[A-Za-z0-9]+", sid) for sid in sids)


def test_the_launcher_may_start_nothing_but_our_runs_and_hand_on_no_other_role() -> None:
    statements = {each["Sid"]: each for each in json.loads((ECS / "policies/launcher.json").read_text("utf-8"))["Statement"]}
    anywhere = [action for each in statements.values() if each["Resource"] == ["*"] for action in each["Action"]]
    assert anywhere == ["ecs:DescribeTaskDefinition", "ec2:DescribeNetworkInterfaces"]  # neither knows resources
    assert statements["HandRunsTheirRoles"]["Resource"] == [DEFINITIONS["run"]["taskRoleArn"], DEFINITIONS["run"]["executionRoleArn"]]
    stream = container("run")["logConfiguration"]["options"]
    (logs,) = statements["SayWhyARunFailed"]["Resource"]
    assert logs.endswith(f"log-group:{stream['awslogs-group']}:log-stream:{stream['awslogs-stream-prefix']}/run/*")
