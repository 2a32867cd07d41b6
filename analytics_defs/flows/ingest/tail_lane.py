"""After its plan a run goes on for a while with what arrives meanwhile in its lane: a process that is there already costs no start.

    plan of the sensor ──► look ──► plan ──► ingest ──► look …  until the time is over, or nothing came

Each plan is made by the same function as the sensor's, from Kafka and the ledger as they are at that moment, and executed by the same
page. So a follower is nothing to the ledger but another executor, and may be killed, sleep, or meet a rival as any other.
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
"""A follower that has found nothing for so long, or at its only look, ends: an idle system holds no process."""


@dataclass(frozen=True, slots=True)
class TailOptions:
    """How one run follows its lane. Values of one run."""

    topics: Sequence[str]
    planning_policy: PlanningPolicy
    """As many lanes as the sensor's plans, each plan no larger than a batch: what is more waits for a run of its own."""
    duration: timedelta
    """From the end of the sensor's plan. Zero: not at all."""
    interval: timedelta
    """At most one plan in so long, but for a full one: each batch costs the same few requests, however small it is."""
    interval_per_batch: timedelta = timedelta(0)
    """And so long for each batch of a plan: one of many partitions makes several, and the archive of an hour has to list them all."""
    should_continue: Callable[[], bool] = field(default=lambda: True, kw_only=True)
    """Asked before each plan: no ends it."""


def tail_lane(
    lane: int, following: TailOptions, ports: Ports, conduct: IngestOptions, on_closed: Callable[[BatchRecord], None]
) -> ExecutionReport:
    """Plan and ingest this lane again and again. Ends early where another run takes what was planned: two in a lane are one too many;
    and where there is no such lane any more.

    Raises the first fault, as `ingest`, and what `should_continue` raises; what was closed before stays closed.
    """
    report, clock = ExecutionReport(), ports.clock
    every, nothing_came = _ms(following.interval), _ms(max(IDLE_TIMEOUT, following.interval))
    begun = came = clock.elapsed_ms()
    pause = every
    ends = begun + _ms(following.duration)
    while report.stop_reason is None and lane < following.planning_policy.lanes:
        due = max(begun + pause, clock.elapsed_ms())
        if due >= ends or due - came > nothing_came:
            break
        clock.sleep(timedelta(milliseconds=due - clock.elapsed_ms()))
        if not following.should_continue():
            break
        begun = clock.elapsed_ms()
        plan = plan_lanes(following.topics, following.planning_policy, ports).plans[lane]
        done = execute_plan(plan, ports, conduct, on_closed)
        report.closed += done.closed
        report.stop_reason = done.stop_reason
        came = clock.elapsed_ms() if done.closed else came
        is_full = plan.offsets >= following.planning_policy.max_offsets  # a backlog: batches as large as they may be need no pause
        pause = 0 if is_full else max(every, _ms(following.interval_per_batch) * len(done.closed))
    return report


def _ms(duration: timedelta) -> int:
    return duration // timedelta(milliseconds=1)
