"""The map: every asset, job, sensor, check and resource by name. Loads with an empty environment and no network."""

import dagster as dg

from analytics_defs.defs.asset_specs import event_parts, topic_assets
from analytics_defs.defs.checks.balance import equation_balances
from analytics_defs.defs.checks.ingest_health import compare_hourly, stores_agree, stores_agree_job, vital_signs
from analytics_defs.defs.hours.daily_assets import daily_event_stats, product_activity
from analytics_defs.defs.hours.hourly_assets import event_archive, hourly_automation, hourly_event_stats, restored_recent_events
from analytics_defs.defs.ingest.job import micro_batch_job, move_events
from analytics_defs.defs.ingest.sensor import kafka_micro_batches
from analytics_defs.defs.observability.endpoint import keep_endpoint, observability_endpoint
from analytics_defs.defs.operations.purge_runs import forget_hourly, forget_old_runs
from analytics_defs.defs.operations.repair_job import replay_job
from analytics_defs.defs.operations.retention_job import forget_daily, forget_old_archive
from analytics_defs.defs.resources.platform import Platform
from analytics_defs.defs.resources.statistics_io_manager import Frames

defs = dg.Definitions(
    assets=[
        *topic_assets,
        move_events,
        event_parts,
        event_archive,
        hourly_event_stats,
        restored_recent_events,
        daily_event_stats,
        product_activity,
    ],
    asset_checks=[equation_balances, vital_signs, stores_agree],
    jobs=[micro_batch_job, stores_agree_job, replay_job, observability_endpoint, forget_old_runs, forget_old_archive],
    schedules=[compare_hourly, forget_hourly, forget_daily],
    sensors=[kafka_micro_batches, hourly_automation, keep_endpoint],
    resources={"platform": Platform(), "frames": Frames(Platform())},
    executor=dg.in_process_executor,
)
