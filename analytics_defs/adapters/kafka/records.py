"""A message of the Kafka client as our record."""

from __future__ import annotations

from typing import Final

from confluent_kafka import TIMESTAMP_NOT_AVAILABLE, Message

from analytics_defs.adapters.kafka.client import logger
from analytics_defs.core.offsets import Record, Source, TopicPartition

UNREADABLE_HEADERS: Final = (("(headers that are not UTF-8)", None),)
"""Stands for headers that the client cannot give."""


def to_record(topic_partition: TopicPartition, message: Message) -> Record:
    kind, timestamp = message.timestamp()
    return Record(
        Source(topic_partition, message.offset() or 0),
        -1 if kind == TIMESTAMP_NOT_AVAILABLE else timestamp,
        message.key(),
        message.value(),
        _headers(topic_partition, message),
    )


def _headers(topic_partition: TopicPartition, message: Message) -> tuple[tuple[str, bytes | None], ...]:
    """The binding cannot give headers of which a name is not UTF-8: that must not stop the partition."""
    try:
        headers = message.headers()
    except SystemError:
        logger.warning("%s/%s: its headers cannot be read, a name among them is not UTF-8", topic_partition, message.offset())
        return UNREADABLE_HEADERS
    return tuple(headers) if headers else ()  # type: ignore[arg-type]  # a consumer gives pairs of name and bytes
