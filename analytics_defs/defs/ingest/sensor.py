"""The sensor: it plans, requests runs and reports the state of the ledger. It never reads events, writes stores or commits."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import dagster as dg
from pydantic import TypeAdapter

from analytics_defs.config import Settings
from analytics_defs.core.ingest.planning import LEASE_DURATION, Plan, PlanningResult
from analytics_defs.core.ingest.run_dispatch import (
    Attempts,
    HoldLane,
    LaneRun,
    LeaseObservation,
    StartRun,
    dead_runs,
    dispatch,
    observe_leases,
    should_wait_for_more,
)
from analytics_defs.core.ledger import LedgerSnapshot
from analytics_defs.defs.asset_specs import HOURLY_PARTITIONS, event_parts, lag_observations
from analytics_defs.defs.checks.ingest_health import CHECK_INTERVAL, evaluate_all_checks
from analytics_defs.defs.cursors import parse_cursor
from analytics_defs.defs.ingest.job import LANE_TAG, MICRO_BATCH_JOB, PLAN_TAG, micro_batch_job, run_config
from analytics_defs.defs.resources.platform import Platform
from analytics_defs.errors import AnalyticsError
from analytics_defs.flows.hours.changed_hours import Changes, changed_hours
from analytics_defs.flows.ingest.planning import plan_lanes

LEASE_OBSERVATIONS = TypeAdapter(dict[str, LeaseObservation])
"""The part of a sensor's cursor that holds the observed leases, by run id."""
RECOMMIT_INTERVAL = timedelta(days=1)
"""Offsets of a group without members expire (7 days by default), so the offsets of quiet topics are committed again."""


@dataclass(slots=True)
class Cursor:
    """The sensor's state between two ticks. If it is lost, some reports are repeated and none is missed."""

    reported: dict[str, int] = field(default_factory=dict)
    """Keyed by topic-partition, the offset up to which changed hours were reported."""
    unreadable_batches: list[str] = field(default_factory=list)
    """Batches left out of the report, because their ledger record cannot be read."""
    observed_at: datetime | None = None
    """Time of the last lag observation and check evaluation."""
    recommitted_at: dict[str, datetime] = field(default_factory=dict)
    """Keyed by lane, the time of the last request for a run that commits every checkpoint again."""
    small_since: dict[str, datetime] = field(default_factory=dict)
    """Keyed by lane, the time since when its plan is smaller than a batch."""
    lease_observations: dict[str, LeaseObservation] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str | None) -> "Cursor":
        """Return the state in the text. Raises ValueError, TypeError or AttributeError for a text that `str` did not write."""
        state = json.loads(text) if text else {}
        return cls(
            {partition: int(offset) for partition, offset in state.get("reported", {}).items()},
            list(map(str, state.get("unreadable_batches", []))),
            _time(state.get("observed_at")),
            _times(state.get("recommitted_at", {})),
            _times(state.get("small_since", {})),
            LEASE_OBSERVATIONS.validate_python(state.get("leases", {})),
        )

    def __str__(self) -> str:
        return json.dumps(
            {
                "reported": self.reported,
                "unreadable_batches": self.unreadable_batches,
                "observed_at": self.observed_at and self.observed_at.isoformat(),
                "recommitted_at": {lane: at.isoformat() for lane, at in self.recommitted_at.items()},
                "small_since": {lane: since.isoformat() for lane, since in self.small_since.items()},
                "leases": LEASE_OBSERVATIONS.dump_python(self.lease_observations, mode="json"),
            }
        )


def _time(text: str | None) -> datetime | None:
    return _aware(text) if text else None


def _times(texts: Mapping[str, str]) -> dict[str, datetime]:
    return {str(int(lane)): _aware(text) for lane, text in texts.items()}


