"""The life of a batch, top to bottom. Read this page first; every step is one function of `flows.steps`.

    plan ──► finish what is pending ──► read ──► take ──► stage ──► claim and archive ──► close ──► commit

A process may die between any two lines, or wake up an hour later and go on: whoever comes next finishes the batch from the same
values, and every write is the same bytes again or refused. Close is last: nothing counts before every store has confirmed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from analytics_defs.core.events.event import Rules, judge
from analytics_defs.core.ingest.batch_accounting import account
from analytics_defs.core.ingest.batch_builder import Cut, Limits, Staged
from analytics_defs.core.ingest.planning import OnDataLoss, Plan, still_open
from analytics_defs.core.ledger import Batch, BatchKind, BatchRecord, Snapshot
from analytics_defs.core.offsets import TopicPartition
from analytics_defs.core.storage.object_keys import batch_id, staging_key
from analytics_defs.core.timestamps import whole_milliseconds
from analytics_defs.errors import AnalyticsError
from analytics_defs.flows.deferred_errors import Deferred, raise_first
from analytics_defs.flows.ingest import steps
from analytics_defs.flows.ingest.timings import Stopwatch
from analytics_defs.ports import Ports


@dataclass(frozen=True, slots=True)
class Conduct:
    """How this executor cuts and judges. Values of one run; a batch that is staged no longer depends on them."""

    run_id: str
    rules: Rules
    limits: Limits = field(default_factory=Limits)
    event_objects: bool = True
    code_version: str = ""
    on_data_loss: OnDataLoss = OnDataLoss.RECORD


@dataclass(slots=True)
class Report:
    """What one execution did. Empty for a plan that somebody else closed before."""

    closed: list[BatchRecord] = field(default_factory=list)
    """Batches that this execution closed itself, in order."""
    stopped_because: str | None = None
    """Why the plan was not executed to its end, where it was not."""


Found: TypeAlias = tuple[Batch | None, Staged, Mapping[TopicPartition, AnalyticsError]]
"""The next batch, or None where nothing could be read; what it is made of; partitions that cannot be read any further, and why."""


def ingest(plan: Plan, ports: Ports, conduct: Conduct, on_closed: Callable[[BatchRecord], None] = lambda _: None) -> Report:
    """Execute exactly this plan. Raises the first fault of a store or broker; what was closed before stays closed.

    A pending batch that must wait for a person, or damage in Kafka, holds its own partitions back only, and the group's offsets decide
    nothing: such a fault is raised when everything else is done. After the group refused offsets no more are sent: the next plan sets
    them all.
    """
    report, waiting, group = Report(), Deferred(), Deferred()
    unreadable: dict[TopicPartition, AnalyticsError] = {}

    def closed(record: BatchRecord | None) -> None:
        if record is None:
            return
        report.closed.append(record)
        on_closed(record)
        if not group.faults:
            with group.every():
                steps.commit(record, ports)

    for pending in steps.pending_of(plan, ports.ledger.snapshot()):
        with waiting.lasting():
            closed(finish(pending, None, ports, conduct))

    steps.open_topics(plan, ports)
    while left := still_open(plan, snapshot := ports.ledger.snapshot()).without(unreadable):
        watch = Stopwatch(ports.clock)
        batch, staged, faults = read(left, snapshot, ports, conduct, watch)
        unreadable |= faults
        if batch is None:
            continue
        if not take(batch, ports, watch):
            report.stopped_because = f"{batch.ranges[0]} was taken by another run"
            break
        closed(finish(batch, staged, ports, conduct, watch))

    if not group.faults:
        with group.every():
            steps.recommit(plan, ports)
    raise_first([*waiting.faults, *unreadable.values(), *group.faults])
    return report


def read(left: Plan, snapshot: Snapshot, ports: Ports, conduct: Conduct, watch: Stopwatch) -> Found:
    """Read and judge until a limit cuts the batch. Nothing is written."""
    with watch("read"):
        now, ranges = whole_milliseconds(ports.clock.now()), left.ranges[: conduct.limits.max_ranges]
        cut = Cut(conduct.limits, lambda record: judge(record, conduct.rules, now), {each.topic_partition: each.start for each in ranges})
        reading = ports.log.read(ranges, cut.admit)
        steps.refuse_loss(reading, conduct)
        exact = steps.exact_ranges(ranges, reading)
        gaps = ports.log.explain(steps.holes_of(exact, cut.sorted(), reading.lost))
        steps.same_topics(exact, snapshot, ports)
    batch = Batch(batch_id(now, exact), BatchKind.INGEST, left.lane, now, exact, conduct.run_id, rules=conduct.rules) if exact else None
    return batch, Staged(cut.sorted(), gaps, reading.lost, conduct.event_objects), reading.faults


def take(batch: Batch, ports: Ports, watch: Stopwatch) -> bool:
    """Heads from idle to pending. False: somebody was first, nothing was changed."""
    with watch("take"):
        return ports.ledger.take(batch)


def finish(batch: Batch, fresh: Staged | None, ports: Ports, conduct: Conduct, watch: Stopwatch | None = None) -> BatchRecord | None:
    """Stage, claim and archive, close, delete the staging file.

    `fresh` is what was just read; None: from the staging file, or the ranges read again.

    None: somebody else closed the batch. Raises TakenOver where the batch is neither pending nor closed.
    """
    watch = watch or Stopwatch(ports.clock)
    staged = steps.stage(batch, fresh, ports, conduct, watch)
    if staged is not None:
        stored = steps.claim_and_archive(batch, staged, ports, watch)
        record = account(batch, staged, stored, watch.effort(ports.clock.now(), conduct.code_version))
        if ports.ledger.close(record):
            ports.archive.delete([staging_key(batch.id)])
            return record
    steps.must_be_closed(batch, ports)
    return None
