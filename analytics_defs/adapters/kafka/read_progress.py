"""The progress of one read over several ranges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from analytics_defs.core.offsets import Range, TopicPartition
from analytics_defs.errors import AnalyticsError

Key = tuple[str, int]
"""Topic and partition as Kafka identifies them, without the incarnation."""


@dataclass(slots=True)
class ReadProgress:
    """The ranges of one read, and how far each of them is."""

    ranges: Sequence[Range]
    """At most one range per topic-partition."""
    open: dict[Key, Range] = field(init=False)
    """Ranges that are not read to their end."""
    ends: dict[TopicPartition, int] = field(init=False)
    """The exclusive end of what was read."""
    lost: list[Range] = field(default_factory=list)
    """Offsets that retention removed before they were read."""
    errors: dict[TopicPartition, AnalyticsError] = field(default_factory=dict)
    """Partitions that cannot be read beyond their `ends`."""
    reposition_counts: dict[Key, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        by_key = {(range_.topic_partition.topic, range_.topic_partition.partition): range_ for range_ in self.ranges}
        if len(by_key) != len(self.ranges):
            raise ValueError(f"expected one range for each topic-partition, not {', '.join(map(str, self.ranges))}")
        self.open = {key: range_ for key, range_ in by_key.items() if range_}
        self.ends = {range_.topic_partition: range_.start for range_ in self.ranges}

    def count_reposition(self, key: Key) -> int:
        """Count one more reposition of this partition. Return their number."""
        self.reposition_counts[key] = self.reposition_counts.get(key, 0) + 1
        return self.reposition_counts[key]

    def advance(self, key: Key, position: int) -> None:
        """Note that all offsets before `position` were read. Close the range if that is its end."""
        range_ = self.open[key]
        self.ends[range_.topic_partition] = min(position, range_.end)
        if position >= range_.end:
            del self.open[key]

    def fail(self, key: Key, error: AnalyticsError) -> None:
        """Close the range at its current end, because it cannot be read any further."""
        self.errors[self.open.pop(key).topic_partition] = error

    def __str__(self) -> str:
        return ", ".join(f"{range_} at {self.ends[range_.topic_partition]}" for range_ in self.open.values())
