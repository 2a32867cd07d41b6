"""The ledger in memory: the same conditions as in DynamoDB, under one lock."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from analytics_defs.adapters.dynamodb import ledger_keys as keys
from analytics_defs.adapters.dynamodb import ledger_transactions
from analytics_defs.adapters.memory.locking import LockedStore, atomic
from analytics_defs.core.counter_adjustments import ADJUSTMENT_LANE, Adjustment, CounterItem
from analytics_defs.core.hours.retention import DeadLetterExpiry
from analytics_defs.core.hours.revision import ArchiveRevision
from analytics_defs.core.ingest.batch_accounting import (
    checkpoint_changes,
    counter_increments,
    hourly_increments,
    require_distinct_redrives,
    sum_counters,
)
from analytics_defs.core.ledger import (
    Batch,
    BatchRecord,
    Checkpoint,
    ClosedRange,
    Lease,
    LedgerSnapshot,
    PlatformId,
    TopicState,
    contradicted_checkpoint_message,
    pending_batches_of,
)
from analytics_defs.core.offsets import Range, Source, TopicPartition
from analytics_defs.errors import InconsistentState


class MemoryLedger(LockedStore):
    """The ledger's memory double."""

    def __init__(self) -> None:
        super().__init__()
        self._topics: dict[str, TopicState] = {}
        self._checkpoints: dict[TopicPartition, Checkpoint] = {}
        self._pending: dict[str, Batch] = {}
        self._leases: dict[str, Lease] = {}
        self._records: dict[str, BatchRecord] = {}
        self._ranges: dict[TopicPartition, list[tuple[int, ClosedRange]]] = {}
        self._hours: dict[str, list[str]] = {}
        self._redriven: dict[Source, str] = {}
        self._revisions: dict[str, list[ArchiveRevision]] = {}
        self._totals: dict[int, dict[str, int]] = {}
        self._hourly: dict[tuple[str, int], dict[str, int]] = {}
        self._adjustments: dict[CounterItem, list[Adjustment]] = {}
        self._dead_letter_expiry: DeadLetterExpiry | None = None
        self._platform_id: PlatformId | None = None

    @atomic
    def snapshot(self) -> LedgerSnapshot:
        return LedgerSnapshot(
            dict(self._topics), dict(self._checkpoints), dict(self._pending), dict(self._leases), platform_id=self._platform_id
        )

    @atomic
    def register_platform_id(self, platform_id: PlatformId) -> PlatformId:
        stored = self._platform_id
        if stored is None or (stored.id == platform_id.id and stored.bucket_id in (None, platform_id.bucket_id)):
            self._platform_id = stored = platform_id
        return stored

    @atomic
    def open_topic(self, topic: TopicState) -> TopicState:
        known = self._topics.get(topic.topic)
        if topic.incarnation == (known.incarnation + 1 if known else 0):
            self._topics[topic.topic] = topic
        return self._topics[topic.topic]

    @atomic
    def begin_batch(self, batch: Batch) -> bool:
        pending = self._pending.get(batch.id)
        if pending is not None and pending.run_id == batch.run_id:
            return True
        checkpoints = {
            range_: self._checkpoints.get(range_.topic_partition, Checkpoint(range_.topic_partition, range_.start, range_.start))
            for range_ in batch.ranges
        }
        self._require_first_starts([range_.topic_partition for range_ in batch.ranges if range_.topic_partition not in self._checkpoints])
        if batch.id in self._records or any(
            checkpoint.pending_batch_id is not None or checkpoint.next_offset != range_.start for range_, checkpoint in checkpoints.items()
        ):
            return False
        self._checkpoints |= {
            checkpoint.topic_partition: replace(checkpoint, pending_batch_id=batch.id) for checkpoint in checkpoints.values()
        }
        self._pending[batch.id] = batch
        return True

    def _require_first_starts(self, partitions: Sequence[TopicPartition]) -> None:
        for topic_partition in partitions:
            closed = [str(closed_range.range) for _, closed_range in self._ranges.get(topic_partition, ())]
            if evidence := closed or pending_batches_of(topic_partition, self._pending):
                raise InconsistentState(contradicted_checkpoint_message(topic_partition, None, evidence[0]))

    @atomic
    def pending_batch(self, batch_id: str) -> Batch | None:
        return self._pending.get(batch_id)

    @atomic
    def mark_staged(self, batch_id: str, digest: str) -> bool:
        batch = self._pending.get(batch_id)
        if batch is None:
            return False
        if batch.staged not in (None, digest):
            raise InconsistentState(f"batch {batch_id}: its staging file has SHA-256 {digest}, the ledger recorded {batch.staged}")
        self._pending[batch_id] = replace(batch, staged=digest)
        return True

    def unclosable_reason(self, batch: Batch, hours: int) -> str | None:
        return ledger_transactions.unclosable_reason(batch, hours)

    @atomic
    def close_batch(self, record: BatchRecord) -> bool:
        batch = record.batch
        require_distinct_redrives(record)
        checkpoints = [self._checkpoints.get(range_.topic_partition) for range_ in batch.ranges]
        if any(checkpoint is None or checkpoint.pending_batch_id != batch.id for checkpoint in checkpoints):
            if batch.id not in self._pending:
                return False
            raise InconsistentState(f"batch {batch.id} is pending, and a checkpoint is not where it left it. Nothing was changed.")
        if closed_before := [range_ for range_ in batch.ranges if self._is_closed(range_)]:
            raise InconsistentState(f"batch {batch.id}: {', '.join(map(str, closed_before))} were closed before. Nothing was changed.")
        if redriven_before := [str(redriven.source) for redriven in record.redriven if redriven.source in self._redriven]:
            raise InconsistentState(f"batch {batch.id}: {', '.join(redriven_before)} were redriven before. Nothing was changed.")
        for range_ in batch.ranges:
            self._checkpoints[range_.topic_partition] = replace(
                self._checkpoints[range_.topic_partition], next_offset=range_.end, pending_batch_id=None
            )
        for topic_partition, move in checkpoint_changes(record).items():
            checkpoint = self._checkpoints[topic_partition]
            self._checkpoints[topic_partition] = replace(checkpoint, totals=checkpoint.totals + move)
        self.restore_entries(record)
        self._records[batch.id] = record
        del self._pending[batch.id]
        self._totals[batch.lane] = sum_counters([self._totals.get(batch.lane, {}), counter_increments(record)])
        for hour, counts in hourly_increments(record).items():
            self._hourly[hour, batch.lane] = sum_counters([self._hourly.get((hour, batch.lane), {}), counts])
        return True

    @atomic
    def differing_entries(self, record: BatchRecord) -> Sequence[str]:
        ranges = [closed for closed in record.closed_ranges if closed not in self._ranges_of(closed.range.topic_partition)]
        hours = [hour for hour in record.hours if record.batch.id not in self._hours.get(hour, [])]
        redriven = [redriven.source for redriven in record.redriven if self._redriven.get(redriven.source) != record.batch.id]
        return [
            *(f"{keys.range_pk(closed.range.topic_partition)} {keys.padded(closed.range.end)}" for closed in ranges),
            *(f"{keys.hour_pk(hour)} {record.batch.id}" for hour in hours),
            *(" ".join(key["S"] for key in keys.redriven_key(source).values()) for source in redriven),
        ]

    @atomic
    def restore_entries(self, record: BatchRecord) -> None:
        for closed in record.closed_ranges:
            topic_partition, end = closed.range.topic_partition, closed.range.end
            others = [other for other in self._ranges_of(topic_partition) if other.range.end != end]
            self._ranges[topic_partition] = sorted([(other.range.end, other) for other in (*others, closed)], key=lambda pair: pair[0])
        for hour in record.hours:
            self._hours[hour] = sorted({*self._hours.get(hour, []), record.batch.id})
        self._redriven |= {redriven.source: record.batch.id for redriven in record.redriven}

    def _ranges_of(self, topic_partition: TopicPartition) -> list[ClosedRange]:
        return [closed for _, closed in self._ranges.get(topic_partition, [])]

    def _is_closed(self, range_: Range) -> bool:
        """Return whether a closed range has this end: its item in DynamoDB has the same key."""
        return any(closed.range.end == range_.end for closed in self.closed_ranges_after(range_.topic_partition, range_.end - 1, 1))

    @atomic
    def batch_record(self, batch_id: str) -> BatchRecord | None:
        return self._records.get(batch_id)

    @atomic
    def closed_range_at(self, source: Source) -> ClosedRange | None:
        ranges = self.closed_ranges_after(source.topic_partition, source.offset, 1)
        return ranges[0] if ranges and source.offset in ranges[0].range else None

    @atomic
    def closed_ranges_after(self, topic_partition: TopicPartition, offset: int, limit: int) -> Sequence[ClosedRange]:
        ranges = self._ranges.get(topic_partition, [])
        first = bisect_right(ranges, offset, key=lambda item: item[0])
        return [closed_range for _, closed_range in ranges[first : first + limit]]

    @atomic
    def last_batches(self, limit: int) -> Sequence[BatchRecord]:
        return [self._records[batch_id] for batch_id in sorted(self._records, reverse=True)[:limit]]

    @atomic
    def batch_records_from(self, batch_id: str) -> Iterator[BatchRecord]:
        return iter([self._records[known_id] for known_id in sorted(self._records) if known_id >= batch_id])

    @atomic
    def batches_of_day(self, day: str) -> Iterator[BatchRecord]:
        return iter(
            [self._records[batch_id] for batch_id in sorted(self._records) if self._records[batch_id].batch.time.date().isoformat() == day]
        )

    @atomic
    def batches_of_hour(self, hour: str) -> Sequence[str]:
        return list(self._hours.get(hour, []))

    @atomic
    def latest_revision(self, hour: str) -> ArchiveRevision | None:
        revisions = self._revisions.get(hour)
        return revisions[-1] if revisions else None

    @atomic
    def put_revision(self, revision: ArchiveRevision) -> ArchiveRevision:
        revisions = self._revisions.setdefault(revision.hour, [])
        if revision.number > len(revisions) + 1:
            raise InconsistentState(
                f"hour {revision.hour}: expected revision {len(revisions) + 1} next, found {revision.number}. Nothing was changed."
            )
        if revision.number == len(revisions) + 1:
            revisions.append(revision)
        return revisions[revision.number - 1]

    @atomic
    def dead_letter_expiry(self) -> DeadLetterExpiry | None:
        return self._dead_letter_expiry

    @atomic
    def record_dead_letter_expiry(self, expiry: DeadLetterExpiry) -> DeadLetterExpiry:
        if self._dead_letter_expiry is None or self._dead_letter_expiry.expired_through < expiry.expired_through:
            self._dead_letter_expiry = expiry
        return self._dead_letter_expiry

    @atomic
    def redriven_by(self, sources: Sequence[Source]) -> Mapping[Source, str]:
        return {source: self._redriven[source] for source in sources if source in self._redriven}

    @atomic
    def counters(self) -> Mapping[str, int]:
        return sum_counters(list(self.counters_by_lane().values()))

    @atomic
    def counters_by_lane(self) -> Mapping[int, Mapping[str, int]]:
        adjusted = [adjustment.counts for item, adjustments in self._adjustments.items() if not item.hour for adjustment in adjustments]
        return {lane: dict(counts) for lane, counts in self._totals.items()} | (
            {ADJUSTMENT_LANE: sum_counters(adjusted)} if adjusted else {}
        )

    @atomic
    def read_counters_atomically(self, wanted: Sequence[CounterItem]) -> Mapping[CounterItem, Mapping[str, int]]:
        return {
            item: dict(self._hourly.get((item.hour, item.lane), {}) if item.hour else self._totals.get(item.lane, {})) for item in wanted
        }

    @atomic
    def counter_items(self) -> Sequence[CounterItem]:
        return sorted([*map(CounterItem, self._totals), *(CounterItem(lane, hour) for hour, lane in self._hourly)])

    @atomic
    def adjustments(self) -> Sequence[Adjustment]:
        return [adjustment for adjustments in self._adjustments.values() for adjustment in adjustments]

    @atomic
    def put_adjustment(self, adjustment: Adjustment) -> Adjustment:
        adjustments = self._adjustments.get(adjustment.target, [])
        if adjustment.number > len(adjustments) + 1:
            raise InconsistentState(
                f"{adjustment.target}: expected adjustment {len(adjustments) + 1} next, found {adjustment.number}. Nothing was changed."
            )
        if adjustment.number == len(adjustments) + 1:
            adjustments = self._adjustments[adjustment.target] = [*adjustments, adjustment]
        return adjustments[adjustment.number - 1]

    @atomic
    def hourly_counters(self, first: str, last: str) -> Mapping[str, Mapping[str, int]]:
        adjusted = ((item.hour, adjustment.counts) for item, adjustments in self._adjustments.items() for adjustment in adjustments)
        counters_by_hour = [*((hour, counts) for (hour, _), counts in self._hourly.items()), *adjusted]
        hours = sorted({hour for hour, _ in counters_by_hour if hour and first <= hour <= last})
        return {wanted: sum_counters([counts for hour, counts in counters_by_hour if hour == wanted]) for wanted in hours}

    @atomic
    def renew_lease(self, lease: Lease) -> None:
        self._leases[lease.run_id] = lease

    @atomic
    def release_lease(self, run_id: str) -> None:
        self._leases.pop(run_id, None)
