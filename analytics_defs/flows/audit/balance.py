"""Audit of the ledger's balance: every offset has one outcome, and the counters equal the checkpoints. `audit.hour` audits the stores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from analytics_defs.core.ingest.planning import LEASE_DURATION
from analytics_defs.core.ledger import REDRIVE_CHECKPOINT, Batch, Checkpoint, LedgerSnapshot, OutcomeCounts
from analytics_defs.errors import Unavailable
from analytics_defs.flows.conflict_retry import Conflict, retry_on_conflict
from analytics_defs.ports import Ports

MAX_AUDIT_READS = 100
ABANDONED_AFTER = timedelta(minutes=10)
"""A batch that is pending longer, and whose run has no heartbeat, is a finding. A batch takes seconds."""


@dataclass(frozen=True, slots=True)
class BalanceAudit:
    """The outcome counts of every topic-partition, and their differences from the counters."""

    checkpoints: tuple[Checkpoint, ...]
    counters: dict[str, int]
    pending: tuple[str, ...]
    """Ids of batches that are begun and not closed. They are in no count yet."""
    differences: tuple[str, ...]
    """Counters that do not equal the sum over the checkpoints. Each needs an operator."""
    abandoned_batches: tuple[str, ...] = ()
    """Pending batches without a running executor. Their events may be stored, and no count has them."""
    unreadable: tuple[str, ...] = ()
    """Items of the ledger that cannot be read. They are in none of the sums."""

    @property
    def totals(self) -> OutcomeCounts:
        return sum((checkpoint.totals for checkpoint in self.checkpoints), OutcomeCounts())

    @property
    def unaccounted(self) -> int:
        return sum(abs(checkpoint.unaccounted) for checkpoint in self.checkpoints)

    @property
    def balanced(self) -> bool:
        return not (self.unaccounted or self.differences or self.abandoned_batches or self.unreadable)


def audit_offsets(ports: Ports, readings: int = MAX_AUDIT_READS) -> BalanceAudit:
    """Read the counters between two equal reads of the checkpoints, and compare them.

    A difference counts only if two reads in a row show it: a close may be visible in the checkpoints and not yet in the counters.
    Raises Unavailable if batches close during each of the `readings` attempts.
    """
    last_shortfall: dict[str, int] | None = None

    def attempt() -> BalanceAudit:
        nonlocal last_shortfall
        before = ports.ledger.snapshot()
        counters = dict(ports.ledger.counters())
        after = ports.ledger.snapshot()
        if before.checkpoints != after.checkpoints:
            raise Conflict("a batch closed while the counters were read")
        audit = _audit(after, counters, ports.clock.now())
        if audit.differences and last_shortfall != (shortfall := _shortfall(audit)):
            last_shortfall = shortfall
            raise Conflict("the counters differ from the checkpoints for the first time")
        return audit

    error = Unavailable(f"batches close faster than the counters can be read ({readings} readings): audit again when ingest is quieter")
    return retry_on_conflict(attempt, readings, error)


def _audit(snapshot: LedgerSnapshot, counters: dict[str, int], now: datetime) -> BalanceAudit:
    checkpoints = tuple(checkpoint for partition, checkpoint in sorted(snapshot.checkpoints.items()) if partition != REDRIVE_CHECKPOINT)
    differences = tuple(
        f"{name}: {counters.get(name, 0)} in the counters, {count} over the checkpoints. "
        "`analytics reconcile-counters --dry-run` shows the corrections"
        for name, count in _expected_counters(checkpoints).items()
        if counters.get(name, 0) != count
    )
    abandoned = tuple(_description(batch, now) for _, batch in sorted(snapshot.pending.items()) if _is_abandoned(batch, snapshot, now))
    return BalanceAudit(checkpoints, counters, tuple(sorted(snapshot.pending)), differences, abandoned, tuple(snapshot.unreadable.values()))


def _expected_counters(checkpoints: Sequence[Checkpoint]) -> dict[str, int]:
    """Return the totals of the checkpoints by counter name."""
    totals = sum((checkpoint.totals for checkpoint in checkpoints), OutcomeCounts()).as_dict()
    return {"events": totals.pop("stored")} | totals


def _shortfall(audit: BalanceAudit) -> dict[str, int]:
    """Return by how much each counter is too low. Batches that close between two attempts do not change it."""
    return {name: count - audit.counters.get(name, 0) for name, count in _expected_counters(audit.checkpoints).items()}


def _is_abandoned(batch: Batch, snapshot: LedgerSnapshot, now: datetime) -> bool:
    lease = snapshot.leases.get(batch.run_id)
    return now - batch.time > ABANDONED_AFTER and (lease is None or now - lease.renewed_at >= LEASE_DURATION)


def _description(batch: Batch, now: datetime) -> str:
    minutes = int((now - batch.time).total_seconds() // 60)
    return (
        f"batch {batch.id} of {', '.join(map(str, batch.ranges))} is pending for {minutes} minutes, and its run {batch.run_id} has no "
        "heartbeat: its events may be stored, and no count has them. `analytics ingest` finishes it, or reports what it waits for."
    )
