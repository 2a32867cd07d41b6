"""The ledger, in four roles. One class implements all of them.

Every change is one transaction. A method that returns False changed nothing, because its condition did not hold. All roles are
thread-safe.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from analytics_defs.core.counter_adjustments import Adjustment, CounterItem
from analytics_defs.core.hours.retention import DeadLetterExpiry
from analytics_defs.core.hours.revision import ArchiveRevision
from analytics_defs.core.ledger import Batch, BatchRecord, ClosedRange, Lease, LedgerSnapshot, PlatformId, TopicState
from analytics_defs.core.offsets import Source, TopicPartition

MAX_TRANSACT_READS = 25
"""Counter items in one isolated read. DynamoDB allows 100 (AWS, "Quotas in Amazon DynamoDB"), moto and older servers 25."""


class Checkpoints(Protocol):
    """The progress of every partition, and the two transactions around a batch."""

    def snapshot(self) -> LedgerSnapshot:
        """Return topics, checkpoints, pending batches, leases and the platform id, in one consistent query."""
        ...

    def register_platform_id(self, platform_id: PlatformId) -> PlatformId:
        """Put the platform id if it is absent, or over the same id with the same bucket id or none. Return the stored one."""
        ...

    def open_topic(self, topic: TopicState) -> TopicState:
        """Put the incarnation if it follows the stored one, otherwise change nothing. Return the stored one.

        Raise InconsistentState if there is no incarnation to follow.
        """
        ...

    def begin_batch(self, batch: Batch) -> bool:
        """Move the checkpoint of every range from idle at `start` to pending, and put the batch's entry. A new partition has no checkpoint.

        Return True also if an earlier attempt of this run began the batch and only the answer was lost. Raise InconsistentState if a
        partition has no checkpoint, and a closed range or a pending batch.
        """
        ...

    def pending_batch(self, batch_id: str) -> Batch | None:
        """Return the batch if it is pending."""
        ...

    def mark_staged(self, batch_id: str, digest: str) -> bool:
        """Note the SHA-256 of the staging file that decides the batch, if the batch is pending. Idempotent.

        Raise InconsistentState if another digest was recorded before.
        """
        ...

    def unclosable_reason(self, batch: Batch, hours: int) -> str | None:
        """Return why one transaction could not close the batch if its events lie in this many hours. None: it can."""
        ...

    def close_batch(self, record: BatchRecord) -> bool:
        """Move the checkpoints from pending to idle at `end`; put the batch record, its counters, and an entry for each changed hour.

        Raise InconsistentState if a range of these offsets is closed, or a record was redriven before or is named twice in this redrive.
        """
        ...

    def renew_lease(self, lease: Lease) -> None:
        """Put the lease of a run. Liveness only: no safety property depends on it."""
        ...

    def release_lease(self, run_id: str) -> None:
        """Delete the lease of a run. Idempotent."""
        ...


class BatchHistory(Protocol):
    """The records of closed batches. Every question is one query, never a scan."""

    def batch_record(self, batch_id: str) -> BatchRecord | None:
        """Return the record of a closed batch."""
        ...

    def closed_range_at(self, source: Source) -> ClosedRange | None:
        """Return the closed range that contains the source."""
        ...

    def closed_ranges_after(self, topic_partition: TopicPartition, offset: int, limit: int) -> Sequence[ClosedRange]:
        """Return closed ranges that end after the offset, in order."""
        ...

    def last_batches(self, limit: int) -> Sequence[BatchRecord]:
        """Return the newest records by batch time, newest first."""
        ...

    def batch_records_from(self, batch_id: str) -> Iterator[BatchRecord]:
        """Yield records of batches with this id or a later one, in id order. May include one whose close is in flight."""
        ...

    def batches_of_day(self, day: str) -> Iterator[BatchRecord]:
        """Yield records of batches whose time lies in the UTC day `YYYY-MM-DD`, oldest first."""
        ...

    def redriven_by(self, sources: Sequence[Source]) -> Mapping[Source, str]:
        """Return the batch that redrove each source. Sources that were not redriven are left out."""
        ...

    def differing_entries(self, record: BatchRecord) -> Sequence[str]:
        """Return the names of the record's entries that are missing or altered: of its ranges, hours and redriven records."""
        ...

    def restore_entries(self, record: BatchRecord) -> None:
        """Write those entries again, as the close of the batch put them. Idempotent."""
        ...


class HourRevisions(Protocol):
    """The ledger's entries for hours: their batches, their archive revisions, and what expired."""

    def batches_of_hour(self, hour: str) -> Sequence[str]:
        """Return ids of the closed batches that stored events of this hour, in id order."""
        ...

    def latest_revision(self, hour: str) -> ArchiveRevision | None:
        """Return the newest revision of the hour's archive."""
        ...

    def put_revision(self, revision: ArchiveRevision) -> ArchiveRevision:
        """Put the revision unless its number exists. Return the stored revision with that number.

        Raise InconsistentState if the revision before it does not exist.
        """
        ...

    def dead_letter_expiry(self) -> DeadLetterExpiry | None:
        """Return the newest batch time whose dead-letter and duplicates files expired. None: nothing expired."""
        ...

    def record_dead_letter_expiry(self, expiry: DeadLetterExpiry) -> DeadLetterExpiry:
        """Record the batch time up to which these files expire, unless a later one is recorded. Return the recorded one."""
        ...


class Counters(Protocol):
    """Counters of closed batches. Only closing transactions and numbered adjustments change them."""

    def counters(self) -> Mapping[str, int]:
        """Return totals over all lanes. The names are those of `core.ingest.batch_accounting.counter_increments`."""
        ...

    def counters_by_lane(self) -> Mapping[int, Mapping[str, int]]:
        """Return totals by lane. Only those of `REDRIVE_LANE` and `ADJUSTMENT_LANE` may decrease."""
        ...

    def hourly_counters(self, first: str, last: str) -> Mapping[str, Mapping[str, int]]:
        """Return counters of the hours `first..last`, both included, over all lanes."""
        ...

    def read_counters_atomically(self, items: Sequence[CounterItem]) -> Mapping[CounterItem, Mapping[str, int]]:
        """Return at most `MAX_TRANSACT_READS` distinct counter items as of one moment, without their adjustments.

        Shows all of a close or nothing of it, and all of it if its batch record was read before. Missing items are empty.
        """
        ...

    def counter_items(self) -> Sequence[CounterItem]:
        """Return the existing counter items, sorted."""
        ...

    def adjustments(self) -> Sequence[Adjustment]:
        """Return all adjustments, those of one item in the order of their numbers."""
        ...

    def put_adjustment(self, adjustment: Adjustment) -> Adjustment:
        """Put the adjustment unless its number exists; all counters include it from then on. Return the stored one.

        Raise InconsistentState if the number before it does not exist.
        """
        ...


class Ledger(Checkpoints, BatchHistory, HourRevisions, Counters, Protocol):
    """The durable account of all batches."""
