"""Setup and checks of the Kafka topics and the consumer group, for `analytics setup` and `analytics check`.

Write permissions are checked with requests that the broker rejects. Nothing that exists is changed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from analytics_defs.adapters.kafka.admin import KafkaAdmin
from analytics_defs.adapters.kafka.client import KafkaConfig
from analytics_defs.adapters.kafka.event_log import KafkaEventLog
from analytics_defs.adapters.kafka.topic_config import TopicConfig, TopicSpec
from analytics_defs.core.offsets import Range, TopicPartition
from analytics_defs.errors import AccessDenied, ResourceNotReady
from analytics_defs.ports import NamedCheck

PROBE_PARTITION: Final = 2_147_483_647
"""A partition that no topic has. The broker rejects an offset for it, but only after checking the permission on the group."""


@dataclass(frozen=True, slots=True)
class TopicRequirements:
    """The topics to read, and the settings for creating missing ones."""

    names: tuple[str, ...]
    max_event_bytes: int
    partitions: int = 4
    replication: int = -1
    """-1: the broker's default."""
    create: bool = True
    """False: report missing topics, do not create them."""


class KafkaProvisioner:
    """Provisioner of the topics and the consumer group."""

    name = "Kafka"

    def __init__(self, config: KafkaConfig, requirements: TopicRequirements) -> None:
        self._config = config
        self._requirements = requirements
        self._admin = KafkaAdmin(config)
        self._log = KafkaEventLog(config)

    def close(self) -> None:
        self._admin.close()
        self._log.close()

    def provision(self) -> list[str]:
        """Create the missing topics. Return one line for each change or missing topic.

        A missing permission is not an error: a topic that an operator creates later is read from its start.
        """
        missing = self._missing()
        if not missing:
            return []
        if not self._requirements.create:
            return [f"topic {name}: missing, and creation is disabled" for name in missing]
        specs = [TopicSpec(name, self._requirements.partitions, self._requirements.replication) for name in missing]
        try:
            return [f"topic {name}: created, {self._requirements.partitions} partitions" for name in self._admin.create_topics(specs)]
        except AccessDenied as error:
            return [f"topics {', '.join(missing)}: missing, and no permission to create them ({error})"]

    def checks(self) -> list[NamedCheck]:
        return [
            ("topics", self._check_topics),
            ("settings of topics", self._describe_settings),
            ("reading records", self._check_reading),
            ("the group's offsets", self._check_group),
        ]

    def _missing(self) -> list[str]:
        existing = self._log.topics(self._requirements.names)
        return [name for name in self._requirements.names if name not in existing]

    def _check_topics(self) -> str:
        existing = self._log.topics(self._requirements.names)
        if missing := [name for name in self._requirements.names if name not in existing]:
            raise ResourceNotReady(
                f"Kafka at {self._config.brokers}: no topic {', '.join(missing)}. `analytics setup` creates it, or correct KAFKA_TOPICS."
            )
        return ", ".join(f"{topic.name} ({len(topic.partitions)} partitions)" for topic in existing.values())

    def _describe_settings(self) -> str:
        """Return the settings that an operator may want to know. None of them prevents ingestion."""
        if any(topic.topic_id is None for topic in self._log.topics(self._requirements.names).values()):
            return "the broker does not report them"
        configs = self._admin.describe(self._requirements.names)
        return "; ".join(f"{name}: {_summary(config, self._requirements.max_event_bytes)}" for name, config in configs.items())

    def _check_reading(self) -> str:
        partitions = self._partitions()
        watermarks = self._log.watermarks(partitions)
        oldest = [
            Range(partition, watermarks[partition].log_start_offset, watermarks[partition].log_start_offset + 1)
            for partition in partitions
            if watermarks[partition].last_stable_offset > watermarks[partition].log_start_offset
        ]
        result = self._log.read(oldest, lambda _: True) if oldest else None
        for error in result.errors.values() if result else ():
            raise error
        return f"{len(result.records) if result else 0} records read from {len(partitions)} partitions; the other partitions are empty"

    def _check_group(self) -> str:
        offsets = self._log.committed(self._partitions())
        try:
            self._log.commit({TopicPartition(self._requirements.names[0], 0, PROBE_PARTITION): 0})
        except ResourceNotReady:
            pass  # the partition does not exist: the permission on the group was checked before
        count = sum(offset is not None for offset in offsets.values())
        return f"group {self._config.group_id}: can be read and set; {count} of {len(offsets)} partitions have an offset"

    def _partitions(self) -> list[TopicPartition]:
        topics = self._log.topics(self._requirements.names)
        return [TopicPartition(topic.name, 0, number) for topic in topics.values() for number in topic.partitions]


def _summary(config: TopicConfig, max_event_bytes: int) -> str:
    policy = "cleanup policy unknown" if config.cleanup_policy is None else "+".join(sorted(config.cleanup_policy))
    accepts_larger = config.max_message_bytes is not None and config.max_message_bytes > max_event_bytes
    note = f", accepts records larger than MAX_EVENT_BYTES={max_event_bytes}, which become dead letters" if accepts_larger else ""
    return f"{policy}{_retention_summary(config)}, replication {config.replication}{note}"


def _retention_summary(config: TopicConfig) -> str:
    if config.retention is None:
        return ""
    return f", retention {config.retention.days} days" if config.retention.days < 36_500 else ", retention unlimited"
