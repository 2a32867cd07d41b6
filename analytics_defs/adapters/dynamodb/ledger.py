"""The ledger in DynamoDB. `core.ledger_keys` says where everything lies, `core.ledger_writes` what each transaction changes."""

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
from analytics_defs.adapters.dynamodb.requests import Dynamo
from analytics_defs.core.counter_adjustments import ADJUSTING_LANE, Adjustment, CounterItem
from analytics_defs.core.hours.retention import LettersTaken
from analytics_defs.core.hours.revision import Revision
from analytics_defs.core.ingest.batch_accounting import added
from analytics_defs.core.ledger import Batch, BatchRecord, Lease, RangeRecord, Seal, Snapshot, TopicState
from analytics_defs.core.offsets import Source, TopicPartition
from analytics_defs.errors import Contradiction

_PK = "pk = :pk"


class DynamoLedger:
    """Implements `ports.Ledger`. Thread-safe."""

    def __init__(self, dynamo: Dynamo, tables: LedgerTables) -> None:
        self._dynamo = dynamo
        self._tables = tables

    # Progress.

    def snapshot(self) -> Snapshot:
        """Every item is its newest; together they need not be of one moment: a transaction that happens meanwhile may be seen by half.

        Whoever acts on it acts under conditions, so the worst is a refusal.
        """
        return items.snapshot_of(self._query(keys.PROGRESS))

    def open_topic(self, topic: TopicState) -> TopicState:
        """A generation that does not follow the one that is there changes nothing. Raises Contradiction where there is none to follow."""
        if not self._dynamo.transact([writes.open_action(topic, self._tables.ledger)]):
            return topic
        known = self._dynamo.get(self._tables.ledger, keys.topic_key(topic.topic))
        if known is None:
            raise Contradiction(f"topic {topic.topic}: expected generation 0 first, found {topic.generation}. Nothing was changed.")
        return items.decoded(items.topic_of, known)

    def take(self, batch: Batch) -> bool:
        """Also True where an earlier attempt of this run did it and only its answer was lost.

        The entry stands for the heads: one transaction put it and moved them, and both stay until the batch is closed. Batch and run
        together name one attempt, so nobody else's take is ever believed to be this one.
        """
        if not self._dynamo.transact(writes.take_actions(batch, self._tables)):
            return True
        entry = self.pending(batch.id)
        return entry is not None and entry.run_id == batch.run_id

    def pending(self, batch_id: str) -> Batch | None:
        found = self._dynamo.get(self._tables.ledger, keys.pending_key(batch_id))
        return items.decoded(items.pending_of, found) if found else None

    def mark_staged(self, batch_id: str, digest: str) -> bool:
        refused = self._dynamo.transact([writes.staged_action(batch_id, digest, self._tables.ledger)])
        if not refused:
            return True
        if not refused[0]:
            return False
        noted = items.decoded(items.pending_of, refused[0]).staged
        raise Contradiction(
            f"batch {batch_id}: its staging file has SHA-256 {digest}, the ledger noted {noted}. Restore the file that was noted "
            "from the bucket's backup or versions; the partitions wait."
        )

    def close(self, record: BatchRecord) -> bool:
        """Also False where an earlier attempt did it and only its answer was lost: then the record is there.

        Raises Contradiction where the batch is pending and yet cannot be closed: a record of it was redriven before.
        """
        if not self._dynamo.transact(writes.close_actions(record, self._tables)):
            return True
        if self.pending(record.batch.id) is None:
            return False
        raise Contradiction(
            f"{record.batch.kind} batch {record.batch.id} is pending and cannot be closed: a head is not where the batch left it, or one "
            f"of its {len(record.redriven)} redriven records was redriven before. Nothing was changed; `analytics trace` shows its offsets."
        )

    def renew(self, lease: Lease) -> None:
        self._dynamo.put(self._tables.ledger, items.lease_item(lease))

    def release(self, run_id: str) -> None:
        self._dynamo.delete(self._tables.ledger, keys.lease_key(run_id))

    def put_seal(self, seal: Seal) -> Seal:
        refused = self._dynamo.transact([writes.seal_action(seal, self._tables.ledger)])
        return items.decoded(items.seal_of, refused[0]) if refused and refused[0] else seal

    # Closed batches.

    def record(self, batch_id: str) -> BatchRecord | None:
        found = self._dynamo.get(self._tables.ledger, keys.record_key(batch_id))
        return items.decoded(items.record_of, found) if found else None

    def range_at(self, source: Source) -> RangeRecord | None:
        after = self.ranges_after(source.topic_partition, source.offset, 1)
        return after[0] if after and source.offset in after[0].range else None

    def ranges_after(self, topic_partition: TopicPartition, offset: int, limit: int) -> Sequence[RangeRecord]:
        values = {":pk": keys.range_pk(topic_partition), ":offset": keys.padded(offset)}
        found = self._dynamo.query(self._tables.ledger, f"{_PK} AND sk > :offset", values, limit=limit)
        return [items.decoded(items.range_of, item) for item in found]

    def last_batches(self, limit: int) -> Sequence[BatchRecord]:
        found = self._dynamo.query(self._tables.ledger, _PK, {":pk": keys.BATCHES}, limit=limit, descending=True)
        return [items.decoded(items.record_of, item) for item in found]

    def records_from(self, batch_id: str) -> Iterator[BatchRecord]:
        """Read page by page as it is consumed."""
        found = self._dynamo.query(self._tables.ledger, f"{_PK} AND sk >= :from", {":pk": keys.BATCHES, ":from": batch_id})
        return (items.decoded(items.record_of, item) for item in found)

    def batches_of_day(self, day: str) -> Iterator[BatchRecord]:
        """Read page by page as it is consumed. Raises ValueError where `day` is none."""
        begin = date.fromisoformat(day).strftime("%Y%m%d")
        found = self._dynamo.query(self._tables.ledger, f"{_PK} AND begins_with(sk, :day)", {":pk": keys.BATCHES, ":day": begin})
        return (items.decoded(items.record_of, item) for item in found)

    def batches_of_hour(self, hour: str) -> Sequence[str]:
        return [item["sk"]["S"] for item in self._query(keys.hour_pk(hour))]

    def revision(self, hour: str) -> Revision | None:
        found = self._dynamo.query(self._tables.ledger, _PK, {":pk": keys.revision_pk(hour)}, limit=1, descending=True)
        return next((items.decoded(hour_items.revision_of, item) for item in found), None)

    def revise(self, revision: Revision) -> Revision:
        """Raises Contradiction where no revision stands before it."""
        if revision.number > 1 and not self._dynamo.get(self._tables.ledger, keys.revision_key(revision.hour, revision.number - 1)):
            raise Contradiction(f"hour {revision.hour}: there is no revision before {revision.number}. Nothing was changed.")
        refused = self._dynamo.transact([writes.revision_action(revision, self._tables.ledger)])
        return items.decoded(hour_items.revision_of, refused[0]) if refused and refused[0] else revision

    def letters_taken(self) -> LettersTaken | None:
        found = self._dynamo.get(self._tables.ledger, keys.letters_taken_key())
        return items.decoded(hour_items.letters_taken_of, found) if found else None

    def take_letters(self, taken: LettersTaken) -> LettersTaken:
        refused = self._dynamo.transact([writes.letters_action(taken, self._tables.ledger)])
        return items.decoded(hour_items.letters_taken_of, refused[0]) if refused and refused[0] else taken

    def redriven(self, sources: Sequence[Source]) -> Mapping[Source, str]:
        wanted = [keys.redriven_key(source) for source in dict.fromkeys(sources)]
        return dict(items.decoded(items.redriven_of, item) for item in self._dynamo.get_many(self._tables.ledger, wanted))

    # Counters.

    def counters(self) -> Mapping[str, int]:
        return added(list(self.counters_by_lane().values()))

    def counters_by_lane(self) -> Mapping[int, Mapping[str, int]]:
        lanes: dict[int, dict[str, int]] = {}
        for item in self._aggregates(_PK, {":pk": keys.TOTALS}):
            lane = keys.lane_of(item)
            lanes[lane] = added([lanes.get(lane, {}), items.decoded(items.counters_of, item)])
        return lanes

    def counters_at_once(self, wanted: Sequence[CounterItem]) -> Mapping[CounterItem, Mapping[str, int]]:
        """A transaction that was seen by half, by a query, is waited for: DynamoDB refuses to read what one is still changing."""
        found = self._dynamo.get_at_once(self._tables.aggregates, [keys.counter_key(each) for each in wanted])
        return {each: items.decoded(items.counters_of, item) if item else {} for each, item in zip(wanted, found, strict=True)}

    def counter_items(self) -> Sequence[CounterItem]:
        found = (item for item in self._all_aggregates() if keys.lane_of(item) != ADJUSTING_LANE)
        return sorted(items.decoded(counter_items.counter_item_of, item) for item in found)

    def adjustments(self) -> Sequence[Adjustment]:
        return [items.decoded(counter_items.adjustment_of, item) for item in self._all_aggregates() if keys.lane_of(item) == ADJUSTING_LANE]

    def adjust(self, adjustment: Adjustment) -> Adjustment:
        before = keys.adjustment_key(adjustment.of, adjustment.number - 1)
        if adjustment.number > 1 and not self._dynamo.get(self._tables.aggregates, before):
            raise Contradiction(f"{adjustment.of}: there is no adjustment before {adjustment.number}. Nothing was changed.")
        refused = self._dynamo.transact([writes.adjustment_action(adjustment, self._tables.aggregates)])
        return items.decoded(counter_items.adjustment_of, refused[0]) if refused and refused[0] else adjustment

    def hourly(self, first: str, last: str) -> Mapping[str, Mapping[str, int]]:
        between = {":pk": keys.HOURS, ":first": first, ":last": f"{last}~"}
        hours: dict[str, dict[str, int]] = {}
        for item in self._aggregates(f"{_PK} AND sk BETWEEN :first AND :last", between):
            hour = item["sk"]["S"].partition("#")[0]
            hours[hour] = added([hours.get(hour, {}), items.decoded(items.counters_of, item)])
        return hours

    def _all_aggregates(self) -> Iterator[Item]:
        return chain.from_iterable(self._aggregates(_PK, {":pk": pk}) for pk in (keys.TOTALS, keys.HOURS))

    def _query(self, pk: str) -> Iterator[Item]:
        return self._dynamo.query(self._tables.ledger, _PK, {":pk": pk})

    def _aggregates(self, condition: str, values: Mapping[str, str]) -> Iterator[Item]:
        return self._dynamo.query(self._tables.aggregates, condition, values)
