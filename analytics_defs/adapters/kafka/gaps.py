"""Why offsets gave no record: evidence from readers that see more, or see for the first time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Protocol

from confluent_kafka import Message

from analytics_defs.adapters.kafka.read_progress import ReadProgress
from analytics_defs.core.ledger import Gap, GapReason
from analytics_defs.core.offsets import Range, TopicPartition
from analytics_defs.errors import Unavailable

Policies = Callable[[Collection[str]], Mapping[str, frozenset[str] | None]]
"""`cleanup.policy` by topic, None where it cannot be learned."""


MAX_CONTROL_RECORDS = 64
"""Transaction markers in a row that are believed: as many as producers may end a transaction at the same moment in one partition."""


class RecordReader(Protocol):
    """What a reader sees. `KafkaReader` is one."""

    def read_messages(self, passage: ReadProgress) -> Iterator[tuple[TopicPartition, Message]]: ...


def explain_gaps(holes: Sequence[Range], uncommitted: RecordReader, committed: RecordReader, policies: Policies) -> tuple[Gap, ...]:
    """See `ports.EventLog.explain`. Each reader passes once over the offsets between the first and the last hole of a partition.

    `committed` is a reader that read nothing before. It is asked only about offsets at which an uncommitted reader sees a record:
    a committed reader never sees more than that.
    """
    ordered = sorted(each for each in holes if each)
    records = _records_in(ordered, uncommitted)
    committed_records = _records_in(records, committed)
    if committed_records:
        raise Unavailable(
            f"a fresh reader finds committed records in {', '.join(map(str, committed_records[:3]))}, "
            "which the first reading did not give: the batch has to be read again."
        )
    empty = list(_without(ordered, records))
    known = policies({each.topic_partition.topic for each in empty}) if empty else {}
    reasons = {each: _reason(each, known[each.topic_partition.topic]) for each in empty} | dict.fromkeys(records, GapReason.ABORTED)
    return _merged([Gap(each, reason) for each, reason in sorted(reasons.items()) if reason is not None])


def _reason(empty: Range, policy: frozenset[str] | None) -> GapReason | None:
    """Below the last stable offset, where not even an uncommitted reader sees a record.

    On a topic that is never compacted only transaction markers are like that, a few in a row where several producers end theirs at
    once: a longer hole is a segment that the broker lost, and stays without an explanation. Where nobody tells the policy, a single
    offset is taken for a marker.
    """
    if policy is not None and "compact" in policy:
        return GapReason.COMPACTED
    return GapReason.CONTROL if len(empty) <= (1 if policy is None else MAX_CONTROL_RECORDS) else None


def _records_in(holes: Sequence[Range], reader: RecordReader) -> list[Range]:
    """The offsets of the holes at which the reader sees a record, as ranges that do not cross a hole's borders. `holes` are sorted."""
    tracks = {each: _Track(list(mine)) for each, mine in groupby(holes, key=lambda hole: hole.topic_partition)}
    passage = ReadProgress([each.span for each in tracks.values()])
    for topic_partition, message in reader.read_messages(passage):
        tracks[topic_partition].saw(message.offset() or 0)
    for fault in passage.faults.values():
        raise fault
    for lost in passage.lost:
        if any(lost.start < hole.end and hole.start < lost.end for hole in tracks[lost.topic_partition].holes):
            raise Unavailable(f"{lost}: retention removed these offsets before they could be explained: the batch has to be read again.")
    return [found for each in tracks.values() for found in each.found]


@dataclass(slots=True)
class _Track:
    """The holes of one partition, while a reader passes over them."""

    holes: Sequence[Range]
    found: list[Range] = field(default_factory=list)
    _next: int = 0

    @property
    def span(self) -> Range:
        return Range(self.holes[0].topic_partition, self.holes[0].start, self.holes[-1].end)

    def saw(self, offset: int) -> None:
        while self.holes[self._next].end <= offset:
            self._next += 1
        hole = self.holes[self._next]
        if offset not in hole:
            return
        if self.found and self.found[-1].end == offset != hole.start:
            self.found[-1] = Range(hole.topic_partition, self.found[-1].start, offset + 1)
        else:
            self.found.append(Range(hole.topic_partition, offset, offset + 1))


def _without(holes: Sequence[Range], found: Sequence[Range]) -> Iterator[Range]:
    """What is left of the holes. Both are sorted, and no range of `found` crosses a hole's border."""
    upcoming = deque(found)
    for hole in holes:
        position = hole.start
        while upcoming and upcoming[0].topic_partition == hole.topic_partition and upcoming[0].start < hole.end:
            each = upcoming.popleft()
            if each.start > position:
                yield Range(hole.topic_partition, position, each.start)
            position = each.end
        if position < hole.end:
            yield Range(hole.topic_partition, position, hole.end)


def _merged(gaps: Sequence[Gap]) -> tuple[Gap, ...]:
    """Neighbours of one reason as one."""
    merged: list[Gap] = []
    for gap in gaps:
        last = merged[-1] if merged else None
        neighbours = last and (last.range.topic_partition, last.range.end) == (gap.range.topic_partition, gap.range.start)
        if last and neighbours and last.reason is gap.reason:
            merged[-1] = Gap(Range(gap.range.topic_partition, last.range.start, gap.range.end), gap.reason)
        else:
            merged.append(gap)
    return tuple(merged)
