"""Outcomes that the ledger proves without any file."""

from __future__ import annotations

from analytics_defs.core.ledger import BatchRecord, LedgerSnapshot
from analytics_defs.core.offsets import Source
from analytics_defs.errors import InconsistentState
from analytics_defs.flows.trace.outcome import RecordOutcome, Trace
from analytics_defs.ports import Ports

MAX_LEDGER_READS = 10


def unclosed_offset_outcome(source: Source, ports: Ports) -> Trace | None:
    """Return the outcome of an offset that no closed batch holds. None if the checkpoint has passed it.

    Raises InconsistentState if an item of the ledger that decides it cannot be read.
    """
    snapshot = _consistent_snapshot(source, ports)
    if reason := snapshot.unreadable_reason(source.topic_partition):
        raise InconsistentState(reason)
    checkpoint = snapshot.checkpoints.get(source.topic_partition)
    if checkpoint is None:
        return Trace(source, RecordOutcome.UNKNOWN_PARTITION, detail="the ledger has no account of this topic-partition")
    if source.offset < checkpoint.first_offset:
        detail = f"the ledger's account of the partition begins at {checkpoint.first_offset}"
        return Trace(source, RecordOutcome.BEFORE_START, detail=detail)
    pending = snapshot.pending.get(checkpoint.pending_batch_id or "")
    if pending and any(range_.contains(source) for range_ in pending.ranges):
        detail = f"begun by run {pending.run_id} at {pending.time:%Y-%m-%dT%H:%M:%SZ}"
        return Trace(source, RecordOutcome.PENDING, pending.id, detail=detail)
    if source.offset >= checkpoint.next_offset:
        return Trace(source, RecordOutcome.NOT_READ, detail=f"the next offset to read is {checkpoint.next_offset}")
    return None


def _consistent_snapshot(source: Source, ports: Ports) -> LedgerSnapshot:
    """Return a snapshot that has the entry of the partition's pending batch. A query may see half of a transaction: read again then."""
    snapshot = ports.ledger.snapshot()
    for _ in range(MAX_LEDGER_READS):
        checkpoint = snapshot.checkpoints.get(source.topic_partition)
        pending_id = checkpoint.pending_batch_id if checkpoint else None
        if pending_id is None or pending_id in {*snapshot.pending, *snapshot.unreadable}:
            break
        snapshot = ports.ledger.snapshot()
    return snapshot


def outcome_without_file(source: Source, record: BatchRecord) -> Trace | None:
    """Return the outcome if the batch record itself names the offset: gaps, lost offsets, tombstones, unaccounted offsets."""
    batch_id = record.batch.id
    for gap in record.gaps:
        if gap.range.contains(source):
            return Trace(source, RecordOutcome.GAP, batch_id, detail=str(gap.reason))
    if any(range_.contains(source) for range_ in record.lost):
        return Trace(source, RecordOutcome.LOST, batch_id, detail="retention removed it before it was read")
    if source in record.tombstones:
        return Trace(source, RecordOutcome.TOMBSTONE, batch_id, detail="null value: counted, nothing stored")
    if any(range_.contains(source) for range_ in record.unaccounted):
        return Trace(source, RecordOutcome.UNACCOUNTED, batch_id, detail="no record was seen, and no evidence why")
    return None
