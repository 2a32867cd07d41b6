"""Values in the ledger: checkpoints, pending batches, and one immutable record for each closed batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from enum import StrEnum

from analytics_defs.core.events.event import ValidationRules
from analytics_defs.core.offsets import Range, Source, TopicPartition
from analytics_defs.errors import InconsistentState

REDRIVE_CHECKPOINT = TopicPartition("~redrive", 0, 0)
"""Checkpoint that orders redrives: each redrive batch uses one offset. Kafka does not allow `~` in topic names."""
PLATFORM_ID_NAME = "~"
"""Name of the platform id in `LedgerSnapshot.unreadable`. No topic, partition or batch has this name."""
REDRIVE_LANE = -1
"""Lane of the counters of redrives. A separate lane avoids transaction conflicts with ingest."""


class BatchKind(StrEnum):
    """Origin of the records of a batch: Kafka, or dead-letter files."""

    INGEST = "ingest"
    REDRIVE = "redrive"


class GapReason(StrEnum):
    """Evidence why a `read_committed` consumer gets no record for some offsets. It is never inferred by subtraction."""

    ABORTED = "aborted"
    """A `read_uncommitted` consumer gets records that a new `read_committed` consumer does not: an aborted transaction."""
    CONTROL = "control"
    """No consumer gets a record, and the topic is never compacted: transaction markers."""
    COMPACTED = "compacted"
    """No consumer gets a record, and the topic's `cleanup.policy` contains `compact`."""


@dataclass(frozen=True, slots=True)
class Gap:
    """Offsets without a record, and the reason."""

    range: Range
    reason: GapReason


@dataclass(frozen=True, slots=True)
class OutcomeCounts:
    """Number of offsets by outcome. For a closed range, the sum plus the unaccounted offsets is the length of the range."""

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


OUTCOMES = tuple(field.name for field in fields(OutcomeCounts))


@dataclass(frozen=True, slots=True)
class TopicState:
    """One incarnation of a topic, with its start offsets. Written once, so that every reader starts at the same offsets."""

    topic: str
    incarnation: int
    topic_id: str | None
    """Kafka's topic id. None if the broker has none."""
    starts: Mapping[int, int]
    """First offset by partition, for the partitions that existed then. A partition that was added later starts at 0."""

    def start(self, partition: int) -> int:
        return self.starts.get(partition, 0)

    def partition(self, number: int) -> TopicPartition:
        return TopicPartition(self.topic, self.incarnation, number)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Progress of one topic-partition: idle at `next_offset`, or with a pending batch whose range starts there."""

    topic_partition: TopicPartition
    first_offset: int
    """The first offset that the ledger accounts for."""
    next_offset: int
    """The next offset to read. All offsets in `[first_offset, next_offset)` are closed."""
    pending_batch_id: str | None = None
    """Id of the batch that was begun and is not closed yet."""
    totals: OutcomeCounts = OutcomeCounts()
    """Outcomes of `[first_offset, next_offset)`, changed only by closing transactions."""

    @property
    def unaccounted(self) -> int:
        """Return the number of closed offsets without an outcome. Any other value than 0 is an error to investigate."""
        return self.next_offset - self.first_offset - self.totals.total


@dataclass(frozen=True, slots=True)
class Batch:
    """The atomic unit inside a run. It is begun once; every executor that finishes it works from these values."""

    id: str
    kind: BatchKind
    lane: int
    """The lane whose counters the batch changes, even if the number of lanes changes later."""
    time: datetime
    """Start of its read: UTC, whole milliseconds. Every object and item of the batch carries this time."""
    ranges: tuple[Range, ...]
    """Sorted, not empty, at most one for each topic-partition."""
    run_id: str
    """The run that began it."""
    redriven_sources: tuple[Source, ...] = ()
    """The dead letters that a redrive processes again, sorted. Empty for an ingest batch."""
    redrive_keys: tuple[str, ...] = ()
    """Keys of the dead-letter files that hold them, sorted."""
    redrive_reasons: tuple[str, ...] = ()
    """Reason of each of `redriven_sources`, in the same order."""
    rules: ValidationRules | None = None
    """The rules that classified its records, used again if the records are read again. None: an older version began
    the batch and did not store them."""
    staged: str | None = None
    """SHA-256 of the staging file. None until the batch is staged; before that no event is claimed."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The heartbeat of a run. The sensor uses it to find dead runs; safety never depends on it."""

    run_id: str
    lane: int | None
    """None for a run that belongs to no lane."""
    renewed_at: datetime


@dataclass(frozen=True, slots=True)
class PlatformId:
    """Identity shared by ledger, tables and bucket. The first run writes it before it begins a batch."""

    id: str
    tables: tuple[str, ...]
    """Names of the other tables: recent events and counters."""
    bucket_id: str | None = None
    """Content of the bucket's object `object_keys.PLATFORM_ID_KEY`. Set when the object is first read, then never changed."""
    proven_buckets: tuple[str, ...] = ()
    """Addresses of the bucket whose store was proven to honor conditional writes. A moved archive has another address."""


