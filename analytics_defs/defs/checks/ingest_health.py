"""The checks of lag, freshness and dead letters, evaluated with the balance, and the hourly comparison of the stores."""

# No postponed annotations here: Dagster reads the types of resources.

from collections.abc import Callable, Iterator
from datetime import timedelta
from logging import Logger
from typing import Any

import dagster as dg

from analytics_defs.config import Settings
from analytics_defs.core.ingest.planning import PlanningResult
from analytics_defs.core.monitoring import ingest_checks
from analytics_defs.core.monitoring.ingest_checks import AlertThresholds, CheckOutcome
from analytics_defs.defs.checks.balance import quick_balance_check
from analytics_defs.defs.resources.platform import Platform, as_dagster_failures
from analytics_defs.errors import AnalyticsError
from analytics_defs.flows.audit.recent_hours import compare_stores
from analytics_defs.flows.ingest.planning import plan_lanes
from analytics_defs.ports import Ports

RECENT, DEAD, PARTS = dg.AssetKey("recent_events"), dg.AssetKey("dead_letters"), dg.AssetKey("event_parts")
CHECK_INTERVAL = timedelta(minutes=5)
"""Time between two evaluations by the sensor, and by one run. Each evaluation adds two rows for each check to Dagster's storage."""
CHECKED_BATCHES = 100
INGEST_CHECKS = (
    (RECENT, "lag", "Records behind Kafka's high watermarks, compared with MAX_LAG."),
    (RECENT, "freshness", "Fails if records wait and no batch closed for MAX_COMMIT_AGE. Passes on a quiet topic."),
    (DEAD, "dead_letter_ratio", "Ratio of dead letters in the last batches, compared with MAX_DEAD_LETTER_RATIO."),
)


def alert_thresholds(settings: Settings) -> AlertThresholds:
    return AlertThresholds(settings.max_lag, settings.max_commit_age, settings.max_dead_letter_ratio)


def check_evaluations(planning: PlanningResult, ports: Ports, thresholds: AlertThresholds) -> list[dg.AssetCheckEvaluation]:
    """Evaluate INGEST_CHECKS from an existing planning result and one query of the ledger."""
    batches = ports.ledger.last_batches(CHECKED_BATCHES)
    last = max(batches, key=lambda record: record.closed_at, default=None)
    outcomes: dict[str, CheckOutcome] = {
        "lag": ingest_checks.check_lag(planning.lags, thresholds, planning.unavailable),
        "freshness": ingest_checks.check_freshness(planning.lags, last, ports.clock.now(), thresholds),
        "dead_letter_ratio": ingest_checks.check_dead_letter_ratio(batches, thresholds),
    }
    return [
        dg.AssetCheckEvaluation(
            asset_key=asset,
            check_name=name,
            passed=outcomes[name].passed,
            severity=dg.AssetCheckSeverity.WARN,
            description=outcomes[name].description,
            metadata=dict(outcomes[name].metadata),
        )
        for asset, name, _ in INGEST_CHECKS
    ]


def evaluate_all_checks(
    planning: Callable[[], PlanningResult], ports: Ports, settings: Settings, log: Logger
) -> list[dg.AssetCheckEvaluation]:
    """Evaluate the balance and INGEST_CHECKS.

    An unavailable service is logged and leaves its checks out. It stops no plan and no run.
    """
    evaluators: tuple[Callable[[], list[dg.AssetCheckEvaluation]], ...] = (
        lambda: [quick_balance_check(ports)],
        lambda: check_evaluations(planning(), ports, alert_thresholds(settings)),
    )
    evaluations: list[dg.AssetCheckEvaluation] = []
    for evaluate in evaluators:
        try:
            evaluations += evaluate()
        except AnalyticsError as error:
            log.info("checks were not evaluated, and will be next time: %s", error)
    return evaluations


@dg.multi_asset_check(
    name="ingest_health",
    specs=[dg.AssetCheckSpec(name, asset=asset, description=description) for asset, name, description in INGEST_CHECKS],
)
def ingest_health(platform: dg.ResourceParam[Platform]) -> Iterator[dg.AssetCheckResult]:
    with as_dagster_failures():
        settings, ports = platform.settings(), platform.ports()
        planning = plan_lanes(settings.kafka_topics, settings.planning_policy(), ports)
        evaluations = check_evaluations(planning, ports, alert_thresholds(settings))
    for evaluation in evaluations:
        yield dg.AssetCheckResult(
            asset_key=evaluation.asset_key,
            check_name=evaluation.check_name,
            passed=evaluation.passed,
            severity=evaluation.severity,
            description=evaluation.description,
            metadata=evaluation.metadata,
        )


@dg.asset_check(
    asset=PARTS,  # no run materializes it. On `event_archive` the check would compare all hours whenever one hour is compacted
    name="stores_consistent",
    description="DynamoDB, JSON, Parquet and counters hold the same events, hour by hour. Compares the hours of the last day and the "
    "hours that the newest batches added to. Hours of more than 20,000 events are compared by counts only. Lists every hour with a "
    "mismatch, with both numbers and the batches.",
)
def stores_consistent(platform: dg.ResourceParam[Platform]) -> dg.AssetCheckResult:
    with as_dagster_failures():
        comparison = compare_stores(platform.ports())
    rows = [
        dg.TableRecord({"hour": mismatch.hour, "finding": mismatch.finding, "batches": ", ".join(mismatch.batches[:20])})
        for mismatch in comparison.mismatches
    ]
    metadata: dict[str, Any] = {
        "hours compared by id": dg.MetadataValue.json(list(comparison.by_id)),
        "hours compared by counts": dg.MetadataValue.json(list(comparison.by_counts)),
        "mismatch count": len(rows),
    }
    if rows:
        metadata["mismatches"] = dg.MetadataValue.table(rows[:500])
    return dg.AssetCheckResult(passed=not rows, metadata=metadata)


stores_consistency_check_job = dg.define_asset_job(
    "stores_consistency_check",
    selection=dg.AssetSelection.checks(dg.AssetCheckKey(PARTS, "stores_consistent")),
    executor_def=dg.in_process_executor,
    description="Evaluates the check stores_consistent. Started by its schedule once an hour.",
)
stores_consistency_check_hourly = dg.ScheduleDefinition(
    name="stores_consistency_check_hourly",
    job=stores_consistency_check_job,
    cron_schedule="23 * * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
)
