"""The cached retention of topics."""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta

from analytics_defs.adapters.kafka.client import KafkaConfig
from analytics_defs.adapters.kafka.topic_retention import CACHE_DURATION_MS, CachedTopicRetention
from analytics_defs.adapters.memory import ManualClock
from analytics_defs.core.monitoring.backlog import TopicRetention
from tests.proof.world import NOW

WEEK = TopicRetention(timedelta(days=7), 2**30, 2**28)


class FakeAdmin:
    """Returns the retention of one topic."""

    def __init__(self) -> None:
        self.requests = 0

    def retention(self, topics: Collection[str]) -> dict[str, TopicRetention]:
        self.requests += 1
        return {topic: WEEK for topic in topics if topic == "readable"}


def test_results_are_cached_for_five_minutes_and_a_new_topic_is_read_at_once() -> None:
    clock, admin = ManualClock(NOW), FakeAdmin()
    retention = CachedTopicRetention(KafkaConfig(), clock)
    retention._admin = admin  # type: ignore[assignment]
    assert retention.retention(["readable", "unreadable"]) == {"readable": WEEK}
    clock.advance(timedelta(milliseconds=CACHE_DURATION_MS))
    assert retention.retention(["readable"]) == {"readable": WEEK}
    assert admin.requests == 1
    assert retention.retention(["readable", "new"]) == {"readable": WEEK}
    clock.advance(timedelta(milliseconds=CACHE_DURATION_MS + 1))
    retention.retention(["readable"])
    assert admin.requests == 3
