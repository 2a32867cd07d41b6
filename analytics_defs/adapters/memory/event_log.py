"""Kafka in memory: topics, records, transactions, compaction, retention, damage, and partitions without a leader."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

from analytics_defs.adapters.memory.locking import LockedStore, atomic
from analytics_defs.core.ledger import Gap, GapReason
from analytics_defs.core.offsets import Range, Record, Source, TopicPartition
from analytics_defs.errors import AnalyticsError, CorruptRecordBatch, ResourceNotReady, TopicRecreated, Unavailable
from analytics_defs.ports import PartitionWatermarks, ReadResult, TopicDescription, Watermarks


class Marker(Enum):
    """An offset at which a committed reader gets no record."""

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
    """First offset of the open transaction. None if no transaction is open."""

    @property
    def high(self) -> int:
        return len(self.entries)


class MemoryEventLog(LockedStore):
    """A broker with its topics and the offsets of one consumer group."""

    def __init__(self, topic_ids: bool = True) -> None:
        super().__init__()
        self._topics: dict[str, dict[int, _Partition]] = {}
        self._ids: dict[str, str] = {}
        self._topic_ids = topic_ids
        self._incarnations = itertools.count(1)
        self._committed: dict[tuple[str, int], int] = {}
        self._hidden: set[tuple[str, int, int]] = set()
        self._unavailable: set[tuple[str, int]] = set()

    # For tests: changes to the broker.

    @atomic
    def create_topic(self, topic: str, partitions: int = 1) -> None:
        self._topics[topic] = {number: _Partition() for number in range(partitions)}
        self._ids[topic] = f"{topic}-incarnation-{next(self._incarnations)}"

    @atomic
    def add_partition(self, topic: str) -> int:
        number = len(self._topics[topic])
        self._topics[topic][number] = _Partition()
        return number

    @atomic
    def delete_topic(self, topic: str) -> None:
        del self._topics[topic], self._ids[topic]

    @atomic
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
        """Append one record. Return its offset."""
        entries = self._topics[topic][partition].entries
        source = Source(TopicPartition(topic, 0, partition), len(entries))
        entries.append(_Entry(Record(source, timestamp_ms, key, value, headers), aborted))
        return source.offset

    @atomic
    def append_marker(self, topic: str, partition: int, marker: Marker = Marker.CONTROL) -> int:
        entries = self._topics[topic][partition].entries
        entries.append(_Entry(marker))
        return len(entries) - 1

    @atomic
    def open_transaction(self, topic: str, partition: int) -> None:
        """Open a transaction. Records from the current end on are not stable until `end_transaction`."""
        self._topics[topic][partition].stable = self._topics[topic][partition].high

    @atomic
    def end_transaction(self, topic: str, partition: int, *, commit: bool) -> None:
        log = self._topics[topic][partition]
        for entry in log.entries[log.stable :]:
            entry.aborted = not commit
        log.stable = None
        log.entries.append(_Entry(Marker.CONTROL))

    @atomic
    def retain_from(self, topic: str, partition: int, low: int) -> None:
        """Remove all records before `low`, as Kafka's retention does."""
        self._topics[topic][partition].low = max(low, self._topics[topic][partition].low)

    @atomic
    def truncate(self, topic: str, partition: int, high: int) -> None:
        """Lose all records from `high` on, although they were confirmed. Later records reuse their offsets."""
        del self._topics[topic][partition].entries[high:]

    @atomic
    def damage(self, topic: str, partition: int, offset: int) -> None:
        """Damage the record's bytes, so that they no longer match their checksum."""
        self._topics[topic][partition].entries[offset].damaged = True

    @atomic
    def repair(self, topic: str, partition: int, offset: int) -> None:
        """Undo `damage`, as if a leader with an intact replica were elected."""
        self._topics[topic][partition].entries[offset].damaged = False

    @atomic
    def hide(self, topic: str, partition: int, offset: int) -> None:
        """Leave out this existing record from reads until `explain_gaps` is called. Simulates a client bug."""
        self._hidden.add((topic, partition, offset))

    @atomic
    def make_unavailable(self, topic: str, partition: int) -> None:
        """Remove the partition's leader: reads and watermarks raise Unavailable."""
        self._unavailable.add((topic, partition))

    @atomic
    def make_available(self, topic: str, partition: int) -> None:
        """Elect a leader again."""
        self._unavailable.remove((topic, partition))

    @atomic
    def records(self, topic: str, partition: int) -> list[Record]:
        """Return the committed records that retention has not removed, as an independent reader sees them."""
        log = self._topics[topic][partition]
        return [entry.content for entry in log.entries[log.low :] if isinstance(entry.content, Record) and not entry.aborted]

    # The port.

    @atomic
    def topics(self, names: Sequence[str]) -> Mapping[str, TopicDescription]:
        return {
            name: TopicDescription(name, tuple(sorted(self._topics[name])), self._ids[name] if self._topic_ids else None)
            for name in names
            if name in self._topics
        }

    @atomic
    def watermarks(self, partitions: Iterable[TopicPartition]) -> Mapping[TopicPartition, Watermarks]:
        return {topic_partition: self._watermarks(self._available_partition(topic_partition)) for topic_partition in partitions}

    @atomic
    def available_watermarks(self, partitions: Iterable[TopicPartition]) -> PartitionWatermarks:
        watermarks: dict[TopicPartition, Watermarks] = {}
        unavailable: dict[TopicPartition, AnalyticsError] = {}
        for topic_partition in partitions:
            try:
                watermarks[topic_partition] = self._watermarks(self._available_partition(topic_partition))
            except Unavailable as error:
                unavailable[topic_partition] = error
        if unavailable and not watermarks:
            raise next(iter(unavailable.values()))
        return PartitionWatermarks(watermarks, unavailable)

    @atomic
    def read(self, ranges: Sequence[Range], admit: Callable[[Record], bool]) -> ReadResult:
        ends = {range_.topic_partition: range_.start for range_ in ranges}
        records: list[Record] = []
        lost: list[Range] = []
        errors: dict[TopicPartition, AnalyticsError] = {}
        for range_ in ranges:
            partition = self._available_partition(range_.topic_partition)
            if range_.start > partition.high:
                raise TopicRecreated(
                    f"{range_.topic_partition}: the log ends at {partition.high}, before the next offset to read, {range_.start}"
                )
            start = min(max(partition.low, range_.start), range_.end)
            if start > range_.start:
                lost.append(Range(range_.topic_partition, range_.start, start))
            ends[range_.topic_partition] = start
            for offset in range(start, min(range_.end, self._watermarks(partition).last_stable_offset)):
                if partition.entries[offset].damaged:
                    errors[range_.topic_partition] = CorruptRecordBatch(
                        f"{range_.topic_partition}: the record batch at offset {offset} is damaged"
                    )
                    break
                record = self._committed_record(range_.topic_partition, offset)
                if record is not None and not admit(record):
                    return ReadResult(tuple(sorted(records, key=lambda record: record.source)), ends, tuple(lost), errors)
                records += [record] if record is not None else []
                ends[range_.topic_partition] = offset + 1
            if range_.end > partition.high:
                raise TopicRecreated(
                    f"{range_.topic_partition}: the log ends at {partition.high}, before the end of the planned range, {range_.end}"
                )
            if ends[range_.topic_partition] < range_.end and range_.topic_partition not in errors:
                raise Unavailable(f"{range_}: no record arrives from {ends[range_.topic_partition]} on: a transaction is open")
        return ReadResult(tuple(sorted(records, key=lambda record: record.source)), ends, tuple(lost), errors)

    @atomic
    def explain_gaps(self, uncovered: Sequence[Range]) -> tuple[Gap, ...]:
        self._hidden.clear()
        gaps = [
            self._explain(uncovered_range.topic_partition, offset)
            for uncovered_range in uncovered
            for offset in range(uncovered_range.start, uncovered_range.end)
        ]
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

    @atomic
    def committed(self, partitions: Iterable[TopicPartition]) -> Mapping[TopicPartition, int | None]:
        return {topic_partition: self._committed.get((topic_partition.topic, topic_partition.partition)) for topic_partition in partitions}

    @atomic
    def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        self._committed |= {(topic_partition.topic, topic_partition.partition): offset for topic_partition, offset in offsets.items()}

    def _partition(self, topic_partition: TopicPartition) -> _Partition:
        partition = self._topics.get(topic_partition.topic, {}).get(topic_partition.partition)
        if partition is None:
            raise ResourceNotReady(f"{topic_partition}: unknown topic or partition")
        return partition

    def _available_partition(self, topic_partition: TopicPartition) -> _Partition:
        if (topic_partition.topic, topic_partition.partition) in self._unavailable:
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

    def _explain(self, topic_partition: TopicPartition, offset: int) -> Gap:
        range_, partition = Range(topic_partition, offset, offset + 1), self._partition(topic_partition)
        if offset >= partition.high:
            raise TopicRecreated(f"{topic_partition}: the log ends at {partition.high}, before an offset that was read, {offset}")
        if offset < partition.low:
            raise Unavailable(f"{range_}: retention removed it before it could be explained; the batch has to be read again")
        entry = partition.entries[offset]
        if isinstance(entry.content, Marker):
            return Gap(range_, GapReason(entry.content.value))
        if entry.aborted:
            return Gap(range_, GapReason.ABORTED)
        raise Unavailable(f"{range_}: a fresh reader finds a record that the first read did not return; the batch has to be read again")
