"""What must hold in every state, and what must hold at rest. Counted from the stores' own bytes, not with the flows' code."""

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
    """What the flows left behind, and what was produced."""

    recent: MemoryRecentEvents
    archive: MemoryObjectStore
    ledger: MemoryLedger
    values: Mapping[Source, bytes | None]
    dethroned: Collection[Source] = ()
    """Sources that held an id until it expired, and another one took it."""

    @cached_property
    def records(self) -> dict[str, BatchRecord]:
        return {record.batch.id: record for record in self.ledger.last_batches(1_000_000)}

    @cached_property
    def holders(self) -> set[tuple[str, Source]]:
        return {(each.id, each.source) for each in self.recent.items.values()}

    def below(self, prefix: str) -> dict[str, bytes]:
        return {key: blob.body for key, blob in self.archive.objects.items() if key.startswith(prefix)}

    def lines(self, key: str | None) -> list[Source]:
        """The sources that a dead-letter or repeat file names."""
        body = self.archive.objects[key].body if key else b""
        return [Source.parse(json.loads(line)["source"]) for line in body.splitlines()]

    def rows(self, record: BatchRecord) -> list[tuple[str, Source]]:
        return [row for key in record.parts.values() for row in rows_of(self.archive.objects[key].body)]


@lru_cache(maxsize=100_000)
def rows_of(part: bytes) -> tuple[tuple[str, Source], ...]:
    table = pq.read_table(io.BytesIO(part), columns=["event_id", "topic", "partition", "offset"])
    return tuple((row["event_id"], Source.parse(f"{row['topic']}/{row['partition']}/{row['offset']}")) for row in table.to_pylist())


def faults(stores: Stores) -> Iterator[str]:
    """Invariants of every moment, whoever is in the middle of whatever."""
    yield from _missing(stores)
    yield from _claims_without_batch(stores)
    yield from _objects_without_claim(stores)
    yield from _orphans(stores)
    yield from _counters(stores)


def _missing(stores: Stores) -> Iterator[str]:
    """No closed batch without everything it counts."""
    objects = {blob.metadata["source"] for key, blob in stores.archive.objects.items() if key.startswith("events/")}
    for batch_id, record in stores.records.items():
        wanted = {*record.parts.values(), record.dead_letters_key, record.duplicates_key} - {None}
        if absent := wanted - stores.archive.objects.keys():
            yield f"batch {batch_id} is closed, and {absent} not there"
            continue
        rows = stores.rows(record)
        if record.tally != (found := _found(stores, record, rows)):
            yield f"batch {batch_id} counts {record.tally}, its files hold {found}"
        for event_id, source in rows:
            if source in stores.dethroned:
                continue
            if (event_id, source) not in stores.holders:
                yield f"batch {batch_id} stored {event_id} from {source}, and RecentEvents does not hold it so"
            if record.write_event_json and str(source) not in objects:
                yield f"batch {batch_id} is closed, and the object of {event_id} from {source} is not there"


def _found(stores: Stores, record: BatchRecord, rows: list[tuple[str, Source]]) -> OutcomeCounts:
    """Outcomes by the files; what leaves no file is taken from the record."""
    said = record.tally
    letters = len(stores.lines(record.dead_letters_key))
    return OutcomeCounts(len(rows), len(stores.lines(record.duplicates_key)), letters, said.tombstones, said.gaps, said.lost)


def _claims_without_batch(stores: Stores) -> Iterator[str]:
    stored = (
        {source for record in stores.records.values() for _, source in stores.rows(record)} if not list(_missing_files(stores)) else set()
    )
    for item in stores.recent.items.values():
        if item.source not in stored and not _in_the_air(stores, item.source):
            yield f"{item.id} is claimed by {item.source}, which no staged or closed batch stores"


def _missing_files(stores: Stores) -> Iterator[str]:
    return (key for record in stores.records.values() for key in record.parts.values() if key not in stores.archive.objects)


def _in_the_air(stores: Stores, source: Source) -> bool:
    """Whether a staged batch that is pending has the source."""
    staged = [batch for batch in stores.ledger.snapshot().pending.values() if batch.staged]
    return any(
        source in batch.redriven_sources
        or any(source.topic_partition == each.topic_partition and source.offset in each for each in batch.ranges)
        for batch in staged
    )


def _objects_without_claim(stores: Stores) -> Iterator[str]:
    sources = {source for _, source in stores.holders}
    for key, blob in stores.archive.objects.items():
        if not key.startswith("events/"):
            continue
        source = Source.parse(blob.metadata["source"])
        if blob.body != stores.values[source]:
            yield f"{key} has not the bytes of {source}"
        if source not in sources and source not in stores.dethroned:
            yield f"{key} is there, and {source} holds no id"


