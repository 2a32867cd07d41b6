"""The three tables: what they should be, how they are made, what is wrong with them. For `analytics setup` and `analytics check`.

Tables are made with on-demand billing. Point-in-time recovery and deletion protection cost money and are left to whoever pays: the two
tables of the ledger are worth them, all else can be rebuilt from the archive.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from analytics_defs.adapters.dynamodb.errors import RequestRejected, error_code
from analytics_defs.adapters.dynamodb.ledger_transactions import LedgerTables
from analytics_defs.adapters.dynamodb.requests import DynamoClient
from analytics_defs.errors import ResourceMissing, Unavailable

POLL_SECONDS, MAX_POLLS = 1.0, 120
_READY = frozenset({"ACTIVE", "UPDATING"})
_TTL_ON = frozenset({"ENABLED", "ENABLING"})


@dataclass(frozen=True, slots=True)
class TableSchema:
    name: str
    keys: tuple[str, ...]
    """Partition key, then sort key. All are strings."""
    ttl: str | None = None
    """The attribute by which items expire."""


def expected_tables(recent_events: str, ledger: LedgerTables) -> tuple[TableSchema, ...]:
    return (
        TableSchema(recent_events, ("id",), ttl="ttl"),
        TableSchema(ledger.ledger, ("pk", "sk"), ttl="expires"),
        TableSchema(ledger.aggregates, ("pk", "sk")),
    )


def create_tables(dynamo: DynamoClient, tables: Iterable[TableSchema]) -> list[str]:
    """Make what is missing, wait until all can be used, and let items expire. Answers what was done, a line each; nothing the second time.

    Several may do it at once. Raises ResourceMissing where a table has other keys or another TTL: it is left as it is.
    """
    done = []
    for table in tables:
        if _description(dynamo, table) is None:
            _create(dynamo, table)
            done.append(f"table {table.name}: created")
        if fault := _shape_fault(table, _ready(dynamo, table)):
            raise ResourceMissing(fault)
        if _let_expire(dynamo, table):
            done.append(f"table {table.name}: items expire by `{table.ttl}`")
    return done


def table_mismatches(dynamo: DynamoClient, tables: Iterable[TableSchema]) -> list[str]:
    """What is wrong with the tables, a line each. Reads only."""
    return [fault for table in tables if (fault := _fault(dynamo, table))]


def _fault(dynamo: DynamoClient, table: TableSchema) -> str | None:
    description = _description(dynamo, table)
    if description is None:
        return f"table {table.name}: not there at {dynamo.config.describe_endpoint}. `analytics setup` makes it."
    if description["TableStatus"] not in _READY:
        return f"table {table.name}: {description['TableStatus']}, expected ACTIVE. Wait, or look at it in the AWS console."
    if fault := _shape_fault(table, description):
        return fault
    expiry = _expiry(dynamo, table)
    if table.ttl and expiry is None:
        return f"table {table.name}: items do not expire, expected by `{table.ttl}`. `analytics setup` switches TTL on."
    return _expiry_fault(table, expiry)


def _shape_fault(table: TableSchema, description: dict[str, Any]) -> str | None:
    types = {each["AttributeName"]: each["AttributeType"] for each in description["AttributeDefinitions"]}
    schema = sorted(description["KeySchema"], key=lambda each: str(each["KeyType"]))
    found = [(each["AttributeName"], types[each["AttributeName"]]) for each in schema]
    expected = [(name, "S") for name in table.keys]
    if found == expected:
        return None
    return (
        f"table {table.name}: its key is {_key_text(found)}, expected {_key_text(expected)}. "
        "It belongs to something else, or was made by hand: name another table in the settings, or delete this one if nothing needs it."
    )


def _key_text(keys: list[tuple[str, str]]) -> str:
    return " + ".join(f"{name} ({kind})" for name, kind in keys)


def _description(dynamo: DynamoClient, table: TableSchema) -> dict[str, Any] | None:
    try:
        description: dict[str, Any] = dynamo.call("describe_table", [table.name], TableName=table.name)["Table"]
    except ResourceMissing:
        return None
    return description


def _create(dynamo: DynamoClient, table: TableSchema) -> None:
    try:
        dynamo.call(
            "create_table",
            [table.name],
            TableName=table.name,
            KeySchema=[{"AttributeName": name, "KeyType": kind} for name, kind in zip(table.keys, ("HASH", "RANGE"), strict=False)],
            AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in table.keys],
            BillingMode="PAY_PER_REQUEST",
        )
    except Unavailable as fault:
        if error_code(fault.__cause__) != "ResourceInUseException":  # somebody else makes it at this moment
            raise


def _ready(dynamo: DynamoClient, table: TableSchema) -> dict[str, Any]:
    description = _description(dynamo, table)
    for _ in range(MAX_POLLS):
        if description and description["TableStatus"] in _READY:
            return description
        dynamo.sleep(POLL_SECONDS)
        description = _description(dynamo, table)
    status = description["TableStatus"] if description else "not there"
    raise Unavailable(
        f"table {table.name} at {dynamo.config.describe_endpoint}: {status} after {MAX_POLLS * POLL_SECONDS:.0f} s, expected ACTIVE"
    )


def _let_expire(dynamo: DynamoClient, table: TableSchema) -> bool:
    """Whether TTL had to be switched on."""
    expiry = _expiry(dynamo, table)
    if fault := _expiry_fault(table, expiry):
        raise ResourceMissing(fault)
    if expiry == table.ttl:
        return False
    specification = {"Enabled": True, "AttributeName": table.ttl}
    try:
        dynamo.call("update_time_to_live", [table.name], TableName=table.name, TimeToLiveSpecification=specification)
    except RequestRejected:
        # DynamoDB refuses what somebody else has just done, and a second change within an hour.
        if _expiry(dynamo, table) != table.ttl:
            raise
    return True


def _expiry(dynamo: DynamoClient, table: TableSchema) -> str | None:
    """The attribute by which items expire now."""
    found = dynamo.call("describe_time_to_live", [table.name], TableName=table.name)["TimeToLiveDescription"]
    return found["AttributeName"] if found["TimeToLiveStatus"] in _TTL_ON else None


def _expiry_fault(table: TableSchema, expiry: str | None) -> str | None:
    if expiry in (None, table.ttl):
        return None
    return (
        f"table {table.name}: items expire by `{expiry}`, expected {f'by `{table.ttl}`' if table.ttl else 'never'}. "
        "Switch that TTL off in the AWS console (it takes up to an hour), then run `analytics setup`."
    )
