"""Kafka in memory: topics, records, transactions, what compaction and retention take, damage, and partitions without a leader."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

from analytics_defs.adapters.memory.locking import LockedStore, atomic
from analytics_defs.core.ledger import Gap, GapReason
from analytics_defs.core.offsets import Range, Record, Source, TopicPartition
from analytics_defs.errors import AnalyticsError, CorruptRecordBatch, ResourceMissing, TopicRecreated, Unavailable
from analytics_defs.ports import PartitionWatermarks, ReadResult, TopicDescription, Watermarks


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


class MemoryEventLog(LockedStore):
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

    @atomic
    def create_topic(self, topic: str, partitions: int = 1) -> None:
        self._topics[topic] = {number: _Partition() for number in range(partitions)}
        self._ids[topic] = f"{topic}-life-{next(self._lives)}"

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
        """Add one record; answers its offset."""
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
        """Everything from the present end on waits for `end_transaction`."""
        self._topics[topic][partition].stable = self._topics[topic][partition].high

    @atomic
    def end_transaction(self, topic: str, partition: int, *, commit: bool) -> None:
        found = self._topics[topic][partition]
        for entry in found.entries[found.stable :]:
            entry.aborted = not commit
        found.stable = None
        found.entries.append(_Entry(Marker.CONTROL))

    @atomic
    def retain_from(self, topic: str, partition: int, low: int) -> None:
        """Retention removes everything before `low`."""
        self._topics[topic][partition].low = max(low, self._topics[topic][partition].low)

    @atomic
    def truncate(self, topic: str, partition: int, high: int) -> None:
        """A broker forgets everything from `high` on, though it was confirmed: what follows is written over it."""
        del self._topics[topic][partition].entries[high:]

    @atomic
    def damage(self, topic: str, partition: int, offset: int) -> None:
        """The bytes of this record no longer fit their checksum."""
        self._topics[topic][partition].entries[offset].damaged = True

    @atomic
    def repair(self, topic: str, partition: int, offset: int) -> None:
        """A replica that has the record whole leads again."""
        self._topics[topic][partition].entries[offset].damaged = False

    @atomic
    def hide(self, topic: str, partition: int, offset: int) -> None:
        """A client bug: the next readings do not give this record, though it is there."""
        self._hidden.add((topic, partition, offset))

    @atomic
    def make_unavailable(self, topic: str, partition: int) -> None:
        """The partition has no leader: nobody answers for it."""
        self._silent.add((topic, partition))

    @atomic
    def make_available(self, topic: str, partition: int) -> None:
        """It has one again."""
        self._silent.remove((topic, partition))

    @atomic
    def records(self, topic: str, partition: int) -> list[Record]:
        """Committed records still there, as an independent reader would see them."""
        found = self._topics[topic][partition]
        return [each.content for each in found.entries[found.low :] if isinstance(each.content, Record) and not each.aborted]

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
        return {each: self._watermarks(self._led(each)) for each in partitions}

    @atomic
    def available_watermarks(self, partitions: Iterable[TopicPartition]) -> PartitionWatermarks:
        marks: dict[TopicPartition, Watermarks] = {}
        silent: dict[TopicPartition, AnalyticsError] = {}
        for each in partitions:
            try:
                marks[each] = self._watermarks(self._led(each))
            except Unavailable as fault:
                silent[each] = fault
        if silent and not marks:
            raise next(iter(silent.values()))
        return PartitionWatermarks(marks, silent)

    @atomic
    def read(self, ranges: Sequence[Range], admit: Callable[[Record], bool]) -> ReadResult:
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
            for offset in range(gone, min(each.end, self._watermarks(partition).last_stable_offset)):
                if partition.entries[offset].damaged:
                    faults[each.topic_partition] = CorruptRecordBatch(
                        f"{each.topic_partition}: the record batch at offset {offset} is damaged"
                    )
                    break
                record = self._committed_record(each.topic_partition, offset)
                if record is not None and not admit(record):
                    return ReadResult(tuple(sorted(records, key=lambda one: one.source)), ends, tuple(lost), faults)
                records += [record] if record is not None else []
                ends[each.topic_partition] = offset + 1
            if each.end > partition.high:
                raise TopicRecreated(
                    f"{each.topic_partition}: the log ends at {partition.high}, before the end of the range planned, {each.end}"
                )
            if ends[each.topic_partition] < each.end and each.topic_partition not in faults:
                raise Unavailable(f"{each}: nothing arrives from {ends[each.topic_partition]} on: a transaction is open")
        return ReadResult(tuple(sorted(records, key=lambda one: one.source)), ends, tuple(lost), faults)

    @atomic
    def explain_gaps(self, holes: Sequence[Range]) -> tuple[Gap, ...]:
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

    @atomic
    def committed(self, partitions: Iterable[TopicPartition]) -> Mapping[TopicPartition, int | None]:
        return {each: self._committed.get((each.topic, each.partition)) for each in partitions}

    @atomic
    def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        self._committed |= {(each.topic, each.partition): offset for each, offset in offsets.items()}

    def _partition(self, topic_partition: TopicPartition) -> _Partition:
        found = self._topics.get(topic_partition.topic, {}).get(topic_partition.partition)
        if found is None:
            raise ResourceMissing(f"{topic_partition}: unknown topic or partition")
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
