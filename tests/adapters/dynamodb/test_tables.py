"""Tests of tables: created if missing, waited for, checked, and never changed if they differ."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from moto import mock_aws

from analytics_defs.adapters.dynamodb.client import DynamoConfig
from analytics_defs.adapters.dynamodb.errors import RequestRejected
from analytics_defs.adapters.dynamodb.ledger_transactions import LedgerTables
from analytics_defs.adapters.dynamodb.recent_events import DynamoRecentEvents
from analytics_defs.adapters.dynamodb.requests import DynamoClient
from analytics_defs.adapters.dynamodb.tables import MAX_POLLS, TableSchema, create_tables, expected_tables, table_mismatches
from analytics_defs.core.events.event import MAX_ID_BYTES
from analytics_defs.errors import ResourceNotReady, Unavailable
from tests.adapters.dynamodb.scripted_dynamodb import DONE, Answer, scripted
from tests.contracts.dynamodb_fixtures import DYNAMOS, DynamoUnderTest, real_dynamo
from tests.core.events.made_events import DELETED, event

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


# Indexes.


def key_schema(names: Iterable[str]) -> list[dict[str, str]]:
    return [{"AttributeName": name, "KeyType": kind} for name, kind in zip(names, ("HASH", "RANGE"), strict=False)]


@contextmanager
def indexed(fixture: DynamoUnderTest, number: int, *index: tuple[str, str]) -> Iterator[TableSchema]:
    """Create one of the tables under a new name, with an index of these attributes and types."""
    table = replace(fixture.tables[number], name=f"indexed-{uuid.uuid4().hex[:12]}")
    types = dict.fromkeys(table.keys, "S") | dict(index)
    fixture.dynamo.call(
        "create_table",
        [table.name],
        TableName=table.name,
        KeySchema=key_schema(table.keys),
        AttributeDefinitions=[{"AttributeName": name, "AttributeType": kind} for name, kind in types.items()],
        GlobalSecondaryIndexes=[{"IndexName": "by-hand", "KeySchema": key_schema(dict(index)), "Projection": {"ProjectionType": "ALL"}}],
        BillingMode="PAY_PER_REQUEST",
    )
    try:
        yield table
    finally:
        fixture.dynamo.call("delete_table", [table.name], TableName=table.name)


RECENT_EVENTS, LEDGER, AGGREGATES = range(3)


@pytest.fixture(params=["moto", pytest.param("real", marks=pytest.mark.real)])
def fixture(request: pytest.FixtureRequest) -> Iterator[DynamoUnderTest]:
    with DYNAMOS[request.param]() as under_test:
        yield under_test


@pytest.mark.parametrize(
    ("number", "index", "found"),
    [
        (RECENT_EVENTS, [("timestamp", "N")], r"timestamp \(N\) as key, but items are written with timestamp \(S\)"),
        (RECENT_EVENTS, [("eventType", "S"), ("ttl", "S")], r"ttl \(S\) as key, but items are written with ttl \(N\)"),
        (RECENT_EVENTS, [("eventType", "S"), ("data", "S")], r"data \(S\) as key, but items are written with data \(M\)"),
        (RECENT_EVENTS, [("eventType", "S"), ("eventId", "S")], "eventId as sort key, which holds 1024 bytes"),
        (LEDGER, [("pk", "S"), ("time", "N")], r"time \(N\) as key, but items are written with time \(S\)"),
        (LEDGER, [("first", "N")], r"first \(N\) as key, but items are written with first \(S, N\)"),
        (AGGREGATES, [("pk", "S"), ("events", "S")], r"events \(S\) as key, but items are written with events \(N\)"),
        (
            AGGREGATES,
            [("type.ProductCreated", "B")],
            r"type.ProductCreated \(B\) as key, but items are written with type.ProductCreated \(N\)",
        ),
    ],
)
def test_an_index_that_rejects_our_items_is_named_and_not_changed(
    fixture: DynamoUnderTest, number: int, index: list[tuple[str, str]], found: str
) -> None:
    with indexed(fixture, number, *index) as table:
        (mismatch,) = table_mismatches(fixture.dynamo, [table])
        assert re.search(f"table {table.name}: its index by-hand has {found}.*every batch fails", mismatch)
        with pytest.raises(ResourceNotReady, match="its index by-hand"):
            create_tables(fixture.dynamo, [table])


@pytest.mark.parametrize(
    ("number", "index"),
    [
        (RECENT_EVENTS, [("eventType", "S"), ("timestamp", "S")]),
        (RECENT_EVENTS, [("eventId", "S"), ("ttl", "N")]),
        (RECENT_EVENTS, [("written by no program", "N")]),
        (LEDGER, [("run", "S"), ("lane", "N")]),
        (AGGREGATES, [("sk", "S"), ("events", "N")]),
    ],
)
def test_an_index_that_accepts_our_items_passes(fixture: DynamoUnderTest, number: int, index: list[tuple[str, str]]) -> None:
    with indexed(fixture, number, *index) as table:
        create_tables(fixture.dynamo, [table])
        assert table_mismatches(fixture.dynamo, [table]) == []


@pytest.mark.real
@pytest.mark.parametrize("index", [[("timestamp", "N")], [("eventType", "S"), ("eventId", "S")]])
def test_a_real_dynamodb_rejects_every_event_if_an_index_does_not_fit(index: list[tuple[str, str]]) -> None:
    longest = event(DELETED | {"id": "x" * MAX_ID_BYTES})
    with real_dynamo() as real, indexed(real, RECENT_EVENTS, *index) as table, pytest.raises(RequestRejected):
        DynamoRecentEvents(real.dynamo, table.name).claim([longest], datetime(2024, 1, 15, 12, tzinfo=UTC))


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
