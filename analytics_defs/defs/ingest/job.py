"""The micro-batch: one op that executes exactly the plan in its config, and tells Dagster what it did."""

# No postponed annotations here: Dagster reads the types of `context`, `config` and resources.

from collections.abc import Iterator, Sequence
from dataclasses import replace

import dagster as dg
from pydantic import Field

from analytics_defs.adapters.dynamodb import attribute_values
from analytics_defs.adapters.runtime.system import collecting_seldom
from analytics_defs.config import Settings
from analytics_defs.core.ingest.planning import Plan
from analytics_defs.core.ledger import Seal
from analytics_defs.core.offsets import Range, TopicPartition
from analytics_defs.core.storage import dead_letter_files
from analytics_defs.defs.asset_specs import topic_assets
from analytics_defs.defs.display import column_schema
from analytics_defs.defs.ingest.run_reporter import Telling
from analytics_defs.defs.ingest.worker_guard import CODE, require_same_code, require_same_settings, require_same_stores
from analytics_defs.defs.resources.platform import Platform, failures
from analytics_defs.flows.deferred_errors import Deferred, raise_first
from analytics_defs.flows.ingest import steps
from analytics_defs.flows.ingest.execute_plan import ingest
from analytics_defs.flows.ingest.planning import look
from analytics_defs.flows.ingest.tail_lane import follow

JOB = "micro_batch"
OP = "move_events"
LANE_TAG = "analytics/lane"
HEADS_TAG = "analytics/heads"


class RangeConfig(dg.Config):
    """Offsets `[start, end)` of one topic-partition, named as in `topic/partition`."""

    topic_partition: str
    start: int
    end: int


class PlanConfig(dg.Config):
    """The plan of one run. Left empty (the Materialize button), the run plans once by itself, for every lane."""

    lane: int = Field(default=0, ge=0)
    ranges: list[RangeConfig] = Field(default_factory=list)
    finish: list[str] = Field(default_factory=list)
    recommit: list[str] = Field(default_factory=list)
    lanes: int = Field(default=0, ge=0)
    """How many lanes there were when it was planned: whose machine says otherwise follows its lane as it was. 0: as LANES says there."""
    settings: dict[str, str] = Field(default_factory=dict)
    """Those in which all machines have to agree, as they were where it was planned."""
    seal: str = ""
    """Id of the seal of the ledger by which it was planned. Left empty, any ledger's stores may execute it."""
    code: str = ""
    """Digest of the code that planned it. Left empty, any code may execute it."""

    def plan(self) -> Plan:
        return Plan(
            self.lane,
            tuple(sorted(Range(TopicPartition.parse(each.topic_partition), each.start, each.end) for each in self.ranges)),
            tuple(self.finish),
            tuple(map(TopicPartition.parse, self.recommit)),
        )


def run_config(plan: Plan, settings: Settings, seal: Seal | None = None) -> dict[str, object]:
    """The plan as the run config of the job. Ranges live here only: as tags they would outgrow the run storage's index."""
    config = {
        "lane": plan.lane,
        "ranges": [{"topic_partition": str(each.topic_partition), "start": each.start, "end": each.end} for each in plan.ranges],
        "finish": list(plan.finish),
        "recommit": [str(each) for each in plan.recommit],
        "lanes": settings.lanes,
        "settings": settings.agreed(),
        "seal": seal.id if seal else "",
        "code": CODE,
    }
    return {"ops": {OP: {"config": config}}}


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
    name=OP,
    specs=[
        _spec(
            "recent_events",
            "Events of the last 30 days, one item each, in the DynamoDB table RecentEvents. The first claim of an id wins.",
            {"dynamodb"},
            attribute_values.COLUMNS,
        ),
        _spec("event_json", "Each event's original bytes, one JSON object each, under events/ in the archive bucket.", {"s3", "json"}),
        _spec(
            "dead_letters",
            "Records that are not events, whole and with the reason, as NDJSON under dead-letters/.",
            {"s3", "json"},
            dead_letter_files.COLUMNS,
        ),
        _spec("live_aggregates", "Counters by type, hour and reason in EventAggregates, moved only by closing transactions.", {"dynamodb"}),
        _spec("committed_offsets", "The consumer group's offsets: the visible copy of the ledger's heads.", {"kafka"}),
    ],
)
def move_events(
    context: dg.AssetExecutionContext, config: PlanConfig, platform: dg.ResourceParam[Platform]
) -> Iterator[dg.MaterializeResult]:  # type: ignore[type-arg]
    """Move the plan's records into every store and commit; go on for a while with what arrives in the lane meanwhile.

    A plan that is closed already yields nothing and succeeds.
    """
    require_same_code(config.code)
    require_same_settings(config.settings, platform)
    require_same_stores(config.seal, context.run.run_id, platform)
    with failures(), collecting_seldom(), platform.sign_of_life(context.run.run_id, config.lane) as ports:
        conduct, deferred, telling = platform.conduct(context.run.run_id), Deferred(), Telling(context, platform, ports)
        reports = []
        for plan in [config.plan()] if config.plan() else _plans_of_now(platform):
            with deferred.every():
                reports.append(ingest(plan, ports, conduct, telling.closed))
        if config.plan() and not deferred.faults and reports[0].closed and not reports[0].stopped_because:
            following = replace(platform.following(config.lanes), goes_on=telling.goes_on)
            with deferred.every():
                reports.append(follow(config.lane, following, ports, conduct, telling.closed))
        with deferred.every():
            steps.sweep(ports)
        for why in (report.stopped_because for report in reports if report.stopped_because):
            context.log.info("stopped: %s", why)
        raise_first(deferred.faults)
    yield from telling.rest()
    if not telling.has_told:
        context.log.info("nothing was left to do")


def _plans_of_now(platform: dg.ResourceParam[Platform]) -> list[Plan]:
    settings = platform.settings()
    return [plan for plan in look(settings.kafka_topics, settings.policy(), platform.ports()).plans if plan]


micro_batch_job = dg.define_asset_job(
    JOB,
    selection=dg.AssetSelection.assets(move_events).without_checks(),
    executor_def=dg.in_process_executor,
    tags={"dagster/max_retries": "0"},
    description="One micro-batch run of one lane, started by the sensor kafka_micro_batches. The sensor alone asks again for what failed.",
)
