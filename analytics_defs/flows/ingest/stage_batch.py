"""Stage: from here on the batch is a function of its staging file."""

from __future__ import annotations

from dataclasses import replace

from analytics_defs.core.ingest.batch_builder import StagedBatch, foreign_sources
from analytics_defs.core.ledger import Batch
from analytics_defs.core.sha256 import sha256_hex
from analytics_defs.core.storage import staging_file
from analytics_defs.core.storage.content_types import ARROW_STREAM_CONTENT_TYPE
from analytics_defs.core.storage.object_keys import staging_key
from analytics_defs.errors import InconsistentState, PartitionHalted
from analytics_defs.flows.ingest.options import IngestOptions
from analytics_defs.flows.ingest.reread_batch import reread_batch
from analytics_defs.flows.ingest.timings import Stopwatch
from analytics_defs.ports import Ports, StoredObject


def stage_batch(batch: Batch, fresh: StagedBatch | None, ports: Ports, options: IngestOptions, stopwatch: Stopwatch) -> StagedBatch | None:
    """Write or read the staging file, and register its digest in the ledger. Return None if the batch is no longer pending.

    The first staging file written decides. Its digest is registered after the file and before any claim. So a file that a zombie
    writes after the close is never used, and a deleted file is detected. A file that is damaged or of another batch
    is never registered: its digest would refuse the correct file.
    """
    key = staging_key(batch.id)
    with stopwatch("stage"):
        data = None if fresh else ports.object_store.get(key)
        if data is None and fresh is None:
            pending = ports.ledger.pending_batch(batch.id)
            data = _registered_file(pending, ports, options) if pending else None
            if pending is None or (pending.staged and data is None):
                return None
        if data is None:
            fresh = fresh or reread_batch(batch, ports, options)
            _require_closable(batch, fresh, ports)
            encoded = staging_file.encode(fresh)
            data = ports.object_store.put_if_absent(StoredObject(key, encoded, ARROW_STREAM_CONTENT_TYPE, {}))
            fresh = fresh if data == encoded else None
        staged = fresh or _require_own_records(batch, staging_file.decode(data, key), key)
        if not ports.ledger.mark_staged(batch.id, sha256_hex(data)):
            ports.object_store.delete([key])
            return None
        return staged


def _require_own_records(batch: Batch, staged: StagedBatch, key: str) -> StagedBatch:
    """Return the content of the staging file. Raise InconsistentState if it holds records outside the ranges of the batch."""
    if sources := foreign_sources(staged, batch):
        raise InconsistentState(
            f"{key} is not the staging file of batch {batch.id} of {', '.join(map(str, batch.ranges))}: "
            f"it holds {', '.join(sources[:3])}. The batch stays pending; restore the object."
        )
    return staged


def _registered_file(pending: Batch, ports: Ports, options: IngestOptions) -> bytes | None:
    """Read the staging file again if its digest is registered: another executor may have staged the batch meanwhile.

    Write a file that is gone again, from Kafka. None: no digest is registered, or the batch was closed meanwhile.
    """
    if pending.staged is None:
        return None
    data = ports.object_store.get(staging_key(pending.id))
    if data is None and ports.ledger.pending_batch(pending.id) is not None:
        return _write_again(pending, ports, options)
    return data


def _write_again(pending: Batch, ports: Ports, options: IngestOptions) -> bytes:
    """Write the registered file again. Its digest proves that the records and their classification are the ones that were staged.

    Raises InconsistentState if the ranges do not give these bytes any more: claims of the batch may exist that nothing else names.
    """
    gone = (
        f"batch {pending.id} of {', '.join(map(str, pending.ranges))}: its staging file {staging_key(pending.id)} "
        f"(SHA-256 {pending.staged}) is gone, and events of it may have been claimed."
    )
    remedy = "Restore the object from the bucket's backup or versions; the partitions wait."
    try:
        staged = reread_batch(pending, ports, options)
    except PartitionHalted as error:
        raise InconsistentState(f"{gone} Its records cannot be read again: {error} {remedy}") from error
    for candidate in (staged, replace(staged, write_event_json=not staged.write_event_json)):  # the setting may have changed
        encoded = staging_file.encode(candidate)
        if sha256_hex(encoded) == pending.staged:
            return ports.object_store.put_if_absent(StoredObject(staging_key(pending.id), encoded, ARROW_STREAM_CONTENT_TYPE, {}))
    raise InconsistentState(f"{gone} Its ranges, read again, give other bytes: Kafka has removed records, or the version differs. {remedy}")


def _require_closable(batch: Batch, staged: StagedBatch, ports: Ports) -> None:
    """Raise PartitionHalted if the ledger could not close the batch. Called before anything of it is staged or claimed."""
    hours = len({event.hour for event in staged.events})
    if reason := ports.ledger.unclosable_reason(batch, hours):
        raise PartitionHalted(
            f"batch {batch.id} of {', '.join(map(str, batch.ranges))}: its events lie in {hours} hours, and {reason}. "
            "Nothing of it was claimed; its partitions wait. "
            f"Set MAX_EVENT_BYTES and MAX_FUTURE_SKEW to their values at {batch.time.isoformat()}, or run the version of that time, "
            "until the batch is closed."
        )
