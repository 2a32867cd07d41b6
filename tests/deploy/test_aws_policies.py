"""The IAM policies allow exactly what the code asks for: recorded while every flow of a role runs, against a cloud of its own."""

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
from tests.deploy.aws import Cloud, cloud, of_dynamodb, of_s3, rights
from tests.deploy.aws_roles import FLOWS, INCLUDED, SCENES
from tests.deploy.aws_role_flows import scene
from tests.deploy.files import DEPLOY, ROOT

POLICIES = DEPLOY / "aws/policies"
TABLES = {"RecentEvents", "IngestLedger", "EventAggregates"}
READS = {"dynamodb:BatchGetItem", "dynamodb:GetItem", "dynamodb:Query", "s3:GetObject", "s3:ListBucket"}


@functools.cache
def played(name: str) -> Cloud:
    """What the role's scenes asked for."""
    together = Cloud()
    for play in SCENES[name]:
        with cloud() as found, tempfile.TemporaryDirectory() as folder, scene(found, Path(folder)) as ground:
            found.seen.clear()
            found.called.clear()
            play(ground)
            together.seen |= found.seen
            together.called |= found.called
    return together


@pytest.mark.parametrize("name", SCENES)
def test_a_policy_allows_what_its_role_asks_for_and_nothing_more(name: str) -> None:
    included = {each for other in INCLUDED.get(name, ()) for each in rights(POLICIES / f"{other}.json") if each[1] != "compute-logs/"}
    assert rights(POLICIES / f"{name}.json") == played(name).seen | included


def sources(flow: str) -> list[Path]:
    """Of a module, or of every module of a package."""
    at = ROOT / "analytics_defs/flows" / flow
    return sorted(at.rglob("*.py")) if at.is_dir() else [at.with_suffix(".py")]


@pytest.mark.parametrize("name", FLOWS)
def test_every_call_to_a_store_that_a_roles_flows_have_was_made_while_it_was_watched(name: str) -> None:
    """Else a rare path would want a right that nobody saw."""
    stores = {"recent_events": DynamoRecentEvents, "object_store": S3ObjectStore, "ledger": DynamoLedger}
    text = "".join(source.read_text(encoding="utf-8") for each in FLOWS[name] for source in sources(each))
    named = {
        f"{store}.{method}"
        for store, method in re.findall(r"\b(recent_events|object_store|ledger)\.(\w+)", text)
        if hasattr(stores[store], method)
    } - {"recent_events.needs_pointer", "ledger.unclosable_reason"}  # they make no request
    assert named
    assert named <= played(name).called


def test_every_policy_has_a_role_that_was_watched() -> None:
    assert {each.stem for each in POLICIES.glob("*.json")} == set(SCENES)


@pytest.mark.parametrize("name", SCENES)
def test_no_policy_reaches_beyond_our_tables_and_folders_of_our_bucket(name: str) -> None:
    places = {place for _, place in rights(POLICIES / f"{name}.json")}
    ours = {"events/", "parquet/", "dead-letters/", "duplicates/", "staging/", "aggregates/", "platform/", "compute-logs/"}
    assert places <= TABLES | ours | {"bucket"}


def test_the_health_endpoint_may_read_and_nothing_else() -> None:
    actions = {action for action, _ in rights(POLICIES / "health.json")}
    assert actions <= READS


def test_a_micro_batch_may_remove_nothing_that_was_archived_and_no_event() -> None:
    removes = {(action, place) for action, place in rights(POLICIES / "micro-batches.json") if "Delete" in action}
    assert removes == {("dynamodb:DeleteItem", "IngestLedger"), ("s3:DeleteObject", "staging/")}


@pytest.mark.parametrize("name", sorted(SCENES.keys() - {"retention"}))
def test_only_retention_may_remove_json_objects_dead_letters_and_repeats(name: str) -> None:
    """Who sets no age attaches that policy to nobody. Below `parquet/`, compaction removes what it has merged."""
    removes = {place for action, place in rights(POLICIES / f"{name}.json") if action == "s3:DeleteObject"}
    assert removes <= {"staging/", "compute-logs/"} | ({"parquet/"} if name in ("hours", "operator") else set())


@pytest.mark.parametrize("name", sorted(SCENES.keys() - {"setup"}))
def test_only_setup_makes_tables_and_buckets(name: str) -> None:
    assert not {action for action, _ in rights(POLICIES / f"{name}.json") if "Create" in action or "Update" in action} - {
        "dynamodb:UpdateItem"
    }


def test_requests_are_read_as_the_rights_that_aws_asks_for() -> None:
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
def test_a_wider_statement_would_be_refused(change: dict[str, object], tmp_path: Path) -> None:
    statement = {"Sid": "x", "Effect": "Allow", "Action": ["s3:GetObject"], "Resource": ["arn:aws:s3:::event-archive/events/*"]}
    policy = tmp_path / "policy.json"
    policy.write_text(json.dumps({"Version": "2012-10-17", "Statement": [statement]}))
    assert rights(policy) == {("s3:GetObject", "events/")}
    policy.write_text(json.dumps({"Version": "2012-10-17", "Statement": [statement | change]}))
    with pytest.raises(ValueError, match=r"more than|wildcards|neither"):
        rights(policy)
