"""The retention of topics in Kafka, cached because only operators change it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from analytics_defs.adapters.kafka.admin import KafkaAdmin
from analytics_defs.adapters.kafka.client import KafkaConfig
from analytics_defs.core.monitoring.backlog import TopicRetention
from analytics_defs.ports import Clock

CACHE_DURATION_MS = 300_000


class CachedTopicRetention:
    """Retention of topics (see `flows.health_probes.TopicRetentionSource`), with results up to five minutes old. Not thread-safe."""

    def __init__(self, config: KafkaConfig, clock: Clock) -> None:
        self._admin = KafkaAdmin(config)
        self._clock = clock
        self._cached: dict[str, TopicRetention | None] = {}
        self._read_ms: int | None = None

    def retention(self, topics: Sequence[str]) -> Mapping[str, TopicRetention]:
        """Return the retention of the topics whose settings can be read. Unreadable ones are cached too."""
        now = self._clock.elapsed_ms()
        if self._read_ms is None or now - self._read_ms > CACHE_DURATION_MS or not set(topics) <= self._cached.keys():
            readable = self._admin.retention(topics)
            self._cached, self._read_ms = dict.fromkeys(topics) | readable, now
        return {topic: retention for topic in topics if (retention := self._cached[topic]) is not None}
