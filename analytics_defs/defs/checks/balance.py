"""Does it balance? Asked by the sensor once a minute, at the end of each run, and by the button in the UI: always the same question."""

import dagster as dg

from analytics_defs.defs.resources.platform import Platform, as_dagster_failures
from analytics_defs.flows.audit.balance import BalanceAudit, audit_offsets
from analytics_defs.ports import Ports

BALANCE_CHECK = "all_offsets_accounted_for"
BALANCE_ASSET = dg.AssetKey("recent_events")
MAX_BALANCE_ATTEMPTS = 3
"""In a tick or at a run's end, where others wait: on a ledger that moves faster the next one looks."""


def quick_balance_check(ports: Ports) -> dg.AssetCheckEvaluation:
    """The balance, in a few requests. Raises what `audit` raises."""
    return balance_check_result(audit_offsets(ports, MAX_BALANCE_ATTEMPTS))


def balance_check_result(found: BalanceAudit) -> dg.AssetCheckEvaluation:
    """The verdict of an audit: whoever asks, the newest evaluation never calls well what another one found ill for a reason it left out."""
    return dg.AssetCheckEvaluation(
        asset_key=BALANCE_ASSET,
        check_name=BALANCE_CHECK,
        passed=found.balanced,
        metadata={
            "unaccounted": found.unaccounted,
            "closed offsets": sum(head.next_offset - head.first_offset for head in found.checkpoints),
            "partitions with a difference": dg.MetadataValue.json(
                {str(head.topic_partition): head.unaccounted for head in found.checkpoints if head.unaccounted}
            ),
            "counters that differ": dg.MetadataValue.json(list(found.differences)),
            "ledger items that cannot be read": dg.MetadataValue.json(list(found.unreadable)),
            "stuck batches": dg.MetadataValue.json(list(found.abandoned_batches)),
            **found.totals.as_dict(),
        },
    )


@dg.asset_check(
    asset=BALANCE_ASSET,
    name=BALANCE_CHECK,
    description="For every partition: closed offsets = stored + repeats + dead letters + tombstones + explained gaps + lost. "
    "The counters say the same, and no batch is stuck.",
)
def all_offsets_accounted_for(platform: dg.ResourceParam[Platform]) -> dg.AssetCheckResult:
    with as_dagster_failures():
        found = balance_check_result(audit_offsets(platform.ports()))
    return dg.AssetCheckResult(passed=found.passed, metadata=found.metadata)
