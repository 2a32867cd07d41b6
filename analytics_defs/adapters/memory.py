"""Doubles of every port, in memory: one process, no time passing, the same contracts as the real adapters.

They hold what a test puts in (records, aborted transactions, retention, a topic created again) and show what the flows left behind.
"""

from __future__ import annotations

import itertools
import threading
from bisect import bisect_right, insort
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import Enum
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from analytics_defs.core.adjusting import ADJUSTING_LANE, Adjustment, CounterItem
from analytics_defs.core.attribute_values import parse_document
from analytics_defs.core.counting import added, distinct_marks, head_moves, hourly, totals
from analytics_defs.core.events import Event
from analytics_defs.core.hours import Revision
from analytics_defs.core.ledger import Batch, BatchRecord, Gap, GapReason, Head, Lease, RangeRecord, Snapshot, TopicState
from analytics_defs.core.offsets import Range, Record, Source, TopicPartition
from analytics_defs.core.retention import LettersTaken
from analytics_defs.core.timestamps import iso_milliseconds
from analytics_defs.errors import AnalyticsError, Contradiction, Missing, TopicRecreated, Unavailable, Unreadable
from analytics_defs.ports import KEPT, REMEMBERED, Blob, Claims, Reading, Stat, StoredEvent, Survey, TopicDescription, Watermarks

P = ParamSpec("P")
T = TypeVar("T")
S = TypeVar("S", bound="_Locked")


class _Locked:
    def __init__(self) -> None:
        self.lock = threading.RLock()


