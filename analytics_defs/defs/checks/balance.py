"""The check that every offset is accounted for. The sensor, each run and the button in the UI evaluate it with the same criteria."""

import dagster as dg

from analytics_defs.defs.resources.platform import Platform, as_dagster_failures
from analytics_defs.flows.audit.balance import BalanceAudit, audit_offsets
from analytics_defs.ports import Ports

BALANCE_CHECK = "all_offsets_accounted_for"
BALANCE_ASSET = dg.AssetKey("recent_events")
MAX_BALANCE_ATTEMPTS = 3
"""Reads of the ledger in a tick or at the end of a run. If it changes during each of them, the next evaluation tries again."""


def quick_balance_check(ports: Ports) -> dg.AssetCheckEvaluation:
    """Evaluate the check in a few requests. Raise the errors of `audit_offsets`."""
    return balance_check_result(audit_offsets(ports, MAX_BALANCE_ATTEMPTS))


def balance_check_result(audit: BalanceAudit) -> dg.AssetCheckEvaluation:
    """Build the check result.

    Sensor, run and UI use the same criteria, so a newer evaluation never hides a failure found by another.
    """
    return dg.AssetCheckEvaluation(
        asset_key=BALANCE_ASSET,
        check_name=BALANCE_CHECK,
        passed=audit.balanced,
        metadata={
            "unaccounted": audit.unaccounted,
            "closed offsets": sum(checkpoint.next_offset - checkpoint.first_offset for checkpoint in audit.checkpoints),
            "partitions with a difference": dg.MetadataValue.json(
                {str(checkpoint.topic_partition): checkpoint.unaccounted for checkpoint in audit.checkpoints if checkpoint.unaccounted}
            ),
            "counters that differ": dg.MetadataValue.json(list(audit.differences)),
            "unreadable ledger items": dg.MetadataValue.json(list(audit.unreadable)),
            "abandoned batches": dg.MetadataValue.json(list(audit.abandoned_batches)),
            **audit.totals.as_dict(),
        },
    )


@dg.asset_check(
    asset=BALANCE_ASSET,
    name=BALANCE_CHECK,
    description="For every partition: closed offsets = stored + duplicates + dead letters + tombstones + explained gaps + lost. "
    "The counters have the same totals, and no batch is abandoned.",
)
def all_offsets_accounted_for(platform: dg.ResourceParam[Platform]) -> dg.AssetCheckResult:
    with as_dagster_failures():
        result = balance_check_result(audit_offsets(platform.ports()))
    return dg.AssetCheckResult(passed=result.passed, metadata=result.metadata)
