"""What the ledger says: heads, pending batches, and the immutable record of each closed batch. Values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from enum import StrEnum

from analytics_defs.core.events.event import ValidationRules
from analytics_defs.core.offsets import Range, Source, TopicPartition
from analytics_defs.errors import InconsistentState

REDRIVE_CHECKPOINT = TopicPartition("~redrive", 0, 0)
"""Redrives take turns on a head of their own, one batch an offset. `~` is not allowed in Kafka's topic names."""
PLATFORM_ID_NAME = "~"
"""Name of the platform id in `LedgerSnapshot.unreadable`. No topic, partition or batch has this name."""
REDRIVE_LANE = -1
"""Redrives count in a lane of their own, so that they do not conflict with a lane that ingests."""


class BatchKind(StrEnum):
    INGEST = "ingest"
    REDRIVE = "redrive"


class GapReason(StrEnum):
    """Why offsets hold no record for a committed reader. Each is evidence that was seen, never a difference."""

    ABORTED = "aborted"
    """An uncommitted read sees records here that a fresh committed read does not: their transaction was aborted."""
    CONTROL = "control"
    """Not even an uncommitted read sees a record, and the topic is never compacted: transaction markers."""
    COMPACTED = "compacted"
    """Not even an uncommitted read sees a record, and the topic's `cleanup.policy` names compaction."""


@dataclass(frozen=True, slots=True)
class Gap:
    """Offsets that hold no record, with the reason."""

    range: Range
    reason: GapReason


@dataclass(frozen=True, slots=True)
class OutcomeCounts:
    """Offsets by outcome. Of a closed range the sum is its length: that is the equation."""

    stored: int = 0
    duplicates: int = 0
    dead_letters: int = 0
    tombstones: int = 0
    gaps: int = 0
    lost: int = 0
    """Offsets that retention removed before they were read."""

    def __add__(self, other: OutcomeCounts) -> OutcomeCounts:
        return OutcomeCounts(*(getattr(self, name) + getattr(other, name) for name in OUTCOMES))

    def __neg__(self) -> OutcomeCounts:
        return OutcomeCounts(*(-getattr(self, name) for name in OUTCOMES))

    @property
    def total(self) -> int:
        return sum(getattr(self, name) for name in OUTCOMES)

    def as_dict(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in OUTCOMES}


OUTCOMES = tuple(each.name for each in fields(OutcomeCounts))


@dataclass(frozen=True, slots=True)
class TopicState:
    """One life of a topic as the ledger first met it. Written once a generation, so every reader starts at the same offsets."""

    topic: str
    incarnation: int
    topic_id: str | None
    """The broker's id of the topic, where the broker tells it."""
    starts: Mapping[int, int]
    """First offset by partition, for the partitions of that moment. A partition that appeared later starts at 0."""

    def start(self, partition: int) -> int:
        return self.starts.get(partition, 0)

    def partition(self, number: int) -> TopicPartition:
        return TopicPartition(self.topic, self.incarnation, number)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Progress of one topic-partition: idle at `next`, or pending a batch whose range starts at `next`."""

    topic_partition: TopicPartition
    first_offset: int
    """Where the ledger's account of the partition begins."""
    next_offset: int
    """The next offset to read. Everything in `[first, next)` is closed."""
    pending_batch_id: str | None = None
    """Id of the batch that was taken and is not closed yet."""
    totals: OutcomeCounts = OutcomeCounts()
    """Outcomes over `[first, next)`, moved only by closing transactions."""

    @property
    def unaccounted(self) -> int:
        """Offsets of `[first, next)` without an outcome: 0, or somebody has to look."""
        return self.next_offset - self.first_offset - self.totals.total


@dataclass(frozen=True, slots=True)
class Batch:
    """The atomic unit inside a run. Taken once; whoever finishes it works from the same values."""

    id: str
    kind: BatchKind
    lane: int
    """The lane whose counters the batch enters, whatever the number of lanes is later."""
    time: datetime
    """When it was cut: UTC, whole milliseconds. All bytes written for the batch carry this time."""
    ranges: tuple[Range, ...]
    """Sorted, not empty, at most one for each topic-partition."""
    run_id: str
    """The run that took it."""
    redriven_sources: tuple[Source, ...] = ()
    """The dead letters a redrive puts through, sorted. Empty for an ingest batch."""
    redrive_keys: tuple[str, ...] = ()
    """The dead-letter objects that hold them, sorted."""
    redrive_reasons: tuple[str, ...] = ()
    """Why each of `redrives` was rejected."""
    rules: ValidationRules | None = None
    """By which its records were judged when it was cut, and are judged whenever they are read again. None: of a version that did not
    keep them."""
    staged: str | None = None
    """SHA-256 of the staging file, once that file decides what the batch is. Before that nothing was claimed."""


@dataclass(frozen=True, slots=True)
class Lease:
    """A run's sign of life. It helps the sensor to see a dead run; safety never depends on it."""

    run_id: str
    lane: int
    renewed_at: datetime


