"""Does it balance? Asked by the sensor once a minute, and by the button in the UI."""

import dagster as dg

from analytics_defs.core.ledger import REDRIVE_HEAD, Snapshot
from analytics_defs.defs.platform import Platform, failures
from analytics_defs.flows.audit import audit

CHECK = "equation_balances"
ASSET = dg.AssetKey("recent_events")


def balance(snapshot: Snapshot) -> dg.AssetCheckEvaluation:
    """The equation over all heads, from a snapshot that was read anyway."""
    heads = [head for _, head in sorted(snapshot.heads.items()) if head.topic_partition != REDRIVE_HEAD]
    open_ones = {str(head.topic_partition): head.unaccounted for head in heads if head.unaccounted}
    return dg.AssetCheckEvaluation(
        asset_key=ASSET,
        check_name=CHECK,
        passed=not open_ones,
        metadata={
            "unaccounted": sum(map(abs, open_ones.values())),
            "closed offsets": sum(head.next - head.first for head in heads),
            "partitions with a difference": dg.MetadataValue.json(open_ones),
        },
    )


@dg.asset_check(
    asset=ASSET,
    name=CHECK,
    description="For every partition: closed offsets = stored + repeats + dead letters + tombstones + explained gaps + lost. "
    "And the counters say the same.",
)
def equation_balances(platform: dg.ResourceParam[Platform]) -> dg.AssetCheckResult:
    with failures():
        found = audit(platform.ports())
    return dg.AssetCheckResult(
        passed=found.balanced,
        metadata={
            "unaccounted": found.unaccounted,
            "counters that differ": dg.MetadataValue.json(list(found.differences)),
            "stuck batches": dg.MetadataValue.json(list(found.stuck)),
            **found.totals.as_dict(),
        },
    )
