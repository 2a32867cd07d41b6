"""The ledger in memory: the same conditions, under one lock."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

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
from analytics_defs.core.ledger import Batch, BatchRecord, Checkpoint, ClosedRange, Lease, LedgerSnapshot, PlatformId, TopicState
from analytics_defs.core.offsets import Source, TopicPartition
from analytics_defs.errors import InconsistentState


class MemoryLedger(LockedStore):
    """The durable account."""

    def __init__(self) -> None:
        super().__init__()
        self._topics: dict[str, TopicState] = {}
        self._heads: dict[TopicPartition, Checkpoint] = {}
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
        self._letters_taken: DeadLetterExpiry | None = None
        self._seal: PlatformId | None = None

    @atomic
    def snapshot(self) -> LedgerSnapshot:
        return LedgerSnapshot(dict(self._topics), dict(self._heads), dict(self._pending), dict(self._leases), platform_id=self._seal)

    @atomic
    def register_platform_id(self, seal: PlatformId) -> PlatformId:
        if self._seal is None or (self._seal.id == seal.id and self._seal.bucket_id is None):
            self._seal = seal
        return self._seal

    @atomic
    def open_topic(self, topic: TopicState) -> TopicState:
        known = self._topics.get(topic.topic)
        if topic.incarnation == (known.incarnation + 1 if known else 0):
            self._topics[topic.topic] = topic
        return self._topics[topic.topic]

    @atomic
    def begin_batch(self, batch: Batch) -> bool:
        known = self._pending.get(batch.id)
        if known is not None and known.run_id == batch.run_id:
            return True
        heads = {
            each: self._heads.get(each.topic_partition, Checkpoint(each.topic_partition, each.start, each.start)) for each in batch.ranges
        }
        if batch.id in self._records or any(
            head.pending_batch_id is not None or head.next_offset != each.start for each, head in heads.items()
        ):
            return False
        self._heads |= {head.topic_partition: replace(head, pending_batch_id=batch.id) for head in heads.values()}
        self._pending[batch.id] = batch
        return True

    @atomic
    def pending_batch(self, batch_id: str) -> Batch | None:
        return self._pending.get(batch_id)

    @atomic
    def mark_staged(self, batch_id: str, digest: str) -> bool:
        batch = self._pending.get(batch_id)
        if batch is None:
            return False
        if batch.staged not in (None, digest):
            raise InconsistentState(f"batch {batch_id}: its staging file has SHA-256 {digest}, the ledger noted {batch.staged}")
        self._pending[batch_id] = replace(batch, staged=digest)
        return True

    def unclosable_reason(self, batch: Batch, hours: int) -> str | None:
        return ledger_transactions.unclosable_reason(batch, hours)

    @atomic
    def close_batch(self, record: BatchRecord) -> bool:
        batch = record.batch
        require_distinct_redrives(record)
        if any(self._heads[each.topic_partition].pending_batch_id != batch.id for each in batch.ranges):
            return False
        if again := [str(each.source) for each in record.redriven if each.source in self._redriven]:
            raise InconsistentState(f"batch {batch.id}: {', '.join(again)} were redriven before. Nothing was changed.")
        for each in batch.ranges:
            self._heads[each.topic_partition] = replace(self._heads[each.topic_partition], next_offset=each.end, pending_batch_id=None)
        for topic_partition, move in checkpoint_changes(record).items():
            head = self._heads[topic_partition]
            self._heads[topic_partition] = replace(head, totals=head.totals + move)
        for each, tally in zip(batch.ranges, record.tallies, strict=True):
            ranges = self._ranges.setdefault(each.topic_partition, [])
            insort(ranges, (each.end, ClosedRange(each, batch.id, tally)), key=lambda item: item[0])
        self._records[batch.id] = record
        del self._pending[batch.id]
        self._totals[batch.lane] = sum_counters([self._totals.get(batch.lane, {}), counter_increments(record)])
        for hour, counts in hourly_increments(record).items():
            self._hourly[hour, batch.lane] = sum_counters([self._hourly.get((hour, batch.lane), {}), counts])
            insort(self._hours.setdefault(hour, []), batch.id)
        self._redriven |= {each.source: batch.id for each in record.redriven}
        return True

    @atomic
    def batch_record(self, batch_id: str) -> BatchRecord | None:
        return self._records.get(batch_id)

    @atomic
    def closed_range_at(self, source: Source) -> ClosedRange | None:
        after = self.closed_ranges_after(source.topic_partition, source.offset, 1)
        return after[0] if after and source.offset in after[0].range else None

    @atomic
    def closed_ranges_after(self, topic_partition: TopicPartition, offset: int, limit: int) -> Sequence[ClosedRange]:
        ranges = self._ranges.get(topic_partition, [])
        first = bisect_right(ranges, offset, key=lambda item: item[0])
        return [each for _, each in ranges[first : first + limit]]

    @atomic
    def last_batches(self, limit: int) -> Sequence[BatchRecord]:
        return [self._records[each] for each in sorted(self._records, reverse=True)[:limit]]

    @atomic
    def batch_records_from(self, batch_id: str) -> Iterator[BatchRecord]:
        return iter([self._records[each] for each in sorted(self._records) if each >= batch_id])

    @atomic
    def batches_of_day(self, day: str) -> Iterator[BatchRecord]:
        return iter([self._records[each] for each in sorted(self._records) if self._records[each].batch.time.date().isoformat() == day])

    @atomic
    def batches_of_hour(self, hour: str) -> Sequence[str]:
        return list(self._hours.get(hour, []))

    @atomic
    def latest_revision(self, hour: str) -> ArchiveRevision | None:
        known = self._revisions.get(hour)
        return known[-1] if known else None

    @atomic
    def put_revision(self, revision: ArchiveRevision) -> ArchiveRevision:
        known = self._revisions.setdefault(revision.hour, [])
        if revision.number > len(known) + 1:
            raise InconsistentState(
                f"hour {revision.hour}: expected revision {len(known) + 1} next, found {revision.number}. Nothing was changed."
            )
        if revision.number == len(known) + 1:
            known.append(revision)
        return known[revision.number - 1]

    @atomic
    def dead_letter_expiry(self) -> DeadLetterExpiry | None:
        return self._letters_taken

    @atomic
    def expire_dead_letters(self, taken: DeadLetterExpiry) -> DeadLetterExpiry:
        if self._letters_taken is None or self._letters_taken.expired_through < taken.expired_through:
            self._letters_taken = taken
        return self._letters_taken

    @atomic
    def redriven_by(self, sources: Sequence[Source]) -> Mapping[Source, str]:
        return {each: self._redriven[each] for each in sources if each in self._redriven}

    @atomic
    def counters(self) -> Mapping[str, int]:
        return sum_counters(list(self.counters_by_lane().values()))

    @atomic
    def counters_by_lane(self) -> Mapping[int, Mapping[str, int]]:
        adjusted = [each.counts for item, made in self._adjustments.items() if not item.hour for each in made]
        return {lane: dict(counts) for lane, counts in self._totals.items()} | (
            {ADJUSTMENT_LANE: sum_counters(adjusted)} if adjusted else {}
        )

    @atomic
    def read_counters_atomically(self, wanted: Sequence[CounterItem]) -> Mapping[CounterItem, Mapping[str, int]]:
        return {
            each: dict(self._hourly.get((each.hour, each.lane), {}) if each.hour else self._totals.get(each.lane, {})) for each in wanted
        }

    @atomic
    def counter_items(self) -> Sequence[CounterItem]:
        return sorted([*map(CounterItem, self._totals), *(CounterItem(lane, hour) for hour, lane in self._hourly)])

    @atomic
    def adjustments(self) -> Sequence[Adjustment]:
        return [each for made in self._adjustments.values() for each in made]

    @atomic
    def put_adjustment(self, adjustment: Adjustment) -> Adjustment:
        made = self._adjustments.get(adjustment.target, [])
        if adjustment.number > len(made) + 1:
            raise InconsistentState(
                f"{adjustment.target}: expected adjustment {len(made) + 1} next, found {adjustment.number}. Nothing was changed."
            )
        if adjustment.number == len(made) + 1:
            made = self._adjustments[adjustment.target] = [*made, adjustment]
        return made[adjustment.number - 1]

    @atomic
    def hourly_counters(self, first: str, last: str) -> Mapping[str, Mapping[str, int]]:
        adjusted = ((item.hour, each.counts) for item, made in self._adjustments.items() for each in made)
        found = [*((hour, counts) for (hour, _), counts in self._hourly.items()), *adjusted]
        hours = sorted({hour for hour, _ in found if hour and first <= hour <= last})
        return {each: sum_counters([counts for hour, counts in found if hour == each]) for each in hours}

    @atomic
    def renew_lease(self, lease: Lease) -> None:
        self._leases[lease.run_id] = lease

    @atomic
    def release_lease(self, run_id: str) -> None:
        self._leases.pop(run_id, None)
