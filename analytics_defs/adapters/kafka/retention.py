"""How long Kafka keeps the records of a topic. Asked seldom: it changes when a person changes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from analytics_defs.adapters.kafka.admin import KafkaAdmin
from analytics_defs.adapters.kafka.client import KafkaConfig
from analytics_defs.core.monitoring.backlog import TopicRetention
from analytics_defs.ports import Clock

CACHE_DURATION_MS = 300_000


class KafkaRetention:
    """Implements `flows.health_checks.RetentionSource`, with an answer of the last five minutes. Used by one thread at a time."""

    def __init__(self, config: KafkaConfig, clock: Clock) -> None:
        self._admin = KafkaAdmin(config)
        self._clock = clock
        self._known: dict[str, TopicRetention | None] = {}
        self._asked_ms: int | None = None

    def retention(self, topics: Sequence[str]) -> Mapping[str, TopicRetention]:
        """A broker that does not describe topics, or not to us, is asked again in five minutes like any other."""
        now = self._clock.elapsed_ms()
        if self._asked_ms is None or now - self._asked_ms > CACHE_DURATION_MS or not set(topics) <= self._known.keys():
            found = self._admin.retention(topics)
            self._known, self._asked_ms = dict.fromkeys(topics) | found, now
        return {topic: kept for topic in topics if (kept := self._known[topic]) is not None}
