"""Who does what on AWS: the scenes of each policy, and the flows that they play whole."""

from __future__ import annotations

from collections.abc import Callable

from tests.deploy.aws_retention import (
    by_hand_after_retention,
    forgetting,
    hours_after_retention,
    micro_batches_after_retention,
    watch_after_parquet_went,
    watch_after_retention,
)
from tests.deploy.aws_role_flows import Scene, by_hand, hours, interface, micro_batches, run_logs, set_up, ticks, watch

SCENES: dict[str, tuple[Callable[[Scene], None], ...]] = {
    "setup": (set_up,),
    "micro-batches": (micro_batches, micro_batches_after_retention),
    "hours": (hours, hours_after_retention, run_logs),
    "retention": (forgetting,),
    "code": (ticks,),
    "webserver": (interface,),
    "health": (watch, watch_after_retention, watch_after_parquet_went),
    "operator": (by_hand, by_hand_after_retention),
}
"""By policy: what must be possible under it, and nothing more."""
INCLUDED = {"operator": ("micro-batches", "hours")}
"""Policies, held to scenes of their own, whose rights another one has as well, but for the logs of runs: commands write none."""
FLOWS = {
    "micro-batches": (
        "ingest/execute_plan",
        "ingest/read_batch",
        "ingest/reread_batch",
        "ingest/stage_batch",
        "ingest/write_batch",
        "ingest/close_batch",
    ),
    "hours": (
        "hours/compaction",
        "hours/statistics",
        "hours/restore",
        "repair",
        "stored/rows_from_json",
        "stored/hour_files",
        "stored/hour_completeness",
        "stored/expired_data",
        "audit/recent_hours",
    ),
    "retention": ("retention", "hours/compaction", "stored/rows_from_json", "stored/hour_files", "stored/hour_completeness"),
    "code": ("ingest/planning", "hours/changed_hours"),
    "health": ("health_checks", "trace"),
    "operator": ("redrive", "audit/counters", "ingest/accept_topic", "audit/balance", "audit/hour", "audit/hour_bytes"),
}
"""Modules and packages of `flows` whose every call to a store happens in the policy's scenes."""
