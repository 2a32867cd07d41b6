"""Kafka as the event log, with confluent-kafka.

Kafka knows topics by name only. The incarnation of each result is the one in the request.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from analytics_defs.adapters.kafka import gaps
from analytics_defs.adapters.kafka.admin import KafkaAdmin
from analytics_defs.adapters.kafka.client import KafkaConfig
from analytics_defs.adapters.kafka.group_offsets import GroupOffsets
from analytics_defs.adapters.kafka.reader import KafkaReader
from analytics_defs.core.ledger import Gap
from analytics_defs.core.offsets import Range, Record, TopicPartition
from analytics_defs.ports import PartitionWatermarks, ReadResult, TopicDescription, Watermarks


class KafkaEventLog:
    """Event log of one Kafka cluster: see `ports.EventLog`. Connects on first use, which must come after a fork. Not thread-safe."""

    def __init__(self, config: KafkaConfig) -> None:
        self._config = config
        self._admin = KafkaAdmin(config)
        self._group = GroupOffsets(config)
        self._committed = self._reader(committed_only=True)
        self._uncommitted = self._reader(committed_only=False)

    def close(self) -> None:
        """Close all connections. A later call opens new ones."""
        self._committed.close()
        self._uncommitted.close()
        self._group.close()
        self._admin.close()

    def topics(self, names: Sequence[str]) -> Mapping[str, TopicDescription]:
        return self._admin.topics(names)

    def watermarks(self, partitions: Iterable[TopicPartition]) -> Mapping[TopicPartition, Watermarks]:
        return self._admin.watermarks(partitions)

    def available_watermarks(self, partitions: Iterable[TopicPartition]) -> PartitionWatermarks:
        return self._admin.available_watermarks(partitions)

    def read(self, ranges: Sequence[Range], admit: Callable[[Record], bool]) -> ReadResult:
        """Read as `ports.EventLog.read` says.

        Raise TopicRecreated if the log ends before a range does. Raise Unavailable if no data arrives within the read timeout.
        """
        return self._committed.read(ranges, admit)

    def explain_gaps(self, uncovered: Sequence[Range]) -> tuple[Gap, ...]:
        fresh_reader = self._reader(committed_only=True)
        try:
            return gaps.explain_gaps(uncovered, self._uncommitted, fresh_reader, self._admin.cleanup_policies)
        finally:
            fresh_reader.close()

    def committed(self, partitions: Iterable[TopicPartition]) -> Mapping[TopicPartition, int | None]:
        return self._group.committed(partitions)

    def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        self._group.commit(offsets)

    def _reader(self, *, committed_only: bool) -> KafkaReader:
        return KafkaReader(self._config, lambda partition: self._admin.watermarks([partition])[partition], committed_only=committed_only)