def _orphans(stores: Stores) -> Iterator[str]:
    """Every file belongs to a batch that is pending, or that is closed and names it."""
    pending = stores.ledger.snapshot().pending
    for prefix in ("parquet/", "dead-letters/", "duplicates/", "staging/"):
        for key, body in stores.below(prefix).items():
            batch_id = key.rpartition("/")[2].split(".")[0]
            record = stores.records.get(batch_id)
            named = record and (prefix == "staging/" or key in (*record.parts.values(), record.dead_letters_key, record.duplicates_key))
            if not named and batch_id not in pending:
                yield f"{key} belongs to no batch"
            if prefix == "parquet/":
                for event_id, source in rows_of(body):
                    if (event_id, source) not in stores.holders and source not in stores.dethroned:
                        yield f"{key} has {event_id} from {source}, which does not hold it"


def _counters(stores: Stores) -> Iterator[str]:
    """Counters and heads count what closed batches hold, and nothing else."""
    records = stores.records.values()
    if list(_missing_files(stores)):
        return
    moved = [each for record in records for each in record.redriven]
    found = {
        "events": sum(len(stores.rows(record)) for record in records),
        "duplicates": sum(len(stores.lines(record.duplicates_key)) for record in records),
        "dead_letters": sum(len(stores.lines(record.dead_letters_key)) for record in records) - len(moved),
        "batches": len(records),
        "unaccounted": sum(len(each) for record in records for each in record.unaccounted),
    }
    counters = stores.ledger.counters()
    for name, count in found.items():
        if counters.get(name, 0) != count:
            yield f"counter {name} is {counters.get(name, 0)}, closed batches hold {count}"
    hourly = sum(counts["events"] for counts in stores.ledger.hourly_counters("0000", "9999").values())
    if hourly != found["events"]:
        yield f"the hours count {hourly} events, closed batches hold {found['events']}"
    heads = [head for head in stores.ledger.snapshot().checkpoints.values() if head.topic_partition != REDRIVE_CHECKPOINT]
    if sum(head.totals.stored for head in heads) != found["events"]:
        yield f"heads count {sum(head.totals.stored for head in heads)} events, closed batches hold {found['events']}"
    if sum(head.unaccounted for head in heads) != found["unaccounted"]:
        yield f"heads miss {sum(head.unaccounted for head in heads)} offsets, closed batches name {found['unaccounted']}"


def faults_at_rest(stores: Stores, log: MemoryEventLog, live: Mapping[TopicPartition, int]) -> Iterator[str]:
    """What must hold in addition where nobody is at work. `live`: where the head of each live topic-partition has to be."""
    yield from faults(stores)
    snapshot = stores.ledger.snapshot()
    if snapshot.pending:
        yield f"pending: {sorted(snapshot.pending)}"
    if staging := stores.below("staging/"):
        yield f"staging files are left: {sorted(staging)}"
    for topic_partition, end in live.items():
        if snapshot.checkpoint(topic_partition).next_offset != end:
            yield f"{topic_partition}: the head is at {snapshot.checkpoint(topic_partition).next_offset}, expected {end}"
    heads = [each for each in live if each in snapshot.checkpoints]
    for topic_partition, committed in log.committed(heads).items():
        if committed != snapshot.checkpoints[topic_partition].next_offset:
            yield f"{topic_partition}: the group's offset is {committed}, the head's {snapshot.checkpoints[topic_partition].next_offset}"
    yield from _stores_consistent(stores)


def _stores_consistent(stores: Stores) -> Iterator[str]:
    rows = [
        row
        for record in stores.records.values()
        if not set(record.parts.values()) - stores.archive.objects.keys()
        for row in stores.rows(record)
    ]
    kept = Counter(source for _, source in rows if source not in stores.dethroned)
    if any(count > 1 for count in kept.values()):
        yield f"stored twice: {[source for source, count in kept.items() if count > 1]}"
    ids = [event_id for event_id, source in rows if source not in stores.dethroned]
    if sorted(ids) != sorted(stores.recent.items):
        yield f"Parquet and RecentEvents differ in {sorted(set(ids) ^ set(stores.recent.items)) or 'doubled ids'}"
    with_objects = all(record.write_event_json for record in stores.records.values())
    objects = [
        blob for blob in (stores.archive.objects[key] for key in stores.below("events/")) if _source(blob.metadata) not in stores.dethroned
    ]
    if with_objects and len(objects) != len(ids):
        yield f"{len(objects)} objects, {len(ids)} events"
    redrives = [record for record in stores.records.values() if record.batch.kind is BatchKind.REDRIVE]
    again = Counter(each.source for record in redrives for each in record.redriven)
    if any(count > 1 for count in again.values()):
        yield f"redriven twice: {again}"


def _source(metadata: Mapping[str, str]) -> Source:
    return Source.parse(metadata["source"])
