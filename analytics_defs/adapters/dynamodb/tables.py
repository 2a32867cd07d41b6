"""The three tables: their schema, their creation and their check. For `analytics setup` and `analytics check`.

Tables are created with on-demand billing. Point-in-time recovery and deletion protection cost money, so the operator decides on them.
Enable them for the two tables of the ledger. Everything else can be rebuilt from the archive.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from analytics_defs.adapters.dynamodb.attribute_values import ITEM_SCHEMA
from analytics_defs.adapters.dynamodb.errors import RequestRejected, error_code
from analytics_defs.adapters.dynamodb.ledger_transactions import LedgerTables
from analytics_defs.adapters.dynamodb.requests import DynamoClient
from analytics_defs.core.events.rejection_reasons import RejectionReason
from analytics_defs.core.events.schema import EVENT_TYPES
from analytics_defs.core.ledger import OUTCOMES
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
    attributes: Mapping[str, str] = field(default_factory=dict)
    """DynamoDB types of the attributes that this package writes, by name. `N, S`: a number in some items, a string in others."""
    long_attributes: frozenset[str] = frozenset()
    """Strings of up to 2048 bytes. DynamoDB holds 2048 in a partition key and 1024 in a sort key."""


def expected_tables(recent_events: str, ledger: LedgerTables) -> tuple[TableSchema, ...]:
    types = {"string": "S", "number": "N", "map": "M"}
    attributes = {name: types[kind] for name, kind, _ in ITEM_SCHEMA}
    return (
        TableSchema(recent_events, ("id",), "ttl", attributes, frozenset({"id", "eventId"})),
        TableSchema(ledger.ledger, ("pk", "sk"), "expires", _LEDGER_ATTRIBUTES),
        TableSchema(ledger.aggregates, ("pk", "sk"), None, _AGGREGATES_ATTRIBUTES),
    )


def _types_by_name(names: Mapping[str, str]) -> Mapping[str, str]:
    """Return the types of each attribute. `names`: attribute names with blanks between them, by type."""
    types: dict[str, list[str]] = {}
    for kind, text in names.items():
        for name in text.split():
            types.setdefault(name, []).append(kind)
    return {name: ", ".join(kinds) for name, kinds in types.items()}


_LEDGER_ATTRIBUTES = _types_by_name(
    {
        "S": "pk sk batch bucket_id closed_at code_version dead_letters_digest dead_letters_key digest duplicates_digest duplicates_key "
        "event_json_expired_at event_json_expired_through expired_at expired_through first id kind last renewed_at rows_expired_at run "
        "staged time topic_id",
        "N": "added bytes duration_ms expired_rows expires first incarnation invalid_record_timestamps lane next rebuilt "
        f"record_to_close_ms rows start {' '.join(OUTCOMES)}",
        "B": "batches expired_batches files gaps lost offsets redriven tombstones unaccounted",
        "BOOL": "write_event_json",
        "L": "proven_buckets range_outcome_counts ranges redrive_keys redrive_reasons redriven_sources tables",
        "M": "hours parts reasons rules starts steps_ms types",
    }
)
"""Attributes of all kinds of items in IngestLedger. The ledger's contract tests fail if they write another one."""
_COUNTERS = [*(f"type.{name}" for name in EVENT_TYPES), *(f"reason.{reason}" for reason in RejectionReason), *OUTCOMES]
_AGGREGATES_ATTRIBUTES = _types_by_name(
    {
        "N": f"events unaccounted batches bytes duration_ms record_to_close_ms invalid_record_timestamps {' '.join(_COUNTERS)}",
        "S": "pk sk made_at",
        "M": "counts",
    }
)


def create_tables(dynamo: DynamoClient, tables: Iterable[TableSchema]) -> list[str]:
    """Create missing tables, wait until all are active, and enable TTL. Return one line for each change. Idempotent.

    Safe to run concurrently. Raise ResourceNotReady if a table has other keys, another TTL attribute, or an index that rejects our
    items. Such a table is not changed.
    """
    changes = []
    for table in tables:
        if _description(dynamo, table) is None:
            _create(dynamo, table)
            changes.append(f"table {table.name}: created")
        description = _wait_until_active(dynamo, table)
        if mismatch := _key_mismatch(table, description) or _index_mismatch(table, description):
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
    if mismatch := _key_mismatch(table, description) or _index_mismatch(table, description):
        return mismatch
    ttl_attribute = _ttl_attribute(dynamo, table)
    if table.ttl and ttl_attribute is None:
        return f"table {table.name}: items do not expire, expected by `{table.ttl}`. `analytics setup` enables TTL."
    return _ttl_mismatch(table, ttl_attribute)


def _key_mismatch(table: TableSchema, description: dict[str, Any]) -> str | None:
    types = _defined_types(description)
    schema = sorted(description["KeySchema"], key=lambda key: str(key["KeyType"]))
    actual = [(key["AttributeName"], types[key["AttributeName"]]) for key in schema]
    expected = [(name, "S") for name in table.keys]
    if actual == expected:
        return None
    return (
        f"table {table.name}: its key is {_key_text(actual)}, expected {_key_text(expected)}. "
        "It belongs to another program, or was created by hand: name another table in the settings, or delete this one if nothing needs it."
    )


def _index_mismatch(table: TableSchema, description: dict[str, Any]) -> str | None:
    """Return the first index whose key rejects items that this package writes. DynamoDB rejects such a write as a whole."""
    types = _defined_types(description)
    for index in [*description.get("GlobalSecondaryIndexes", ()), *description.get("LocalSecondaryIndexes", ())]:
        for key in index["KeySchema"]:
            name, kind = key["AttributeName"], key["KeyType"]
            expected = table.attributes.get(name, types[name])
            if types[name] != expected:
                problem = f"has {name} ({types[name]}) as key, but items are written with {name} ({expected})"
            elif kind == "RANGE" and name in table.long_attributes:
                problem = f"has {name} as sort key, which holds 1024 bytes, but ids have up to 2048"
            else:
                continue
            return (
                f"table {table.name}: its index {index['IndexName']} {problem}. DynamoDB then rejects the items, and every batch fails. "
                "Delete the index, or create it again with a key that fits."
            )
    return None


def _defined_types(description: dict[str, Any]) -> dict[str, str]:
    """Return the types of all attributes that are keys of the table or of an index."""
    return {definition["AttributeName"]: definition["AttributeType"] for definition in description["AttributeDefinitions"]}


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
