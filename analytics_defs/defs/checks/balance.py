"""Does it balance? Asked by the sensor once a minute, at the end of each run, and by the button in the UI: always the same question."""

import dagster as dg

from analytics_defs.defs.resources.platform import Platform, failures
from analytics_defs.flows.audit.balance import Audit, audit
from analytics_defs.ports import Ports

CHECK = "equation_balances"
ASSET = dg.AssetKey("recent_events")
READINGS = 3
"""In a tick or at a run's end, where others wait: on a ledger that moves faster the next one looks."""


def glance(ports: Ports) -> dg.AssetCheckEvaluation:
    """The balance, in a few requests. Raises what `audit` raises."""
    return balance(audit(ports, READINGS))


def balance(found: Audit) -> dg.AssetCheckEvaluation:
    """The verdict of an audit: whoever asks, the newest evaluation never calls well what another one found ill for a reason it left out."""
    return dg.AssetCheckEvaluation(
        asset_key=ASSET,
        check_name=CHECK,
        passed=found.balanced,
        metadata={
            "unaccounted": found.unaccounted,
            "closed offsets": sum(head.next - head.first for head in found.heads),
            "partitions with a difference": dg.MetadataValue.json(
                {str(head.topic_partition): head.unaccounted for head in found.heads if head.unaccounted}
            ),
            "counters that differ": dg.MetadataValue.json(list(found.differences)),
            "ledger items that cannot be read": dg.MetadataValue.json(list(found.unreadable)),
            "stuck batches": dg.MetadataValue.json(list(found.stuck)),
            **found.totals.as_dict(),
        },
    )


@dg.asset_check(
    asset=ASSET,
    name=CHECK,
    description="For every partition: closed offsets = stored + repeats + dead letters + tombstones + explained gaps + lost. "
    "The counters say the same, and no batch is stuck.",
)
def equation_balances(platform: dg.ResourceParam[Platform]) -> dg.AssetCheckResult:
    with failures():
        found = balance(audit(platform.ports()))
    return dg.AssetCheckResult(passed=found.passed, metadata=found.metadata)
