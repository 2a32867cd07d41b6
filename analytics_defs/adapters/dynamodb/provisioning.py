"""Creates and checks what the platform needs in DynamoDB: `analytics setup` and `analytics check`.

Write permissions are checked by requests that DynamoDB refuses. Nothing that exists is changed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from analytics_defs.adapters.dynamodb.requests import DynamoClient
from analytics_defs.adapters.dynamodb.tables import TableSchema, create_tables, table_mismatches
from analytics_defs.errors import InconsistentState, ResourceMissing

NamedCheck = tuple[str, Callable[[], str]]


class DynamoProvisioner:
    """The three tables."""

    name = "DynamoDB"

    def __init__(self, dynamo: DynamoClient, tables: Sequence[TableSchema]) -> None:
        self._dynamo = dynamo
        self._tables = tables

    def close(self) -> None:
        self._dynamo.close()

    def provision(self) -> list[str]:
        return create_tables(self._dynamo, self._tables)

    def checks(self) -> list[NamedCheck]:
        return [("tables", self._shapes), ("reading items", self._reading), ("writing items", self._writing)]

    def _shapes(self) -> str:
        if faults := table_mismatches(self._dynamo, self._tables):
            raise ResourceMissing("\n".join(faults))
        return ", ".join(table.name for table in self._tables)

    def _reading(self) -> str:
        for table in self._tables:
            self._dynamo.get(table.name, _nobody(table))
            self._dynamo.get_many(table.name, [_nobody(table)])
            if len(table.keys) > 1:
                list(self._dynamo.query(table.name, "pk = :pk", {":pk": "~check"}))
        return "get, batch get and query"

    def _writing(self) -> str:
        """Conditions that never hold: the permission is looked at before them."""
        for table in self._tables:
            actions = [
                {"Put": {"TableName": table.name, "Item": _nobody(table, "put"), **_never(table)}},
                {
                    "Update": {
                        "TableName": table.name,
                        "Key": _nobody(table, "update"),
                        "UpdateExpression": "SET probe = :probe",
                        **_never(table, True),
                    }
                },
                {"Delete": {"TableName": table.name, "Key": _nobody(table, "delete"), **_never(table)}},
            ]
            refused = self._dynamo.transact(actions)
            if len(refused) != len(actions):
                raise InconsistentState(
                    f"table {table.name} at {self._dynamo.config.describe_endpoint}: a write went through although its condition cannot hold"
                )
        return "conditional put, update and delete in transactions"


def _nobody(table: TableSchema, what: str = "read") -> dict[str, dict[str, str]]:
    return {name: {"S": f"~check {what}"} for name in table.keys}


def _never(table: TableSchema, probe: bool = False) -> dict[str, object]:
    key = table.keys[0]
    values = {"ExpressionAttributeValues": {":probe": {"S": "probe"}}} if probe else {}
    return {"ConditionExpression": f"attribute_exists({key}) AND attribute_not_exists({key})", **values}
