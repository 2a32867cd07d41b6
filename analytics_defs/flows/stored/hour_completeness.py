"""Completeness of an hour: every partition has been read past the hour's end. Only late events can still arrive."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime

from analytics_defs.core.hours.revision import end_of_hour
from analytics_defs.core.ledger import REDRIVE_CHECKPOINT, BatchKind, LedgerSnapshot
from analytics_defs.core.offsets import Range, Record, TopicPartition
from analytics_defs.errors import AnalyticsError
from analytics_defs.ports import Ports, TopicDescription, Watermarks


def is_complete(hour: str, ports: Ports) -> bool | None:
    """Return True if the hour has ended, and each partition was read to its end or its next record was written after the hour.

    A pending redrive makes every hour incomplete: its records can lie in any hour. So does a recreated topic
    that was not accepted. None: Kafka did not answer. An archive can be compacted without this answer.
    """
    if ports.clock.now() < end_of_hour(hour):
        return False
    snapshot = ports.ledger.snapshot()
    if snapshot.unreadable or any(batch.kind is BatchKind.REDRIVE for batch in snapshot.pending.values()):
        return False
    return checkpoints_passed(hour, snapshot, ports)


def checkpoints_passed(hour: str, snapshot: LedgerSnapshot, ports: Ports) -> bool | None:
    """Return `is_complete` by the checkpoints alone. Records of pending batches count as not read.

    A deleted topic can add only its pending batches to the hour. None: Kafka did not answer.
    """
    end = end_of_hour(hour)
    try:
        topics = ports.event_log.topics(sorted(snapshot.topics))
        if any(topic_id and topics[name].topic_id not in (None, topic_id) for name, topic_id in _known_ids(snapshot) if name in topics):
            return False
        if any(
            checkpoint.pending_batch_id and not _is_current_incarnation(topic_partition, snapshot, topics)
            for topic_partition, checkpoint in snapshot.checkpoints.items()
            if topic_partition != REDRIVE_CHECKPOINT
        ):
            return False
        return all(
            _is_after(end, partition, ports) and not _lost_pending_records(partition, snapshot)
            for partition in _partitions_behind(snapshot, topics, ports)
        )
    except AnalyticsError:
        return None


def _known_ids(snapshot: LedgerSnapshot) -> Iterator[tuple[str, str | None]]:
    return ((name, topic.topic_id) for name, topic in snapshot.topics.items())


def _partitions_behind(
    snapshot: LedgerSnapshot, topics: Mapping[str, TopicDescription], ports: Ports
) -> Iterator[tuple[TopicPartition, int, Watermarks]]:
    """Yield partition, next offset and watermarks for partitions of current incarnations that are not read to their end.

    Partitions whose log was truncated are included. A new partition has no checkpoint before its first batch.
    """
    states = [(snapshot.topics[name], topic) for name, topic in topics.items()]
    next_offsets = {
        topic_partition: snapshot.checkpoint(topic_partition).next_offset
        for state, topic in states
        for topic_partition in map(state.partition, topic.partitions)
    }
    next_offsets |= {
        topic_partition: checkpoint.next_offset
        for topic_partition, checkpoint in snapshot.checkpoints.items()
        if _is_current_incarnation(topic_partition, snapshot, topics)
    }
    for topic_partition, watermarks in ports.event_log.watermarks(next_offsets).items():
        if next_offsets[topic_partition] != watermarks.high_watermark:
            yield topic_partition, next_offsets[topic_partition], watermarks


def _is_current_incarnation(topic_partition: TopicPartition, snapshot: LedgerSnapshot, topics: Mapping[str, TopicDescription]) -> bool:
    """Return False also if the topic does not exist."""
    return topic_partition.topic in topics and topic_partition.incarnation == snapshot.topics[topic_partition.topic].incarnation


def _is_after(end: datetime, partition: tuple[TopicPartition, int, Watermarks], ports: Ports) -> bool:
    """Return whether the next record's own timestamp is after the hour.

    False if an open transaction hides the next record, or if its timestamp is no date: it then shows nothing.
    """
    topic_partition, next_offset, watermarks = partition
    if next_offset >= watermarks.last_stable_offset:
        return False
    records: list[Record] = []

    def admit(record: Record) -> bool:
        records.append(record)
        return False

    ports.event_log.read([Range(topic_partition, next_offset, watermarks.last_stable_offset)], admit)
    timestamp_ms = records[0].valid_timestamp_ms if records else None
    return timestamp_ms is not None and timestamp_ms >= end.timestamp() * 1000


def _lost_pending_records(partition: tuple[TopicPartition, int, Watermarks], snapshot: LedgerSnapshot) -> bool:
    """Return whether Kafka's retention removed the first records of a pending batch.

    The next record in the log then shows nothing about the timestamps of the pending batch.
    """
    topic_partition, next_offset, watermarks = partition
    return next_offset < watermarks.log_start_offset and snapshot.checkpoint(topic_partition).pending_batch_id is not None
