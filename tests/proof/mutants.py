"""Faults planted into the flow and its stores, one each: whoever proves the flow has to find every one of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from analytics_defs.adapters.memory import MemoryArchive, MemoryLedger, MemoryRecentEvents
from analytics_defs.core.events.event import Event
from analytics_defs.core.ingest.batch_accounting import account
from analytics_defs.core.ingest.batch_builder import Staged
from analytics_defs.core.ledger import Batch, BatchRecord, Head
from analytics_defs.core.storage.object_keys import staging_key
from analytics_defs.flows.ingest import steps
from analytics_defs.flows.ingest.execute_plan import Conduct
from analytics_defs.flows.ingest.timings import Stopwatch
from analytics_defs.ports import Blob, Claims, Ports


class HeadsWithoutCondition(MemoryLedger):
    """Take and close move heads wherever they are."""

    def take(self, batch: Batch) -> bool:
        for each in batch.ranges:
            head = self._heads.get(each.topic_partition, Head(each.topic_partition, each.start, each.start))
            self._heads[each.topic_partition] = replace(head, next=each.start, pending=None)
        return super().take(batch)

    def close(self, record: BatchRecord) -> bool:
        batch = record.batch
        self._pending[batch.id] = batch
        for each in batch.ranges:
            self._heads[each.topic_partition] = replace(self._heads[each.topic_partition], pending=batch.id)
        return super().close(record)


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

    def claim(self, events: Sequence[Event], batch_time: datetime) -> Claims:
        for event in events:
            self.items.pop(event.id, None)
        return super().claim(events, batch_time)


class StagingOverwritten(MemoryArchive):
    """The last staging file wins."""

    def put_if_absent(self, blob: Blob) -> bytes:
        self.put([blob])
        return blob.body


class _Later:
    """An archive that only remembers what to put."""

    def __init__(self) -> None:
        self.blobs: list[Blob] = []

    def put(self, blobs: Sequence[Blob]) -> None:
        self.blobs += blobs

    def put_new(self, blobs: Sequence[Blob]) -> Sequence[Blob]:
        self.put(blobs)
        return ()


def closing_first(batch: Batch, fresh: Staged | None, ports: Ports, conduct: Conduct, watch: Stopwatch | None = None) -> BatchRecord | None:
    """`flows.ingest.finish`, but progress and counters move before the archive has confirmed."""
    watch = watch or Stopwatch(ports.clock)
    staged = steps.stage(batch, fresh, ports, conduct, watch)
    if staged is not None:
        archive: Any = _Later()
        stored = steps.claim_and_archive(batch, staged, replace(ports, archive=archive), watch)
        record = account(batch, staged, stored, watch.effort(ports.clock.now(), conduct.code_version))
        if ports.ledger.close(record):
            ports.archive.put(archive.blobs)
            ports.archive.delete([staging_key(batch.id)])
            return record
    steps.must_be_closed(batch, ports)
    return None


def archiving_first(claim_chunk: Callable[..., Any]) -> Callable[..., Any]:
    """`archiving._claim_chunk`, but every object is written before its id is claimed."""

    def archived_then_claimed(batch: Batch, staged: Staged, chunk: Sequence[Event], ports: Ports, watch: Stopwatch) -> Any:
        recent: Any = _EverythingIsMine()
        claim_chunk(batch, staged, chunk, replace(ports, recent=recent), watch)
        return ports.recent.claim(chunk, batch.time).refused

    return archived_then_claimed


class _EverythingIsMine:
    def claim(self, events: Sequence[Event], batch_time: datetime) -> Claims:  # noqa: ARG002 - the port's signature
        return Claims({}, frozenset())


def without_kept_rules(judged: Callable[..., Any]) -> Callable[..., Any]:
    """`reading_again._judged`, but of a version that kept no rules: who reads again judges by today's, and may stage other bytes."""
    return lambda records, batch, conduct: judged(records, replace(batch, rules=None), conduct)
