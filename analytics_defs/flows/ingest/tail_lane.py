"""After its plan, a run keeps polling its lane for a while, so that process start-up is not paid per batch.

    sensor's plan ──► wait ──► plan ──► ingest ──► wait …  until TAIL_DURATION is over, or no records arrived for a while

Each plan is made by the same function as the sensor's, from the present state of Kafka and the ledger, and executed by the same code.
For the ledger a tailing run is an executor like any other: it may crash, continue late, or lose a batch to another executor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from analytics_defs.core.ingest.planning import PlanningPolicy
from analytics_defs.core.ledger import BatchRecord
from analytics_defs.flows.ingest.execute_plan import ExecutionReport, execute_plan
from analytics_defs.flows.ingest.options import IngestOptions
from analytics_defs.flows.ingest.planning import plan_lanes
from analytics_defs.ports import Ports

IDLE_TIMEOUT = timedelta(seconds=5)
"""A tailing run ends after this time without records, so that an idle system holds no process."""


@dataclass(frozen=True, slots=True)
class TailOptions:
    """Options for tailing a lane after the sensor's plan."""

    topics: Sequence[str]
    planning_policy: PlanningPolicy
    """As many lanes as in the sensor's plans. Each plan is at most one batch: a larger backlog gets a run of its own."""
    duration: timedelta
    """Time from the end of the sensor's plan. Zero: do not tail."""
    interval: timedelta
    """Minimum time between two plans, except after a full one: each batch costs the same few requests, however small it is."""
    interval_per_batch: timedelta = timedelta(0)
    """Minimum time between two plans, per batch of the last plan. It bounds the number of parts that an hour's archive has to list."""
    should_continue: Callable[[], bool] = field(default=lambda: True, kw_only=True)
    """Called before each plan. False ends the run."""


def tail_lane(
    lane: int, tail_options: TailOptions, ports: Ports, options: IngestOptions, on_closed: Callable[[BatchRecord], None]
) -> ExecutionReport:
    """Plan and ingest this lane repeatedly until the time is over or no records arrive.

    Ends early if another run begins a planned batch first, because a lane has one run at a time. Also ends if the lane does not exist.
    Raises the first error, as `execute_plan`, and errors of `should_continue`. Batches closed before stay closed.
    """
    report, clock = ExecutionReport(), ports.clock
    interval_ms, idle_timeout_ms = _ms(tail_options.interval), _ms(max(IDLE_TIMEOUT, tail_options.interval))
    planned_at = records_at = clock.elapsed_ms()
    pause_ms = interval_ms
    ends_at = planned_at + _ms(tail_options.duration)
    while report.stop_reason is None and lane < tail_options.planning_policy.lanes:
        due_at = max(planned_at + pause_ms, clock.elapsed_ms())
        if due_at >= ends_at or due_at - records_at > idle_timeout_ms:
            break
        clock.sleep(timedelta(milliseconds=due_at - clock.elapsed_ms()))
        if not tail_options.should_continue():
            break
        planned_at = clock.elapsed_ms()
        plan = plan_lanes(tail_options.topics, tail_options.planning_policy, ports).plans[lane]
        execution = execute_plan(plan, ports, options, on_closed)
        report.closed += execution.closed
        report.stop_reason = execution.stop_reason
        records_at = clock.elapsed_ms() if execution.closed else records_at
        is_full = plan.offsets >= tail_options.planning_policy.max_offsets  # a backlog: full batches need no pause
        pause_ms = 0 if is_full else max(interval_ms, _ms(tail_options.interval_per_batch) * len(execution.closed))
    return report


def _ms(duration: timedelta) -> int:
    return duration // timedelta(milliseconds=1)
