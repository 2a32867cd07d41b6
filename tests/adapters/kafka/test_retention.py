"""How long Kafka keeps records: asked seldom, and what is not told is not in the answer."""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta

from analytics_defs.adapters.kafka.client import KafkaConfig
from analytics_defs.adapters.kafka.retention import CACHE_DURATION_MS, KafkaRetention
from analytics_defs.adapters.memory import ManualClock
from analytics_defs.core.monitoring.backlog import TopicRetention
from tests.proof.world import NOW

WEEK = TopicRetention(timedelta(days=7), 2**30, 2**28)


class Broker:
    """Tells the retention of one topic."""

    def __init__(self) -> None:
        self.asked = 0

    def retention(self, topics: Collection[str]) -> dict[str, TopicRetention]:
        self.asked += 1
        return {topic: WEEK for topic in topics if topic == "told"}


def test_an_answer_is_kept_for_five_minutes_and_a_topic_that_is_new_is_asked_for_at_once() -> None:
    clock, broker = ManualClock(NOW), Broker()
    found = KafkaRetention(KafkaConfig(), clock)
    found._admin = broker  # type: ignore[assignment]
    assert found.retention(["told", "silent"]) == {"told": WEEK}
    clock.advance(timedelta(milliseconds=CACHE_DURATION_MS))
    assert found.retention(["told"]) == {"told": WEEK}
    assert broker.asked == 1
    assert found.retention(["told", "new"]) == {"told": WEEK}
    clock.advance(timedelta(milliseconds=CACHE_DURATION_MS + 1))
    found.retention(["told"])
    assert broker.asked == 3
