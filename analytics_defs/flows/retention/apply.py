"""Let go of what is older than its age: Parquet and JSON objects hour by hour, dead letters and repeats batch by batch.

    walk ──► old enough? ──► whole and sound? ──► freeze ──► delete
    bucket   ledger          Parquet, counters    ledger     by name, what the ledger knows as old

An hour is as old as the newest batch that added to it. Nothing goes that is younger than a pending batch, nothing of an hour that a
partition has not passed. Before JSON objects go, the hour's archive is proven to hold every row; before Parquet goes, its statistics are
written. A process may die between any two lines, or wake up an hour later and go on:

| it died, or slept, before | then                                                                                                    |
|---------------------------|---------------------------------------------------------------------------------------------------------|
| freeze                    | nothing is gone                                                                                         |
| delete                    | the hour is frozen, and says so; what is still there goes with the next run                             |
| the next delete           | what it deletes late can never count again: see below                                                   |

Parquet goes by the compactor's own rule: the next revision has no files, and what it does not name is swept. JSON objects go by their
metadata; where the same id comes again later, its object lies beside the older one's name (`flows.stored.event_json`), which a late delete
cannot reach. What a late riser writes again is of a batch that was taken: the next run finds it in front of its walk.
"""

from __future__ import annotations

from collections.abc import Callable

from analytics_defs.flows.retention.expire_dead_letters import expire_dead_letters
from analytics_defs.flows.retention.expire_event_json import expire_event_json
from analytics_defs.flows.retention.expire_parquet import expire_parquet
from analytics_defs.flows.retention.report import RetentionReport
from analytics_defs.flows.retention.sweep import ExpirySweep, RetentionContext


def apply_retention(
    means: RetentionContext, report: RetentionReport | None = None, on_gone: Callable[[int], None] = lambda _: None
) -> RetentionReport:
    """`report` is filled on the way: who hands one in sees what went before this raised. `on_gone` hears how many objects went.

    May be repeated, may die anywhere, and may run twice at once.
    """
    report, ages = report or RetentionReport(), means.policy
    for age, take in ((ages.parquet, expire_parquet), (ages.event_json, expire_event_json), (ages.dead_letters, expire_dead_letters)):
        if age is not None:
            take(ExpirySweep(means, report, on_gone, age))
    return report
