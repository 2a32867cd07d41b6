"""Invariants that hold in every state, and invariants at rest. Computed from the bytes in the stores, without the code of the flows."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache

import pyarrow.parquet as pq

from analytics_defs.adapters.memory import MemoryEventLog, MemoryLedger, MemoryObjectStore, MemoryRecentEvents
from analytics_defs.core.ledger import REDRIVE_CHECKPOINT, BatchKind, BatchRecord, OutcomeCounts
from analytics_defs.core.offsets import Source, TopicPartition


@dataclass(frozen=True)
class Stores:
    """The contents of the stores, and the produced records."""

    recent_events: MemoryRecentEvents
    object_store: MemoryObjectStore
    ledger: MemoryLedger
    values: Mapping[Source, bytes | None]
    former_owners: Collection[Source] = ()
    """Sources that owned an id until another source claimed it after the deduplication window."""

    @cached_property
    def records(self) -> dict[str, BatchRecord]:
        return {record.batch.id: record for record in self.ledger.last_batches(1_000_000)}

    @cached_property
    def owners(self) -> set[tuple[str, Source]]:
        return {(item.id, item.source) for item in self.recent_events.items.values()}

    def below(self, prefix: str) -> dict[str, bytes]:
        return {key: obj.body for key, obj in self.object_store.objects.items() if key.startswith(prefix)}

    def lines(self, key: str | None) -> list[Source]:
        """Return the sources that a dead-letter or duplicates file names."""
        body = self.object_store.objects[key].body if key in self.object_store.objects else b""
        return [Source.parse(json.loads(line)["source"]) for line in body.splitlines()]

    def rows(self, record: BatchRecord) -> list[tuple[str, Source]]:
        return [row for key in record.parts.values() for row in rows_of(self.object_store.objects[key].body)]


@lru_cache(maxsize=100_000)
def rows_of(part: bytes) -> tuple[tuple[str, Source], ...]:
    table = pq.read_table(io.BytesIO(part), columns=["event_id", "topic", "partition", "offset"])
    return tuple((row["event_id"], Source.parse(f"{row['topic']}/{row['partition']}/{row['offset']}")) for row in table.to_pylist())


def faults(stores: Stores) -> Iterator[str]:
    """Yield violations of the invariants that hold at every moment, also in the middle of any flow."""
    yield from _missing_data(stores)
    yield from _claims_without_batch(stores)
    yield from _objects_without_claim(stores)
    yield from _orphaned_files(stores)
    yield from _counters(stores)


def _missing_data(stores: Stores) -> Iterator[str]:
    """Yield closed batches without all the data that they count."""
    objects = {obj.metadata["source"] for key, obj in stores.object_store.objects.items() if key.startswith("events/")}
    for batch_id, record in stores.records.items():
        named_keys = {*record.parts.values(), record.dead_letters_key, record.duplicates_key} - {None}
        if missing_keys := named_keys - stores.object_store.objects.keys():
            yield f"batch {batch_id} is closed, and {missing_keys} do not exist"
            continue
        rows = stores.rows(record)
        if record.outcome_counts != (by_files := _outcomes_by_files(stores, record, rows)):
            yield f"batch {batch_id} counts {record.outcome_counts}, its files hold {by_files}"
        for event_id, source in rows:
            if source in stores.former_owners:
                continue
            if (event_id, source) not in stores.owners:
                yield f"batch {batch_id} stored {event_id} from {source}, and RecentEvents has another owner or none"
            if record.write_event_json and str(source) not in objects:
                yield f"batch {batch_id} is closed, and the object of {event_id} from {source} does not exist"


def _outcomes_by_files(stores: Stores, record: BatchRecord, rows: list[tuple[str, Source]]) -> OutcomeCounts:
    """Return the outcomes by the files. Outcomes that leave no file are copied from the record."""
    recorded = record.outcome_counts
    dead_letters = len(stores.lines(record.dead_letters_key))
    return OutcomeCounts(
        len(rows), len(stores.lines(record.duplicates_key)), dead_letters, recorded.tombstones, recorded.gaps, recorded.lost
    )


def _claims_without_batch(stores: Stores) -> Iterator[str]:
    stored = (
        {source for record in stores.records.values() for _, source in stores.rows(record)} if not list(_missing_files(stores)) else set()
    )
    for item in stores.recent_events.items.values():
        if item.source not in stored and not _is_staged(stores, item.source):
            yield f"{item.id} is claimed by {item.source}, which no staged or closed batch stores"


def _missing_files(stores: Stores) -> Iterator[str]:
    return (key for record in stores.records.values() for key in record.parts.values() if key not in stores.object_store.objects)


def _is_staged(stores: Stores, source: Source) -> bool:
    """Return whether a pending batch with a staging file contains the source."""
    staged_batches = [batch for batch in stores.ledger.snapshot().pending.values() if batch.staged]
    return any(
        source in batch.redriven_sources
        or any(source.topic_partition == range_.topic_partition and source.offset in range_ for range_ in batch.ranges)
        for batch in staged_batches
    )


def _objects_without_claim(stores: Stores) -> Iterator[str]:
    sources = {source for _, source in stores.owners}
    for key, obj in stores.object_store.objects.items():
        if not key.startswith("events/"):
            continue
        source = Source.parse(obj.metadata["source"])
        if obj.body != stores.values[source]:
            yield f"{key} does not have the bytes of {source}"
        if source not in sources and source not in stores.former_owners:
            yield f"{key} exists, and {source} owns no id"


def _orphaned_files(stores: Stores) -> Iterator[str]:
    """Yield files whose batch is neither pending, nor closed with a record that names them."""
    pending = stores.ledger.snapshot().pending
    for prefix in ("parquet/", "dead-letters/", "duplicates/", "staging/"):
        for key, body in stores.below(prefix).items():
            batch_id = key.rpartition("/")[2].split(".")[0]
            record = stores.records.get(batch_id)
            is_named = record and (prefix == "staging/" or key in (*record.parts.values(), record.dead_letters_key, record.duplicates_key))
            if not is_named and batch_id not in pending:
                yield f"{key} belongs to no batch"
            if prefix == "parquet/":
                for event_id, source in rows_of(body):
                    if (event_id, source) not in stores.owners and source not in stores.former_owners:
                        yield f"{key} has {event_id} from {source}, which does not own it"


def _counters(stores: Stores) -> Iterator[str]:
    """Yield counters and checkpoints that differ from the contents of the closed batches."""
    records = stores.records.values()
    if list(_missing_files(stores)):
        return
    redriven = [moved for record in records for moved in record.redriven]
    expected = {
        "events": sum(len(stores.rows(record)) for record in records),
        "duplicates": sum(len(stores.lines(record.duplicates_key)) for record in records),
        "dead_letters": sum(len(stores.lines(record.dead_letters_key)) for record in records) - len(redriven),
        "batches": len(records),
        "unaccounted": sum(len(range_) for record in records for range_ in record.unaccounted),
    }
    counters = stores.ledger.counters()
    for name, count in expected.items():
        if counters.get(name, 0) != count:
            yield f"counter {name} is {counters.get(name, 0)}, closed batches hold {count}"
    hourly = sum(counts["events"] for counts in stores.ledger.hourly_counters("0000", "9999").values())
    if hourly != expected["events"]:
        yield f"the hours count {hourly} events, closed batches hold {expected['events']}"
    checkpoints = [
        checkpoint for checkpoint in stores.ledger.snapshot().checkpoints.values() if checkpoint.topic_partition != REDRIVE_CHECKPOINT
    ]
    if (stored := sum(checkpoint.totals.stored for checkpoint in checkpoints)) != expected["events"]:
        yield f"checkpoints count {stored} events, closed batches hold {expected['events']}"
    if (unaccounted := sum(checkpoint.unaccounted for checkpoint in checkpoints)) != expected["unaccounted"]:
        yield f"checkpoints miss {unaccounted} offsets, closed batches name {expected['unaccounted']}"


def faults_at_rest(stores: Stores, log: MemoryEventLog, expected_checkpoints: Mapping[TopicPartition, int]) -> Iterator[str]:
    """Yield violations of the invariants without a running executor. `expected_checkpoints` covers the current incarnations."""
    yield from faults(stores)
    snapshot = stores.ledger.snapshot()
    if snapshot.pending:
        yield f"pending: {sorted(snapshot.pending)}"
    if staging_files := stores.below("staging/"):
        yield f"staging files remain: {sorted(staging_files)}"
    for topic_partition, end in expected_checkpoints.items():
        if snapshot.checkpoint(topic_partition).next_offset != end:
            yield f"{topic_partition}: the checkpoint is at {snapshot.checkpoint(topic_partition).next_offset}, expected {end}"
    known_partitions = [topic_partition for topic_partition in expected_checkpoints if topic_partition in snapshot.checkpoints]
    for topic_partition, committed in log.committed(known_partitions).items():
        if committed != (next_offset := snapshot.checkpoints[topic_partition].next_offset):
            yield f"{topic_partition}: the group's offset is {committed}, the checkpoint's {next_offset}"
    yield from _stores_consistent(stores)


def _stores_consistent(stores: Stores) -> Iterator[str]:
    rows = [
        row
        for record in stores.records.values()
        if not set(record.parts.values()) - stores.object_store.objects.keys()
        for row in stores.rows(record)
    ]
    counts_by_source = Counter(source for _, source in rows if source not in stores.former_owners)
    if any(count > 1 for count in counts_by_source.values()):
        yield f"stored twice: {[source for source, count in counts_by_source.items() if count > 1]}"
    ids = [event_id for event_id, source in rows if source not in stores.former_owners]
    if sorted(ids) != sorted(stores.recent_events.items):
        yield f"Parquet and RecentEvents differ in {sorted(set(ids) ^ set(stores.recent_events.items)) or 'doubled ids'}"
    with_objects = all(record.write_event_json for record in stores.records.values())
    objects = [
        obj
        for obj in (stores.object_store.objects[key] for key in stores.below("events/"))
        if _source(obj.metadata) not in stores.former_owners
    ]
    if with_objects and len(objects) != len(ids):
        yield f"{len(objects)} objects, {len(ids)} events"
    redrives = [record for record in stores.records.values() if record.batch.kind is BatchKind.REDRIVE]
    redrive_counts = Counter(redriven.source for record in redrives for redriven in record.redriven)
    if any(count > 1 for count in redrive_counts.values()):
        yield f"redriven twice: {redrive_counts}"


def _source(metadata: Mapping[str, str]) -> Source:
    return Source.parse(metadata["source"])
