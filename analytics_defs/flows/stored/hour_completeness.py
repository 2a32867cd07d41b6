"""Whether an hour is over for every partition: nothing of it can come any more, but for late events."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime

from analytics_defs.core.hours.revision import end_of_hour
from analytics_defs.core.ledger import REDRIVE_CHECKPOINT, BatchKind, LedgerSnapshot
from analytics_defs.core.offsets import Range, Record, TopicPartition
from analytics_defs.errors import AnalyticsError
from analytics_defs.ports import Ports, TopicDescription, Watermarks


def is_complete(hour: str, ports: Ports) -> bool | None:
    """The hour has ended, and each partition was read to its end, or its next record was written after the hour.

    No redrive pending, whose records are of any hour, and no topic that was created again and not accepted. None where Kafka does not
    answer: an archive can be compacted without it.
    """
    if ports.clock.now() < end_of_hour(hour):
        return False
    snapshot = ports.ledger.snapshot()
    if snapshot.unreadable or any(each.kind is BatchKind.REDRIVE for each in snapshot.pending.values()):
        return False
    return checkpoints_passed(hour, snapshot, ports)


def checkpoints_passed(hour: str, snapshot: LedgerSnapshot, ports: Ports) -> bool | None:
    """The same of the heads alone: what is pending counts as not read. Of a topic that is gone nothing comes but what is pending."""
    end = end_of_hour(hour)
    try:
        there = ports.event_log.topics(sorted(snapshot.topics))
        if any(topic_id and there[name].topic_id not in (None, topic_id) for name, topic_id in _ids(snapshot) if name in there):
            return False
        if any(
            head.pending_batch_id and not _lives(at, snapshot, there)
            for at, head in snapshot.checkpoints.items()
            if at != REDRIVE_CHECKPOINT
        ):
            return False
        return all(_is_after(end, each, ports) and not _is_only_staged(each, snapshot) for each in _behind(snapshot, there, ports))
    except AnalyticsError:
        return None


def _ids(snapshot: LedgerSnapshot) -> Iterator[tuple[str, str | None]]:
    return ((name, topic.topic_id) for name, topic in snapshot.topics.items())


def _behind(
    snapshot: LedgerSnapshot, there: Mapping[str, TopicDescription], ports: Ports
) -> Iterator[tuple[TopicPartition, int, Watermarks]]:
    """Partitions of the topics' present lives with something to read, or whose log was cut. New ones have no head before a batch."""
    states = [(snapshot.topics[name], topic) for name, topic in there.items()]
    unread = {at: snapshot.checkpoint(at).next_offset for state, topic in states for at in map(state.partition, topic.partitions)}
    heads = unread | {at: head.next_offset for at, head in snapshot.checkpoints.items() if _lives(at, snapshot, there)}
    for at, watermarks in ports.event_log.watermarks(heads).items():
        if heads[at] != watermarks.high_watermark:
            yield at, heads[at], watermarks


def _lives(at: TopicPartition, snapshot: LedgerSnapshot, there: Mapping[str, TopicDescription]) -> bool:
    """Whether it is of the present life of a topic that is there."""
    return at.topic in there and at.incarnation == snapshot.topics[at.topic].incarnation


def _is_after(end: datetime, behind: tuple[TopicPartition, int, Watermarks], ports: Ports) -> bool:
    """Whether the next record, by its own timestamp, was written after the hour. Behind an open transaction nobody knows."""
    at, next_offset, watermarks = behind
    if next_offset >= watermarks.last_stable_offset:
        return False
    found: list[Record] = []

    def admit(record: Record) -> bool:
        found.append(record)
        return False

    ports.event_log.read([Range(at, next_offset, watermarks.last_stable_offset)], admit)
    return bool(found) and found[0].timestamp_ms >= end.timestamp() * 1000


def _is_only_staged(behind: tuple[TopicPartition, int, Watermarks], snapshot: LedgerSnapshot) -> bool:
    """Whether retention removed what a pending batch began with: the next record that is left says nothing of it."""
    at, next_offset, watermarks = behind
    return next_offset < watermarks.log_start_offset and snapshot.checkpoint(at).pending_batch_id is not None
