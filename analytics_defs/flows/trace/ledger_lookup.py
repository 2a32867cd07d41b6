"""The ledger's word of a source: what it says without any file."""

from __future__ import annotations

from analytics_defs.core.ledger import BatchRecord, Snapshot
from analytics_defs.core.offsets import Source
from analytics_defs.errors import Contradiction
from analytics_defs.flows.trace.outcome import Fate, Trace
from analytics_defs.ports import Ports

READINGS = 10


def not_closed(source: Source, ports: Ports) -> Trace | None:
    """None where the head has passed it."""
    snapshot = _snapshot(source, ports)
    if why := snapshot.why_unreadable(source.topic_partition):
        raise Contradiction(why)
    head = snapshot.heads.get(source.topic_partition)
    if head is None:
        return Trace(source, Fate.UNKNOWN_PARTITION, detail="the ledger has no account of this topic-partition")
    if source.offset < head.first:
        return Trace(source, Fate.BEFORE_START, detail=f"the ledger's account of the partition begins at {head.first}")
    pending = snapshot.pending.get(head.pending or "")
    if pending and any(each.holds(source) for each in pending.ranges):
        return Trace(source, Fate.PENDING, pending.id, detail=f"taken by run {pending.run_id} at {pending.time:%Y-%m-%dT%H:%M:%SZ}")
    return Trace(source, Fate.NOT_READ, detail=f"the next offset to read is {head.next}") if source.offset >= head.next else None


def _snapshot(source: Source, ports: Ports) -> Snapshot:
    """Looked at again where a take or a close was seen by half: a head that is pending, without the batch's entry."""
    snapshot = ports.ledger.snapshot()
    for _ in range(READINGS):
        head = snapshot.heads.get(source.topic_partition)
        if head is None or head.pending is None or head.pending in {*snapshot.pending, *snapshot.unreadable}:
            break
        snapshot = ports.ledger.snapshot()
    return snapshot


def without_file(source: Source, record: BatchRecord) -> Trace | None:
    batch_id = record.batch.id
    for gap in record.gaps:
        if gap.range.holds(source):
            return Trace(source, Fate.GAP, batch_id, detail=str(gap.reason))
    if any(each.holds(source) for each in record.lost):
        return Trace(source, Fate.LOST, batch_id, detail="retention removed it before it was read")
    if source in record.tombstones:
        return Trace(source, Fate.TOMBSTONE, batch_id, detail="null value: counted, nothing stored")
    if any(each.holds(source) for each in record.unaccounted):
        return Trace(source, Fate.UNACCOUNTED, batch_id, detail="no record was seen, and no evidence why")
    return None