def _atomic(method: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], T]:
    def locked(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        with self.lock:
            return method(self, *args, **kwargs)

    return locked


class Marker(Enum):
    """Offsets that no committed reader gets a record from."""

    CONTROL = "control"
    COMPACTED = "compacted"


@dataclass(slots=True)
class _Entry:
    content: Record | Marker
    aborted: bool = False
    damaged: bool = False


@dataclass(slots=True)
class _Partition:
    entries: list[_Entry] = field(default_factory=list)
    low: int = 0
    stable: int | None = None
    """First offset of an open transaction, None where none is open."""

    @property
    def high(self) -> int:
        return len(self.entries)


class MemoryLog(_Locked):
    """A broker with its topics and one group's offsets."""

    def __init__(self, topic_ids: bool = True) -> None:
        super().__init__()
        self._topics: dict[str, dict[int, _Partition]] = {}
        self._ids: dict[str, str] = {}
        self._topic_ids = topic_ids
        self._lives = itertools.count(1)
        self._committed: dict[tuple[str, int], int] = {}
        self._hidden: set[tuple[str, int, int]] = set()
        self._silent: set[tuple[str, int]] = set()

    # What a test does to the broker.

    @_atomic
    def create_topic(self, topic: str, partitions: int = 1) -> None:
        self._topics[topic] = {number: _Partition() for number in range(partitions)}
        self._ids[topic] = f"{topic}-life-{next(self._lives)}"

    @_atomic
    def add_partition(self, topic: str) -> int:
        number = len(self._topics[topic])
        self._topics[topic][number] = _Partition()
        return number

    @_atomic
    def delete_topic(self, topic: str) -> None:
        del self._topics[topic], self._ids[topic]

    @_atomic
    def append(  # noqa: PLR0913 - a record has that many parts
        self,
        topic: str,
        partition: int,
        value: bytes | None,
        *,
        key: bytes | None = None,
        headers: tuple[tuple[str, bytes | None], ...] = (),
        timestamp_ms: int = 1_700_000_000_000,
        aborted: bool = False,
    ) -> int:
        """Add one record; answers its offset."""
        entries = self._topics[topic][partition].entries
        source = Source(TopicPartition(topic, 0, partition), len(entries))
        entries.append(_Entry(Record(source, timestamp_ms, key, value, headers), aborted))
        return source.offset

    @_atomic
    def append_marker(self, topic: str, partition: int, marker: Marker = Marker.CONTROL) -> int:
        entries = self._topics[topic][partition].entries
        entries.append(_Entry(marker))
        return len(entries) - 1

    @_atomic
    def open_transaction(self, topic: str, partition: int) -> None:
        """Everything from the present end on waits for `end_transaction`."""
        self._topics[topic][partition].stable = self._topics[topic][partition].high

    @_atomic
    def end_transaction(self, topic: str, partition: int, *, commit: bool) -> None:
        found = self._topics[topic][partition]
        for entry in found.entries[found.stable :]:
            entry.aborted = not commit
        found.stable = None
        found.entries.append(_Entry(Marker.CONTROL))

    @_atomic
    def retain_from(self, topic: str, partition: int, low: int) -> None:
        """Retention removes everything before `low`."""
        self._topics[topic][partition].low = max(low, self._topics[topic][partition].low)

    @_atomic
    def cut(self, topic: str, partition: int, high: int) -> None:
        """A broker forgets everything from `high` on, though it was confirmed: what follows is written over it."""
        del self._topics[topic][partition].entries[high:]

    @_atomic
    def damage(self, topic: str, partition: int, offset: int) -> None:
        """The bytes of this record no longer fit their checksum."""
        self._topics[topic][partition].entries[offset].damaged = True

    @_atomic
    def mend(self, topic: str, partition: int, offset: int) -> None:
        """A replica that has the record whole leads again."""
        self._topics[topic][partition].entries[offset].damaged = False

    @_atomic
    def hide(self, topic: str, partition: int, offset: int) -> None:
        """A client bug: the next readings do not give this record, though it is there."""
        self._hidden.add((topic, partition, offset))

    @_atomic
    def silence(self, topic: str, partition: int) -> None:
        """The partition has no leader: nobody answers for it."""
        self._silent.add((topic, partition))

    @_atomic
    def speak(self, topic: str, partition: int) -> None:
        """It has one again."""
        self._silent.remove((topic, partition))

    @_atomic
    def records(self, topic: str, partition: int) -> list[Record]:
        """Committed records still there, as an independent reader would see them."""
        found = self._topics[topic][partition]
        return [each.content for each in found.entries[found.low :] if isinstance(each.content, Record) and not each.aborted]

    # The port.

    @_atomic
    def topics(self, names: Sequence[str]) -> Mapping[str, TopicDescription]:
        return {
            name: TopicDescription(name, tuple(sorted(self._topics[name])), self._ids[name] if self._topic_ids else None)
            for name in names
            if name in self._topics
        }

    @_atomic
    def watermarks(self, partitions: Iterable[TopicPartition]) -> Mapping[TopicPartition, Watermarks]:
        return {each: self._watermarks(self._led(each)) for each in partitions}

    @_atomic
    def survey(self, partitions: Iterable[TopicPartition]) -> Survey:
        marks: dict[TopicPartition, Watermarks] = {}
        silent: dict[TopicPartition, AnalyticsError] = {}
        for each in partitions:
            try:
                marks[each] = self._watermarks(self._led(each))
            except Unavailable as fault:
                silent[each] = fault
        if silent and not marks:
            raise next(iter(silent.values()))
        return Survey(marks, silent)

    @_atomic
    def read(self, ranges: Sequence[Range], admit: Callable[[Record], bool]) -> Reading:
        ends = {each.topic_partition: each.start for each in ranges}
        records: list[Record] = []
        lost: list[Range] = []
        faults: dict[TopicPartition, AnalyticsError] = {}
        for each in ranges:
            partition = self._led(each.topic_partition)
            if each.start > partition.high:
                raise TopicRecreated(
                    f"{each.topic_partition}: the log ends at {partition.high}, before the next offset to read, {each.start}"
                )
            gone = min(max(partition.low, each.start), each.end)
            if gone > each.start:
                lost.append(Range(each.topic_partition, each.start, gone))
            ends[each.topic_partition] = gone
            for offset in range(gone, min(each.end, self._watermarks(partition).stable)):
                if partition.entries[offset].damaged:
                    faults[each.topic_partition] = Unreadable(f"{each.topic_partition}: the record batch at offset {offset} is damaged")
                    break
                record = self._committed_record(each.topic_partition, offset)
                if record is not None and not admit(record):
                    return Reading(tuple(sorted(records, key=lambda one: one.source)), ends, tuple(lost), faults)
                records += [record] if record is not None else []
                ends[each.topic_partition] = offset + 1
            if each.end > partition.high:
                raise TopicRecreated(
                    f"{each.topic_partition}: the log ends at {partition.high}, before the end of the range planned, {each.end}"
                )
            if ends[each.topic_partition] < each.end and each.topic_partition not in faults:
                raise Unavailable(f"{each}: nothing arrives from {ends[each.topic_partition]} on: a transaction is open")
        return Reading(tuple(sorted(records, key=lambda one: one.source)), ends, tuple(lost), faults)

    @_atomic
    def explain(self, holes: Sequence[Range]) -> tuple[Gap, ...]:
        self._hidden.clear()
        gaps = [self._explained(hole.topic_partition, offset) for hole in holes for offset in range(hole.start, hole.end)]
        merged: list[Gap] = []
        for gap in gaps:
            last = merged[-1] if merged else None
            if (
                last
                and last.reason is gap.reason
                and (last.range.topic_partition, last.range.end) == (gap.range.topic_partition, gap.range.start)
            ):
                merged[-1] = Gap(Range(last.range.topic_partition, last.range.start, gap.range.end), gap.reason)
            else:
                merged.append(gap)
        return tuple(merged)

    @_atomic
    def committed(self, partitions: Iterable[TopicPartition]) -> Mapping[TopicPartition, int | None]:
        return {each: self._committed.get((each.topic, each.partition)) for each in partitions}

    @_atomic
    def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        self._committed |= {(each.topic, each.partition): offset for each, offset in offsets.items()}

    def _partition(self, topic_partition: TopicPartition) -> _Partition:
        found = self._topics.get(topic_partition.topic, {}).get(topic_partition.partition)
        if found is None:
            raise Missing(f"{topic_partition}: unknown topic or partition")
        return found

    def _led(self, topic_partition: TopicPartition) -> _Partition:
        if (topic_partition.topic, topic_partition.partition) in self._silent:
            raise Unavailable(f"{topic_partition}: leader not available")
        return self._partition(topic_partition)

    def _watermarks(self, partition: _Partition) -> Watermarks:
        return Watermarks(partition.low, partition.high if partition.stable is None else partition.stable, partition.high)

    def _committed_record(self, topic_partition: TopicPartition, offset: int) -> Record | None:
        entry = self._partition(topic_partition).entries[offset]
        hidden = (topic_partition.topic, topic_partition.partition, offset) in self._hidden
        if hidden or entry.aborted or isinstance(entry.content, Marker):
            return None
        return replace(entry.content, source=Source(topic_partition, offset))

    def _explained(self, topic_partition: TopicPartition, offset: int) -> Gap:
        at, partition = Range(topic_partition, offset, offset + 1), self._partition(topic_partition)
        if offset >= partition.high:
            raise TopicRecreated(f"{topic_partition}: the log ends at {partition.high}, before an offset that was read, {offset}")
        if offset < partition.low:
            raise Unavailable(f"{at}: retention removed it before it could be explained: the batch has to be read again")
        entry = partition.entries[offset]
        if isinstance(entry.content, Marker):
            return Gap(at, GapReason(entry.content.value))
        if entry.aborted:
            return Gap(at, GapReason.ABORTED)
        raise Unavailable(f"{at}: a fresh reader finds a record that the first reading did not give; the batch has to be read again")


class MemoryRecentEvents(_Locked):
    """The table of recent events. `items` is what it holds, by id."""

    def __init__(self, unholdable: Callable[[Event], bool] = lambda _: False) -> None:
        super().__init__()
        self.items: dict[str, StoredEvent] = {}
        self._unholdable = unholdable

    @_atomic
    def claim(self, events: Sequence[Event], batch_time: datetime) -> Claims:
        refused: dict[Source, Source] = {}
        pointers: set[Source] = set()
        for event in events:
            holder = self.items.get(event.id)
            if holder and holder.source != event.record.source and holder.ttl > (batch_time + KEPT - REMEMBERED).timestamp():
                refused[event.record.source] = holder.source
                continue
            if self._unholdable(event):
                pointers.add(event.record.source)
            self.items[event.id] = StoredEvent(
                event.id,
                event.type,
                event.timestamp,
                event.record.source,
                iso_milliseconds(batch_time),
                int((batch_time + KEPT).timestamp()),
                None if self._unholdable(event) else parse_document(event.data),
            )
        return Claims(refused, frozenset(pointers))

    @_atomic
    def held(self, ids: Sequence[str]) -> Mapping[str, StoredEvent]:
        return {each: self.items[each] for each in ids if each in self.items}


class MemoryArchive(_Locked):
    """The bucket. `objects` is what it holds, by key."""

    def __init__(self) -> None:
        super().__init__()
        self.objects: dict[str, Blob] = {}

    @_atomic
    def put(self, blobs: Sequence[Blob]) -> None:
        self.objects |= {blob.key: blob for blob in blobs}

    @_atomic
    def put_new(self, blobs: Sequence[Blob]) -> Sequence[Blob]:
        there = [found for blob in blobs if (found := self.fetch(blob.key))]
        taken = {blob.key for blob in there}
        self.objects |= {blob.key: blob for blob in blobs if blob.key not in taken}
        return there

    @_atomic
    def put_if_absent(self, blob: Blob) -> bytes:
        return self.objects.setdefault(blob.key, blob).body

    @_atomic
    def get(self, key: str) -> bytes | None:
        found = self.objects.get(key)
        return found.body if found else None

    @_atomic
    def fetch(self, key: str) -> Blob | None:
        found = self.objects.get(key)
        return found and replace(found, metadata={name.lower(): value for name, value in found.metadata.items()})

    @_atomic
    def stat(self, key: str) -> Stat | None:
        found = self.fetch(key)
        return Stat(len(found.body), found.metadata) if found else None

    @_atomic
    def download(self, key: str, path: str) -> bool:
        found = self.objects.get(key)
        if found is None:
            return False
        Path(path).write_bytes(found.body)
        return True

    @_atomic
    def upload(self, key: str, path: str, content_type: str) -> None:
        self.objects[key] = Blob(key, Path(path).read_bytes(), content_type, {})

    @_atomic
    def advance(self, blob: Blob, over: Callable[[bytes | None], bool]) -> bool:
        if not over(self.get(blob.key)):
            return False
        self.objects[blob.key] = blob
        return True

    @_atomic
    def delete(self, keys: Sequence[str]) -> None:
        for key in keys:
            self.objects.pop(key, None)

    @_atomic
    def keys(self, prefix: str) -> Iterator[str]:
        return iter(sorted(key for key in self.objects if key.startswith(prefix)))


class MemoryLedger(_Locked):
    """The durable account."""

    def __init__(self) -> None:
        super().__init__()
        self._topics: dict[str, TopicState] = {}
        self._heads: dict[TopicPartition, Head] = {}
        self._pending: dict[str, Batch] = {}
        self._leases: dict[str, Lease] = {}
        self._records: dict[str, BatchRecord] = {}
        self._ranges: dict[TopicPartition, list[tuple[int, RangeRecord]]] = {}
        self._hours: dict[str, list[str]] = {}
        self._redriven: dict[Source, str] = {}
        self._revisions: dict[str, list[Revision]] = {}
        self._totals: dict[int, dict[str, int]] = {}
        self._hourly: dict[tuple[str, int], dict[str, int]] = {}
        self._adjustments: dict[CounterItem, list[Adjustment]] = {}
        self._letters_taken: LettersTaken | None = None

    @_atomic
    def snapshot(self) -> Snapshot:
        return Snapshot(dict(self._topics), dict(self._heads), dict(self._pending), dict(self._leases))

    @_atomic
    def open_topic(self, topic: TopicState) -> TopicState:
        known = self._topics.get(topic.topic)
        if topic.generation == (known.generation + 1 if known else 0):
            self._topics[topic.topic] = topic
        return self._topics[topic.topic]

    @_atomic
    def take(self, batch: Batch) -> bool:
        known = self._pending.get(batch.id)
        if known is not None and known.run_id == batch.run_id:
            return True
        heads = {each: self._heads.get(each.topic_partition, Head(each.topic_partition, each.start, each.start)) for each in batch.ranges}
        if batch.id in self._records or any(head.pending is not None or head.next != each.start for each, head in heads.items()):
            return False
        self._heads |= {head.topic_partition: replace(head, pending=batch.id) for head in heads.values()}
        self._pending[batch.id] = batch
        return True

    @_atomic
    def pending(self, batch_id: str) -> Batch | None:
        return self._pending.get(batch_id)

    @_atomic
    def mark_staged(self, batch_id: str, digest: str) -> bool:
        batch = self._pending.get(batch_id)
        if batch is None:
            return False
        if batch.staged not in (None, digest):
            raise Contradiction(f"batch {batch_id}: its staging file has SHA-256 {digest}, the ledger noted {batch.staged}")
        self._pending[batch_id] = replace(batch, staged=digest)
        return True

    @_atomic
    def close(self, record: BatchRecord) -> bool:
        batch = record.batch
        distinct_marks(record)
        if any(self._heads[each.topic_partition].pending != batch.id for each in batch.ranges):
            return False
        if again := [str(each.source) for each in record.redriven if each.source in self._redriven]:
            raise Contradiction(f"batch {batch.id}: {', '.join(again)} were redriven before. Nothing was changed.")
        for each in batch.ranges:
            self._heads[each.topic_partition] = replace(self._heads[each.topic_partition], next=each.end, pending=None)
        for topic_partition, move in head_moves(record).items():
            head = self._heads[topic_partition]
            self._heads[topic_partition] = replace(head, totals=head.totals + move)
        for each, tally in zip(batch.ranges, record.tallies, strict=True):
            ranges = self._ranges.setdefault(each.topic_partition, [])
            insort(ranges, (each.end, RangeRecord(each, batch.id, tally)), key=lambda item: item[0])
        self._records[batch.id] = record
        del self._pending[batch.id]
        self._totals[batch.lane] = added([self._totals.get(batch.lane, {}), totals(record)])
        for hour, counts in hourly(record).items():
            self._hourly[hour, batch.lane] = added([self._hourly.get((hour, batch.lane), {}), counts])
            insort(self._hours.setdefault(hour, []), batch.id)
        self._redriven |= {each.source: batch.id for each in record.redriven}
        return True

    @_atomic
    def record(self, batch_id: str) -> BatchRecord | None:
        return self._records.get(batch_id)

    @_atomic
    def range_at(self, source: Source) -> RangeRecord | None:
        after = self.ranges_after(source.topic_partition, source.offset, 1)
        return after[0] if after and source.offset in after[0].range else None

    @_atomic
    def ranges_after(self, topic_partition: TopicPartition, offset: int, limit: int) -> Sequence[RangeRecord]:
        ranges = self._ranges.get(topic_partition, [])
        first = bisect_right(ranges, offset, key=lambda item: item[0])
        return [each for _, each in ranges[first : first + limit]]

    @_atomic
    def last_batches(self, limit: int) -> Sequence[BatchRecord]:
        return [self._records[each] for each in sorted(self._records, reverse=True)[:limit]]

    @_atomic
    def records_from(self, batch_id: str) -> Iterator[BatchRecord]:
        return iter([self._records[each] for each in sorted(self._records) if each >= batch_id])

    @_atomic
    def batches_of_day(self, day: str) -> Iterator[BatchRecord]:
        return iter([self._records[each] for each in sorted(self._records) if self._records[each].batch.time.date().isoformat() == day])

    @_atomic
    def batches_of_hour(self, hour: str) -> Sequence[str]:
        return list(self._hours.get(hour, []))

    @_atomic
    def revision(self, hour: str) -> Revision | None:
        known = self._revisions.get(hour)
        return known[-1] if known else None

    @_atomic
    def revise(self, revision: Revision) -> Revision:
        known = self._revisions.setdefault(revision.hour, [])
        if revision.number > len(known) + 1:
            raise Contradiction(
                f"hour {revision.hour}: expected revision {len(known) + 1} next, found {revision.number}. Nothing was changed."
            )
        if revision.number == len(known) + 1:
            known.append(revision)
        return known[revision.number - 1]

    @_atomic
    def letters_taken(self) -> LettersTaken | None:
        return self._letters_taken

    @_atomic
    def take_letters(self, taken: LettersTaken) -> LettersTaken:
        if self._letters_taken is None or self._letters_taken.through < taken.through:
            self._letters_taken = taken
        return self._letters_taken

    @_atomic
    def redriven(self, sources: Sequence[Source]) -> Mapping[Source, str]:
        return {each: self._redriven[each] for each in sources if each in self._redriven}

    @_atomic
    def counters(self) -> Mapping[str, int]:
        return added(list(self.counters_by_lane().values()))

    @_atomic
    def counters_by_lane(self) -> Mapping[int, Mapping[str, int]]:
        adjusted = [each.counts for item, made in self._adjustments.items() if not item.hour for each in made]
        return {lane: dict(counts) for lane, counts in self._totals.items()} | ({ADJUSTING_LANE: added(adjusted)} if adjusted else {})

    @_atomic
    def counters_at_once(self, wanted: Sequence[CounterItem]) -> Mapping[CounterItem, Mapping[str, int]]:
        return {
            each: dict(self._hourly.get((each.hour, each.lane), {}) if each.hour else self._totals.get(each.lane, {})) for each in wanted
        }

    @_atomic
    def counter_items(self) -> Sequence[CounterItem]:
        return sorted([*map(CounterItem, self._totals), *(CounterItem(lane, hour) for hour, lane in self._hourly)])

    @_atomic
    def adjustments(self) -> Sequence[Adjustment]:
        return [each for made in self._adjustments.values() for each in made]

    @_atomic
    def adjust(self, adjustment: Adjustment) -> Adjustment:
        made = self._adjustments.get(adjustment.of, [])
        if adjustment.number > len(made) + 1:
            raise Contradiction(
                f"{adjustment.of}: expected adjustment {len(made) + 1} next, found {adjustment.number}. Nothing was changed."
            )
        if adjustment.number == len(made) + 1:
            made = self._adjustments[adjustment.of] = [*made, adjustment]
        return made[adjustment.number - 1]

    @_atomic
    def hourly(self, first: str, last: str) -> Mapping[str, Mapping[str, int]]:
        adjusted = ((item.hour, each.counts) for item, made in self._adjustments.items() for each in made)
        found = [*((hour, counts) for (hour, _), counts in self._hourly.items()), *adjusted]
        hours = sorted({hour for hour, _ in found if hour and first <= hour <= last})
        return {each: added([counts for hour, counts in found if hour == each]) for each in hours}

    @_atomic
    def renew(self, lease: Lease) -> None:
        self._leases[lease.run_id] = lease

    @_atomic
    def release(self, run_id: str) -> None:
        self._leases.pop(run_id, None)


@dataclass(slots=True)
class ManualClock:
    """Stands still until a test moves it."""

    time: datetime
    ms: int = 0

    def now(self) -> datetime:
        return self.time

    def elapsed_ms(self) -> int:
        return self.ms

    def sleep(self, duration: timedelta) -> None:
        """Time passes at once."""
        self.advance(duration)

    def advance(self, by: timedelta) -> None:
        self.time += by
        self.ms += int(by.total_seconds() * 1000)


class InlineWorkers:
    """One job after the other, in the caller's thread."""

    def run(self, jobs: Sequence[Callable[[], T]]) -> list[T]:
        return [job() for job in jobs]
