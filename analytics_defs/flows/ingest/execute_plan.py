"""The life of a batch. Read this page first: it calls every step by its name.

    plan ──► finish pending batches ──► read ──► begin ──► stage ──► claim and write ──► close ──► commit

A process may crash between any two steps, or continue after another executor took over. The next run finishes the batch from the
same staged values. Every write is idempotent or refused by a condition. Close is last: nothing counts before every store has confirmed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from analytics_defs.core.ingest.batch_accounting import build_batch_record
from analytics_defs.core.ingest.batch_builder import StagedBatch
from analytics_defs.core.ingest.planning import Plan, remaining_plan
from analytics_defs.core.ledger import Batch, BatchRecord
from analytics_defs.core.offsets import TopicPartition
from analytics_defs.errors import AnalyticsError
from analytics_defs.flows.deferred_errors import DeferredErrors, raise_first
from analytics_defs.flows.ingest.close_batch import GroupCommitter, close_batch, require_closed
from analytics_defs.flows.ingest.options import IngestOptions
from analytics_defs.flows.ingest.read_batch import open_new_topics, pending_batches, read_batch
from analytics_defs.flows.ingest.stage_batch import stage_batch
from analytics_defs.flows.ingest.timings import Stopwatch
from analytics_defs.flows.ingest.write_batch import claim_and_write
from analytics_defs.ports import Ports


@dataclass(slots=True)
class ExecutionReport:
    """Outcome of one execution. Empty if another run had closed the plan before."""

    closed: list[BatchRecord] = field(default_factory=list)
    """Batches that this execution closed itself, in order."""
    stop_reason: str | None = None
    """Why the plan was not executed to its end. None if it was."""


def execute_plan(
    plan: Plan, ports: Ports, options: IngestOptions, on_closed: Callable[[BatchRecord], None] = lambda _: None
) -> ExecutionReport:
    """Execute exactly this plan. Raises the first retryable error of a store or broker at once; batches closed before stay closed.

    Some errors affect only their own partitions: a pending batch that waits for an operator, corrupt data in Kafka. They are raised
    after everything else is done. So is a refused commit of the group's offsets, which decide nothing.
    """
    report, committer = ExecutionReport(), GroupCommitter(ports)
    partition_errors, unreadable = DeferredErrors(), dict[TopicPartition, AnalyticsError]()

    def on_batch_closed(record: BatchRecord | None) -> None:
        if record is not None:
            report.closed.append(record)
            on_closed(record)
            committer.commit(record)

    for pending in pending_batches(plan, ports.ledger.snapshot()):
        with partition_errors.defer_non_retryable():
            on_batch_closed(finish_batch(pending, None, ports, options))

    open_new_topics(plan, ports)
    while remaining := remaining_plan(plan, snapshot := ports.ledger.snapshot()).without(unreadable):
        stopwatch = Stopwatch(ports.clock)
        batch, staged, read_errors = read_batch(remaining, snapshot, ports, options, stopwatch)
        unreadable |= read_errors
        if batch is None:
            continue
        if not begin_batch(batch, ports, stopwatch):
            report.stop_reason = f"another run began {batch.ranges[0]} first"
            break
        on_batch_closed(finish_batch(batch, staged, ports, options, stopwatch))

    committer.recommit(plan)
    raise_first([*partition_errors.errors, *unreadable.values(), *committer.errors])
    return report


def begin_batch(batch: Batch, ports: Ports, stopwatch: Stopwatch) -> bool:
    """Move the checkpoints of the batch from idle to pending. Return False, with nothing changed, if another executor began first."""
    with stopwatch("begin"):
        return ports.ledger.begin_batch(batch)


def finish_batch(
    batch: Batch, fresh: StagedBatch | None, ports: Ports, options: IngestOptions, stopwatch: Stopwatch | None = None
) -> BatchRecord | None:
    """Stage, claim and write, close, and delete the staging file. Return None if another executor closed the batch.

    `fresh` is the content that was just read. None: use the staging file, or read the ranges again if there is none.
    Raises Superseded if the batch is neither pending nor closed.
    """
    stopwatch = stopwatch or Stopwatch(ports.clock)
    staged = stage_batch(batch, fresh, ports, options, stopwatch)
    if staged is not None:
        written = claim_and_write(batch, staged, ports, stopwatch)
        record = build_batch_record(batch, staged, written, stopwatch.timings(ports.clock.now(), options.code_version))
        if closed := close_batch(record, ports):
            return closed
    require_closed(batch, ports)
    return None
