"""The micro-batch: one op that executes exactly the plan in its config, and tells Dagster what it did."""

# No postponed annotations here: Dagster reads the types of `context`, `config` and resources.

from collections.abc import Iterator, Sequence
from dataclasses import replace

import dagster as dg
from pydantic import Field

from analytics_defs.adapters.dynamodb import attribute_values
from analytics_defs.adapters.runtime.system import reduced_gc
from analytics_defs.config import Settings
from analytics_defs.core.ingest.planning import Plan
from analytics_defs.core.ledger import PlatformId
from analytics_defs.core.offsets import Range, TopicPartition
from analytics_defs.core.storage import dead_letter_files
from analytics_defs.defs.asset_specs import topic_assets
from analytics_defs.defs.display import column_schema
from analytics_defs.defs.ingest.run_reporter import RunReporter
from analytics_defs.defs.ingest.worker_guard import CODE_DIGEST, require_same_code, require_same_platform, require_same_settings
from analytics_defs.defs.resources.platform import Platform, as_dagster_failures
from analytics_defs.flows.deferred_errors import DeferredErrors, raise_first
from analytics_defs.flows.ingest.close_batch import delete_stale_staging_files
from analytics_defs.flows.ingest.execute_plan import execute_plan
from analytics_defs.flows.ingest.planning import plan_lanes
from analytics_defs.flows.ingest.tail_lane import tail_lane

MICRO_BATCH_JOB = "micro_batch"
INGEST_OP = "ingest_events"
LANE_TAG = "analytics/lane"
PLAN_TAG = "analytics/plan"


class RangeConfig(dg.Config):
    """Offsets `[start, end)` of one topic-partition, named as in `topic/partition`."""

    topic_partition: str
    start: int
    end: int


class PlanConfig(dg.Config):
    """The plan of one run. Left empty (the Materialize button), the run plans once by itself, for every lane."""

    lane: int = Field(default=0, ge=0)
    ranges: list[RangeConfig] = Field(default_factory=list)
    pending_batch_ids: list[str] = Field(default_factory=list)
    recommit: list[str] = Field(default_factory=list)
    lanes: int = Field(default=0, ge=0)
    """How many lanes there were when it was planned: whose machine says otherwise follows its lane as it was. 0: as LANES says there."""
    settings: dict[str, str] = Field(default_factory=dict)
    """Those in which all machines have to agree, as they were where it was planned."""
    platform_id: str = ""
    """Id of the seal of the ledger by which it was planned. Left empty, any ledger's stores may execute it."""
    code: str = ""
    """Digest of the code that planned it. Left empty, any code may execute it."""

    def plan(self) -> Plan:
        return Plan(
            self.lane,
            tuple(sorted(Range(TopicPartition.parse(each.topic_partition), each.start, each.end) for each in self.ranges)),
            tuple(self.pending_batch_ids),
            tuple(map(TopicPartition.parse, self.recommit)),
        )


def run_config(plan: Plan, settings: Settings, seal: PlatformId | None = None) -> dict[str, object]:
    """The plan as the run config of the job. Ranges live here only: as tags they would outgrow the run storage's index."""
    config = {
        "lane": plan.lane,
        "ranges": [{"topic_partition": str(each.topic_partition), "start": each.start, "end": each.end} for each in plan.ranges],
        "pending_batch_ids": list(plan.pending_batch_ids),
        "recommit": [str(each) for each in plan.recommit],
        "lanes": settings.lanes,
        "settings": settings.shared_settings(),
        "platform_id": seal.id if seal else "",
        "code": CODE_DIGEST,
    }
    return {"ops": {INGEST_OP: {"config": config}}}


def _spec(name: str, description: str, kinds: set[str], columns: Sequence[tuple[str, str, str]] = ()) -> dg.AssetSpec:
    return dg.AssetSpec(
        name,
        deps=[each.key for each in topic_assets],
        description=description,
        kinds=kinds,
        group_name="ingest",
        owners=["team:analytics"],
        metadata={"dagster/column_schema": column_schema(columns)} if columns else {},
        skippable=True,
    )


@dg.multi_asset(
    name=INGEST_OP,
    specs=[
        _spec(
            "recent_events",
            "Events of the last 30 days, one item each, in the DynamoDB table RecentEvents. The first claim of an id wins.",
            {"dynamodb"},
            attribute_values.ITEM_SCHEMA,
        ),
        _spec("event_json", "Each event's original bytes, one JSON object each, under events/ in the archive bucket.", {"s3", "json"}),
        _spec(
            "dead_letters",
            "Records that are not events, whole and with the reason, as NDJSON under dead-letters/.",
            {"s3", "json"},
            dead_letter_files.DEAD_LETTER_COLUMNS,
        ),
        _spec("event_counters", "Counters by type, hour and reason in EventAggregates, moved only by closing transactions.", {"dynamodb"}),
        _spec("committed_offsets", "The consumer group's offsets: the visible copy of the ledger's heads.", {"kafka"}),
    ],
)
def ingest_events(
    context: dg.AssetExecutionContext, config: PlanConfig, platform: dg.ResourceParam[Platform]
) -> Iterator[dg.MaterializeResult]:  # type: ignore[type-arg]
    """Move the plan's records into every store and commit; go on for a while with what arrives in the lane meanwhile.

    A plan that is closed already yields nothing and succeeds.
    """
    require_same_code(config.code)
    require_same_settings(config.settings, platform)
    require_same_platform(config.platform_id, context.run.run_id, platform)
    with as_dagster_failures(), reduced_gc(), platform.lease_heartbeat(context.run.run_id, config.lane) as ports:
        conduct, deferred, telling = platform.ingest_options(context.run.run_id), DeferredErrors(), RunReporter(context, platform, ports)
        reports = []
        for plan in [config.plan()] if config.plan() else _plans_of_now(platform):
            with deferred.defer_all():
                reports.append(execute_plan(plan, ports, conduct, telling.on_batch_closed))
        if config.plan() and not deferred.faults and reports[0].closed and not reports[0].stop_reason:
            following = replace(platform.tail_options(config.lanes), should_continue=telling.should_continue)
            with deferred.defer_all():
                reports.append(tail_lane(config.lane, following, ports, conduct, telling.on_batch_closed))
        with deferred.defer_all():
            delete_stale_staging_files(ports)
        for why in (report.stop_reason for report in reports if report.stop_reason):
            context.log.info("stopped: %s", why)
        raise_first(deferred.faults)
    yield from telling.remaining_results()
    if not telling.has_reported:
        context.log.info("nothing was left to do")


def _plans_of_now(platform: dg.ResourceParam[Platform]) -> list[Plan]:
    settings = platform.settings()
    return [plan for plan in plan_lanes(settings.kafka_topics, settings.planning_policy(), platform.ports()).plans if plan]


micro_batch_job = dg.define_asset_job(
    MICRO_BATCH_JOB,
    selection=dg.AssetSelection.assets(ingest_events).without_checks(),
    executor_def=dg.in_process_executor,
    tags={"dagster/max_retries": "0"},
    description="One micro-batch run of one lane, started by the sensor kafka_micro_batches. The sensor alone asks again for what failed.",
)
