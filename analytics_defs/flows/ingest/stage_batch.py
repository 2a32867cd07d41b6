"""Stage: from here on the batch is a function of its staging file."""

from __future__ import annotations

from analytics_defs.core.ingest.batch_builder import StagedBatch, foreign_sources
from analytics_defs.core.ledger import Batch
from analytics_defs.core.sha256 import sha256_hex
from analytics_defs.core.storage import staging_file
from analytics_defs.core.storage.object_keys import staging_key
from analytics_defs.errors import InconsistentState, PartitionHalted
from analytics_defs.flows.ingest.options import IngestOptions
from analytics_defs.flows.ingest.reread_batch import reread_batch
from analytics_defs.flows.ingest.timings import Stopwatch
from analytics_defs.ports import Ports, StoredObject


def stage_batch(batch: Batch, fresh: StagedBatch | None, ports: Ports, conduct: IngestOptions, watch: Stopwatch) -> StagedBatch | None:
    """The staging file that decides what the batch is: the first one written. None: the batch is no longer pending.

    The mark comes after the file and before any claim: a file written by a late riser is never believed after the close, and a file
    that is gone although it was marked is noticed. Nothing is marked that cannot be read, or is not of this batch: the mark would refuse
    the whole file for ever.
    """
    key = staging_key(batch.id)
    with watch("stage"):
        data = None if fresh else ports.object_store.get(key)
        if data is None and fresh is None:
            now = ports.ledger.pending_batch(batch.id)
            data = _marked_file(now, ports) if now else None
            if now is None or (now.staged and data is None):
                return None
        if data is None:
            fresh = fresh or reread_batch(batch, ports, conduct)
            _require_closable(batch, fresh, ports)
            data = ports.object_store.put_if_absent(
                StoredObject(key, ours := staging_file.encode(fresh), "application/vnd.apache.arrow.stream", {})
            )
            fresh = fresh if data == ours else None
        staged = fresh or _believed(batch, staging_file.decode(data, key), key)
        if not ports.ledger.mark_staged(batch.id, sha256_hex(data)):
            ports.object_store.delete([key])
            return None
        return staged


def _believed(batch: Batch, staged: StagedBatch, key: str) -> StagedBatch:
    """Raises InconsistentState where the file holds anything that is not of the batch."""
    if alien := foreign_sources(staged, batch):
        raise InconsistentState(
            f"{key} is not the staging file of batch {batch.id} of {', '.join(map(str, batch.ranges))}: it holds {', '.join(alien[:3])}. "
            "The batch stays pending; restore the object."
        )
    return staged


def _marked_file(now: Batch, ports: Ports) -> bytes | None:
    """The staging file, looked for after the mark was seen: it may have come since. None: not marked, or closed meanwhile."""
    if now.staged is None:
        return None
    data = ports.object_store.get(staging_key(now.id))
    if data is None and ports.ledger.pending_batch(now.id) is not None:
        raise InconsistentState(
            f"batch {now.id} of {', '.join(map(str, now.ranges))}: its staging file {staging_key(now.id)} (SHA-256 {now.staged}) is gone, "
            "and events of it may have been claimed. Restore the object from the bucket's backup or versions; the partitions wait."
        )
    return data


def _require_closable(batch: Batch, staged: StagedBatch, ports: Ports) -> None:
    """Raise PartitionHalted if the ledger could not close the batch, before anything of it is staged or claimed."""
    hours = len({event.hour for event in staged.events})
    if reason := ports.ledger.unclosable_reason(batch, hours):
        raise PartitionHalted(
            f"batch {batch.id} of {', '.join(map(str, batch.ranges))}: its events lie in {hours} hours, and {reason}. "
            f"Nothing of it was claimed; its partitions wait. "
            f"Set MAX_EVENT_BYTES and MAX_FUTURE_SKEW to what they were at {batch.time.isoformat()}, or run the version of then, "
            "until the batch is closed."
        )
