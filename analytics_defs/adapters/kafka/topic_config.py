"""Topics as Kafka describes them, in our words. Pure."""

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
"""What brokers older than topic ids answer."""


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
    """A topic as it was set up. None where the broker does not tell, or not to us."""

    partitions: int
    replication: int
    cleanup_policy: frozenset[str] | None
    retention: timedelta | None
    """By time; `timedelta.max` for one that keeps everything."""
    max_message_bytes: int | None


def describe_topic(topic: KafkaTopic) -> TopicDescription:
    topic_id = str(topic.topic_id)
    return TopicDescription(topic.name, tuple(sorted(each.id for each in topic.partitions)), None if topic_id == NO_TOPIC_ID else topic_id)


def cleanup_policy(settings: TopicSettings | None) -> frozenset[str] | None:
    text = _setting(settings, "cleanup.policy")
    return None if text is None else frozenset(each.strip() for each in text.split(",") if each.strip())


def topic_retention(settings: TopicSettings) -> TopicRetention:
    """A topic that is compacted and nothing else loses old values, but no record for its age or the size of its log."""
    found = cleanup_policy(settings)
    if found is not None and "delete" not in found:
        return TopicRetention(timedelta.max)
    size = int(_setting(settings, "retention.bytes") or -1)
    return TopicRetention(_retention(settings), size if size >= 0 else None, int(_setting(settings, "segment.bytes") or 0))


def parse_topic_config(topic: KafkaTopic, settings: TopicSettings | None) -> TopicConfig:
    max_message_bytes = _setting(settings, "max.message.bytes")
    return TopicConfig(
        partitions=len(topic.partitions),
        replication=min((len(each.replicas) for each in topic.partitions), default=0),
        cleanup_policy=cleanup_policy(settings),
        retention=_retention(settings),
        max_message_bytes=None if max_message_bytes is None else int(max_message_bytes),
    )


def _setting(settings: TopicSettings | None, name: str) -> str | None:
    return settings[name].value if settings is not None and name in settings else None


def _retention(settings: TopicSettings | None) -> timedelta | None:
    text = _setting(settings, "retention.ms")
    if text is None:
        return None
    return timedelta(milliseconds=int(text)) if int(text) >= 0 else timedelta.max
