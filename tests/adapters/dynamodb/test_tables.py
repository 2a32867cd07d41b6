"""Tests of tables: created if missing, waited for, checked, and never changed if they differ."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from moto import mock_aws

from analytics_defs.adapters.dynamodb.client import DynamoConfig
from analytics_defs.adapters.dynamodb.errors import RequestRejected
from analytics_defs.adapters.dynamodb.ledger_transactions import LedgerTables
from analytics_defs.adapters.dynamodb.requests import DynamoClient
from analytics_defs.adapters.dynamodb.tables import MAX_POLLS, TableSchema, create_tables, expected_tables, table_mismatches
from analytics_defs.errors import ResourceNotReady, Unavailable
from tests.adapters.dynamodb.scripted_dynamodb import DONE, Answer, scripted
from tests.contracts.dynamodb_fixtures import real_dynamo

TABLES = expected_tables("recent", LedgerTables("ledger", "aggregates"))
RECENT = TABLES[0]


@pytest.fixture
def dynamo() -> Iterator[DynamoClient]:
    with mock_aws():
        client = DynamoClient(DynamoConfig(region="us-east-1"))
        yield client
        client.close()


def create_table(dynamo: DynamoClient, name: str, *key: tuple[str, str]) -> None:
    dynamo.call(
        "create_table",
        [name],
        TableName=name,
        KeySchema=[{"AttributeName": attribute, "KeyType": kind} for (attribute, _), kind in zip(key, ("HASH", "RANGE"), strict=False)],
        AttributeDefinitions=[{"AttributeName": attribute, "AttributeType": kind} for attribute, kind in key],
        BillingMode="PAY_PER_REQUEST",
    )


def test_missing_tables_are_created_and_a_second_setup_changes_nothing(dynamo: DynamoClient) -> None:
    assert [mismatch.partition(":")[0] for mismatch in table_mismatches(dynamo, TABLES)] == [
        "table recent",
        "table ledger",
        "table aggregates",
    ]
    assert create_tables(dynamo, TABLES) == [
        "table recent: created",
        "table recent: items expire by `ttl`",
        "table ledger: created",
        "table ledger: items expire by `expires`",
        "table aggregates: created",
    ]
    assert create_tables(dynamo, TABLES) == []
    assert table_mismatches(dynamo, TABLES) == []


def test_tables_are_billed_on_demand(dynamo: DynamoClient) -> None:
    create_tables(dynamo, TABLES)
    descriptions = [dynamo.call("describe_table", [], TableName=table.name)["Table"] for table in TABLES]
    assert [description["BillingModeSummary"]["BillingMode"] for description in descriptions] == ["PAY_PER_REQUEST"] * 3


@pytest.mark.real
def test_a_real_dynamodb_has_the_expected_tables() -> None:
    with real_dynamo() as real:
        assert table_mismatches(real.dynamo, real.tables) == []
        assert create_tables(real.dynamo, real.tables) == []


@pytest.mark.parametrize("key", [[("eventId", "S")], [("id", "N")], [("id", "S"), ("timestamp", "S")]], ids=str)
def test_a_table_with_other_keys_is_named_and_not_changed(dynamo: DynamoClient, key: list[tuple[str, str]]) -> None:
    create_table(dynamo, "recent", *key)
    (mismatch,) = table_mismatches(dynamo, [RECENT])
    assert "expected id (S)" in mismatch
    assert " + ".join(f"{name} ({kind})" for name, kind in key) in mismatch
    with pytest.raises(ResourceNotReady, match="table recent: its key is"):
        create_tables(dynamo, [RECENT])


def test_a_table_without_ttl_is_reported_and_ttl_is_enabled(dynamo: DynamoClient) -> None:
    create_table(dynamo, "recent", ("id", "S"))
    (mismatch,) = table_mismatches(dynamo, [RECENT])
    assert "items do not expire, expected by `ttl`" in mismatch
    assert create_tables(dynamo, [RECENT]) == ["table recent: items expire by `ttl`"]


@pytest.mark.parametrize("table", [RECENT, TableSchema("recent", ("id",))], ids=["another attribute", "none"])
def test_a_table_with_another_ttl_is_named_and_not_changed(dynamo: DynamoClient, table: TableSchema) -> None:
    create_table(dynamo, "recent", ("id", "S"))
    dynamo.call(
        "update_time_to_live", [], TableName="recent", TimeToLiveSpecification={"Enabled": True, "AttributeName": "ttl_description"}
    )
    (mismatch,) = table_mismatches(dynamo, [table])
    assert "items expire by `ttl_description`, expected" in mismatch
    with pytest.raises(ResourceNotReady, match="items expire by `ttl_description`"):
        create_tables(dynamo, [table])


# Only AWS does this.


def described(status: str) -> Answer:
    schema = {
        "KeySchema": [{"AttributeName": "id", "KeyType": "HASH"}],
        "AttributeDefinitions": [{"AttributeName": "id", "AttributeType": "S"}],
    }
    return Answer({"Table": {"TableStatus": status, **schema}})


def ttl_description(status: str, attribute: str | None = None) -> Answer:
    return Answer({"TimeToLiveDescription": {"TimeToLiveStatus": status} | ({"AttributeName": attribute} if attribute else {})})


NO_TABLE = Answer.error("ResourceNotFoundException")
TTL_REJECTED = Answer.error("ValidationException", "TimeToLive is already enabled")
TTL_ENABLED = ttl_description("ENABLING", "ttl")


@pytest.mark.parametrize("created", [DONE, Answer.error("ResourceInUseException")], ids=["by this process", "by another process"])
def test_setup_waits_until_a_table_is_active(created: Answer) -> None:
    with scripted(NO_TABLE, created, NO_TABLE, described("CREATING"), described("ACTIVE"), TTL_ENABLED) as server:
        assert create_tables(server.dynamo, [RECENT]) == ["table recent: created"]
    assert len(server.pauses) == 2


def test_the_wait_for_an_active_table_is_bounded() -> None:
    with scripted(described("CREATING")) as server, pytest.raises(Unavailable, match=r"table recent at http.*CREATING after 120 s"):
        create_tables(server.dynamo, [RECENT])
    assert len(server.pauses) == MAX_POLLS


def test_ttl_that_another_process_has_just_enabled_is_accepted() -> None:
    with scripted(described("ACTIVE"), described("ACTIVE"), ttl_description("DISABLED"), TTL_REJECTED, TTL_ENABLED) as server:
        create_tables(server.dynamo, [RECENT])


def test_ttl_that_cannot_be_enabled_now_raises() -> None:
    again = Answer.error("ValidationException", "Time to live has been modified multiple times within a fixed interval")
    answers = described("ACTIVE"), described("ACTIVE"), ttl_description("DISABLING"), again, ttl_description("DISABLING")
    with scripted(*answers) as server, pytest.raises(RequestRejected, match="modified multiple times"):
        create_tables(server.dynamo, [RECENT])


@pytest.mark.parametrize("status", ["CREATING", "DELETING", "INACCESSIBLE_ENCRYPTION_CREDENTIALS"])
def test_a_table_that_is_not_active_is_named_with_its_status(status: str) -> None:
    with scripted(described(status)) as server:
        assert table_mismatches(server.dynamo, [RECENT]) == [
            f"table recent: {status}, expected ACTIVE. Wait, or check it in the AWS console."
        ]


def test_a_check_is_read_only() -> None:
    with scripted(described("ACTIVE"), ttl_description("DISABLED")) as server:
        table_mismatches(server.dynamo, [RECENT])
    assert {operation for operation, _ in server.requests} == {"DescribeTable", "DescribeTimeToLive"}