def _aware(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise ValueError(f"{text!r} has no offset from UTC")
    return time


UNFINISHED_STATUSES = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


@dg.sensor(
    name="kafka_micro_batches",
    job=micro_batch_job,
    minimum_interval_seconds=1,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Plans micro-batches from Kafka's watermarks and the ledger's checkpoints and requests one run a lane. Reports changed "
    "hours, and every 5 minutes lag and checks.",
)
def kafka_micro_batches(context: dg.SensorEvaluationContext, platform: dg.ResourceParam[Platform]) -> dg.SensorResult:
    cursor = parse_cursor(context, Cursor.parse)
    try:
        settings, ports = platform.settings(), platform.ports()
        now = ports.clock.now()
        recommit = _lanes_to_recommit(cursor, settings.lanes, now)
        planning = plan_lanes(settings.kafka_topics, settings.planning_policy(recommit), ports)
        changes = changed_hours(cursor.reported, cursor.unreadable_batches, planning.snapshot, ports.ledger)
    except AnalyticsError as error:
        if error.retryable:
            return dg.SensorResult(skip_reason=str(error))
        raise dg.Failure(description=str(error)) from error
    lanes_in_use = _lanes_in_use(context, planning.snapshot, cursor, now, settings.run_start_timeout)
    waiting = _waiting_lanes(planning.plans, cursor, now, settings)
    decisions = [_decide(context, plan, lanes_in_use, waiting, now) for plan in planning.plans if plan]
    requests = [decision for decision in decisions if isinstance(decision, StartRun)]
    held = [decision for decision in decisions if isinstance(decision, HoldLane)]
    cursor.recommitted_at |= {str(lane): now for lane in recommit - {decision.lane for decision in held}}
    states = [
        *(f"lane {decision.lane}: {decision.why}" for decision in held),
        *planning.notes,
        *planning.halted.values(),
        *planning.unavailable.values(),
        *changes.errors,
    ]
    for state in states:
        context.log.info(state)
    observed_before = cursor.observed_at
    events = _events(planning, changes, cursor, now)
    if cursor.observed_at != observed_before:
        events += evaluate_all_checks(lambda: planning, ports, settings, context.log)
    return dg.SensorResult(
        run_requests=[_run_request(request, settings, planning.snapshot) for request in requests],
        skip_reason=None if requests else "; ".join(states) or "every partition is read to its end",
        cursor=str(cursor),
        asset_events=events,
    )


@dataclass(frozen=True, slots=True)
class LanesInUse:
    """Lanes that get no run in this tick."""

    busy: Mapping[int, str]
    """State of the unfinished run, by lane."""
    dead: frozenset[str]
    """Runs that this tick reported as failed, because they had no heartbeat."""


def _lanes_in_use(
    context: dg.SensorEvaluationContext, snapshot: LedgerSnapshot, cursor: Cursor, now: datetime, start_timeout: timedelta
) -> LanesInUse:
    """Report runs without heartbeat as failed, whatever their status is, and return the lanes of the others.

    Store in the cursor since when the lease of each run is unchanged.
    """
    records = context.instance.get_run_records(dg.RunsFilter(job_name=MICRO_BATCH_JOB, statuses=UNFINISHED_STATUSES))
    runs = {}
    for record in records:
        run = record.dagster_run
        if run.tags.get(LANE_TAG, "").isdecimal():  # a run from the launchpad has no lane
            is_queued = run.status is dg.DagsterRunStatus.QUEUED  # a run that was created and never submitted is not queued
            launched = None if is_queued else record.update_timestamp.replace(tzinfo=UTC)
            began = None if record.start_time is None else datetime.fromtimestamp(record.start_time, UTC)
            runs[run.run_id] = LaneRun(run.run_id, int(run.tags[LANE_TAG]), launched, began)
    cursor.lease_observations = observe_leases(
        [run.run_id for run in runs.values() if run.began_at], snapshot.leases, cursor.lease_observations, now
    )
    dead = dead_runs(list(runs.values()), cursor.lease_observations, start_timeout, now)
    for record in records:
        if record.dagster_run.run_id in dead:
            context.instance.report_run_failed(record.dagster_run, dead[record.dagster_run.run_id])
    return LanesInUse({run.lane: run.state for run in runs.values() if run.run_id not in dead}, frozenset(dead))


def _lanes_to_recommit(cursor: Cursor, lanes: int, now: datetime) -> frozenset[int]:
    """Return the lanes whose offsets were last committed again more than a day ago. A busy lane is returned until it gets a run."""
    cursor.recommitted_at = {lane: at for lane, at in cursor.recommitted_at.items() if int(lane) < lanes}
    recently = {int(lane) for lane, at in cursor.recommitted_at.items() if now - at <= RECOMMIT_INTERVAL}
    return frozenset(range(lanes)) - recently


def _waiting_lanes(plans: Sequence[Plan], cursor: Cursor, now: datetime, settings: Settings) -> frozenset[int]:
    """Return the lanes whose small plan may wait for more records. Store in the cursor since when each waits."""
    since = {str(plan.lane): cursor.small_since.get(str(plan.lane), now) for plan in plans if plan}
    waiting = {
        plan.lane
        for plan in plans
        if plan and should_wait_for_more(plan, since[str(plan.lane)], now, settings.batch_max_wait, settings.batch_max_records)
    }
    cursor.small_since = {lane: first for lane, first in since.items() if int(lane) in waiting}
    return frozenset(waiting)


def _decide(
    context: dg.SensorEvaluationContext, plan: Plan, lanes_in_use: LanesInUse, waiting: frozenset[int], now: datetime
) -> StartRun | HoldLane:
    if plan.lane in lanes_in_use.busy:
        return HoldLane(plan.lane, lanes_in_use.busy[plan.lane])
    if plan.lane in waiting:
        return HoldLane(plan.lane, f"{plan.offsets} offsets wait for more, up to BATCH_MAX_WAIT")
    return dispatch(plan, _attempts(context, plan, lanes_in_use.dead, now), now)


def _attempts(context: dg.SensorEvaluationContext, plan: Plan, dead: frozenset[str], now: datetime) -> Attempts:
    """Count the attempts by the highest run key as well as by runs, so that deleting an old run in the UI never frees a used key.

    The backoff of a run that was found dead just now begins with its last heartbeat, a lease duration ago.
    """
    records = context.instance.get_run_records(dg.RunsFilter(tags={PLAN_TAG: plan.fingerprint}))
    keys = [record.dagster_run.tags.get("dagster/run_key", "").rpartition("#")[2] for record in records]
    count = max([len(records), *(int(key) + 1 for key in keys if key.isdigit())])
    ended = [now - LEASE_DURATION if record.dagster_run.run_id in dead else _ended_at(record) for record in records]
    return Attempts(count, max(ended, default=None))


def _ended_at(record: dg.RunRecord) -> datetime:
    return datetime.fromtimestamp(record.end_time, UTC) if record.end_time else record.update_timestamp.replace(tzinfo=UTC)


def _run_request(request: StartRun, settings: Settings, snapshot: LedgerSnapshot) -> dg.RunRequest:
    tags = {LANE_TAG: str(request.plan.lane), PLAN_TAG: request.plan.fingerprint}
    return dg.RunRequest(run_key=request.run_key, run_config=run_config(request.plan, settings, snapshot.platform_id), tags=tags)


def _events(
    planning: PlanningResult, changes: Changes, cursor: Cursor, now: datetime
) -> list[dg.AssetMaterialization | dg.AssetObservation | dg.AssetCheckEvaluation]:
    """Return changed hours in every tick, and lag once in CHECK_INTERVAL.

    Hours outside the partitions are not reported. Their events are stored and counted as all others.
    """
    events: list[dg.AssetMaterialization | dg.AssetObservation | dg.AssetCheckEvaluation] = [
        dg.AssetMaterialization(
            event_parts.key,
            partition=hour,
            metadata={"events added": change.events, "batches": len(change.batches), "last batch": max(change.batches)},
        )
        for hour, change in sorted(changes.hours.items())
        if HOURLY_PARTITIONS.has_partition_key(hour)
    ]
    cursor.reported, cursor.unreadable_batches = changes.cursor, changes.unreadable_batches
    if cursor.observed_at is None or now - cursor.observed_at >= CHECK_INTERVAL:
        cursor.observed_at = now
        events += lag_observations(planning.lags)
    return events
