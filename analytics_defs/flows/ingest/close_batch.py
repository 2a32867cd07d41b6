"""Close and commit, and what may be left behind by whoever died between them."""

from __future__ import annotations

from analytics_defs.core.ingest.planning import Plan
from analytics_defs.core.ledger import Batch, BatchKind, BatchRecord
from analytics_defs.core.storage.object_keys import staging_key
from analytics_defs.errors import Contradiction, TakenOver
from analytics_defs.ports import Ports


def must_be_closed(batch: Batch, ports: Ports) -> None:
    """All is well if the batch's record is there. Raises TakenOver if it is not."""
    if ports.ledger.record(batch.id) is None:
        raise TakenOver(f"batch {batch.id} is neither pending nor closed: another executor went another way. Nothing was changed.")


def commit(record: BatchRecord, ports: Ports) -> None:
    """Show the progress to Kafka's lag tools. It decides nothing: whoever comes next may repeat it."""
    if record.batch.kind is BatchKind.INGEST:
        ports.log.commit(record.ends)


def recommit(plan: Plan, ports: Ports) -> None:
    """Set the group's offsets to what the ledger says, where they differ."""
    if plan.recommit:
        snapshot = ports.ledger.snapshot()
        ports.log.commit({each: snapshot.head(each).next for each in plan.recommit if not snapshot.why_unreadable(each)})


def sweep(ports: Ports) -> list[str]:
    """Delete staging files of batches that are closed: left by whoever died between the close and the delete."""
    closed = [key for key in ports.archive.keys(staging_key("")) if _is_closed(key.rpartition("/")[2], ports)]
    ports.archive.delete(closed)
    return closed


def _is_closed(batch_id: str, ports: Ports) -> bool:
    """False as well where the ledger's word of it cannot be read: its file is left, and fails nobody."""
    try:
        return ports.ledger.pending(batch_id) is None and ports.ledger.record(batch_id) is not None
    except Contradiction:
        return False
