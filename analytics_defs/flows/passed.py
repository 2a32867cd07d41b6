"""Whether an hour is over for every partition: nothing of it can come any more, but for late events."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from analytics_defs.core.hours import end_of_hour
from analytics_defs.core.ledger import REDRIVE_HEAD, Snapshot
from analytics_defs.core.offsets import Range, Record, TopicPartition
from analytics_defs.errors import AnalyticsError
from analytics_defs.ports import Ports, Watermarks


def has_passed(hour: str, ports: Ports) -> bool | None:
    """The hour has ended, and each head has read its partition to the end, or stands before a record written after the hour.

    Nothing pending, either. None where Kafka does not answer: an archive can be compacted without it.
    """
    if ports.clock.now() < end_of_hour(hour):
        return False
    snapshot = ports.ledger.snapshot()
    if snapshot.pending or snapshot.unreadable:
        return False
    return have_heads_passed(hour, snapshot, ports)


def have_heads_passed(hour: str, snapshot: Snapshot, ports: Ports) -> bool | None:
    """The same of the heads alone: what is pending counts as not read."""
    end = end_of_hour(hour)
    try:
        return all(_is_after(end, each, ports) for each in _behind(snapshot, ports))
    except AnalyticsError:
        return None


def _behind(snapshot: Snapshot, ports: Ports) -> Iterator[tuple[TopicPartition, int, Watermarks]]:
    """Partitions of the topics' present lives with something to read."""
    heads = {
        at: head.next
        for at, head in snapshot.heads.items()
        if at != REDRIVE_HEAD and at.topic in snapshot.topics and at.generation == snapshot.topics[at.topic].generation
    }
    for at, watermarks in ports.log.watermarks(heads).items():
        if heads[at] < watermarks.high:
            yield at, heads[at], watermarks


def _is_after(end: datetime, behind: tuple[TopicPartition, int, Watermarks], ports: Ports) -> bool:
    """Whether the next record, by its own timestamp, was written after the hour. Behind an open transaction nobody knows."""
    at, next_offset, watermarks = behind
    if next_offset >= watermarks.stable:
        return False
    found: list[Record] = []

    def admit(record: Record) -> bool:
        found.append(record)
        return False

    ports.log.read([Range(at, next_offset, watermarks.stable)], admit)
    return bool(found) and found[0].timestamp_ms >= end.timestamp() * 1000
