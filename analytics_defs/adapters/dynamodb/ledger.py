"""The ledger in DynamoDB. `ledger_keys` lists the items, `ledger_transactions` what each transaction changes."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
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
from analytics_defs.core.ledger import (
    Batch,
    BatchRecord,
    ClosedRange,
    Lease,
    LedgerSnapshot,
    PlatformId,
    TopicState,
    contradicted_checkpoint_message,
    pending_batches_of,
)
from analytics_defs.core.offsets import Source, TopicPartition
from analytics_defs.errors import InconsistentState

_PK = "pk = :pk"


class DynamoLedger:
    """Ledger in two DynamoDB tables: see `ports.Ledger`. Thread-safe."""

    def __init__(self, dynamo: DynamoClient, tables: LedgerTables) -> None:
        self._dynamo = dynamo
        self._tables = tables

    # Checkpoints.

    def snapshot(self) -> LedgerSnapshot:
        """Return the newest version of every item. A concurrent transaction may be visible in some items and not in others.

        Callers act on a snapshot under conditions only, so a refused write is the worst result.
        """
        return items.parse_snapshot(self._query(keys.PROGRESS_KEY))

    def open_topic(self, topic: TopicState) -> TopicState:
        """Put the incarnation if it follows the stored one. Otherwise change nothing and return the stored one.

        Raise InconsistentState if there is no incarnation to follow.
        """
        if not self._dynamo.transact([writes.open_topic_action(topic, self._tables.ledger)]):
            return topic
        known = self._dynamo.get(self._tables.ledger, keys.topic_state_key(topic.topic))
        if known is None:
            raise InconsistentState(f"topic {topic.topic}: expected incarnation 0 first, found {topic.incarnation}. Nothing was changed.")
        return items.decode_items(items.parse_topic_state, known)

    def begin_batch(self, batch: Batch) -> bool:
        """Begin the batch. Return True also if an earlier attempt of this run began it and only the answer was lost.

        The entry proves that the checkpoints moved: one transaction puts the entry and moves them, and both stay until the batch is
        closed. Batch and run together identify one attempt, so a begin of another executor is never mistaken for this one.
        """
        new = set[TopicPartition]()
        while refused := self._dynamo.transact(writes.begin_batch_actions(batch, self._tables, new)):
            absent = {range_.topic_partition for position, range_ in enumerate(batch.ranges) if refused.get(position) == {}} - new
            if not absent:
                break
            self._require_first_starts(absent)
            new |= absent
        if not refused:
            return True
        entry = self.pending_batch(batch.id)
        return entry is not None and entry.run_id == batch.run_id

    def _require_first_starts(self, partitions: Collection[TopicPartition]) -> None:
        """Raise InconsistentState if a partition without checkpoint has a closed range or a pending batch.

        The checkpoint is read last: another executor may have begun the partition since it was absent.
        """
        for topic_partition in sorted(partitions):
            closed = [str(closed_range.range) for closed_range in self.closed_ranges_after(topic_partition, 0, 1)]
            evidence = closed or pending_batches_of(topic_partition, self.snapshot().pending)
            if evidence and self._dynamo.get(self._tables.ledger, keys.checkpoint_key(topic_partition)) is None:
                raise InconsistentState(contradicted_checkpoint_message(topic_partition, None, evidence[0]))

    def pending_batch(self, batch_id: str) -> Batch | None:
        item = self._dynamo.get(self._tables.ledger, keys.pending_key(batch_id))
        return items.decode_items(items.parse_pending_batch, item) if item else None

    def mark_staged(self, batch_id: str, digest: str) -> bool:
        refused = self._dynamo.transact([writes.mark_staged_action(batch_id, digest, self._tables.ledger)])
        if not refused:
            return True
        if not refused[0]:
            return False
        recorded = items.decode_items(items.parse_pending_batch, refused[0]).staged
        raise InconsistentState(
            f"batch {batch_id}: its staging file has SHA-256 {digest}, the ledger recorded {recorded}. Restore the recorded file "
            "from the bucket's backup or versions. Until then its partitions are not processed."
        )

    def unclosable_reason(self, batch: Batch, hours: int) -> str | None:
        return writes.unclosable_reason(batch, hours)

    def close_batch(self, record: BatchRecord) -> bool:
        """Close the batch. Return False also if an earlier attempt closed it and only the answer was lost: then the record exists.

        Raise InconsistentState if the batch is pending and cannot be closed, because one of its records was redriven before.
        """
        if not self._dynamo.transact(writes.close_batch_actions(record, self._tables)):
            return True
        if self.pending_batch(record.batch.id) is None:
            return False
        raise InconsistentState(
            f"{record.batch.kind} batch {record.batch.id} is pending and cannot be closed: a checkpoint is not where the batch left it, "
            f"one of its ranges was closed before, or one of its {len(record.redriven)} redriven records was redriven before. Nothing was "
            "changed. `analytics audit` names what is missing, `analytics trace` shows its offsets."
        )

    def renew_lease(self, lease: Lease) -> None:
        self._dynamo.put(self._tables.ledger, items.lease_item(lease))

    def release_lease(self, run_id: str) -> None:
        self._dynamo.delete(self._tables.ledger, keys.lease_key(run_id))

    def register_platform_id(self, platform_id: PlatformId) -> PlatformId:
        refused = self._dynamo.transact([writes.platform_id_action(platform_id, self._tables.ledger)])
        return items.decode_items(items.parse_platform_id, refused[0]) if refused and refused[0] else platform_id

    # Batch history.

    def batch_record(self, batch_id: str) -> BatchRecord | None:
        item = self._dynamo.get(self._tables.ledger, keys.record_key(batch_id))
        return items.decode_items(items.parse_batch_record, item) if item else None

    def closed_range_at(self, source: Source) -> ClosedRange | None:
        ranges = self.closed_ranges_after(source.topic_partition, source.offset, 1)
        return ranges[0] if ranges and source.offset in ranges[0].range else None

    def closed_ranges_after(self, topic_partition: TopicPartition, offset: int, limit: int) -> Sequence[ClosedRange]:
        values = {":pk": keys.range_pk(topic_partition), ":offset": keys.padded(offset)}
        matches = self._dynamo.query(self._tables.ledger, f"{_PK} AND sk > :offset", values, limit=limit)
        return [items.decode_items(items.parse_closed_range, item) for item in matches]

    def last_batches(self, limit: int) -> Sequence[BatchRecord]:
        newest = self._dynamo.query(self._tables.ledger, _PK, {":pk": keys.BATCHES_KEY}, limit=limit, descending=True)
        return [items.decode_items(items.parse_batch_record, item) for item in newest]

    def batch_records_from(self, batch_id: str) -> Iterator[BatchRecord]:
        """Yield the records, reading page by page as they are consumed."""
        matches = self._dynamo.query(self._tables.ledger, f"{_PK} AND sk >= :from", {":pk": keys.BATCHES_KEY, ":from": batch_id})
        return (items.decode_items(items.parse_batch_record, item) for item in matches)

    def batches_of_day(self, day: str) -> Iterator[BatchRecord]:
        """Yield the records, reading page by page as they are consumed. Raise ValueError if `day` is not a date."""
        id_prefix = date.fromisoformat(day).strftime("%Y%m%d")
        matches = self._dynamo.query(self._tables.ledger, f"{_PK} AND begins_with(sk, :day)", {":pk": keys.BATCHES_KEY, ":day": id_prefix})
        return (items.decode_items(items.parse_batch_record, item) for item in matches)

    def batches_of_hour(self, hour: str) -> Sequence[str]:
        return [item["sk"]["S"] for item in self._query(keys.hour_pk(hour))]

    def latest_revision(self, hour: str) -> ArchiveRevision | None:
        newest = self._dynamo.query(self._tables.ledger, _PK, {":pk": keys.revision_pk(hour)}, limit=1, descending=True)
        return next((items.decode_items(hour_items.parse_revision, item) for item in newest), None)

    def put_revision(self, revision: ArchiveRevision) -> ArchiveRevision:
        """Put the revision unless its number exists. Raise InconsistentState if the revision before it does not exist."""
        if revision.number > 1 and not self._dynamo.get(self._tables.ledger, keys.revision_key(revision.hour, revision.number - 1)):
            raise InconsistentState(f"hour {revision.hour}: there is no revision before {revision.number}. Nothing was changed.")
        refused = self._dynamo.transact([writes.revision_action(revision, self._tables.ledger)])
        return items.decode_items(hour_items.parse_revision, refused[0]) if refused and refused[0] else revision

    def dead_letter_expiry(self) -> DeadLetterExpiry | None:
        item = self._dynamo.get(self._tables.ledger, keys.dead_letter_expiry_key())
        return items.decode_items(hour_items.parse_dead_letter_expiry, item) if item else None

    def record_dead_letter_expiry(self, expiry: DeadLetterExpiry) -> DeadLetterExpiry:
        refused = self._dynamo.transact([writes.dead_letter_expiry_action(expiry, self._tables.ledger)])
        return items.decode_items(hour_items.parse_dead_letter_expiry, refused[0]) if refused and refused[0] else expiry

    def redriven_by(self, sources: Sequence[Source]) -> Mapping[Source, str]:
        wanted = [keys.redriven_key(source) for source in dict.fromkeys(sources)]
        return dict(items.decode_items(items.parse_redriven, item) for item in self._dynamo.get_many(self._tables.ledger, wanted))

    def differing_entries(self, record: BatchRecord) -> Sequence[str]:
        return [" ".join(key["S"] for key in _key(item).values()) for item in self._differing_entries(record)]

    def restore_entries(self, record: BatchRecord) -> None:
        for item in self._differing_entries(record):
            self._dynamo.put(self._tables.ledger, item)

    def _differing_entries(self, record: BatchRecord) -> list[Item]:
        expected = writes.entry_items(record)
        stored = self._dynamo.get_many(self._tables.ledger, [_key(item) for item in expected])
        return [item for item in expected if item not in stored]

    # Counters.

    def counters(self) -> Mapping[str, int]:
        return sum_counters(list(self.counters_by_lane().values()))

    def counters_by_lane(self) -> Mapping[int, Mapping[str, int]]:
        lanes: dict[int, dict[str, int]] = {}
        for item in self._query_aggregates(_PK, {":pk": keys.TOTALS_KEY}):
            lane = keys.lane_of_counter_key(item)
            lanes[lane] = sum_counters([lanes.get(lane, {}), items.decode_items(items.parse_counters, item)])
        return lanes

    def read_counters_atomically(self, wanted: Sequence[CounterItem]) -> Mapping[CounterItem, Mapping[str, int]]:
        """Return the items as of one moment.

        If a query has shown only a part of a transaction, this read waits for the rest: DynamoDB refuses to read items that a transaction
        is changing, and the client retries.
        """
        stored = self._dynamo.get_atomically(self._tables.aggregates, [keys.counter_key(target) for target in wanted])
        return {target: items.decode_items(items.parse_counters, item) if item else {} for target, item in zip(wanted, stored, strict=True)}

    def counter_items(self) -> Sequence[CounterItem]:
        counted = (item for item in self._query_all_aggregates() if keys.lane_of_counter_key(item) != ADJUSTMENT_LANE)
        return sorted(items.decode_items(counter_items.parse_counter_item, item) for item in counted)

    def adjustments(self) -> Sequence[Adjustment]:
        return [
            items.decode_items(counter_items.parse_adjustment, item)
            for item in self._query_all_aggregates()
            if keys.lane_of_counter_key(item) == ADJUSTMENT_LANE
        ]

    def put_adjustment(self, adjustment: Adjustment) -> Adjustment:
        previous_key = keys.adjustment_key(adjustment.target, adjustment.number - 1)
        if adjustment.number > 1 and not self._dynamo.get(self._tables.aggregates, previous_key):
            raise InconsistentState(f"{adjustment.target}: there is no adjustment before {adjustment.number}. Nothing was changed.")
        refused = self._dynamo.transact([writes.adjustment_action(adjustment, self._tables.aggregates)])
        return items.decode_items(counter_items.parse_adjustment, refused[0]) if refused and refused[0] else adjustment

    def hourly_counters(self, first: str, last: str) -> Mapping[str, Mapping[str, int]]:
        bounds = {":pk": keys.HOURS_KEY, ":first": first, ":last": f"{last}~"}
        hours: dict[str, dict[str, int]] = {}
        for item in self._query_aggregates(f"{_PK} AND sk BETWEEN :first AND :last", bounds):
            hour = item["sk"]["S"].partition("#")[0]
            hours[hour] = sum_counters([hours.get(hour, {}), items.decode_items(items.parse_counters, item)])
        return hours

    def _query_all_aggregates(self) -> Iterator[Item]:
        return chain.from_iterable(self._query_aggregates(_PK, {":pk": pk}) for pk in (keys.TOTALS_KEY, keys.HOURS_KEY))

    def _query(self, pk: str) -> Iterator[Item]:
        return self._dynamo.query(self._tables.ledger, _PK, {":pk": pk})

    def _query_aggregates(self, condition: str, values: Mapping[str, str]) -> Iterator[Item]:
        return self._dynamo.query(self._tables.aggregates, condition, values)


def _key(item: Item) -> Item:
    return {name: item[name] for name in ("pk", "sk")}
