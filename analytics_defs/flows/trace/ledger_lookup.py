"""The ledger's word of a source: what it says without any file."""

from __future__ import annotations

from analytics_defs.core.ledger import BatchRecord, LedgerSnapshot
from analytics_defs.core.offsets import Source
from analytics_defs.errors import InconsistentState
from analytics_defs.flows.trace.outcome import RecordOutcome, Trace
from analytics_defs.ports import Ports

MAX_LEDGER_READS = 10


def unclosed_offset_outcome(source: Source, ports: Ports) -> Trace | None:
    """None where the head has passed it."""
    snapshot = _snapshot(source, ports)
    if why := snapshot.unreadable_reason(source.topic_partition):
        raise InconsistentState(why)
    head = snapshot.checkpoints.get(source.topic_partition)
    if head is None:
        return Trace(source, RecordOutcome.UNKNOWN_PARTITION, detail="the ledger has no account of this topic-partition")
    if source.offset < head.first_offset:
        return Trace(source, RecordOutcome.BEFORE_START, detail=f"the ledger's account of the partition begins at {head.first_offset}")
    pending = snapshot.pending.get(head.pending_batch_id or "")
    if pending and any(each.holds(source) for each in pending.ranges):
        return Trace(
            source, RecordOutcome.PENDING, pending.id, detail=f"taken by run {pending.run_id} at {pending.time:%Y-%m-%dT%H:%M:%SZ}"
        )
    return (
        Trace(source, RecordOutcome.NOT_READ, detail=f"the next offset to read is {head.next_offset}")
        if source.offset >= head.next_offset
        else None
    )


def _snapshot(source: Source, ports: Ports) -> LedgerSnapshot:
    """Looked at again where a take or a close was seen by half: a head that is pending, without the batch's entry."""
    snapshot = ports.ledger.snapshot()
    for _ in range(MAX_LEDGER_READS):
        head = snapshot.checkpoints.get(source.topic_partition)
        if head is None or head.pending_batch_id is None or head.pending_batch_id in {*snapshot.pending, *snapshot.unreadable}:
            break
        snapshot = ports.ledger.snapshot()
    return snapshot


def outcome_without_file(source: Source, record: BatchRecord) -> Trace | None:
    batch_id = record.batch.id
    for gap in record.gaps:
        if gap.range.holds(source):
            return Trace(source, RecordOutcome.GAP, batch_id, detail=str(gap.reason))
    if any(each.holds(source) for each in record.lost):
        return Trace(source, RecordOutcome.LOST, batch_id, detail="retention removed it before it was read")
    if source in record.tombstones:
        return Trace(source, RecordOutcome.TOMBSTONE, batch_id, detail="null value: counted, nothing stored")
    if any(each.holds(source) for each in record.unaccounted):
        return Trace(source, RecordOutcome.UNACCOUNTED, batch_id, detail="no record was seen, and no evidence why")
    return None
