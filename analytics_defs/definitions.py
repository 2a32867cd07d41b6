"""The map: every asset, job, sensor, check and resource by name. Loads with an empty environment and no network."""

import dagster as dg

from analytics_defs.defs.checks import equation_balances
from analytics_defs.defs.endpoint import keep_endpoint, observability_endpoint
from analytics_defs.defs.ingest import micro_batch_job, move_events
from analytics_defs.defs.platform import Platform
from analytics_defs.defs.sensor import kafka_micro_batches
from analytics_defs.defs.topics import event_parts, topic_assets

defs = dg.Definitions(
    assets=[*topic_assets, move_events, event_parts],
    asset_checks=[equation_balances],
    jobs=[micro_batch_job, observability_endpoint],
    sensors=[kafka_micro_batches, keep_endpoint],
    resources={"platform": Platform()},
    executor=dg.in_process_executor,
)
