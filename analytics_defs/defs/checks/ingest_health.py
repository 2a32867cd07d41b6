"""Asset checks beside the equation: lag, freshness, dead letters by the sensor once a minute; the stores' agreement once an hour."""

# No postponed annotations here: Dagster reads the types of resources.

from collections.abc import Callable
from logging import Logger
from typing import Any

import dagster as dg

from analytics_defs.config import Settings
from analytics_defs.core.ingest.planning import PlanningResult
from analytics_defs.core.monitoring import thresholds
from analytics_defs.core.monitoring.thresholds import AlertThresholds, CheckOutcome
from analytics_defs.defs.checks.balance import quick_balance_check
from analytics_defs.defs.resources.platform import Platform, as_dagster_failures
from analytics_defs.errors import AnalyticsError
from analytics_defs.flows.audit.recent_hours import compare_stores
from analytics_defs.flows.ingest.planning import plan_lanes
from analytics_defs.ports import Ports

RECENT, DEAD, PARTS = dg.AssetKey("recent_events"), dg.AssetKey("dead_letters"), dg.AssetKey("event_parts")
CHECKED_BATCHES = 100
HEALTH_CHECKS = (
    (RECENT, "lag", "Records behind Kafka's high watermarks, against MAX_LAG."),
    (RECENT, "freshness", "Something waits, and no batch closed for MAX_COMMIT_AGE. A quiet topic is well."),
    (DEAD, "dead_letter_ratio", "Share of dead letters in the last batches, against MAX_DEAD_LETTER_RATIO."),
)


def alert_thresholds(settings: Settings) -> AlertThresholds:
    return AlertThresholds(settings.max_lag, settings.max_commit_age, settings.max_dead_letter_ratio)


def check_evaluations(planning: PlanningResult, ports: Ports, bounds: AlertThresholds) -> list[dg.AssetCheckEvaluation]:
    """Of a planning that was made anyway, and one query of the ledger."""
    batches = ports.ledger.last_batches(CHECKED_BATCHES)
    last = max(batches, key=lambda record: record.closed_at, default=None)
    found: dict[str, CheckOutcome] = {
        "lag": thresholds.check_lag(planning.lags, bounds, planning.unavailable),
        "freshness": thresholds.check_freshness(planning.lags, last, ports.clock.now(), bounds),
        "dead_letter_ratio": thresholds.check_dead_letter_ratio(batches, bounds),
    }
    return [
        dg.AssetCheckEvaluation(
            asset_key=asset,
            check_name=name,
            passed=found[name].passed,
            severity=dg.AssetCheckSeverity.WARN,
            description=found[name].description,
            metadata=dict(found[name].metadata),
        )
        for asset, name, _ in HEALTH_CHECKS
    ]


def evaluate_all_checks(
    planning: Callable[[], PlanningResult], ports: Ports, settings: Settings, log: Logger
) -> list[dg.AssetCheckEvaluation]:
    """The balance, and the signs beside it. What does not answer for a moment keeps no plan from running, and no run from ending."""
    asked: tuple[Callable[[], list[dg.AssetCheckEvaluation]], ...] = (
        lambda: [quick_balance_check(ports)],
        lambda: check_evaluations(planning(), ports, alert_thresholds(settings)),
    )
    found: list[dg.AssetCheckEvaluation] = []
    for ask in asked:
        try:
            found += ask()
        except AnalyticsError as error:
            log.info("the next look evaluates it: %s", error)
    return found


@dg.multi_asset_check(
    name="ingest_health",
    specs=[dg.AssetCheckSpec(name, asset=asset, description=description) for asset, name, description in HEALTH_CHECKS],
)
def ingest_health(platform: dg.ResourceParam[Platform]):  # type: ignore[no-untyped-def]
    with as_dagster_failures():
        settings, ports = platform.settings(), platform.ports()
        found = check_evaluations(plan_lanes(settings.kafka_topics, settings.planning_policy(), ports), ports, alert_thresholds(settings))
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
    name="stores_consistent",
    description="DynamoDB, JSON, Parquet and counters hold the same events, hour by hour, over the last day's hours and those that the "
    "newest batches added to; hours of more than 20,000 events by numbers alone. Lists every hour that disagrees, with both numbers and "
    "the batches.",
)
def stores_consistent(platform: dg.ResourceParam[Platform]) -> dg.AssetCheckResult:
    with as_dagster_failures():
        found = compare_stores(platform.ports())
    rows = [
        dg.TableRecord({"hour": each.hour, "finding": each.finding, "batches": ", ".join(each.batches[:20])}) for each in found.mismatches
    ]
    metadata: dict[str, Any] = {
        "hours compared by id": dg.MetadataValue.json(list(found.by_id)),
        "hours compared by counts": dg.MetadataValue.json(list(found.by_counts)),
        "disagreements": len(rows),
    }
    if rows:
        metadata["what disagrees"] = dg.MetadataValue.table(rows[:500])
    return dg.AssetCheckResult(passed=not rows, metadata=metadata)


stores_consistency_check_job = dg.define_asset_job(
    "stores_consistency_check",
    selection=dg.AssetSelection.checks(dg.AssetCheckKey(PARTS, "stores_consistent")),
    executor_def=dg.in_process_executor,
    description="The check stores_consistent. Started by its schedule, once an hour.",
)
stores_consistency_check_hourly = dg.ScheduleDefinition(
    name="stores_consistency_check_hourly",
    job=stores_consistency_check_job,
    cron_schedule="23 * * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
)