@dataclass(frozen=True, slots=True)
class PlatformId:
    """What tells this ledger from every other, and which stores hold what it counts. Put by the first who is about to take a batch."""

    id: str
    tables: tuple[str, ...]
    """Names of the other tables: recent events, counters."""
    bucket_id: str | None = None
    """What the bucket's object `core.storage.object_keys.PLATFORM_ID_KEY` holds, once it was seen there: never changed from then on."""


@dataclass(frozen=True, slots=True)
class LedgerSnapshot:
    """The ledger's progress, from one strongly consistent query."""

    topics: Mapping[str, TopicState] = field(default_factory=dict)
    """The newest generation of each topic, by name."""
    checkpoints: Mapping[TopicPartition, Checkpoint] = field(default_factory=dict)
    pending: Mapping[str, Batch] = field(default_factory=dict)
    leases: Mapping[str, Lease] = field(default_factory=dict)
    unreadable: Mapping[str, str] = field(default_factory=dict)
    """Items that are there and cannot be read, by the name of their topic, topic-partition or batch, and what to do. They are in none of
    the above: whoever takes what is missing there for something new asks here first."""
    platform_id: PlatformId | None = None
    """None before the first batch, and of versions that put none."""

    @property
    def unreadable_platform_id(self) -> str | None:
        """Why the platform id cannot be read. None if it can, or if there is none."""
        return self.unreadable.get(PLATFORM_ID_NAME)

    def unreadable_reason(self, topic_partition: TopicPartition) -> str | None:
        """Why nobody can go on there: the item of the topic, of the partition itself, or of the batch pending in it."""
        head = self.checkpoints.get(topic_partition)
        names = [topic_partition.topic, str(topic_partition), *([head.pending_batch_id] if head and head.pending_batch_id else [])]
        return next((self.unreadable[name] for name in names if name in self.unreadable), None)

    def require_readable(self) -> LedgerSnapshot:
        """The same. Raises InconsistentState where any item of it cannot be read: for who needs the whole."""
        for why in self.unreadable.values():
            raise InconsistentState(why)
        return self

    def checkpoint(self, topic_partition: TopicPartition) -> Checkpoint:
        """The head as it is, or as the first take will write it."""
        known = self.checkpoints.get(topic_partition)
        if known is not None:
            return known
        topic = self.topics.get(topic_partition.topic)
        start = topic.start(topic_partition.partition) if topic and topic.incarnation == topic_partition.incarnation else 0
        return Checkpoint(topic_partition, start, start)


@dataclass(frozen=True, slots=True)
class ClosedRange:
    """One range of one closed batch, found by any offset inside it."""

    range: Range
    batch_id: str
    tally: OutcomeCounts


@dataclass(frozen=True, slots=True)
class RedrivenRecord:
    """A dead letter under its new outcome."""

    source: Source
    reason: str
    """Why it was rejected before."""
    outcome: str
    """`stored` or `repeats`, as in Tally."""


@dataclass(frozen=True, slots=True)
class BatchRecord:
    """The account of one closed batch: written by the closing transaction, never changed."""

    batch: Batch
    closed_at: datetime
    tallies: tuple[OutcomeCounts, ...]
    """One for each of `batch.ranges`, in their order. A redrive's own range has the outcomes of its records."""
    types: Mapping[str, int]
    """Stored events by type."""
    hours: Mapping[str, Mapping[str, int]]
    """Stored events by UTC hour (`YYYY-MM-DDTHH`) and type."""
    reasons: Mapping[str, int]
    """Dead letters by reason."""
    gaps: tuple[Gap, ...] = ()
    lost: tuple[Range, ...] = ()
    tombstones: tuple[Source, ...] = ()
    unaccounted: tuple[Range, ...] = ()
    """Offsets for which nothing was seen: no record, no evidence. Empty, or somebody has to look."""
    redriven: tuple[RedrivenRecord, ...] = ()
    write_event_json: bool = True
    """Whether one JSON object was written for each stored event."""
    parts: Mapping[str, str] = field(default_factory=dict)
    """Key of the Parquet part by hour."""
    dead_letters_key: str | None = None
    dead_letters_digest: str | None = None
    """SHA-256 of the dead-letter file. None where there is none, and in records of versions that did not note it."""
    duplicates_key: str | None = None
    duplicates_digest: str | None = None
    """SHA-256 of the duplicates file. None if the batch has no duplicates."""
    steps_ms: Mapping[str, int] = field(default_factory=dict)
    """Milliseconds by step, of the executor that closed it. Steps overlap: the sum exceeds the duration."""
    duration_ms: int = 0
    bytes: int = 0
    """Bytes of the records' keys, values and headers."""
    record_to_close_ms: int = 0
    """Sum over stored events of (closed - record timestamp), for records that carry one."""
    code_version: str = ""

    @property
    def tally(self) -> OutcomeCounts:
        return sum(self.tallies, OutcomeCounts())

    @property
    def ends(self) -> dict[TopicPartition, int]:
        """Where the heads stand once the batch is closed."""
        return {each.topic_partition: each.end for each in self.batch.ranges}
