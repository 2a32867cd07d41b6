"""Conversion of a Kafka message into a record."""

from __future__ import annotations

from typing import Final

from confluent_kafka import TIMESTAMP_NOT_AVAILABLE, Message

from analytics_defs.adapters.kafka.client import logger
from analytics_defs.core.offsets import Record, Source, TopicPartition

UNREADABLE_HEADERS: Final = (("(headers that are not UTF-8)", None),)
"""Replaces headers that the client cannot decode."""


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
    """Return the headers. A header name that is not UTF-8, which the client cannot decode, must not halt the partition."""
    try:
        headers = message.headers()
    except SystemError:
        logger.warning("%s/%s: the headers cannot be decoded, because a header name is not UTF-8", topic_partition, message.offset())
        return UNREADABLE_HEADERS
    return tuple(headers) if headers else ()  # type: ignore[arg-type]  # a consumer returns pairs of name and bytes