@dataclass(frozen=True, slots=True)
class LedgerSnapshot:
    """All progress in the ledger, from one strongly consistent query."""

    topics: Mapping[str, TopicState] = field(default_factory=dict)
    """The latest incarnation of each topic, by name."""
    checkpoints: Mapping[TopicPartition, Checkpoint] = field(default_factory=dict)
    pending: Mapping[str, Batch] = field(default_factory=dict)
    leases: Mapping[str, Lease] = field(default_factory=dict)
    unreadable: Mapping[str, str] = field(default_factory=dict)
    """Existing items that cannot be read: message with the remedy, by name of topic, topic-partition or batch.
    The mappings above do not contain them, so check here before treating a missing entry as new."""
    platform_id: PlatformId | None = None
    """None before the first batch, and in ledgers of versions that wrote none."""

    @property
    def unreadable_platform_id(self) -> str | None:
        """Return why the platform id cannot be read. None if it is readable or does not exist."""
        return self.unreadable.get(PLATFORM_ID_NAME)

    def unreadable_reason(self, topic_partition: TopicPartition) -> str | None:
        """Return why the item of the topic, of the partition, or of its pending batch cannot be read. None if all can."""
        checkpoint = self.checkpoints.get(topic_partition)
        pending = [checkpoint.pending_batch_id] if checkpoint and checkpoint.pending_batch_id else []
        names = [topic_partition.topic, str(topic_partition), *pending]
        return next((self.unreadable[name] for name in names if name in self.unreadable), None)

    def require_readable(self) -> LedgerSnapshot:
        """Return this snapshot, or raise InconsistentState if any of its items cannot be read."""
        for message in self.unreadable.values():
            raise InconsistentState(message)
        return self

    def checkpoint(self, topic_partition: TopicPartition) -> Checkpoint:
        """Return the stored checkpoint, or the one that the first batch of the partition will create."""
        stored = self.checkpoints.get(topic_partition)
        if stored is not None:
            return stored
        topic = self.topics.get(topic_partition.topic)
        start = topic.start(topic_partition.partition) if topic and topic.incarnation == topic_partition.incarnation else 0
        return Checkpoint(topic_partition, start, start)


@dataclass(frozen=True, slots=True)
class ClosedRange:
    """One range of a closed batch. Readers look it up by any offset in it."""

    range: Range
    batch_id: str
    outcome_counts: OutcomeCounts


def pending_batches_of(topic_partition: TopicPartition, pending: Mapping[str, Batch]) -> list[str]:
    """Return a description of each pending batch that has a range of the partition."""
    return [
        f"pending batch {batch.id}"
        for batch in pending.values()
        if any(range_.topic_partition == topic_partition for range_ in batch.ranges)
    ]


def contradicted_checkpoint_message(topic_partition: TopicPartition, next_offset: int | None, evidence: str) -> str:
    """Return the message for a checkpoint that is missing (None), or stands before offsets that a batch holds."""
    found = "none" if next_offset is None else f"one whose next offset is {next_offset}"
    return (
        f"{topic_partition}: expected a checkpoint that accounts for {evidence}, found {found}. It was deleted, changed, or restored "
        f"from an older backup. The partition waits, because its records would be counted twice. `analytics audit` shows what the item "
        f"`checkpoint#{topic_partition}` has to hold; restore it."
    )


@dataclass(frozen=True, slots=True)
class RedrivenRecord:
    """A dead letter and the outcome of its redrive."""

    source: Source
    reason: str
    """The reason of its rejection."""
    outcome: str
    """`stored` or `duplicates`, as in OutcomeCounts."""


@dataclass(frozen=True, slots=True)
class BatchRecord:
    """The immutable record of a closed batch, written by its closing transaction."""

    batch: Batch
    closed_at: datetime
    range_outcome_counts: tuple[OutcomeCounts, ...]
    """One for each of `batch.ranges`, in the same order. A redrive has one, with the outcomes of its records."""
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
    """Offsets without a record and without evidence. Any entry is an error to investigate."""
    redriven: tuple[RedrivenRecord, ...] = ()
    write_event_json: bool = True
    """True if one JSON object was written for each stored event."""
    parts: Mapping[str, str] = field(default_factory=dict)
    """Key of the Parquet part, by hour."""
    dead_letters_key: str | None = None
    dead_letters_digest: str | None = None
    """SHA-256 of the dead-letter file. None if there is no file, or in records of versions that did not store it."""
    duplicates_key: str | None = None
    duplicates_digest: str | None = None
    """SHA-256 of the duplicates file. None if the batch has no duplicates."""
    steps_ms: Mapping[str, int] = field(default_factory=dict)
    """Milliseconds by step, in the executor that closed the batch. Steps overlap, so the sum may exceed the duration."""
    duration_ms: int = 0
    bytes: int = 0
    """Bytes of keys, values and headers of all records."""
    record_to_close_ms: int = 0
    """Sum of (close time - record timestamp) over stored events whose record has a valid timestamp."""
    invalid_record_timestamps: int = 0
    """Stored events whose record timestamp is not a date."""
    code_version: str = ""

    @property
    def outcome_counts(self) -> OutcomeCounts:
        return sum(self.range_outcome_counts, OutcomeCounts())

    @property
    def closed_ranges(self) -> tuple[ClosedRange, ...]:
        return tuple(
            ClosedRange(range_, self.batch.id, outcome_counts)
            for range_, outcome_counts in zip(self.batch.ranges, self.range_outcome_counts, strict=True)
        )

    @property
    def ends(self) -> dict[TopicPartition, int]:
        """Return the next offset of each partition after the batch is closed."""
        return {range_.topic_partition: range_.end for range_ in self.batch.ranges}
