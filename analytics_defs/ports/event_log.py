"""The event log: topics, watermarks, committed records and the consumer group's offsets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from analytics_defs.core.ledger import Gap
from analytics_defs.core.offsets import Range, Record, TopicPartition
from analytics_defs.errors import AnalyticsError


@dataclass(frozen=True, slots=True)
class TopicDescription:
    """A topic as the broker describes it now."""

    name: str
    partitions: tuple[int, ...]
    topic_id: str | None
    """None if the broker does not report topic ids."""


@dataclass(frozen=True, slots=True)
class Watermarks:
    """Offsets of one topic-partition: `log_start_offset <= last_stable_offset <= high_watermark`."""

    log_start_offset: int
    """The oldest offset that is still available. In an empty partition: the next offset that will be written."""
    last_stable_offset: int
    """The first offset that a `read_committed` consumer cannot read yet."""
    high_watermark: int
    """The end of the log, uncommitted records included. Lag is counted up to here."""


@dataclass(frozen=True, slots=True)
class PartitionWatermarks:
    """Watermarks of many partitions at one moment. Each partition is in exactly one of the two mappings."""

    watermarks: Mapping[TopicPartition, Watermarks]
    unavailable: Mapping[TopicPartition, AnalyticsError]
    """Partitions without a reachable leader, although others answered. Usually temporary."""


@dataclass(frozen=True, slots=True)
class ReadResult:
    """The outcome of one read."""

    records: tuple[Record, ...]
    """Sorted by source."""
    ends: Mapping[TopicPartition, int]
    """The exclusive end of what was read, for each requested range: at least its `start`, at most its `end`."""
    lost: tuple[Range, ...]
    """Offsets in `[start, ends)` that Kafka's retention removed before they were read. Evidence: the log start offset."""
    errors: Mapping[TopicPartition, AnalyticsError] = field(default_factory=dict)
    """Partitions that cannot be read beyond their `ends`. A retry does not help: an operator has to act."""


class EventLog(Protocol):
    """Kafka. Not thread-safe: use one instance per thread."""

    def topics(self, names: Sequence[str]) -> Mapping[str, TopicDescription]:
        """Return the topics that exist, by name. Missing topics are left out."""
        ...

    def watermarks(self, partitions: Iterable[TopicPartition]) -> Mapping[TopicPartition, Watermarks]:
        """Return the watermarks of all partitions. Raise the error of the first partition that does not answer."""
        ...

    def available_watermarks(self, partitions: Iterable[TopicPartition]) -> PartitionWatermarks:
        """Return the watermarks of the partitions that answer, and the errors of the others. Raise Unavailable if none answers."""
        ...

    def read(self, ranges: Sequence[Range], admit: Callable[[Record], bool]) -> ReadResult:
        """Read committed records until the ranges end or `admit` returns False. The refused record is not in the result.

        Within a partition, `admit` sees records in offset order. Offsets without a record count as read.
        A corrupt record batch ends its own range just before it, with an entry in `errors`.
        Continuing at the ends of the previous read is cheap; reading from any other offset is correct but slower.
        """
        ...

    def explain_gaps(self, uncovered: Sequence[Range]) -> tuple[Gap, ...]:
        """Return why these offsets gave no record, with evidence. Offsets without evidence are left out.

        Raise Unavailable if a fresh consumer does find a committed record there: the batch must be read again.
        """
        ...

    def committed(self, partitions: Iterable[TopicPartition]) -> Mapping[TopicPartition, int | None]:
        """Return the group's offsets (the next offset to read). None if the group has none."""
        ...

    def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Set the group's offsets, forwards or backwards. Raise ConsumerGroupActive while the group has members."""
        ...
