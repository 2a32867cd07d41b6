"""Faults planted into the flow and its stores, one in each. The searches and the random histories have to find every one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from analytics_defs.adapters.memory import MemoryLedger, MemoryObjectStore, MemoryRecentEvents
from analytics_defs.core.events.event import Event
from analytics_defs.core.ingest.batch_accounting import build_batch_record
from analytics_defs.core.ingest.batch_builder import StagedBatch
from analytics_defs.core.ledger import Batch, BatchRecord, Checkpoint
from analytics_defs.core.offsets import Range, TopicPartition
from analytics_defs.core.storage.object_keys import staging_key
from analytics_defs.flows.ingest.close_batch import require_closed
from analytics_defs.flows.ingest.options import IngestOptions
from analytics_defs.flows.ingest.stage_batch import stage_batch
from analytics_defs.flows.ingest.timings import Stopwatch
from analytics_defs.flows.ingest.write_batch import claim_and_write
from analytics_defs.ports import ClaimResult, Ports, StoredObject
from tests.proof.damaged_ledger import DamagedLedger


class CheckpointsWithoutCondition(MemoryLedger):
    """Begin and close move checkpoints without checking their state, or that the ranges are not closed."""

    def _is_closed(self, range_: Range) -> bool:  # noqa: ARG002 - the signature of the double
        return False

    def begin_batch(self, batch: Batch) -> bool:
        for range_ in batch.ranges:
            checkpoint = self._checkpoints.get(range_.topic_partition, Checkpoint(range_.topic_partition, range_.start, range_.start))
            self._checkpoints[range_.topic_partition] = replace(checkpoint, next_offset=range_.start, pending_batch_id=None)
        return super().begin_batch(batch)

    def close_batch(self, record: BatchRecord) -> bool:
        batch = record.batch
        self._pending[batch.id] = batch
        for range_ in batch.ranges:
            checkpoint = self._checkpoints[range_.topic_partition]
            self._checkpoints[range_.topic_partition] = replace(checkpoint, pending_batch_id=batch.id)
        return super().close_batch(record)


class AbsentCheckpointIsNew(DamagedLedger):
    """Begin takes every absent checkpoint for that of a new partition."""

    def _require_first_starts(self, partitions: Sequence[TopicPartition]) -> None:
        pass


class ClosedRangeOverwritten(DamagedLedger):
    """Close does not check that its ranges are not closed."""

    def _is_closed(self, range_: Range) -> bool:  # noqa: ARG002 - the signature of the double
        return False


class StagedDigestIgnored(MemoryLedger):
    """The ledger neither notes the digest of the staging file nor checks that the batch is pending."""

    def mark_staged(self, batch_id: str, digest: str) -> bool:  # noqa: ARG002 - the port's signature
        return True


class ZombiesContinueAfterClose(MemoryLedger):
    """An executor that wrote a staging file continues even if the batch is closed."""

    def mark_staged(self, batch_id: str, digest: str) -> bool:
        return super().mark_staged(batch_id, digest) or True


class ClaimsWithoutCondition(MemoryRecentEvents):
    """The last claim wins, and no claim is refused."""

    def claim(self, events: Sequence[Event], batch_time: datetime) -> ClaimResult:
        for event in events:
            self.items.pop(event.id, None)
        return super().claim(events, batch_time)


class StagingOverwritten(MemoryObjectStore):
    """The last staging file wins."""

    def put_if_absent(self, obj: StoredObject) -> bytes:
        self.put([obj])
        return obj.body


class _DeferredWrites:
    """An object store that collects objects instead of writing them."""

    def __init__(self) -> None:
        self.objects: list[StoredObject] = []

    def put(self, objects: Sequence[StoredObject]) -> None:
        self.objects += objects

    def put_many_if_absent(self, objects: Sequence[StoredObject]) -> Sequence[StoredObject]:
        self.put(objects)
        return ()


def close_before_write(
    batch: Batch, fresh: StagedBatch | None, ports: Ports, options: IngestOptions, stopwatch: Stopwatch | None = None
) -> BatchRecord | None:
    """Finish a batch as `flows.ingest.execute_plan.finish_batch`, but close it before the object store confirms its writes."""
    stopwatch = stopwatch or Stopwatch(ports.clock)
    staged = stage_batch(batch, fresh, ports, options, stopwatch)
    if staged is not None:
        deferred: Any = _DeferredWrites()
        stored = claim_and_write(batch, staged, replace(ports, object_store=deferred), stopwatch)
        record = build_batch_record(batch, staged, stored, stopwatch.timings(ports.clock.now(), options.code_version))
        if ports.ledger.close_batch(record):
            ports.object_store.put(deferred.objects)
            ports.object_store.delete([staging_key(batch.id)])
            return record
    require_closed(batch, ports)
    return None


def write_before_claim(claim_chunk: Callable[..., Any]) -> Callable[..., Any]:
    """Return `write_batch._claim_chunk`, changed so that every object is written before its id is claimed."""

    def written_then_claimed(batch: Batch, staged: StagedBatch, chunk: Sequence[Event], ports: Ports, stopwatch: Stopwatch) -> Any:
        recent: Any = _EveryClaimSucceeds()
        claim_chunk(batch, staged, chunk, replace(ports, recent_events=recent), stopwatch)
        return ports.recent_events.claim(chunk, batch.time).duplicates

    return written_then_claimed


class _EveryClaimSucceeds:
    def claim(self, events: Sequence[Event], batch_time: datetime) -> ClaimResult:  # noqa: ARG002 - the port's signature
        return ClaimResult({}, frozenset())


def reread_with_current_rules(classify: Callable[..., Any]) -> Callable[..., Any]:
    """Return `reread_batch._classify_all`, changed to ignore the rules of the batch. Then a second read may stage other bytes."""
    return lambda records, batch, options: classify(records, replace(batch, rules=None), options)
