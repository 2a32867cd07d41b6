"""Two of moto's habits, changed in the process that serves it.

Its transactions copy every table they name once for each of their actions, to be able to roll back: a claim of a hundred events took
seconds after a few thousand. Here only the items that a transaction touches are kept aside. And its stores are plain dicts that break
when several threads change them, so requests are answered one at a time.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterable
from typing import Any

App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def serialize_requests(app: App) -> App:
    """The same application behind a lock."""
    lock = threading.Lock()

    def guarded(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        with lock:
            return list(app(environ, start_response))

    return guarded


def patch_transactions() -> None:
    """Replaces `TransactWriteItems` of moto's DynamoDB, for this process. Twice is once."""
    from moto.dynamodb import models
    from moto.dynamodb.models import DynamoDBBackend
    from moto.dynamodb.models.table import Table

    if isinstance(vars(models)["copy"], _CopyButTables):
        return
    original = DynamoDBBackend.transact_write_items

    def transact_write_items(self: DynamoDBBackend, transact_items: list[dict[str, Any]]) -> None:
        kept = [
            _kept(self.tables[op["TableName"]], op) for each in transact_items for op in each.values() if op["TableName"] in self.tables
        ]
        try:
            original(self, transact_items)
        except Exception:
            for restore in reversed(kept):
                restore()
            raise

    vars(models)["copy"] = _CopyButTables(Table)
    DynamoDBBackend.transact_write_items = transact_write_items  # type: ignore[method-assign]


class _CopyButTables:
    """Stands for the module `copy` in moto's DynamoDB: tables are not copied, everything else is."""

    def __init__(self, table: type) -> None:
        self._table = table

    def deepcopy(self, value: Any) -> Any:
        return value if isinstance(value, self._table) else copy.deepcopy(value)

    def copy(self, value: Any) -> Any:
        return copy.copy(value)


def _kept(table: Any, op: dict[str, Any]) -> Callable[[], None]:
    """Puts the item back as it is now, or takes it away where there is none now."""
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
