"""Plan and ingest without Dagster: for scripts, and for machines that have no scheduler.

Safe beside the sensor's runs: who takes a batch first is decided by the ledger.
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
    """What to drain, and how. Values of one call."""

    topics: Sequence[str]
    planning_policy: PlanningPolicy
    ingest_options: IngestOptions
    until_idle: bool = False
    """Plan again until nothing is left; otherwise once."""


@dataclass(slots=True)
class DrainResult:
    """What one call did."""

    closed: list[BatchRecord] = field(default_factory=list)
    halted: list[str] = field(default_factory=list)
    """Partitions that wait for a person or for their leader, and plans that somebody else executes: why, a line each."""


def drain(
    order: DrainOptions,
    ports: Ports,
    sign_of_life: Callable[[int], AbstractContextManager[object]],
    on_plans: Callable[[PlanningResult], None] = lambda _: None,
    on_closed: Callable[[BatchRecord], None] = lambda _: None,
) -> DrainResult:
    """Lane after lane. `lease_heartbeat` keeps the lease of a lane while its plan runs.

    A lane that failed keeps no other lane from being tried; it is planned again while it closes something. The first fault is raised
    in the end; what was closed before stays closed.
    """
    drained, faults, failed = DrainResult(), list[AnalyticsError](), set[int]()

    def closed(record: BatchRecord) -> None:
        drained.closed.append(record)
        on_closed(record)

    while True:
        planning = plan_lanes(order.topics, order.planning_policy, ports)
        drained.halted = [*planning.halted.values(), *planning.unavailable.values()]
        on_plans(planning)
        before, taken = len(drained.closed), []
        for plan in (each for each in planning.plans if each and each.lane not in failed):
            began = len(drained.closed)
            try:
                with sign_of_life(plan.lane):
                    taken.append(execute_plan(plan, ports, order.ingest_options, closed).stop_reason)
            except AnalyticsError as fault:
                faults.append(fault)
                failed |= {plan.lane} if len(drained.closed) == began else set()
        drained.halted += filter(None, taken)
        if not order.until_idle or any(taken) or len(drained.closed) == before:
            raise_first(faults)
            return drained
