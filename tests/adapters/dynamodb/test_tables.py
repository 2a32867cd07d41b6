"""Tables: made when missing, waited for, checked, and never changed where they are something else."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from moto import mock_aws

from analytics_defs.adapters.dynamodb.client import DynamoConfig
from analytics_defs.adapters.dynamodb.errors import RequestRejected
from analytics_defs.adapters.dynamodb.ledger_transactions import LedgerTables
from analytics_defs.adapters.dynamodb.requests import DynamoClient
from analytics_defs.adapters.dynamodb.tables import MAX_POLLS, TableSchema, create_tables, expected_tables, table_mismatches
from analytics_defs.errors import ResourceMissing, Unavailable
from tests.adapters.dynamodb.scripted_dynamodb import DONE, Answer, scripted
from tests.contracts.dynamodb_fixtures import real_dynamo

TABLES = expected_tables("recent", LedgerTables("ledger", "aggregates"))
RECENT = TABLES[0]


@pytest.fixture
def dynamo() -> Iterator[DynamoClient]:
    with mock_aws():
        found = DynamoClient(DynamoConfig(region="us-east-1"))
        yield found
        found.close()


def make(dynamo: DynamoClient, name: str, *key: tuple[str, str]) -> None:
    dynamo.call(
        "create_table",
        [name],
        TableName=name,
        KeySchema=[{"AttributeName": each, "KeyType": kind} for (each, _), kind in zip(key, ("HASH", "RANGE"), strict=False)],
        AttributeDefinitions=[{"AttributeName": each, "AttributeType": kind} for each, kind in key],
        BillingMode="PAY_PER_REQUEST",
    )


def test_what_is_missing_is_made_and_the_second_time_nothing_is(dynamo: DynamoClient) -> None:
    assert [fault.partition(":")[0] for fault in table_mismatches(dynamo, TABLES)] == ["table recent", "table ledger", "table aggregates"]
    assert create_tables(dynamo, TABLES) == [
        "table recent: created",
        "table recent: items expire by `ttl`",
        "table ledger: created",
        "table ledger: items expire by `expires`",
        "table aggregates: created",
    ]
    assert create_tables(dynamo, TABLES) == []
    assert table_mismatches(dynamo, TABLES) == []


def test_tables_cost_nothing_while_nobody_uses_them(dynamo: DynamoClient) -> None:
    create_tables(dynamo, TABLES)
    found = [dynamo.call("describe_table", [], TableName=each.name)["Table"] for each in TABLES]
    assert [each["BillingModeSummary"]["BillingMode"] for each in found] == ["PAY_PER_REQUEST"] * 3


@pytest.mark.real
def test_a_real_dynamodb_agrees_that_its_tables_are_as_expected() -> None:
    with real_dynamo() as found:
        assert table_mismatches(found.dynamo, found.tables) == []
        assert create_tables(found.dynamo, found.tables) == []


@pytest.mark.parametrize("key", [[("eventId", "S")], [("id", "N")], [("id", "S"), ("timestamp", "S")]], ids=str)
def test_a_table_with_other_keys_is_left_alone_and_named(dynamo: DynamoClient, key: list[tuple[str, str]]) -> None:
    make(dynamo, "recent", *key)
    (fault,) = table_mismatches(dynamo, [RECENT])
    assert "expected id (S)" in fault
    assert " + ".join(f"{name} ({kind})" for name, kind in key) in fault
    with pytest.raises(ResourceMissing, match="table recent: its key is"):
        create_tables(dynamo, [RECENT])


def test_a_table_without_expiry_is_found_and_mended(dynamo: DynamoClient) -> None:
    make(dynamo, "recent", ("id", "S"))
    (fault,) = table_mismatches(dynamo, [RECENT])
    assert "items do not expire, expected by `ttl`" in fault
    assert create_tables(dynamo, [RECENT]) == ["table recent: items expire by `ttl`"]


@pytest.mark.parametrize("table", [RECENT, TableSchema("recent", ("id",))], ids=["another attribute", "none"])
def test_a_table_that_expires_otherwise_is_left_alone_and_named(dynamo: DynamoClient, table: TableSchema) -> None:
    make(dynamo, "recent", ("id", "S"))
    dynamo.call("update_time_to_live", [], TableName="recent", TimeToLiveSpecification={"Enabled": True, "AttributeName": "expiry"})
    (fault,) = table_mismatches(dynamo, [table])
    assert "items expire by `expiry`, expected" in fault
    with pytest.raises(ResourceMissing, match="items expire by `expiry`"):
        create_tables(dynamo, [table])


# What only AWS does.


def described(status: str) -> Answer:
    schema = {
        "KeySchema": [{"AttributeName": "id", "KeyType": "HASH"}],
        "AttributeDefinitions": [{"AttributeName": "id", "AttributeType": "S"}],
    }
    return Answer({"Table": {"TableStatus": status, **schema}})


def expiry(status: str, attribute: str | None = None) -> Answer:
    return Answer({"TimeToLiveDescription": {"TimeToLiveStatus": status} | ({"AttributeName": attribute} if attribute else {})})


NO_TABLE = Answer.error("ResourceNotFoundException")
NO_TTL = Answer.error("ValidationException", "TimeToLive is already enabled")
MADE = expiry("ENABLING", "ttl")


@pytest.mark.parametrize("created", [DONE, Answer.error("ResourceInUseException")], ids=["by us", "by somebody else at that moment"])
def test_a_table_is_used_when_it_is_active(created: Answer) -> None:
    with scripted(NO_TABLE, created, NO_TABLE, described("CREATING"), described("ACTIVE"), MADE) as server:
        assert create_tables(server.dynamo, [RECENT]) == ["table recent: created"]
    assert len(server.pauses) == 2


def test_a_table_that_never_becomes_active_is_not_waited_for_without_end() -> None:
    with scripted(described("CREATING")) as server, pytest.raises(Unavailable, match=r"table recent at http.*CREATING after 120 s"):
        create_tables(server.dynamo, [RECENT])
    assert len(server.pauses) == MAX_POLLS


def test_expiry_that_somebody_else_has_just_switched_on_is_fine() -> None:
    with scripted(described("ACTIVE"), described("ACTIVE"), expiry("DISABLED"), NO_TTL, MADE) as server:
        create_tables(server.dynamo, [RECENT])


def test_expiry_that_cannot_be_switched_on_now_is_told() -> None:
    again = Answer.error("ValidationException", "Time to live has been modified multiple times within a fixed interval")
    answers = described("ACTIVE"), described("ACTIVE"), expiry("DISABLING"), again, expiry("DISABLING")
    with scripted(*answers) as server, pytest.raises(RequestRejected, match="modified multiple times"):
        create_tables(server.dynamo, [RECENT])


@pytest.mark.parametrize("status", ["CREATING", "DELETING", "INACCESSIBLE_ENCRYPTION_CREDENTIALS"])
def test_a_table_that_cannot_be_used_now_is_named_with_its_status(status: str) -> None:
    with scripted(described(status)) as server:
        assert table_mismatches(server.dynamo, [RECENT]) == [
            f"table recent: {status}, expected ACTIVE. Wait, or check it in the AWS console."
        ]


def test_a_check_reads_only() -> None:
    with scripted(described("ACTIVE"), expiry("DISABLED")) as server:
        table_mismatches(server.dynamo, [RECENT])
    assert {operation for operation, _ in server.requests} == {"DescribeTable", "DescribeTimeToLive"}
