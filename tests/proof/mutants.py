"""Faults planted into the flow and its stores, one each: whoever proves the flow has to find every one of them."""

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
from analytics_defs.core.storage.object_keys import staging_key
from analytics_defs.flows.ingest.close_batch import require_closed
from analytics_defs.flows.ingest.options import IngestOptions
from analytics_defs.flows.ingest.stage_batch import stage_batch
from analytics_defs.flows.ingest.timings import Stopwatch
from analytics_defs.flows.ingest.write_batch import claim_and_write
from analytics_defs.ports import ClaimResult, Ports, StoredObject


class HeadsWithoutCondition(MemoryLedger):
    """Take and close move heads wherever they are."""

    def begin_batch(self, batch: Batch) -> bool:
        for each in batch.ranges:
            head = self._heads.get(each.topic_partition, Checkpoint(each.topic_partition, each.start, each.start))
            self._heads[each.topic_partition] = replace(head, next_offset=each.start, pending_batch_id=None)
        return super().begin_batch(batch)

    def close_batch(self, record: BatchRecord) -> bool:
        batch = record.batch
        self._pending[batch.id] = batch
        for each in batch.ranges:
            self._heads[each.topic_partition] = replace(self._heads[each.topic_partition], pending_batch_id=batch.id)
        return super().close_batch(record)


class MarksIgnored(MemoryLedger):
    """Nobody notes which staging file decides, nor asks whether the batch is still pending."""

    def mark_staged(self, batch_id: str, digest: str) -> bool:  # noqa: ARG002 - the port's signature
        return True


class LateRisersBelieved(MemoryLedger):
    """Whoever wrote a staging file goes on with it, also when the batch is closed."""

    def mark_staged(self, batch_id: str, digest: str) -> bool:
        return super().mark_staged(batch_id, digest) or True


class ClaimsWithoutCondition(MemoryRecentEvents):
    """The last claim wins, and nobody is told."""

    def claim(self, events: Sequence[Event], batch_time: datetime) -> ClaimResult:
        for event in events:
            self.items.pop(event.id, None)
        return super().claim(events, batch_time)


class StagingOverwritten(MemoryObjectStore):
    """The last staging file wins."""

    def put_if_absent(self, blob: StoredObject) -> bytes:
        self.put([blob])
        return blob.body


class _Later:
    """An archive that only remembers what to put."""

    def __init__(self) -> None:
        self.blobs: list[StoredObject] = []

    def put(self, blobs: Sequence[StoredObject]) -> None:
        self.blobs += blobs

    def put_many_if_absent(self, blobs: Sequence[StoredObject]) -> Sequence[StoredObject]:
        self.put(blobs)
        return ()


def closing_first(
    batch: Batch, fresh: StagedBatch | None, ports: Ports, conduct: IngestOptions, watch: Stopwatch | None = None
) -> BatchRecord | None:
    """`flows.ingest.execute_plan.finish_batch`, but progress and counters move before the archive has confirmed."""
    watch = watch or Stopwatch(ports.clock)
    staged = stage_batch(batch, fresh, ports, conduct, watch)
    if staged is not None:
        archive: Any = _Later()
        stored = claim_and_write(batch, staged, replace(ports, object_store=archive), watch)
        record = build_batch_record(batch, staged, stored, watch.timings(ports.clock.now(), conduct.code_version))
        if ports.ledger.close_batch(record):
            ports.object_store.put(archive.blobs)
            ports.object_store.delete([staging_key(batch.id)])
            return record
    require_closed(batch, ports)
    return None


def archiving_first(claim_chunk: Callable[..., Any]) -> Callable[..., Any]:
    """`archiving._claim_chunk`, but every object is written before its id is claimed."""

    def archived_then_claimed(batch: Batch, staged: StagedBatch, chunk: Sequence[Event], ports: Ports, watch: Stopwatch) -> Any:
        recent: Any = _EverythingIsMine()
        claim_chunk(batch, staged, chunk, replace(ports, recent_events=recent), watch)
        return ports.recent_events.claim(chunk, batch.time).duplicates

    return archived_then_claimed


class _EverythingIsMine:
    def claim(self, events: Sequence[Event], batch_time: datetime) -> ClaimResult:  # noqa: ARG002 - the port's signature
        return ClaimResult({}, frozenset())


def without_kept_rules(judged: Callable[..., Any]) -> Callable[..., Any]:
    """`reread_batch._classify_all`, but of a version that kept no rules: who reads again judges by today's, and may stage other bytes."""
    return lambda records, batch, conduct: judged(records, replace(batch, rules=None), conduct)
