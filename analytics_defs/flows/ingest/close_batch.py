"""Close a batch, commit the group's offsets, and delete what an interrupted run left behind."""

from __future__ import annotations

from collections.abc import Callable

from analytics_defs.core.ingest.planning import Plan
from analytics_defs.core.ledger import Batch, BatchKind, BatchRecord
from analytics_defs.core.storage.object_keys import staging_key
from analytics_defs.errors import AnalyticsError, InconsistentState, Superseded
from analytics_defs.flows.deferred_errors import DeferredErrors
from analytics_defs.flows.stored.compacted_parts import delete_own_compacted_parts
from analytics_defs.ports import Ports


def close_batch(record: BatchRecord, ports: Ports) -> BatchRecord | None:
    """Close the batch and delete its staging file. Return None if the ledger refused: another executor was first.

    After a refusal, parts that are already in an archive are deleted: this executor may have written them again.
    """
    if not ports.ledger.close_batch(record):
        delete_own_compacted_parts(record, ports)
        return None
    ports.object_store.delete([staging_key(record.batch.id)])
    return record


def require_closed(batch: Batch, ports: Ports) -> None:
    """Raise Superseded if the batch has no record."""
    if ports.ledger.batch_record(batch.id) is None:
        raise Superseded(f"batch {batch.id} is neither pending nor closed: another executor took over. Nothing was changed.")


class GroupCommitter:
    """Commits the group's offsets. They decide nothing, so an error is kept in `errors` and ends the commits of this run.

    The next plan commits again what is missing.
    """

    def __init__(self, ports: Ports) -> None:
        self._ports, self._deferred = ports, DeferredErrors()

    @property
    def errors(self) -> list[AnalyticsError]:
        return self._deferred.errors

    def commit(self, record: BatchRecord) -> None:
        """Commit the ends of a closed batch."""
        self._run(lambda: commit_offsets(record, self._ports))

    def recommit(self, plan: Plan) -> None:
        """Commit the ledger's offsets for the partitions in which the group's offsets differ."""
        self._run(lambda: recommit_offsets(plan, self._ports))

    def _run(self, commit: Callable[[], None]) -> None:
        if not self.errors:
            with self._deferred.defer_all():
                commit()


def commit_offsets(record: BatchRecord, ports: Ports) -> None:
    """Show the progress to Kafka's lag tools. Idempotent."""
    if record.batch.kind is BatchKind.INGEST:
        ports.event_log.commit(record.ends)


def recommit_offsets(plan: Plan, ports: Ports) -> None:
    """Set the group's offsets to the ledger's, for the partitions that the plan names."""
    if plan.recommit:
        snapshot = ports.ledger.snapshot()
        readable = [partition for partition in plan.recommit if not snapshot.unreadable_reason(partition)]
        ports.event_log.commit({partition: snapshot.checkpoint(partition).next_offset for partition in readable})


def delete_stale_staging_files(ports: Ports) -> list[str]:
    """Delete staging files of closed batches. A run that died between close and delete leaves one. Return the deleted keys."""
    closed = [key for key in ports.object_store.list_keys(staging_key("")) if _is_closed(key.rpartition("/")[2], ports)]
    ports.object_store.delete(closed)
    return closed


def _is_closed(batch_id: str, ports: Ports) -> bool:
    """Return False also if the ledger item cannot be read: then the file stays."""
    try:
        return ports.ledger.pending_batch(batch_id) is None and ports.ledger.batch_record(batch_id) is not None
    except InconsistentState:
        return False
