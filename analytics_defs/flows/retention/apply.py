"""Retention: delete data that is older than its retention time. Parquet and JSON objects by hour, dead letters and duplicates by batch.

    list ──► old enough? ──► complete and intact? ──► mark as expired ──► delete
    bucket   ledger          Parquet, counters       ledger              by key, only what the ledger knows as old

An hour is as old as the newest batch that added to it. Nothing is deleted that is younger than a pending batch, and nothing of an hour
that a partition has not read past. Before JSON objects are deleted, the hour's archive is verified to hold every row. Before Parquet is
deleted, its statistics are written. A run can crash between any two steps, or continue an hour later as a zombie:

| crash before    | result                                                                                            |
|-----------------|---------------------------------------------------------------------------------------------------|
| mark as expired | nothing is deleted                                                                                |
| delete          | the hour is marked as expired; the remaining files are deleted by the next run                    |
| the next delete | the remaining files are deleted by the next run; late deletes reach no data that counts, see below |

Parquet is deleted by the compactor's own rule: the next revision has no files, and files that it does not name are deleted. JSON objects
are deleted by their metadata. If the same id is stored again later, its object gets a name with a source hash
(`flows.stored.event_json`), which a late delete cannot reach. A zombie may re-create a file of an expired batch; it is deleted by the
next run too.
"""

from __future__ import annotations

from collections.abc import Callable

from analytics_defs.flows.retention.expire_dead_letters import expire_dead_letters
from analytics_defs.flows.retention.expire_event_json import expire_event_json
from analytics_defs.flows.retention.expire_parquet import expire_parquet
from analytics_defs.flows.retention.expiry_sweep import ExpirySweep, RetentionContext, RetentionReport


def apply_retention(
    context: RetentionContext, report: RetentionReport | None = None, on_deleted: Callable[[int], None] = lambda _: None
) -> RetentionReport:
    """Delete what is older than the policy allows. Idempotent, safe after a crash and beside another run.

    `report` is filled on the way, so that a caller can show it after an error. `on_deleted` is called with numbers of deleted objects.
    """
    report, policy = report or RetentionReport(), context.policy
    for age, expire in (
        (policy.parquet, expire_parquet),
        (policy.event_json, expire_event_json),
        (policy.dead_letters, expire_dead_letters),
    ):
        if age is not None:
            expire(ExpirySweep(context, report, on_deleted, age))
    return report
