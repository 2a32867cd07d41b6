"""Creates and checks what the platform needs in Kafka: `analytics setup` and `analytics check`.

Write permissions are checked by requests that the broker refuses. Nothing that exists is changed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from analytics_defs.adapters.kafka.admin import KafkaAdmin
from analytics_defs.adapters.kafka.client import KafkaConfig
from analytics_defs.adapters.kafka.event_log import KafkaEventLog
from analytics_defs.adapters.kafka.topic_config import TopicConfig, TopicSpec
from analytics_defs.core.offsets import Range, TopicPartition
from analytics_defs.errors import AccessDenied, ResourceMissing

NamedCheck = tuple[str, Callable[[], str]]

PROBE_PARTITION: Final = 2_147_483_647
"""A partition that no topic has: setting a group's offset there is refused after the broker checked the permission on the group."""


@dataclass(frozen=True, slots=True)
class TopicRequirements:
    """The topics to read, and how to make those that are missing."""

    names: tuple[str, ...]
    max_event_bytes: int
    partitions: int = 4
    replication: int = -1
    """-1: the broker's default."""
    create: bool = True


class KafkaProvisioner:
    """Topics, and the group."""

    name = "Kafka"

    def __init__(self, config: KafkaConfig, wanted: TopicRequirements) -> None:
        self._config = config
        self._wanted = wanted
        self._admin = KafkaAdmin(config)
        self._log = KafkaEventLog(config)

    def close(self) -> None:
        self._admin.close()
        self._log.close()

    def provision(self) -> list[str]:
        """A topic that may not be created is no fault: it is said, and read from its start once somebody made it."""
        missing = self._missing()
        if not missing:
            return []
        if not self._wanted.create:
            return [f"topic {name}: not there, and not to be created" for name in missing]
        specs = [TopicSpec(name, self._wanted.partitions, self._wanted.replication) for name in missing]
        try:
            return [f"topic {name}: created, {self._wanted.partitions} partitions" for name in self._admin.create_topics(specs)]
        except AccessDenied as fault:
            return [f"topics {', '.join(missing)}: not there, and not allowed to be created from here ({fault})"]

    def checks(self) -> list[NamedCheck]:
        return [
            ("topics", self._topics),
            ("settings of topics", self._settings),
            ("reading records", self._reading),
            ("the group's offsets", self._group),
        ]

    def _missing(self) -> list[str]:
        found = self._log.topics(self._wanted.names)
        return [name for name in self._wanted.names if name not in found]

    def _topics(self) -> str:
        found = self._log.topics(self._wanted.names)
        if missing := [name for name in self._wanted.names if name not in found]:
            raise ResourceMissing(
                f"Kafka at {self._config.brokers}: no topic {', '.join(missing)}. `analytics setup` creates it, or correct KAFKA_TOPICS."
            )
        return ", ".join(f"{topic.name} ({len(topic.partitions)} partitions)" for topic in found.values())

    def _settings(self) -> str:
        """Says what a person may want to know; none of it keeps the platform from working."""
        if any(topic.topic_id is None for topic in self._log.topics(self._wanted.names).values()):
            return "the broker does not tell them"
        shapes = self._admin.describe(self._wanted.names)
        return "; ".join(f"{name}: {_shape(shape, self._wanted.max_event_bytes)}" for name, shape in shapes.items())

    def _reading(self) -> str:
        partitions = self._partitions()
        marks = self._log.watermarks(partitions)
        oldest = [
            Range(each, marks[each].log_start_offset, marks[each].log_start_offset + 1)
            for each in partitions
            if marks[each].last_stable_offset > marks[each].log_start_offset
        ]
        reading = self._log.read(oldest, lambda _: True) if oldest else None
        for fault in reading.errors.values() if reading else ():
            raise fault
        return f"{len(reading.records) if reading else 0} records of {len(partitions)} partitions; those partitions without one are empty"

    def _group(self) -> str:
        offsets = self._log.committed(self._partitions())
        try:
            self._log.commit({TopicPartition(self._wanted.names[0], 0, PROBE_PARTITION): 0})
        except ResourceMissing:
            pass  # refused for the partition: the group's permission was looked at before
        known = sum(offset is not None for offset in offsets.values())
        return f"group {self._config.group_id}: may be read and set; {known} of {len(offsets)} partitions have an offset"

    def _partitions(self) -> list[TopicPartition]:
        found = self._log.topics(self._wanted.names)
        return [TopicPartition(topic.name, 0, number) for topic in found.values() for number in topic.partitions]


def _shape(shape: TopicConfig, max_event_bytes: int) -> str:
    policy = "unknown cleanup" if shape.cleanup_policy is None else "+".join(sorted(shape.cleanup_policy))
    retention = (
        "" if shape.retention is None else f", kept {shape.retention.days} days" if shape.retention.days < 36_500 else ", kept for ever"
    )
    larger = shape.max_message_bytes is not None and shape.max_message_bytes > max_event_bytes
    note = f", takes records over MAX_EVENT_BYTES={max_event_bytes}: those become dead letters" if larger else ""
    return f"{policy}{retention}, replication {shape.replication}{note}"
