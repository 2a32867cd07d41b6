"""Where one batch ends, and what a staging file says of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from analytics_defs.core.events.event import ClassifiedRecord, Event, Rejection, Tombstone
from analytics_defs.core.ledger import Batch, BatchKind, Gap
from analytics_defs.core.offsets import Range, Record, Source, TopicPartition

MAX_RANGES_PER_BATCH = 24
MAX_HOURS_PER_BATCH = 24
"""Two actions a range (head, range record), two an hour (counters, mark), three more (record, pending entry, totals): 99 of the 100
that one DynamoDB transaction holds."""


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """What cuts a batch. One record always fits, whatever its size."""

    max_records: int = 10_000
    max_bytes: int = 16 * 1024 * 1024
    """Bytes of keys, values and headers."""
    max_ranges: int = MAX_RANGES_PER_BATCH
    max_hours: int = MAX_HOURS_PER_BATCH
    max_uncovered_ranges: int = 4_000
    """Runs of offsets without a record: each stands in the batch record, and an item holds 400 KB."""


@dataclass(frozen=True, slots=True)
class StagedBatch:
    """Everything a batch is made of. Once its staging file exists, the batch is a function of this value and of nothing else."""

    records: tuple[ClassifiedRecord, ...]
    """Sorted by source."""
    gaps: tuple[Gap, ...] = ()
    lost: tuple[Range, ...] = ()
    write_event_json: bool = True
    """Whether one JSON object is written for each event: settings that change later do not change a batch."""

    @property
    def events(self) -> tuple[Event, ...]:
        return tuple(each for each in self.records if isinstance(each, Event))

    @property
    def rejections(self) -> tuple[Rejection, ...]:
        return tuple(each for each in self.records if isinstance(each, Rejection))

    @property
    def tombstones(self) -> tuple[Source, ...]:
        return tuple(each.record.source for each in self.records if isinstance(each, Tombstone))


@dataclass(slots=True)
class BatchBuilder:
    """Collects judged records until a limit refuses one. `admit` is handed to `EventLog.read`."""

    limits: BatchLimits
    classify: Callable[[Record], ClassifiedRecord]
    starts: dict[TopicPartition, int]
    """The next offset expected of each partition."""
    records: list[ClassifiedRecord] = field(default_factory=list)
    bytes: int = 0
    uncovered: int = 0
    hours: set[str] = field(default_factory=set)

    def admit(self, record: Record) -> bool:
        """False: this record opens the next batch."""
        verdict = self.classify(record)
        hours = {verdict.hour} - self.hours if isinstance(verdict, Event) else set()
        hole = record.source.offset != self.starts[record.source.topic_partition]
        if self.records and (
            len(self.records) >= self.limits.max_records
            or self.bytes + record.size > self.limits.max_bytes
            or len(self.hours) + len(hours) > self.limits.max_hours
            or self.uncovered + hole > self.limits.max_uncovered_ranges
        ):
            return False
        self.records.append(verdict)
        self.bytes += record.size
        self.uncovered += hole
        self.hours |= hours
        self.starts[record.source.topic_partition] = record.source.offset + 1
        return True

    def sorted(self) -> tuple[ClassifiedRecord, ...]:
        return tuple(sorted(self.records, key=lambda verdict: verdict.record.source))


def uncovered_ranges(ranges: Sequence[Range], covered: Iterable[Range]) -> tuple[Range, ...]:
    """The parts of the ranges that nothing in `covered` covers, sorted. `covered` may come in any order."""
    by_partition: dict[TopicPartition, list[Range]] = {}
    for each in sorted(covered):
        by_partition.setdefault(each.topic_partition, []).append(each)
    return tuple(hole for whole in ranges for hole in _holes_of(whole, by_partition.get(whole.topic_partition, [])))


def _holes_of(whole: Range, covered: Sequence[Range]) -> Iterator[Range]:
    position = whole.start
    for each in covered:
        if each.start > position:
            yield Range(whole.topic_partition, position, min(each.start, whole.end))
        position = max(position, each.end)
    if position < whole.end:
        yield Range(whole.topic_partition, position, whole.end)


def foreign_sources(staged: StagedBatch, batch: Batch) -> list[str]:
    """What a staging file holds and its batch does not: sources, gaps and lost ranges."""
    if batch.kind is BatchKind.REDRIVE:
        mine = set(batch.redriven_sources)
        return [str(each.record.source) for each in staged.records if each.record.source not in mine]
    whole = {each.topic_partition: each for each in batch.ranges}
    held = [*(single_offset_range(each.record.source) for each in staged.records), *(gap.range for gap in staged.gaps), *staged.lost]
    return [str(each) for each in held if not (own := whole.get(each.topic_partition)) or each.start < own.start or each.end > own.end]


def single_offset_range(source: Source) -> Range:
    """The range that holds this source alone."""
    return Range(source.topic_partition, source.offset, source.offset + 1)


def deduplicate(events: Sequence[Event]) -> tuple[tuple[Event, ...], dict[Source, Source]]:
    """The first event of each id, in the order given; and for each later one the source of its first."""
    first: dict[str, Event] = {}
    later: dict[Source, Source] = {}
    for event in events:
        holder = first.setdefault(event.id, event)
        if holder is not event:
            later[event.record.source] = holder.record.source
    return tuple(first.values()), later
