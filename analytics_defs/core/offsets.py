"""Coordinates of records in Kafka: topic-partitions, sources and half-open ranges. Independent of Kafka's client."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

NO_TIMESTAMP: Final = -1
"""Kafka's value for a record without a timestamp."""
MAX_TIMESTAMP_MS: Final = 253_402_300_799_999
"""The last millisecond of year 9999. Python, pandas and JSON have no later dates."""
_NAME = re.compile(r"(?P<topic>~?[A-Za-z0-9._-]+)(?:@(?P<incarnation>[1-9][0-9]*))?/(?P<partition>[0-9]+)")


@dataclass(frozen=True, slots=True, order=True)
class TopicPartition:
    """A partition of one incarnation of a topic.

    A topic that is deleted and created again gets the next incarnation number, and its offsets start at 0.
    """

    topic: str
    incarnation: int
    partition: int

    def __str__(self) -> str:
        return f"{qualified_topic_name(self.topic, self.incarnation)}/{self.partition}"

    @classmethod
    def parse(cls, text: str) -> TopicPartition:
        """Parse `topic/3`, or `topic@1/3` for a recreated topic. Raises ValueError for any other text."""
        match = _NAME.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} is not a topic-partition: expected topic/partition, for example ProductCreated/3")
        return cls(match["topic"], int(match["incarnation"] or 0), int(match["partition"]))


def qualified_topic_name(topic: str, incarnation: int) -> str:
    """Return `topic` for the first incarnation, `topic@1` for the second. Kafka does not allow `@` in topic names."""
    return f"{topic}@{incarnation}" if incarnation else topic


@dataclass(frozen=True, slots=True, order=True)
class Source:
    """Coordinates of one record. They are never reused, and they own the event id that the record claims."""

    topic_partition: TopicPartition
    offset: int

    def __str__(self) -> str:
        return f"{self.topic_partition}/{self.offset}"

    @classmethod
    def parse(cls, text: str) -> Source:
        """Parse `topic/partition/offset`. Raises ValueError for any other text."""
        name, _, offset = text.rpartition("/")
        if not (offset.isascii() and offset.isdigit()):
            raise ValueError(f"{text!r} is not a source: expected topic/partition/offset, for example ProductCreated/3/1042")
        return cls(TopicPartition.parse(name), int(offset))


@dataclass(frozen=True, slots=True, order=True)
class Range:
    """Offsets `[start, end)` of one topic-partition. Empty if `start == end`."""

    topic_partition: TopicPartition
    start: int
    end: int

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.end:
            raise ValueError(f"{self.topic_partition}: [{self.start}, {self.end}) is not a range of offsets")

    def __len__(self) -> int:
        return self.end - self.start

    def __contains__(self, offset: int) -> bool:
        return self.start <= offset < self.end

    def contains(self, source: Source) -> bool:
        return source.topic_partition == self.topic_partition and source.offset in self

    def __str__(self) -> str:
        return f"{self.topic_partition}[{self.start},{self.end})"


@dataclass(frozen=True, slots=True)
class Record:
    """A record as read from Kafka, with its bytes unchanged."""

    source: Source
    timestamp_ms: int
    """The record's own timestamp, epoch milliseconds (CreateTime or LogAppendTime), unchanged. `NO_TIMESTAMP` if it has none.

    A producer may write any 64-bit number: nanoseconds, for example. Use `valid_timestamp_ms` for calculations.
    """
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...] = ()

    @property
    def valid_timestamp_ms(self) -> int | None:
        """Return the timestamp if it is a date from 1970 to the end of year 9999. Otherwise None."""
        return self.timestamp_ms if 0 <= self.timestamp_ms <= MAX_TIMESTAMP_MS else None

    @property
    def has_invalid_timestamp(self) -> bool:
        """Return True if the record has a timestamp, and it is not a date."""
        return self.valid_timestamp_ms is None and self.timestamp_ms != NO_TIMESTAMP

    @property
    def size(self) -> int:
        """Return the bytes of key, value and headers together."""
        return len(self.key or b"") + len(self.value or b"") + sum(len(name.encode()) + len(value or b"") for name, value in self.headers)
