"""The ledger in DynamoDB. `ledger_keys` lists the items, `ledger_transactions` what each transaction changes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from itertools import chain

from analytics_defs.adapters.dynamodb import counter_items, hour_items
from analytics_defs.adapters.dynamodb import ledger_items as items
from analytics_defs.adapters.dynamodb import ledger_keys as keys
from analytics_defs.adapters.dynamodb import ledger_transactions as writes
from analytics_defs.adapters.dynamodb.attribute_values import Item
from analytics_defs.adapters.dynamodb.ledger_transactions import LedgerTables
from analytics_defs.adapters.dynamodb.requests import DynamoClient
from analytics_defs.core.counter_adjustments import ADJUSTMENT_LANE, Adjustment, CounterItem
from analytics_defs.core.hours.retention import DeadLetterExpiry
from analytics_defs.core.hours.revision import ArchiveRevision
from analytics_defs.core.ingest.batch_accounting import sum_counters
from analytics_defs.core.ledger import Batch, BatchRecord, ClosedRange, Lease, LedgerSnapshot, PlatformId, TopicState
from analytics_defs.core.offsets import Source, TopicPartition
from analytics_defs.errors import InconsistentState

_PK = "pk = :pk"


class DynamoLedger:
    """Implements `ports.Ledger`. Thread-safe."""

    def __init__(self, dynamo: DynamoClient, tables: LedgerTables) -> None:
        self._dynamo = dynamo
        self._tables = tables

    # Progress.

    def snapshot(self) -> LedgerSnapshot:
        """Every item is its newest; together they need not be of one moment: a transaction that happens meanwhile may be seen by half.

        Whoever acts on it acts under conditions, so the worst is a refusal.
        """
        return items.parse_snapshot(self._query(keys.PROGRESS_KEY))

    def open_topic(self, topic: TopicState) -> TopicState:
        """A generation that does not follow the one that is there changes nothing. Raises InconsistentState where there is none to follow."""
        if not self._dynamo.transact([writes.open_topic_action(topic, self._tables.ledger)]):
            return topic
        known = self._dynamo.get(self._tables.ledger, keys.topic_state_key(topic.topic))
        if known is None:
            raise InconsistentState(f"topic {topic.topic}: expected generation 0 first, found {topic.incarnation}. Nothing was changed.")
        return items.decode_items(items.parse_topic_state, known)

    def begin_batch(self, batch: Batch) -> bool:
        """Also True where an earlier attempt of this run did it and only its answer was lost.

        The entry stands for the heads: one transaction put it and moved them, and both stay until the batch is closed. Batch and run
        together name one attempt, so nobody else's take is ever believed to be this one.
        """
        if not self._dynamo.transact(writes.begin_batch_actions(batch, self._tables)):
            return True
        entry = self.pending_batch(batch.id)
        return entry is not None and entry.run_id == batch.run_id

    def pending_batch(self, batch_id: str) -> Batch | None:
        found = self._dynamo.get(self._tables.ledger, keys.pending_key(batch_id))
        return items.decode_items(items.parse_pending_batch, found) if found else None

    def mark_staged(self, batch_id: str, digest: str) -> bool:
        refused = self._dynamo.transact([writes.mark_staged_action(batch_id, digest, self._tables.ledger)])
        if not refused:
            return True
        if not refused[0]:
            return False
        noted = items.decode_items(items.parse_pending_batch, refused[0]).staged
        raise InconsistentState(
            f"batch {batch_id}: its staging file has SHA-256 {digest}, the ledger noted {noted}. Restore the file that was noted "
            "from the bucket's backup or versions; the partitions wait."
        )

    def unclosable_reason(self, batch: Batch, hours: int) -> str | None:
        return writes.unclosable_reason(batch, hours)

    def close_batch(self, record: BatchRecord) -> bool:
        """Also False where an earlier attempt did it and only its answer was lost: then the record is there.

        Raises InconsistentState where the batch is pending and yet cannot be closed: a record of it was redriven before.
        """
        if not self._dynamo.transact(writes.close_batch_actions(record, self._tables)):
            return True
        if self.pending_batch(record.batch.id) is None:
            return False
        raise InconsistentState(
            f"{record.batch.kind} batch {record.batch.id} is pending and cannot be closed: a head is not where the batch left it, or one "
            f"of its {len(record.redriven)} redriven records was redriven before. Nothing was changed; `analytics trace` shows its offsets."
        )

    def renew_lease(self, lease: Lease) -> None:
        self._dynamo.put(self._tables.ledger, items.lease_item(lease))

    def release_lease(self, run_id: str) -> None:
        self._dynamo.delete(self._tables.ledger, keys.lease_key(run_id))

    def register_platform_id(self, seal: PlatformId) -> PlatformId:
        refused = self._dynamo.transact([writes.platform_id_action(seal, self._tables.ledger)])
        return items.decode_items(items.parse_platform_id, refused[0]) if refused and refused[0] else seal

    # Closed batches.

    def batch_record(self, batch_id: str) -> BatchRecord | None:
        found = self._dynamo.get(self._tables.ledger, keys.record_key(batch_id))
        return items.decode_items(items.parse_batch_record, found) if found else None

    def closed_range_at(self, source: Source) -> ClosedRange | None:
        after = self.closed_ranges_after(source.topic_partition, source.offset, 1)
        return after[0] if after and source.offset in after[0].range else None

    def closed_ranges_after(self, topic_partition: TopicPartition, offset: int, limit: int) -> Sequence[ClosedRange]:
        values = {":pk": keys.range_pk(topic_partition), ":offset": keys.padded(offset)}
        found = self._dynamo.query(self._tables.ledger, f"{_PK} AND sk > :offset", values, limit=limit)
        return [items.decode_items(items.parse_closed_range, item) for item in found]

    def last_batches(self, limit: int) -> Sequence[BatchRecord]:
        found = self._dynamo.query(self._tables.ledger, _PK, {":pk": keys.BATCHES_PREFIX}, limit=limit, descending=True)
        return [items.decode_items(items.parse_batch_record, item) for item in found]

    def batch_records_from(self, batch_id: str) -> Iterator[BatchRecord]:
        """Read page by page as it is consumed."""
        found = self._dynamo.query(self._tables.ledger, f"{_PK} AND sk >= :from", {":pk": keys.BATCHES_PREFIX, ":from": batch_id})
        return (items.decode_items(items.parse_batch_record, item) for item in found)

    def batches_of_day(self, day: str) -> Iterator[BatchRecord]:
        """Read page by page as it is consumed. Raises ValueError where `day` is none."""
        begin = date.fromisoformat(day).strftime("%Y%m%d")
        found = self._dynamo.query(self._tables.ledger, f"{_PK} AND begins_with(sk, :day)", {":pk": keys.BATCHES_PREFIX, ":day": begin})
        return (items.decode_items(items.parse_batch_record, item) for item in found)

    def batches_of_hour(self, hour: str) -> Sequence[str]:
        return [item["sk"]["S"] for item in self._query(keys.hour_pk(hour))]

    def latest_revision(self, hour: str) -> ArchiveRevision | None:
        found = self._dynamo.query(self._tables.ledger, _PK, {":pk": keys.revision_pk(hour)}, limit=1, descending=True)
        return next((items.decode_items(hour_items.parse_revision, item) for item in found), None)

    def put_revision(self, revision: ArchiveRevision) -> ArchiveRevision:
        """Raises InconsistentState where no revision stands before it."""
        if revision.number > 1 and not self._dynamo.get(self._tables.ledger, keys.revision_key(revision.hour, revision.number - 1)):
            raise InconsistentState(f"hour {revision.hour}: there is no revision before {revision.number}. Nothing was changed.")
        refused = self._dynamo.transact([writes.revision_action(revision, self._tables.ledger)])
        return items.decode_items(hour_items.parse_revision, refused[0]) if refused and refused[0] else revision

    def dead_letter_expiry(self) -> DeadLetterExpiry | None:
        found = self._dynamo.get(self._tables.ledger, keys.dead_letter_expiry_key())
        return items.decode_items(hour_items.parse_dead_letter_expiry, found) if found else None

    def expire_dead_letters(self, taken: DeadLetterExpiry) -> DeadLetterExpiry:
        refused = self._dynamo.transact([writes.dead_letter_expiry_action(taken, self._tables.ledger)])
        return items.decode_items(hour_items.parse_dead_letter_expiry, refused[0]) if refused and refused[0] else taken

    def redriven_by(self, sources: Sequence[Source]) -> Mapping[Source, str]:
        wanted = [keys.redriven_key(source) for source in dict.fromkeys(sources)]
        return dict(items.decode_items(items.parse_redriven, item) for item in self._dynamo.get_many(self._tables.ledger, wanted))

    # Counters.

    def counters(self) -> Mapping[str, int]:
        return sum_counters(list(self.counters_by_lane().values()))

    def counters_by_lane(self) -> Mapping[int, Mapping[str, int]]:
        lanes: dict[int, dict[str, int]] = {}
        for item in self._aggregates(_PK, {":pk": keys.TOTALS_KEY}):
            lane = keys.lane_of_counter_key(item)
            lanes[lane] = sum_counters([lanes.get(lane, {}), items.decode_items(items.parse_counters, item)])
        return lanes

    def read_counters_atomically(self, wanted: Sequence[CounterItem]) -> Mapping[CounterItem, Mapping[str, int]]:
        """A transaction that was seen by half, by a query, is waited for: DynamoDB refuses to read what one is still changing."""
        found = self._dynamo.get_atomically(self._tables.aggregates, [keys.counter_key(each) for each in wanted])
        return {each: items.decode_items(items.parse_counters, item) if item else {} for each, item in zip(wanted, found, strict=True)}

    def counter_items(self) -> Sequence[CounterItem]:
        found = (item for item in self._all_aggregates() if keys.lane_of_counter_key(item) != ADJUSTMENT_LANE)
        return sorted(items.decode_items(counter_items.parse_counter_item, item) for item in found)

    def adjustments(self) -> Sequence[Adjustment]:
        return [
            items.decode_items(counter_items.parse_adjustment, item)
            for item in self._all_aggregates()
            if keys.lane_of_counter_key(item) == ADJUSTMENT_LANE
        ]

    def put_adjustment(self, adjustment: Adjustment) -> Adjustment:
        before = keys.adjustment_key(adjustment.target, adjustment.number - 1)
        if adjustment.number > 1 and not self._dynamo.get(self._tables.aggregates, before):
            raise InconsistentState(f"{adjustment.target}: there is no adjustment before {adjustment.number}. Nothing was changed.")
        refused = self._dynamo.transact([writes.adjustment_action(adjustment, self._tables.aggregates)])
        return items.decode_items(counter_items.parse_adjustment, refused[0]) if refused and refused[0] else adjustment

    def hourly_counters(self, first: str, last: str) -> Mapping[str, Mapping[str, int]]:
        between = {":pk": keys.HOURS_PREFIX, ":first": first, ":last": f"{last}~"}
        hours: dict[str, dict[str, int]] = {}
        for item in self._aggregates(f"{_PK} AND sk BETWEEN :first AND :last", between):
            hour = item["sk"]["S"].partition("#")[0]
            hours[hour] = sum_counters([hours.get(hour, {}), items.decode_items(items.parse_counters, item)])
        return hours

    def _all_aggregates(self) -> Iterator[Item]:
        return chain.from_iterable(self._aggregates(_PK, {":pk": pk}) for pk in (keys.TOTALS_KEY, keys.HOURS_PREFIX))

    def _query(self, pk: str) -> Iterator[Item]:
        return self._dynamo.query(self._tables.ledger, _PK, {":pk": pk})

    def _aggregates(self, condition: str, values: Mapping[str, str]) -> Iterator[Item]:
        return self._dynamo.query(self._tables.aggregates, condition, values)
