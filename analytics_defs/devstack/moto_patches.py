"""Patches of moto for the process that serves it.

moto copies each named table once per action of a transaction, for a rollback. With a few thousand items, a claim of
a hundred events took seconds. The patch saves only the items that a transaction changes. moto's stores are plain
dicts that are not thread-safe, so requests are served one at a time.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterable
from typing import Any

App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def serialize_requests(app: App) -> App:
    """Return the application with a lock around each request."""
    lock = threading.Lock()

    def guarded(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        with lock:
            return list(app(environ, start_response))

    return guarded


def patch_transactions() -> None:
    """Replace `TransactWriteItems` of moto's DynamoDB in this process. Idempotent."""
    from moto.dynamodb import models
    from moto.dynamodb.models import DynamoDBBackend
    from moto.dynamodb.models.table import Table

    if isinstance(vars(models)["copy"], _CopyWithoutTables):
        return
    original = DynamoDBBackend.transact_write_items

    def transact_write_items(self: DynamoDBBackend, transact_items: list[dict[str, Any]]) -> None:
        undo = [
            _undo(self.tables[op["TableName"]], op) for item in transact_items for op in item.values() if op["TableName"] in self.tables
        ]
        try:
            original(self, transact_items)
        except Exception:
            for restore in reversed(undo):
                restore()
            raise

    vars(models)["copy"] = _CopyWithoutTables(Table)
    DynamoDBBackend.transact_write_items = transact_write_items  # type: ignore[method-assign]


class _CopyWithoutTables:
    """A replacement for the module `copy` in moto's DynamoDB that copies everything except tables."""

    def __init__(self, table: type) -> None:
        self._table = table

    def deepcopy(self, value: Any) -> Any:
        return value if isinstance(value, self._table) else copy.deepcopy(value)

    def copy(self, value: Any) -> Any:
        return copy.copy(value)


def _undo(table: Any, op: dict[str, Any]) -> Callable[[], None]:
    """Return a function that restores the item of `op` to its current state, or deletes it if it does not exist now."""
    from moto.dynamodb.models.dynamo_type import DynamoType

    key = op.get("Key") or op["Item"]
    partition = DynamoType(key[table.hash_key_attr])
    items, name = (table.items[partition], DynamoType(key[table.range_key_attr])) if table.range_key_attr else (table.items, partition)
    before = copy.deepcopy(items[name]) if name in items else None

    def restore() -> None:
        if before is None:
            items.pop(name, None)
        else:
            items[name] = before

    return restore
