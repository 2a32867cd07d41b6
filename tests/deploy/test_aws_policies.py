"""Each IAM policy allows exactly the rights that its role needs. They are recorded while all flows of the role run on moto."""

from __future__ import annotations

import functools
import json
import re
import tempfile
from pathlib import Path

import pytest

from analytics_defs.adapters.dynamodb.ledger import DynamoLedger
from analytics_defs.adapters.dynamodb.recent_events import DynamoRecentEvents
from analytics_defs.adapters.object_store.store import S3ObjectStore
from tests.deploy.aws import Cloud, allowed_rights, of_dynamodb, of_s3, started_cloud
from tests.deploy.aws_role_flows import scene
from tests.deploy.aws_roles import COVERED_MODULES, INCLUDED, ROLE_FLOWS
from tests.deploy.files import DEPLOY, ROOT

POLICIES = DEPLOY / "aws/policies"
TABLES = {"RecentEvents", "IngestLedger", "EventAggregates"}
READS = {"dynamodb:BatchGetItem", "dynamodb:GetItem", "dynamodb:Query", "s3:GetObject", "s3:ListBucket"}


@functools.cache
def recorded(name: str) -> Cloud:
    """Execute the flows of the role, and return a cloud with the recorded rights and calls of all of them."""
    total = Cloud()
    for flow in ROLE_FLOWS[name]:
        with started_cloud() as cloud, tempfile.TemporaryDirectory() as folder, scene(cloud, Path(folder)) as platform:
            cloud.rights.clear()
            cloud.called.clear()
            flow(platform)
            total.rights |= cloud.rights
            total.called |= cloud.called
    return total


@pytest.mark.parametrize("name", ROLE_FLOWS)
def test_a_policy_allows_exactly_the_rights_that_its_role_needs(name: str) -> None:
    included = {right for policy in INCLUDED.get(name, ()) for right in allowed_rights(POLICIES / f"{policy}.json")}
    included = {(action, resource) for action, resource in included if resource != "compute-logs/"}
    assert allowed_rights(POLICIES / f"{name}.json") == recorded(name).rights | included


def sources(flow: str) -> list[Path]:
    """Return the file of a module, or all files of a package."""
    path = ROOT / "analytics_defs/flows" / flow
    return sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]


@pytest.mark.parametrize("name", COVERED_MODULES)
def test_every_store_call_in_the_flows_of_a_role_is_recorded(name: str) -> None:
    """Otherwise a rare path could need a right that the policy lacks."""
    stores = {"recent_events": DynamoRecentEvents, "object_store": S3ObjectStore, "ledger": DynamoLedger}
    text = "".join(source.read_text(encoding="utf-8") for flow in COVERED_MODULES[name] for source in sources(flow))
    named = {
        f"{store}.{method}"
        for store, method in re.findall(r"\b(recent_events|object_store|ledger)\.(\w+)", text)
        if hasattr(stores[store], method)
    } - {"recent_events.needs_pointer", "ledger.unclosable_reason"}  # these make no request
    assert named
    assert named <= recorded(name).called


def test_every_policy_has_a_recorded_role() -> None:
    assert {policy.stem for policy in POLICIES.glob("*.json")} == set(ROLE_FLOWS)


@pytest.mark.parametrize("name", ROLE_FLOWS)
def test_a_policy_names_only_tables_and_bucket_folders_of_the_platform(name: str) -> None:
    resources = {resource for _, resource in allowed_rights(POLICIES / f"{name}.json")}
    folders = {"events/", "parquet/", "dead-letters/", "duplicates/", "staging/", "aggregates/", "platform/", "compute-logs/"}
    assert resources <= TABLES | folders | {"bucket"}


def test_the_health_endpoint_has_only_read_rights() -> None:
    actions = {action for action, _ in allowed_rights(POLICIES / "health.json")}
    assert actions <= READS


def test_a_micro_batch_may_delete_only_ledger_items_and_staging_files() -> None:
    deletions = {(action, resource) for action, resource in allowed_rights(POLICIES / "micro-batches.json") if "Delete" in action}
    assert deletions == {("dynamodb:DeleteItem", "IngestLedger"), ("s3:DeleteObject", "staging/")}


@pytest.mark.parametrize("name", sorted(ROLE_FLOWS.keys() - {"retention"}))
def test_only_retention_may_delete_json_objects_dead_letters_and_duplicates(name: str) -> None:
    """An operator without retention settings attaches the retention policy to no role. Compaction deletes merged Parquet files."""
    folders = {resource for action, resource in allowed_rights(POLICIES / f"{name}.json") if action == "s3:DeleteObject"}
    assert folders <= {"staging/", "compute-logs/"} | ({"parquet/"} if name in ("hours", "operator") else set())


@pytest.mark.parametrize("name", sorted(ROLE_FLOWS.keys() - {"setup"}))
def test_only_setup_creates_tables_and_buckets(name: str) -> None:
    actions = {action for action, _ in allowed_rights(POLICIES / f"{name}.json")}
    assert not {action for action in actions if "Create" in action or "Update" in action} - {"dynamodb:UpdateItem"}


def test_requests_are_translated_to_the_rights_that_aws_requires() -> None:
    actions = [{"Put": {"TableName": "one"}}, {"ConditionCheck": {"TableName": "two"}}]
    assert of_dynamodb("TransactWriteItems", {"TransactItems": actions}) == {
        ("dynamodb:PutItem", "one"),
        ("dynamodb:ConditionCheckItem", "two"),
    }
    assert of_dynamodb("BatchGetItem", {"RequestItems": {"one": {}}}) == {("dynamodb:BatchGetItem", "one")}
    assert of_s3("GET", "/bucket", "list-type=2", b"") == {("s3:ListBucket", "bucket")}
    assert of_s3("HEAD", "/bucket/events/2024/x%2Fy.json", "", b"") == {("s3:GetObject", "events/")}
    assert of_s3("DELETE", "/bucket/parquet/x", "uploadId=1", b"") == {("s3:AbortMultipartUpload", "parquet/")}
    body = b"<Delete><Object><Key>staging/a</Key></Object><Object><Key>parquet/b</Key></Object></Delete>"
    assert of_s3("POST", "/bucket", "delete", body) == {("s3:DeleteObject", "staging/"), ("s3:DeleteObject", "parquet/")}


@pytest.mark.parametrize(
    "change",
    [{"Action": ["s3:*"]}, {"Resource": ["*"]}, {"Resource": ["arn:aws:s3:::event-archive/*"]}, {"NotAction": ["s3:GetObject"]}],
    ids=["every action", "every resource", "the whole bucket", "all but one"],
)
def test_a_wider_statement_is_rejected(change: dict[str, object], tmp_path: Path) -> None:
    statement = {"Sid": "x", "Effect": "Allow", "Action": ["s3:GetObject"], "Resource": ["arn:aws:s3:::event-archive/events/*"]}
    policy = tmp_path / "policy.json"
    policy.write_text(json.dumps({"Version": "2012-10-17", "Statement": [statement]}))
    assert allowed_rights(policy) == {("s3:GetObject", "events/")}
    policy.write_text(json.dumps({"Version": "2012-10-17", "Statement": [statement | change]}))
    with pytest.raises(ValueError, match=r"more than|wildcards|neither"):
        allowed_rights(policy)
