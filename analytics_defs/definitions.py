"""All Dagster definitions. They load with an empty environment and without a network."""

import dagster as dg

from analytics_defs.defs.asset_specs import event_parts, topic_assets
from analytics_defs.defs.checks.balance import all_offsets_accounted_for
from analytics_defs.defs.checks.ingest_health import (
    ingest_health,
    stores_consistency_check_hourly,
    stores_consistency_check_job,
    stores_consistent,
)
from analytics_defs.defs.hours.daily_assets import daily_event_stats, product_activity
from analytics_defs.defs.hours.hourly_assets import event_archive, hourly_automation, hourly_event_stats, restored_recent_events
from analytics_defs.defs.ingest.job import ingest_events, micro_batch_job
from analytics_defs.defs.ingest.sensor import kafka_micro_batches
from analytics_defs.defs.observability.endpoint import observability_endpoint, observability_endpoint_sensor
from analytics_defs.defs.operations.dead_run_sensor import dead_run_sensor
from analytics_defs.defs.operations.purge_runs import purge_old_runs_hourly, purge_old_runs_job
from analytics_defs.defs.operations.repair_job import repair_job
from analytics_defs.defs.operations.retention_job import apply_retention_job, retention_schedule
from analytics_defs.defs.resources.leased_platform import leased_platform
from analytics_defs.defs.resources.platform import Platform
from analytics_defs.defs.resources.statistics_io_manager import STATISTICS_IO_MANAGER, StatisticsIOManager

defs = dg.Definitions(
    assets=[
        *topic_assets,
        ingest_events,
        event_parts,
        event_archive,
        hourly_event_stats,
        restored_recent_events,
        daily_event_stats,
        product_activity,
    ],
    asset_checks=[all_offsets_accounted_for, ingest_health, stores_consistent],
    jobs=[micro_batch_job, stores_consistency_check_job, repair_job, observability_endpoint, purge_old_runs_job, apply_retention_job],
    schedules=[stores_consistency_check_hourly, purge_old_runs_hourly, retention_schedule],
    sensors=[kafka_micro_batches, hourly_automation, observability_endpoint_sensor, dead_run_sensor],
    resources={"platform": leased_platform, STATISTICS_IO_MANAGER: StatisticsIOManager(Platform())},
    executor=dg.in_process_executor,
)
