"""Close and commit, and what may be left behind by whoever died between them."""

from __future__ import annotations

from analytics_defs.core.ingest.planning import Plan
from analytics_defs.core.ledger import Batch, BatchKind, BatchRecord
from analytics_defs.core.storage.object_keys import staging_key
from analytics_defs.errors import InconsistentState, Superseded
from analytics_defs.ports import Ports


def require_closed(batch: Batch, ports: Ports) -> None:
    """All is well if the batch's record is there. Raises Superseded if it is not."""
    if ports.ledger.batch_record(batch.id) is None:
        raise Superseded(f"batch {batch.id} is neither pending nor closed: another executor went another way. Nothing was changed.")


def commit_offsets(record: BatchRecord, ports: Ports) -> None:
    """Show the progress to Kafka's lag tools. It decides nothing: whoever comes next may repeat it."""
    if record.batch.kind is BatchKind.INGEST:
        ports.event_log.commit(record.ends)


def recommit_offsets(plan: Plan, ports: Ports) -> None:
    """Set the group's offsets to what the ledger says, where they differ."""
    if plan.recommit:
        snapshot = ports.ledger.snapshot()
        ports.event_log.commit(
            {each: snapshot.checkpoint(each).next_offset for each in plan.recommit if not snapshot.unreadable_reason(each)}
        )


def delete_stale_staging_files(ports: Ports) -> list[str]:
    """Delete staging files of batches that are closed: left by whoever died between the close and the delete."""
    closed = [key for key in ports.object_store.list_keys(staging_key("")) if _is_closed(key.rpartition("/")[2], ports)]
    ports.object_store.delete(closed)
    return closed


def _is_closed(batch_id: str, ports: Ports) -> bool:
    """False as well where the ledger's word of it cannot be read: its file is left, and fails nobody."""
    try:
        return ports.ledger.pending_batch(batch_id) is None and ports.ledger.batch_record(batch_id) is not None
    except InconsistentState:
        return False
