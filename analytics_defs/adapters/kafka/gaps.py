"""Explanations for offsets that gave no record: evidence from an uncommitted and a fresh committed reader."""

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

CleanupPolicies = Callable[[Collection[str]], Mapping[str, frozenset[str] | None]]
"""Function that returns `cleanup.policy` by topic, None if it cannot be read."""


MAX_CONTROL_RECORDS = 64
"""Longest run of transaction markers that is accepted: how many producers may end a transaction in one partition at the same moment."""


class RecordReader(Protocol):
    """The part of `KafkaReader` that is used here."""

    def read_messages(self, progress: ReadProgress) -> Iterator[tuple[TopicPartition, Message]]: ...


def explain_gaps(
    uncovered: Sequence[Range], uncommitted: RecordReader, committed: RecordReader, policies: CleanupPolicies
) -> tuple[Gap, ...]:
    """Return the reasons for the uncovered ranges, see `ports.EventLog.explain_gaps`.

    Each reader reads once from the first to the last uncovered range of a partition. `committed` has not read anything yet.
    It reads only offsets at which the uncommitted reader sees a record, because a committed reader never sees more.
    """
    ordered = sorted(range_ for range_ in uncovered if range_)
    records = _records_in(ordered, uncommitted)
    committed_records = _records_in(records, committed)
    if committed_records:
        raise Unavailable(
            f"a fresh reader finds committed records in {', '.join(map(str, committed_records[:3]))}, "
            "which the first read did not return: the batch must be read again."
        )
    empty = list(_subtract(ordered, records))
    policy_by_topic = policies({range_.topic_partition.topic for range_ in empty}) if empty else {}
    reasons = {range_: _reason(range_, policy_by_topic[range_.topic_partition.topic]) for range_ in empty}
    reasons |= dict.fromkeys(records, GapReason.ABORTED)
    return _merge_adjacent([Gap(range_, reason) for range_, reason in sorted(reasons.items()) if reason is not None])


def _reason(empty: Range, policy: frozenset[str] | None) -> GapReason | None:
    """Return the reason for offsets below the last stable offset at which the uncommitted reader sees no record.

    On a topic that is never compacted, only transaction markers look like this: a few in a row if several producers end transactions
    at once. A longer range is a segment that the broker lost, and stays unexplained. If the policy is unknown, only a single offset
    counts as a marker.
    """
    if policy is not None and "compact" in policy:
        return GapReason.COMPACTED
    return GapReason.CONTROL if len(empty) <= (1 if policy is None else MAX_CONTROL_RECORDS) else None


def _records_in(uncovered: Sequence[Range], reader: RecordReader) -> list[Range]:
    """Return the offsets at which the reader sees a record, as ranges within one of `uncovered` each. `uncovered` is sorted."""
    scans = {partition: _PartitionScan(list(group)) for partition, group in groupby(uncovered, key=lambda range_: range_.topic_partition)}
    progress = ReadProgress([scan.span for scan in scans.values()])
    for topic_partition, message in reader.read_messages(progress):
        scans[topic_partition].add(message.offset() or 0)
    for error in progress.errors.values():
        raise error
    for lost in progress.lost:
        if any(lost.start < range_.end and range_.start < lost.end for range_ in scans[lost.topic_partition].uncovered):
            raise Unavailable(f"{lost}: retention removed these offsets before they could be explained: the batch must be read again.")
    return [range_ for scan in scans.values() for range_ in scan.records]


@dataclass(slots=True)
class _PartitionScan:
    """Uncovered ranges of one partition, and the records that a reader sees in them."""

    uncovered: Sequence[Range]
    records: list[Range] = field(default_factory=list)
    _next: int = 0

    @property
    def span(self) -> Range:
        return Range(self.uncovered[0].topic_partition, self.uncovered[0].start, self.uncovered[-1].end)

    def add(self, offset: int) -> None:
        """Add a record. Offsets arrive in ascending order; one outside them is ignored."""
        while self.uncovered[self._next].end <= offset:
            self._next += 1
        range_ = self.uncovered[self._next]
        if offset not in range_:
            return
        if self.records and self.records[-1].end == offset != range_.start:
            self.records[-1] = Range(range_.topic_partition, self.records[-1].start, offset + 1)
        else:
            self.records.append(Range(range_.topic_partition, offset, offset + 1))


def _subtract(uncovered: Sequence[Range], records: Sequence[Range]) -> Iterator[Range]:
    """Yield the parts of the ranges without records. Both are sorted, and every range of `records` lies within one of `uncovered`."""
    upcoming = deque(records)
    for range_ in uncovered:
        position = range_.start
        while upcoming and upcoming[0].topic_partition == range_.topic_partition and upcoming[0].start < range_.end:
            record_range = upcoming.popleft()
            if record_range.start > position:
                yield Range(range_.topic_partition, position, record_range.start)
            position = record_range.end
        if position < range_.end:
            yield Range(range_.topic_partition, position, range_.end)


def _merge_adjacent(gaps: Sequence[Gap]) -> tuple[Gap, ...]:
    """Return the gaps with adjacent ones of the same reason merged."""
    merged: list[Gap] = []
    for gap in gaps:
        last = merged[-1] if merged else None
        is_adjacent = last and (last.range.topic_partition, last.range.end) == (gap.range.topic_partition, gap.range.start)
        if last and is_adjacent and last.reason is gap.reason:
            merged[-1] = Gap(Range(gap.range.topic_partition, last.range.start, gap.range.end), gap.reason)
        else:
            merged.append(gap)
    return tuple(merged)
