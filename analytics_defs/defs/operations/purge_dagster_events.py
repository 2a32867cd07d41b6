"""Purge of old events that belong to no run. The sensor reports them: changed hours, lag, checks.

Dagster cannot delete them, and it keeps the check executions of deleted runs. So this module deletes rows by SQL from the tables that
Dagster declares. They grow by 6 MB a day on an idle system, and by 35 MB with one lane under load (measured).
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import dagster as dg

NO_RUN = ""
"""Run id of the events that a sensor reports."""


def purge_dagster_events(instance: dg.DagsterInstance, before: datetime, limit: int) -> dict[str, int]:
    """Delete at most `limit` old events of each kind. Return the number of deleted rows by kind.

    The newest row of each kind, asset and partition is kept, and so is the newest evaluation of each check. Nothing is deleted if the
    event log storage is no SQL database.
    """
    import sqlalchemy as sql
    from dagster._core.storage.event_log import SqlEventLogStorage, SqliteEventLogStorage
    from dagster._core.storage.event_log.schema import AssetCheckExecutionsTable, AssetEventTagsTable, SqlEventLogStorageTable

    storage = instance.event_log_storage
    deleted = dict.fromkeys(("ASSET_OBSERVATION", "ASSET_MATERIALIZATION", "ASSET_CHECK_EVALUATION", "check executions"), 0)
    if not isinstance(storage, SqlEventLogStorage):
        return deleted
    event, check = SqlEventLogStorageTable.c, AssetCheckExecutionsTable.c
    utc = before.replace(tzinfo=None)
    with storage.index_connection() as connection:
        newest_checks = sql.select(sql.func.max(check.id)).group_by(check.asset_key, check.check_name, check.partition)
        old_checks = sql.select(check.id).where(check.create_timestamp < utc, check.id.not_in(newest_checks))
        deleted["check executions"] = _delete(connection, AssetCheckExecutionsTable, check.id, old_checks, limit)
        shown_evaluations = sql.select(check.evaluation_event_storage_id).where(check.evaluation_event_storage_id.is_not(None))
        for kind in ("ASSET_OBSERVATION", "ASSET_MATERIALIZATION", "ASSET_CHECK_EVALUATION"):
            is_kind = event.dagster_event_type == kind
            newest = sql.select(sql.func.max(event.id)).where(is_kind).group_by(event.asset_key, event.partition)
            kept = shown_evaluations if kind == "ASSET_CHECK_EVALUATION" else newest
            old = sql.select(event.id).where(is_kind, event.run_id == NO_RUN, event.timestamp < utc, event.id.not_in(kept))
            if kind != "ASSET_CHECK_EVALUATION":
                tags = sql.select(AssetEventTagsTable.c.event_id).where(AssetEventTagsTable.c.event_id.in_(_first(old, event.id, limit)))
                connection.execute(sql.delete(AssetEventTagsTable).where(AssetEventTagsTable.c.event_id.in_(tags)))
            deleted[kind] = _delete(connection, SqlEventLogStorageTable, event.id, old, limit)
    if isinstance(storage, SqliteEventLogStorage):  # it keeps a second copy in a file for the empty run id, which is never read
        with storage.run_connection(NO_RUN) as connection:
            connection.execute(sql.delete(SqlEventLogStorageTable).where(event.run_id == NO_RUN, event.timestamp < utc))
    return deleted


def _delete(connection: Any, table: Any, key: Any, old: Any, limit: int) -> int:
    import sqlalchemy as sql

    return int(connection.execute(sql.delete(table).where(key.in_(_first(old, key, limit)))).rowcount)


def _first(old: Any, key: Any, limit: int) -> Any:
    return old.order_by(key).limit(limit)
