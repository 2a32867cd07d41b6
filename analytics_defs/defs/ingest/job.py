"""The micro-batch: one op that executes exactly the plan in its config, and reports the result to Dagster."""

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
from analytics_defs.defs.ingest.worker_consistency import CODE_DIGEST, require_same_code, require_same_platform, require_same_settings
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
    """Offsets `[start, end)` of one topic-partition, which is written `topic/partition`."""

    topic_partition: str
    start: int
    end: int


class PlanConfig(dg.Config):
    """The plan of one run. If it is empty, as from the Materialize button, the run plans once for every lane."""

    lane: int = Field(default=0, ge=0)
    ranges: list[RangeConfig] = Field(default_factory=list)
    pending_batch_ids: list[str] = Field(default_factory=list)
    recommit: list[str] = Field(default_factory=list)
    lanes: int = Field(default=0, ge=0)
    """Number of lanes when the plan was made. It overrides LANES on the worker. 0: use LANES."""
    settings: dict[str, str] = Field(default_factory=dict)
    """Values at planning time of the settings that must be equal on all workers."""
    platform_id: str = ""
    """Platform id of the ledger that the plan was made from. Empty: any platform may execute it."""
    code: str = ""
    """Digest of the code that made the plan. Empty: any code may execute it."""

    def plan(self) -> Plan:
        return Plan(
            self.lane,
            tuple(sorted(Range(TopicPartition.parse(range_.topic_partition), range_.start, range_.end) for range_ in self.ranges)),
            tuple(self.pending_batch_ids),
            tuple(map(TopicPartition.parse, self.recommit)),
        )


def run_config(plan: Plan, settings: Settings, platform_id: PlatformId | None = None) -> dict[str, object]:
    """Return the plan as run config of the job. Ranges are in no tag, because a long tag value exceeds the index of the run storage."""
    config = {
        "lane": plan.lane,
        "ranges": [{"topic_partition": str(range_.topic_partition), "start": range_.start, "end": range_.end} for range_ in plan.ranges],
        "pending_batch_ids": list(plan.pending_batch_ids),
        "recommit": [str(topic_partition) for topic_partition in plan.recommit],
        "lanes": settings.lanes,
        "settings": settings.shared_settings(),
        "platform_id": platform_id.id if platform_id else "",
        "code": CODE_DIGEST,
    }
    return {"ops": {INGEST_OP: {"config": config}}}


TOPICS = tuple(spec.key for spec in topic_assets)


def _spec(
    name: str, deps: Sequence[dg.AssetKey | str], description: str, kinds: set[str], columns: Sequence[tuple[str, str, str]] = ()
) -> dg.AssetSpec:
    return dg.AssetSpec(
        name,
        deps=deps,
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
            TOPICS,
            "Events of the last 30 days, one item each, in the DynamoDB table RecentEvents. The first source to claim an id owns it.",
            {"dynamodb"},
            attribute_values.ITEM_SCHEMA,
        ),
        _spec(
            "event_json",
            ["recent_events"],
            "The original bytes of each event, one JSON object each, under events/ in the archive bucket.",
            {"s3", "json"},
        ),
        _spec(
            "dead_letters",
            TOPICS,
            "Records that are not events, complete and with the rejection reason, as NDJSON under dead-letters/.",
            {"s3", "json"},
            dead_letter_files.DEAD_LETTER_COLUMNS,
        ),
        _spec(
            "event_counters",
            ["recent_events"],
            "Counters by type, hour and reason in EventAggregates. Closing transactions and numbered adjustments change them.",
            {"dynamodb"},
        ),
        _spec(
            "committed_offsets",
            ["event_counters"],
            "The offsets of the consumer group: the visible copy of the ledger's checkpoints.",
            {"kafka"},
        ),
    ],
)
def ingest_events(
    context: dg.AssetExecutionContext, config: PlanConfig, platform: dg.ResourceParam[Platform]
) -> Iterator[dg.MaterializeResult]:  # type: ignore[type-arg]
    """Write the records of the plan to every store and commit. Then tail the lane until TAIL_DURATION or until no records arrive.

    A plan that is already closed yields nothing and succeeds.
    """
    require_same_code(config.code)
    require_same_settings(config.settings, platform)
    require_same_platform(config.platform_id, context.run.run_id, platform)
    with as_dagster_failures(), reduced_gc(), platform.lease_heartbeat(context.run.run_id, config.lane) as ports:
        options, errors, reporter = platform.ingest_options(context.run.run_id), DeferredErrors(), RunReporter(context, platform, ports)
        reports = []
        for plan in [config.plan()] if config.plan() else _plan_now(platform):
            with errors.defer_all():
                reports.append(execute_plan(plan, ports, options, reporter.on_batch_closed))
        if config.plan() and not errors.errors and reports[0].closed and not reports[0].stop_reason:
            tail_options = replace(platform.tail_options(config.lanes), should_continue=reporter.should_continue)
            with errors.defer_all():
                reports.append(tail_lane(config.lane, tail_options, ports, options, reporter.on_batch_closed))
        with errors.defer_all():
            delete_stale_staging_files(ports)
        for reason in (report.stop_reason for report in reports if report.stop_reason):
            context.log.info("stopped: %s", reason)
        raise_first(errors.errors)
    yield from reporter.remaining_results()
    if not reporter.has_reported:
        context.log.info("nothing was left to do")


def _plan_now(platform: Platform) -> list[Plan]:
    settings = platform.settings()
    return [plan for plan in plan_lanes(settings.kafka_topics, settings.planning_policy(), platform.ports()).plans if plan]


micro_batch_job = dg.define_asset_job(
    MICRO_BATCH_JOB,
    selection=dg.AssetSelection.assets(ingest_events).without_checks(),
    executor_def=dg.in_process_executor,
    tags={"dagster/max_retries": "0"},
    description="One micro-batch run of one lane, started by the sensor kafka_micro_batches. Only the sensor retries a failed run.",
)
