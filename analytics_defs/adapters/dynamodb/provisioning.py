"""Setup and checks of the DynamoDB tables, for `analytics setup` and `analytics check`.

Write permissions are checked with requests whose condition never holds. Nothing that exists is changed.
"""

from __future__ import annotations

from collections.abc import Sequence

from analytics_defs.adapters.dynamodb.requests import DynamoClient
from analytics_defs.adapters.dynamodb.tables import TableSchema, create_tables, table_mismatches
from analytics_defs.errors import InconsistentState, ResourceNotReady
from analytics_defs.ports import NamedCheck


class DynamoProvisioner:
    """Provisioner of the three tables."""

    name = "DynamoDB"

    def __init__(self, dynamo: DynamoClient, tables: Sequence[TableSchema]) -> None:
        self._dynamo = dynamo
        self._tables = tables

    def close(self) -> None:
        self._dynamo.close()

    def provision(self) -> list[str]:
        return create_tables(self._dynamo, self._tables)

    def checks(self) -> list[NamedCheck]:
        return [("tables", self._check_tables), ("reading items", self._check_reading), ("writing items", self._check_writing)]

    def _check_tables(self) -> str:
        if mismatches := table_mismatches(self._dynamo, self._tables):
            raise ResourceNotReady("\n".join(mismatches))
        return ", ".join(table.name for table in self._tables)

    def _check_reading(self) -> str:
        for table in self._tables:
            self._dynamo.get(table.name, _probe_key(table))
            self._dynamo.get_many(table.name, [_probe_key(table)])
            if len(table.keys) > 1:
                list(self._dynamo.query(table.name, "pk = :pk", {":pk": "~check"}))
        return "get, batch get and query"

    def _check_writing(self) -> str:
        """Send one write of each kind. DynamoDB checks the permission first, then the condition, which never holds."""
        for table in self._tables:
            actions = [
                {"Put": {"TableName": table.name, "Item": _probe_key(table, "put"), **_false_condition(table)}},
                {
                    "Update": {
                        "TableName": table.name,
                        "Key": _probe_key(table, "update"),
                        "UpdateExpression": "SET probe = :probe",
                        **_false_condition(table, with_value=True),
                    }
                },
                {"Delete": {"TableName": table.name, "Key": _probe_key(table, "delete"), **_false_condition(table)}},
            ]
            rejected = self._dynamo.transact(actions)
            if len(rejected) != len(actions):
                raise InconsistentState(
                    f"table {table.name} at {self._dynamo.config.endpoint_description}: "
                    "a write succeeded although its condition cannot hold"
                )
        return "conditional put, update and delete in transactions"


def _probe_key(table: TableSchema, operation: str = "read") -> dict[str, dict[str, str]]:
    """Return the key of an item that never exists."""
    return {name: {"S": f"~check {operation}"} for name in table.keys}


def _false_condition(table: TableSchema, *, with_value: bool = False) -> dict[str, object]:
    """Return a condition that never holds, with the value `:probe` of an update expression if wanted."""
    key = table.keys[0]
    values = {"ExpressionAttributeValues": {":probe": {"S": "probe"}}} if with_value else {}
    return {"ConditionExpression": f"attribute_exists({key}) AND attribute_not_exists({key})", **values}
