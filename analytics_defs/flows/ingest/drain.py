"""Plan and ingest without Dagster: for scripts, and for machines that have no scheduler.

Safe beside the sensor's runs: the ledger decides which executor begins a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from analytics_defs.core.ingest.planning import PlanningPolicy, PlanningResult
from analytics_defs.core.ledger import BatchRecord
from analytics_defs.errors import AnalyticsError
from analytics_defs.flows.deferred_errors import raise_first
from analytics_defs.flows.ingest.execute_plan import execute_plan
from analytics_defs.flows.ingest.options import IngestOptions
from analytics_defs.flows.ingest.planning import plan_lanes
from analytics_defs.ports import Ports


@dataclass(frozen=True, slots=True)
class DrainOptions:
    """Options of one drain."""

    topics: Sequence[str]
    planning_policy: PlanningPolicy
    ingest_options: IngestOptions
    until_idle: bool = False
    """Plan again until nothing is left. Otherwise plan once."""


@dataclass(slots=True)
class DrainResult:
    """Outcome of one drain."""

    closed: list[BatchRecord] = field(default_factory=list)
    halted: list[str] = field(default_factory=list)
    """One line each: partitions that wait for an operator or for their leader, and plans that another executor began first."""


def drain(
    options: DrainOptions,
    ports: Ports,
    lease_heartbeat: Callable[[int], AbstractContextManager[object]],
    on_plans: Callable[[PlanningResult], None] = lambda _: None,
    on_closed: Callable[[BatchRecord], None] = lambda _: None,
) -> DrainResult:
    """Execute the plans of all lanes, one lane after the other. `lease_heartbeat` keeps the lease of a lane while its plan runs.

    If a lane fails, the other lanes are still executed. The failed lane is planned again only if it closed a batch before.
    The first error is raised at the end. Batches closed before stay closed.
    """
    result, errors, failed_lanes = DrainResult(), list[AnalyticsError](), set[int]()

    def on_batch_closed(record: BatchRecord) -> None:
        result.closed.append(record)
        on_closed(record)

    while True:
        planning = plan_lanes(options.topics, options.planning_policy, ports)
        result.halted = [*planning.halted.values(), *planning.unavailable.values()]
        on_plans(planning)
        closed_before, stop_reasons = len(result.closed), []
        for plan in (plan for plan in planning.plans if plan and plan.lane not in failed_lanes):
            closed_before_lane = len(result.closed)
            try:
                with lease_heartbeat(plan.lane):
                    stop_reasons.append(execute_plan(plan, ports, options.ingest_options, on_batch_closed).stop_reason)
            except AnalyticsError as error:
                errors.append(error)
                failed_lanes |= {plan.lane} if len(result.closed) == closed_before_lane else set()
        result.halted += filter(None, stop_reasons)
        if not options.until_idle or any(stop_reasons) or len(result.closed) == closed_before:
            raise_first(errors)
            return result
