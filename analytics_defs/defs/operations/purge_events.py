"""Old events that belong to no run: what the sensor reports (lag, changed hours, checks), some 11,000 rows a day on an idle system.

Dagster has no way to remove them, so this speaks SQL, over the tables that Dagster itself declares.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import dagster as dg

NO_RUN = ""
"""The run id of events that a sensor reports."""


def purge_events(instance: dg.DagsterInstance, before: datetime, most: int) -> dict[str, int]:
    """How many rows went, by kind; at most `most` of each. The newest row of each kind, asset and partition stays, and so does the newest
    evaluation of each check. Nothing goes where the storage is no SQL database.
    """
    import sqlalchemy as sql
    from dagster._core.storage.event_log import SqlEventLogStorage, SqliteEventLogStorage
    from dagster._core.storage.event_log.schema import AssetCheckExecutionsTable, AssetEventTagsTable, SqlEventLogStorageTable

    storage = instance.event_log_storage
    kinds = dict.fromkeys(("ASSET_OBSERVATION", "ASSET_MATERIALIZATION", "ASSET_CHECK_EVALUATION", "check executions"), 0)
    if not isinstance(storage, SqlEventLogStorage):
        return kinds
    event, check = SqlEventLogStorageTable.c, AssetCheckExecutionsTable.c
    utc = before.replace(tzinfo=None)
    with storage.index_connection() as connection:
        newest_checks = sql.select(sql.func.max(check.id)).group_by(check.asset_key, check.check_name, check.partition)
        old_checks = sql.select(check.id).where(check.create_timestamp < utc, check.id.not_in(newest_checks))
        kinds["check executions"] = _delete(connection, AssetCheckExecutionsTable, check.id, old_checks, most)
        held = sql.select(check.evaluation_event_storage_id).where(check.evaluation_event_storage_id.is_not(None))
        for kind in ("ASSET_OBSERVATION", "ASSET_MATERIALIZATION", "ASSET_CHECK_EVALUATION"):
            of_kind = event.dagster_event_type == kind
            newest = sql.select(sql.func.max(event.id)).where(of_kind).group_by(event.asset_key, event.partition)
            stays = held if kind == "ASSET_CHECK_EVALUATION" else newest
            old = sql.select(event.id).where(of_kind, event.run_id == NO_RUN, event.timestamp < utc, event.id.not_in(stays))
            if kind != "ASSET_CHECK_EVALUATION":
                tags = sql.select(AssetEventTagsTable.c.event_id).where(AssetEventTagsTable.c.event_id.in_(_first(old, event.id, most)))
                connection.execute(sql.delete(AssetEventTagsTable).where(AssetEventTagsTable.c.event_id.in_(tags)))
            kinds[kind] = _delete(connection, SqlEventLogStorageTable, event.id, old, most)
    if isinstance(storage, SqliteEventLogStorage):  # keeps a second copy of each in a file of its own, which nobody reads
        with storage.run_connection(NO_RUN) as connection:
            connection.execute(sql.delete(SqlEventLogStorageTable).where(event.run_id == NO_RUN, event.timestamp < utc))
    return kinds


def _delete(connection: Any, table: Any, key: Any, old: Any, most: int) -> int:
    import sqlalchemy as sql

    return int(connection.execute(sql.delete(table).where(key.in_(_first(old, key, most)))).rowcount)


def _first(old: Any, key: Any, most: int) -> Any:
    return old.order_by(key).limit(most)
