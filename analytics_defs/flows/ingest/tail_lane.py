"""After its plan a run goes on for a while with what arrives meanwhile in its lane: a process that is there already costs no start.

    plan of the sensor ──► look ──► plan ──► ingest ──► look …  until the time is over, or nothing came

Each plan is made by the same function as the sensor's, from Kafka and the ledger as they are at that moment, and executed by the same
page. So a follower is nothing to the ledger but another executor, and may be killed, sleep, or meet a rival as any other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from analytics_defs.core.ingest.planning import Policy
from analytics_defs.core.ledger import BatchRecord
from analytics_defs.flows.ingest.execute_plan import Conduct, Report, ingest
from analytics_defs.flows.ingest.planning import look
from analytics_defs.ports import Ports

NOTHING_CAME = timedelta(seconds=5)
"""A follower that has found nothing for so long, or at its only look, ends: an idle system holds no process."""


@dataclass(frozen=True, slots=True)
class Following:
    """How one run follows its lane. Values of one run."""

    topics: Sequence[str]
    policy: Policy
    """As many lanes as the sensor's plans, each plan no larger than a batch: what is more waits for a run of its own."""
    duration: timedelta
    """From the end of the sensor's plan. Zero: not at all."""
    every: timedelta
    """At most one plan in so long, but for a full one: each batch costs the same few requests, however small it is."""
    batch: timedelta = timedelta(0)
    """And so long for each batch of a plan: one of many partitions makes several, and the archive of an hour has to list them all."""
    goes_on: Callable[[], bool] = field(default=lambda: True, kw_only=True)
    """Asked before each plan: no ends it."""


def follow(lane: int, following: Following, ports: Ports, conduct: Conduct, on_closed: Callable[[BatchRecord], None]) -> Report:
    """Plan and ingest this lane again and again. Ends early where another run takes what was planned: two in a lane are one too many;
    and where there is no such lane any more.

    Raises the first fault, as `ingest`, and what `goes_on` raises; what was closed before stays closed.
    """
    report, clock = Report(), ports.clock
    every, nothing_came = _ms(following.every), _ms(max(NOTHING_CAME, following.every))
    begun = came = clock.elapsed_ms()
    pause = every
    ends = begun + _ms(following.duration)
    while report.stopped_because is None and lane < following.policy.lanes:
        due = max(begun + pause, clock.elapsed_ms())
        if due >= ends or due - came > nothing_came:
            break
        clock.sleep(timedelta(milliseconds=due - clock.elapsed_ms()))
        if not following.goes_on():
            break
        begun = clock.elapsed_ms()
        plan = look(following.topics, following.policy, ports).plans[lane]
        done = ingest(plan, ports, conduct, on_closed)
        report.closed += done.closed
        report.stopped_because = done.stopped_because
        came = clock.elapsed_ms() if done.closed else came
        is_full = plan.offsets >= following.policy.max_offsets  # a backlog: batches as large as they may be need no pause
        pause = 0 if is_full else max(every, _ms(following.batch) * len(done.closed))
    return report


def _ms(duration: timedelta) -> int:
    return duration // timedelta(milliseconds=1)
