"""The three tables: their schema, their creation and their check. For `analytics setup` and `analytics check`.

Tables are created with on-demand billing. Point-in-time recovery and deletion protection cost money, so the operator decides on them.
Enable them for the two tables of the ledger. Everything else can be rebuilt from the archive.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from analytics_defs.adapters.dynamodb.errors import RequestRejected, error_code
from analytics_defs.adapters.dynamodb.ledger_transactions import LedgerTables
from analytics_defs.adapters.dynamodb.requests import DynamoClient
from analytics_defs.errors import ResourceNotReady, Unavailable

POLL_SECONDS, MAX_POLLS = 1.0, 120
_READY = frozenset({"ACTIVE", "UPDATING"})
_TTL_ON = frozenset({"ENABLED", "ENABLING"})


@dataclass(frozen=True, slots=True)
class TableSchema:
    """Keys and TTL attribute that a table must have."""

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
    """Create missing tables, wait until all are active, and enable TTL. Return one line for each change. Idempotent.

    Safe to run concurrently. Raise ResourceNotReady if a table has other keys or another TTL attribute. Such a table is not changed.
    """
    changes = []
    for table in tables:
        if _description(dynamo, table) is None:
            _create(dynamo, table)
            changes.append(f"table {table.name}: created")
        if mismatch := _key_mismatch(table, _wait_until_active(dynamo, table)):
            raise ResourceNotReady(mismatch)
        if _enable_ttl(dynamo, table):
            changes.append(f"table {table.name}: items expire by `{table.ttl}`")
    return changes


def table_mismatches(dynamo: DynamoClient, tables: Iterable[TableSchema]) -> list[str]:
    """Return what differs from the expected tables, one line for each difference. Read-only."""
    return [mismatch for table in tables if (mismatch := _table_mismatch(dynamo, table))]


def _table_mismatch(dynamo: DynamoClient, table: TableSchema) -> str | None:
    description = _description(dynamo, table)
    if description is None:
        return f"table {table.name}: does not exist at {dynamo.config.endpoint_description}. `analytics setup` creates it."
    if description["TableStatus"] not in _READY:
        return f"table {table.name}: {description['TableStatus']}, expected ACTIVE. Wait, or check it in the AWS console."
    if mismatch := _key_mismatch(table, description):
        return mismatch
    ttl_attribute = _ttl_attribute(dynamo, table)
    if table.ttl and ttl_attribute is None:
        return f"table {table.name}: items do not expire, expected by `{table.ttl}`. `analytics setup` enables TTL."
    return _ttl_mismatch(table, ttl_attribute)


def _key_mismatch(table: TableSchema, description: dict[str, Any]) -> str | None:
    types = {definition["AttributeName"]: definition["AttributeType"] for definition in description["AttributeDefinitions"]}
    schema = sorted(description["KeySchema"], key=lambda key: str(key["KeyType"]))
    actual = [(key["AttributeName"], types[key["AttributeName"]]) for key in schema]
    expected = [(name, "S") for name in table.keys]
    if actual == expected:
        return None
    return (
        f"table {table.name}: its key is {_key_text(actual)}, expected {_key_text(expected)}. "
        "It belongs to another program, or was created by hand: name another table in the settings, or delete this one if nothing needs it."
    )


def _key_text(keys: list[tuple[str, str]]) -> str:
    return " + ".join(f"{name} ({kind})" for name, kind in keys)


def _description(dynamo: DynamoClient, table: TableSchema) -> dict[str, Any] | None:
    try:
        description: dict[str, Any] = dynamo.call("describe_table", [table.name], TableName=table.name)["Table"]
    except ResourceNotReady:
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
    except Unavailable as error:
        if error_code(error.__cause__) != "ResourceInUseException":  # another process is creating it
            raise


def _wait_until_active(dynamo: DynamoClient, table: TableSchema) -> dict[str, Any]:
    description = _description(dynamo, table)
    for _ in range(MAX_POLLS):
        if description and description["TableStatus"] in _READY:
            return description
        dynamo.sleep(POLL_SECONDS)
        description = _description(dynamo, table)
    status = description["TableStatus"] if description else "missing"
    raise Unavailable(
        f"table {table.name} at {dynamo.config.endpoint_description}: {status} after {MAX_POLLS * POLL_SECONDS:.0f} s, expected ACTIVE"
    )


def _enable_ttl(dynamo: DynamoClient, table: TableSchema) -> bool:
    """Enable TTL if it is off. Return whether it was off."""
    ttl_attribute = _ttl_attribute(dynamo, table)
    if mismatch := _ttl_mismatch(table, ttl_attribute):
        raise ResourceNotReady(mismatch)
    if ttl_attribute == table.ttl:
        return False
    specification = {"Enabled": True, "AttributeName": table.ttl}
    try:
        dynamo.call("update_time_to_live", [table.name], TableName=table.name, TimeToLiveSpecification=specification)
    except RequestRejected:
        # DynamoDB rejects a change that another process has just made, and a second change within an hour.
        if _ttl_attribute(dynamo, table) != table.ttl:
            raise
    return True


def _ttl_attribute(dynamo: DynamoClient, table: TableSchema) -> str | None:
    """Return the attribute by which items expire now."""
    description = dynamo.call("describe_time_to_live", [table.name], TableName=table.name)["TimeToLiveDescription"]
    return description["AttributeName"] if description["TimeToLiveStatus"] in _TTL_ON else None


def _ttl_mismatch(table: TableSchema, ttl_attribute: str | None) -> str | None:
    if ttl_attribute in (None, table.ttl):
        return None
    return (
        f"table {table.name}: items expire by `{ttl_attribute}`, expected {f'by `{table.ttl}`' if table.ttl else 'never'}. "
        "Disable that TTL in the AWS console (it takes up to an hour), then run `analytics setup`."
    )
