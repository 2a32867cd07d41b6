"""The life of a batch, top to bottom. Read this page first; every step is one function of `flows.steps`.

    plan ──► finish what is pending ──► read ──► take ──► stage ──► claim and archive ──► close ──► commit

A process may die between any two lines, or wake up an hour later and go on: whoever comes next finishes the batch from the same
values, and every write is the same bytes again or refused. Close is last: nothing counts before every store has confirmed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from analytics_defs.core.events.event import ValidationRules, classify
from analytics_defs.core.ingest.batch_accounting import build_batch_record
from analytics_defs.core.ingest.batch_builder import BatchBuilder, BatchLimits, StagedBatch
from analytics_defs.core.ingest.planning import OnDataLoss, Plan, remaining_plan
from analytics_defs.core.ledger import Batch, BatchKind, BatchRecord, LedgerSnapshot
from analytics_defs.core.offsets import TopicPartition
from analytics_defs.core.storage.object_keys import batch_id, staging_key
from analytics_defs.core.timestamps import whole_milliseconds
from analytics_defs.errors import AnalyticsError
from analytics_defs.flows.deferred_errors import DeferredErrors, raise_first
from analytics_defs.flows.ingest.close_batch import commit_offsets, recommit_offsets, require_closed
from analytics_defs.flows.ingest.read_batch import (
    explain_uncovered_ranges,
    open_new_topics,
    pending_batches,
    refuse_data_loss,
    require_exact_ranges,
    require_same_topics,
)
from analytics_defs.flows.ingest.stage_batch import stage_batch
from analytics_defs.flows.ingest.timings import Stopwatch
from analytics_defs.flows.ingest.write_batch import claim_and_write
from analytics_defs.ports import Ports


@dataclass(frozen=True, slots=True)
class IngestOptions:
    """How this executor cuts and judges. Values of one run; a batch that is staged no longer depends on them."""

    run_id: str
    validation_rules: ValidationRules
    limits: BatchLimits = field(default_factory=BatchLimits)
    write_event_json: bool = True
    code_version: str = ""
    on_data_loss: OnDataLoss = OnDataLoss.CONTINUE


@dataclass(slots=True)
class ExecutionReport:
    """What one execution did. Empty for a plan that somebody else closed before."""

    closed: list[BatchRecord] = field(default_factory=list)
    """Batches that this execution closed itself, in order."""
    stop_reason: str | None = None
    """Why the plan was not executed to its end, where it was not."""


NextBatch: TypeAlias = tuple[Batch | None, StagedBatch, Mapping[TopicPartition, AnalyticsError]]
"""The next batch, or None where nothing could be read; what it is made of; partitions that cannot be read any further, and why."""


def execute_plan(
    plan: Plan, ports: Ports, conduct: IngestOptions, on_closed: Callable[[BatchRecord], None] = lambda _: None
) -> ExecutionReport:
    """Execute exactly this plan. Raises the first fault of a store or broker; what was closed before stays closed.

    A pending batch that must wait for a person, or damage in Kafka, holds its own partitions back only, and the group's offsets decide
    nothing: such a fault is raised when everything else is done. After the group refused offsets no more are sent: the next plan sets
    them all.
    """
    report, waiting, group = ExecutionReport(), DeferredErrors(), DeferredErrors()
    unreadable: dict[TopicPartition, AnalyticsError] = {}

    def closed(record: BatchRecord | None) -> None:
        if record is None:
            return
        report.closed.append(record)
        on_closed(record)
        if not group.faults:
            with group.defer_all():
                commit_offsets(record, ports)

    for pending in pending_batches(plan, ports.ledger.snapshot()):
        with waiting.defer_non_retryable():
            closed(finish_batch(pending, None, ports, conduct))

    open_new_topics(plan, ports)
    while left := remaining_plan(plan, snapshot := ports.ledger.snapshot()).without(unreadable):
        watch = Stopwatch(ports.clock)
        batch, staged, faults = read_batch(left, snapshot, ports, conduct, watch)
        unreadable |= faults
        if batch is None:
            continue
        if not begin_batch(batch, ports, watch):
            report.stop_reason = f"{batch.ranges[0]} was taken by another run"
            break
        closed(finish_batch(batch, staged, ports, conduct, watch))

    if not group.faults:
        with group.defer_all():
            recommit_offsets(plan, ports)
    raise_first([*waiting.faults, *unreadable.values(), *group.faults])
    return report


def read_batch(left: Plan, snapshot: LedgerSnapshot, ports: Ports, conduct: IngestOptions, watch: Stopwatch) -> NextBatch:
    """Read and judge until a limit cuts the batch. Nothing is written."""
    with watch("read"):
        now, ranges = whole_milliseconds(ports.clock.now()), left.ranges[: conduct.limits.max_ranges]
        cut = BatchBuilder(
            conduct.limits,
            lambda record: classify(record, conduct.validation_rules, now),
            {each.topic_partition: each.start for each in ranges},
        )
        reading = ports.event_log.read(ranges, cut.admit)
        refuse_data_loss(reading, conduct)
        exact = require_exact_ranges(ranges, reading)
        gaps = ports.event_log.explain_gaps(explain_uncovered_ranges(exact, cut.sorted(), reading.lost))
        require_same_topics(exact, snapshot, ports)
    batch = (
        Batch(batch_id(now, exact), BatchKind.INGEST, left.lane, now, exact, conduct.run_id, rules=conduct.validation_rules)
        if exact
        else None
    )
    return batch, StagedBatch(cut.sorted(), gaps, reading.lost, conduct.write_event_json), reading.errors


def begin_batch(batch: Batch, ports: Ports, watch: Stopwatch) -> bool:
    """Heads from idle to pending. False: somebody was first, nothing was changed."""
    with watch("take"):
        return ports.ledger.begin_batch(batch)


def finish_batch(
    batch: Batch, fresh: StagedBatch | None, ports: Ports, conduct: IngestOptions, watch: Stopwatch | None = None
) -> BatchRecord | None:
    """Stage, claim and archive, close, delete the staging file.

    `fresh` is what was just read; None: from the staging file, or the ranges read again.

    None: somebody else closed the batch. Raises Superseded where the batch is neither pending nor closed.
    """
    watch = watch or Stopwatch(ports.clock)
    staged = stage_batch(batch, fresh, ports, conduct, watch)
    if staged is not None:
        stored = claim_and_write(batch, staged, ports, watch)
        record = build_batch_record(batch, staged, stored, watch.timings(ports.clock.now(), conduct.code_version))
        if ports.ledger.close_batch(record):
            ports.object_store.delete([staging_key(batch.id)])
            return record
    require_closed(batch, ports)
    return None
