"""One pass of a reader over some ranges of offsets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from analytics_defs.core.offsets import Range, TopicPartition
from analytics_defs.errors import AnalyticsError

Key = tuple[str, int]
"""A topic-partition as Kafka knows it, without our generation."""


@dataclass(slots=True)
class ReadProgress:
    """What is still open, how far each was read, what retention took, what cannot be read."""

    ranges: Sequence[Range]
    open: dict[Key, Range] = field(init=False)
    ends: dict[TopicPartition, int] = field(init=False)
    lost: list[Range] = field(default_factory=list)
    faults: dict[TopicPartition, AnalyticsError] = field(default_factory=dict)
    reposition_counts: dict[Key, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        keyed = {(each.topic_partition.topic, each.topic_partition.partition): each for each in self.ranges}
        if len(keyed) != len(self.ranges):
            raise ValueError(f"one range for each topic-partition, not {', '.join(map(str, self.ranges))}")
        self.open = {key: each for key, each in keyed.items() if each}
        self.ends = {each.topic_partition: each.start for each in self.ranges}

    def reposition(self, key: Key) -> int:
        self.reposition_counts[key] = self.reposition_counts.get(key, 0) + 1
        return self.reposition_counts[key]

    def reached(self, key: Key, position: int) -> None:
        """Everything before `position` was read or passed over; the range closes when that is all of it."""
        whole = self.open[key]
        self.ends[whole.topic_partition] = min(position, whole.end)
        if position >= whole.end:
            del self.open[key]

    def ended(self, key: Key, fault: AnalyticsError) -> None:
        """The range closes where it is: nobody can read it any further."""
        self.faults[self.open.pop(key).topic_partition] = fault

    def __str__(self) -> str:
        return ", ".join(f"{each} at {self.ends[each.topic_partition]}" for each in self.open.values())
