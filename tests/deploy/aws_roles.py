"""The AWS policy of each role: the role's flows, executed on a recorded cloud, and the modules that they cover."""

from __future__ import annotations

from collections.abc import Callable

from tests.deploy.aws_retention import (
    health_after_parquet_expired,
    health_after_retention,
    hours_after_retention,
    micro_batches_after_retention,
    operator_after_retention,
    retention,
)
from tests.deploy.aws_role_flows import Scene, code, health, hours, micro_batches, operator, run_logs, setup, webserver

ROLE_FLOWS: dict[str, tuple[Callable[[Scene], None], ...]] = {
    "setup": (setup,),
    "micro-batches": (micro_batches, micro_batches_after_retention),
    "hours": (hours, hours_after_retention, run_logs),
    "retention": (retention,),
    "code": (code,),
    "webserver": (webserver,),
    "health": (health, health_after_retention, health_after_parquet_expired),
    "operator": (operator, operator_after_retention),
}
"""Functions by policy. The policy must allow exactly the rights that they need."""
INCLUDED = {"operator": ("micro-batches", "hours")}
"""Policies whose rights another policy contains too, except for compute logs, which commands do not write."""
COVERED_MODULES = {
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
    "health": ("health_probes", "trace"),
    "operator": (
        "redrive",
        "audit/counters",
        "ingest/accept_topic",
        "audit/balance",
        "audit/ledger_chain",
        "audit/hour",
        "audit/hour_folder",
        "audit/hour_bytes",
    ),
}
"""Modules and packages of `flows`. The functions of the policy must make each of their calls to a store."""
