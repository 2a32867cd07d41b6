"""Building of a batch up to its limits, and the content of its staging file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from analytics_defs.core.events.event import ClassifiedRecord, Event, Rejection, Tombstone
from analytics_defs.core.ledger import Batch, BatchKind, Gap
from analytics_defs.core.offsets import Range, Record, Source, TopicPartition

MAX_RANGES_PER_BATCH = 24
MAX_HOURS_PER_BATCH = 24
"""A closing transaction has 2 actions for each range (checkpoint, range record), 2 for each hour (counters, hour entry)
and 3 more (batch record, pending entry, totals): 99 of the 100 that DynamoDB allows."""


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """Limits of one batch. The first record is always admitted, even if it exceeds a limit."""

    max_records: int = 10_000
    max_bytes: int = 16 * 1024 * 1024
    """Bytes of keys, values and headers."""
    max_ranges: int = MAX_RANGES_PER_BATCH
    max_hours: int = MAX_HOURS_PER_BATCH
    max_uncovered_ranges: int = 4_000
    """Ranges of offsets without a record. Each is stored in the batch record, and an item holds at most 400 KB."""


@dataclass(frozen=True, slots=True)
class StagedBatch:
    """Content of the staging file. Once that file exists, the batch is a pure function of this value."""

    records: tuple[ClassifiedRecord, ...]
    """Sorted by source."""
    gaps: tuple[Gap, ...] = ()
    lost: tuple[Range, ...] = ()
    write_event_json: bool = True
    """True if one JSON object is written for each event. It is staged so that a later change of the setting has no effect."""

    @property
    def events(self) -> tuple[Event, ...]:
        return tuple(record for record in self.records if isinstance(record, Event))

    @property
    def rejections(self) -> tuple[Rejection, ...]:
        return tuple(record for record in self.records if isinstance(record, Rejection))

    @property
    def tombstones(self) -> tuple[Source, ...]:
        return tuple(record.record.source for record in self.records if isinstance(record, Tombstone))


@dataclass(slots=True)
class BatchBuilder:
    """Classifies and collects records until a limit is reached. `EventLog.read` calls `admit` for each record."""

    limits: BatchLimits
    classify: Callable[[Record], ClassifiedRecord]
    starts: dict[TopicPartition, int]
    """The next expected offset of each partition. `admit` advances it."""
    records: list[ClassifiedRecord] = field(default_factory=list)
    bytes: int = 0
    uncovered: int = 0
    """Number of ranges without a record so far."""
    hours: set[str] = field(default_factory=set)

    def admit(self, record: Record) -> bool:
        """Add the record, or return False if it exceeds a limit and belongs to the next batch."""
        classified = self.classify(record)
        new_hours = {classified.hour} - self.hours if isinstance(classified, Event) else set()
        has_gap = record.source.offset != self.starts[record.source.topic_partition]
        if self.records and (
            len(self.records) >= self.limits.max_records
            or self.bytes + record.size > self.limits.max_bytes
            or len(self.hours) + len(new_hours) > self.limits.max_hours
            or self.uncovered + has_gap > self.limits.max_uncovered_ranges
        ):
            return False
        self.records.append(classified)
        self.bytes += record.size
        self.uncovered += has_gap
        self.hours |= new_hours
        self.starts[record.source.topic_partition] = record.source.offset + 1
        return True

    def sorted(self) -> tuple[ClassifiedRecord, ...]:
        """Return the records sorted by source."""
        return tuple(sorted(self.records, key=lambda classified: classified.record.source))


def covered_ranges(staged: StagedBatch) -> list[Range]:
    """Return the ranges of all records, gaps and lost offsets, unsorted."""
    records = [single_offset_range(classified.record.source) for classified in staged.records]
    return [*records, *(gap.range for gap in staged.gaps), *staged.lost]


def uncovered_ranges(ranges: Sequence[Range], covered: Iterable[Range]) -> tuple[Range, ...]:
    """Return the parts of `ranges` that are not in `covered`, in order. `covered` may be unsorted and may overlap."""
    by_partition: dict[TopicPartition, list[Range]] = {}
    for range_ in sorted(covered):
        by_partition.setdefault(range_.topic_partition, []).append(range_)
    return tuple(
        uncovered_range for range_ in ranges for uncovered_range in _uncovered_ranges(range_, by_partition.get(range_.topic_partition, []))
    )


def _uncovered_ranges(range_: Range, covered: Sequence[Range]) -> Iterator[Range]:
    position = range_.start
    for part in covered:
        if part.start > position:
            yield Range(range_.topic_partition, position, min(part.start, range_.end))
        position = max(position, part.end)
    if position < range_.end:
        yield Range(range_.topic_partition, position, range_.end)


def foreign_sources(staged: StagedBatch, batch: Batch) -> list[str]:
    """Return the records, gaps and lost ranges in the staging file that are outside the batch."""
    if batch.kind is BatchKind.REDRIVE:
        expected = set(batch.redriven_sources)
        sources = [classified.record.source for classified in staged.records]
        return [str(source) for source in sources if source not in expected]
    by_partition = {range_.topic_partition: range_ for range_ in batch.ranges}
    return [str(part) for part in covered_ranges(staged) if not _is_inside(part, by_partition.get(part.topic_partition))]


def _is_inside(part: Range, range_: Range | None) -> bool:
    return range_ is not None and range_.start <= part.start and part.end <= range_.end


def single_offset_range(source: Source) -> Range:
    """Return the range that contains only this source."""
    return Range(source.topic_partition, source.offset, source.offset + 1)


def deduplicate(events: Sequence[Event]) -> tuple[tuple[Event, ...], dict[Source, Source]]:
    """Return the first event of each id, in order, and for each later event the source of the first one."""
    first: dict[str, Event] = {}
    later: dict[Source, Source] = {}
    for event in events:
        owner = first.setdefault(event.id, event)
        if owner is not event:
            later[event.record.source] = owner.record.source
    return tuple(first.values()), later
