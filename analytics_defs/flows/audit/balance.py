"""Does the account balance? Two reads for the equation of every topic-partition. `flows.audit.hour` asks whether the stores agree."""

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
"""A batch pending for so long, whose run shows no sign of life, is a finding. A batch takes seconds."""


@dataclass(frozen=True, slots=True)
class BalanceAudit:
    """The equation of every topic-partition, and whether heads and counters say the same."""

    checkpoints: tuple[Checkpoint, ...]
    counters: dict[str, int]
    pending: tuple[str, ...]
    """Batches taken and not closed: work in progress, not yet in any count."""
    differences: tuple[str, ...]
    """Counters that do not equal the sum over the heads. Empty, or somebody has to look."""
    abandoned_batches: tuple[str, ...] = ()
    """Batches of `pending` that nobody works on: their ids may be claimed, and no count has them. Empty, or somebody has to look."""
    unreadable: tuple[str, ...] = ()
    """Items of the ledger that cannot be read: what they say is in none of the sums."""

    @property
    def totals(self) -> OutcomeCounts:
        return sum((head.totals for head in self.checkpoints), OutcomeCounts())

    @property
    def unaccounted(self) -> int:
        return sum(abs(head.unaccounted) for head in self.checkpoints)

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
        if audit.differences and last_shortfall != (shortfall := _missing(audit)):
            last_shortfall = shortfall
            raise Conflict("the counters differ from the checkpoints for the first time")
        return audit

    error = Unavailable(f"batches close faster than the counters can be read ({readings} readings): audit again when ingest is quieter")
    return retry_on_conflict(attempt, readings, error)


def _audit(after: LedgerSnapshot, counters: dict[str, int], now: datetime) -> BalanceAudit:
    heads = tuple(head for _, head in sorted(after.checkpoints.items()) if head.topic_partition != REDRIVE_CHECKPOINT)
    differences = tuple(
        f"{name}: {counters.get(name, 0)} in the counters, {count} over the heads"
        for name, count in _summed(heads).items()
        if counters.get(name, 0) != count
    )
    stuck = tuple(_stuck(batch, now) for _, batch in sorted(after.pending.items()) if _abandoned(batch, after, now))
    return BalanceAudit(heads, counters, tuple(sorted(after.pending)), differences, stuck, tuple(after.unreadable.values()))


def _summed(heads: Sequence[Checkpoint]) -> dict[str, int]:
    """The heads' totals under the names of the counters."""
    totals = sum((head.totals for head in heads), OutcomeCounts()).as_dict()
    return {"events": totals.pop("stored")} | totals


def _missing(found: BalanceAudit) -> dict[str, int]:
    """By how much each counter falls short: the same however many batches closed between two readings."""
    return {name: count - found.counters.get(name, 0) for name, count in _summed(found.checkpoints).items()}


def _abandoned(batch: Batch, snapshot: LedgerSnapshot, now: datetime) -> bool:
    lease = snapshot.leases.get(batch.run_id)
    return now - batch.time > ABANDONED_AFTER and (lease is None or now - lease.renewed_at >= LEASE_DURATION)


def _stuck(batch: Batch, now: datetime) -> str:
    minutes = int((now - batch.time).total_seconds() // 60)
    return (
        f"batch {batch.id} of {', '.join(map(str, batch.ranges))} is pending for {minutes} minutes, and its run {batch.run_id} shows "
        "no sign of life: its events may be stored, and no count has them. `analytics ingest` finishes it, or says what it waits for."
    )
