"""Creation and checks of the platform's DynamoDB tables, for `analytics setup` and `analytics preflight`.

Write permissions are checked by requests that DynamoDB refuses. Nothing that exists is changed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from analytics_defs.adapters.dynamodb.requests import DynamoClient
from analytics_defs.adapters.dynamodb.tables import TableSchema, create_tables, table_mismatches
from analytics_defs.errors import InconsistentState, ResourceMissing

NamedCheck = tuple[str, Callable[[], str]]


class DynamoProvisioner:
    """The provisioner of the three tables."""

    name = "DynamoDB"

    def __init__(self, dynamo: DynamoClient, tables: Sequence[TableSchema]) -> None:
        self._dynamo = dynamo
        self._tables = tables

    def close(self) -> None:
        self._dynamo.close()

    def provision(self) -> list[str]:
        return create_tables(self._dynamo, self._tables)

    def checks(self) -> list[NamedCheck]:
        return [("tables", self._check_tables), ("reading items", self._check_reads), ("writing items", self._check_writes)]

    def _check_tables(self) -> str:
        if mismatches := table_mismatches(self._dynamo, self._tables):
            raise ResourceMissing("\n".join(mismatches))
        return ", ".join(table.name for table in self._tables)

    def _check_reads(self) -> str:
        for table in self._tables:
            self._dynamo.get(table.name, _absent_key(table))
            self._dynamo.get_many(table.name, [_absent_key(table)])
            if len(table.keys) > 1:
                list(self._dynamo.query(table.name, "pk = :pk", {":pk": "~check"}))
        return "get, batch get and query"

    def _check_writes(self) -> str:
        """Send writes whose conditions never hold. DynamoDB checks the permission before the condition."""
        for table in self._tables:
            actions = [
                {"Put": {"TableName": table.name, "Item": _absent_key(table, "put"), **_false_condition(table)}},
                {
                    "Update": {
                        "TableName": table.name,
                        "Key": _absent_key(table, "update"),
                        "UpdateExpression": "SET probe = :probe",
                        **_false_condition(table, True),
                    }
                },
                {"Delete": {"TableName": table.name, "Key": _absent_key(table, "delete"), **_false_condition(table)}},
            ]
            refused = self._dynamo.transact(actions)
            if len(refused) != len(actions):
                raise InconsistentState(
                    f"table {table.name} at {self._dynamo.config.describe_endpoint}: a write succeeded although its condition cannot hold"
                )
        return "conditional put, update and delete in transactions"


def _absent_key(table: TableSchema, suffix: str = "read") -> dict[str, dict[str, str]]:
    return {name: {"S": f"~check {suffix}"} for name in table.keys}


def _false_condition(table: TableSchema, probe: bool = False) -> dict[str, object]:
    key = table.keys[0]
    values = {"ExpressionAttributeValues": {":probe": {"S": "probe"}}} if probe else {}
    return {"ConditionExpression": f"attribute_exists({key}) AND attribute_not_exists({key})", **values}
