"""Conversion of Kafka's topic descriptions and settings into values. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta

from confluent_kafka.admin import ConfigEntry
from confluent_kafka.admin import TopicDescription as KafkaTopic

from analytics_defs.core.monitoring.backlog import TopicRetention
from analytics_defs.ports import TopicDescription

TopicSettings = Mapping[str, ConfigEntry]

NO_TOPIC_ID = "AAAAAAAAAAAAAAAAAAAAAA"
"""The id that brokers without topic ids return."""


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """A topic to create."""

    name: str
    partitions: int
    replication: int = -1
    """-1: the broker's default."""
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TopicConfig:
    """The configuration of a topic. None: the broker does not report the value, or the permission is missing."""

    partitions: int
    replication: int
    cleanup_policy: frozenset[str] | None
    retention: timedelta | None
    """Retention by time. `timedelta.max`: unlimited."""
    max_message_bytes: int | None


def describe_topic(topic: KafkaTopic) -> TopicDescription:
    topic_id = str(topic.topic_id)
    return TopicDescription(
        topic.name, tuple(sorted(partition.id for partition in topic.partitions)), None if topic_id == NO_TOPIC_ID else topic_id
    )


def cleanup_policy(settings: TopicSettings | None) -> frozenset[str] | None:
    text = _setting(settings, "cleanup.policy")
    return None if text is None else frozenset(policy.strip() for policy in text.split(",") if policy.strip())


def topic_retention(settings: TopicSettings) -> TopicRetention:
    """Return the retention by time and size. A topic that is only compacted deletes no record because of age or log size."""
    policy = cleanup_policy(settings)
    if policy is not None and "delete" not in policy:
        return TopicRetention(timedelta.max)
    size = int(_setting(settings, "retention.bytes") or -1)
    return TopicRetention(_retention(settings), size if size >= 0 else None, int(_setting(settings, "segment.bytes") or 0))


def parse_topic_config(topic: KafkaTopic, settings: TopicSettings | None) -> TopicConfig:
    max_message_bytes = _setting(settings, "max.message.bytes")
    return TopicConfig(
        partitions=len(topic.partitions),
        replication=min((len(partition.replicas) for partition in topic.partitions), default=0),
        cleanup_policy=cleanup_policy(settings),
        retention=_retention(settings),
        max_message_bytes=None if max_message_bytes is None else int(max_message_bytes),
    )


def _setting(settings: TopicSettings | None, name: str) -> str | None:
    return settings[name].value if settings is not None and name in settings else None


def _retention(settings: TopicSettings | None) -> timedelta | None:
    """Return `timedelta.max` for -1, and for numbers that are beyond it: operators write 2^63-1 for "never"."""
    text = _setting(settings, "retention.ms")
    if text is None:
        return None
    milliseconds = int(text)
    return timedelta(milliseconds=milliseconds) if 0 <= milliseconds <= timedelta.max // timedelta(milliseconds=1) else timedelta.max
