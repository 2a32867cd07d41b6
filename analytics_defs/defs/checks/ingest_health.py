"""Asset checks beside the equation: lag, freshness, dead letters by the sensor once a minute; the stores' agreement once an hour."""

# No postponed annotations here: Dagster reads the types of resources.

from collections.abc import Callable
from logging import Logger
from typing import Any

import dagster as dg

from analytics_defs.config import Settings
from analytics_defs.core.ingest.planning import Planning
from analytics_defs.core.monitoring import thresholds
from analytics_defs.core.monitoring.thresholds import Bounds, Sign
from analytics_defs.defs.checks.balance import glance
from analytics_defs.defs.resources.platform import Platform, failures
from analytics_defs.errors import AnalyticsError
from analytics_defs.flows.audit.recent_hours import compare_stores
from analytics_defs.flows.ingest.planning import look
from analytics_defs.ports import Ports

RECENT, DEAD, PARTS = dg.AssetKey("recent_events"), dg.AssetKey("dead_letters"), dg.AssetKey("event_parts")
LAST_BATCHES = 100
CHECKS = (
    (RECENT, "lag", "Records behind Kafka's high watermarks, against MAX_LAG."),
    (RECENT, "freshness", "Something waits, and no batch closed for MAX_SILENCE. A quiet topic is well."),
    (DEAD, "dead_letter_share", "Share of dead letters in the last batches, against MAX_DEAD_LETTER_SHARE."),
)


def bounds_of(settings: Settings) -> Bounds:
    return Bounds(settings.max_lag, settings.max_silence, settings.max_dead_letter_share)


def evaluations(planning: Planning, ports: Ports, bounds: Bounds) -> list[dg.AssetCheckEvaluation]:
    """Of a planning that was made anyway, and one query of the ledger."""
    batches = ports.ledger.last_batches(LAST_BATCHES)
    last = max(batches, key=lambda record: record.closed_at, default=None)
    found: dict[str, Sign] = {
        "lag": thresholds.lag(planning.lags, bounds, planning.silent),
        "freshness": thresholds.freshness(planning.lags, last, ports.clock.now(), bounds),
        "dead_letter_share": thresholds.dead_letters(batches, bounds),
    }
    return [
        dg.AssetCheckEvaluation(
            asset_key=asset,
            check_name=name,
            passed=found[name].well,
            severity=dg.AssetCheckSeverity.WARN,
            description=found[name].said,
            metadata=dict(found[name].numbers),
        )
        for asset, name, _ in CHECKS
    ]


def all_signs(planning: Callable[[], Planning], ports: Ports, settings: Settings, log: Logger) -> list[dg.AssetCheckEvaluation]:
    """The balance, and the signs beside it. What does not answer for a moment keeps no plan from running, and no run from ending."""
    asked: tuple[Callable[[], list[dg.AssetCheckEvaluation]], ...] = (
        lambda: [glance(ports)],
        lambda: evaluations(planning(), ports, bounds_of(settings)),
    )
    found: list[dg.AssetCheckEvaluation] = []
    for ask in asked:
        try:
            found += ask()
        except AnalyticsError as error:
            log.info("the next look evaluates it: %s", error)
    return found


@dg.multi_asset_check(
    name="vital_signs",
    specs=[dg.AssetCheckSpec(name, asset=asset, description=description) for asset, name, description in CHECKS],
)
def vital_signs(platform: dg.ResourceParam[Platform]):  # type: ignore[no-untyped-def]
    with failures():
        settings, ports = platform.settings(), platform.ports()
        found = evaluations(look(settings.kafka_topics, settings.policy(), ports), ports, bounds_of(settings))
    for each in found:
        yield dg.AssetCheckResult(
            asset_key=each.asset_key,
            check_name=each.check_name,
            passed=each.passed,
            severity=each.severity,
            description=each.description,
            metadata=each.metadata,
        )


@dg.asset_check(
    asset=PARTS,  # which no run materializes: a check of `event_archive` would go through all hours with every hour that is compacted
    name="stores_agree",
    description="DynamoDB, JSON, Parquet and counters hold the same events, hour by hour, over the last day's hours and those that the "
    "newest batches added to; hours of more than 20,000 events by numbers alone. Lists every hour that disagrees, with both numbers and "
    "the batches.",
)
def stores_agree(platform: dg.ResourceParam[Platform]) -> dg.AssetCheckResult:
    with failures():
        found = compare_stores(platform.ports())
    rows = [
        dg.TableRecord({"hour": each.hour, "finding": each.finding, "batches": ", ".join(each.batches[:20])})
        for each in found.disagreements
    ]
    metadata: dict[str, Any] = {
        "hours compared by id": dg.MetadataValue.json(list(found.by_id)),
        "hours compared by counts": dg.MetadataValue.json(list(found.by_counts)),
        "disagreements": len(rows),
    }
    if rows:
        metadata["what disagrees"] = dg.MetadataValue.table(rows[:500])
    return dg.AssetCheckResult(passed=not rows, metadata=metadata)


stores_agree_job = dg.define_asset_job(
    "compare_stores",
    selection=dg.AssetSelection.checks(dg.AssetCheckKey(PARTS, "stores_agree")),
    executor_def=dg.in_process_executor,
    description="The check stores_agree. Started by its schedule, once an hour.",
)
compare_hourly = dg.ScheduleDefinition(
    name="compare_stores_hourly",
    job=stores_agree_job,
    cron_schedule="23 * * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
)
