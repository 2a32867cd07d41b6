"""The group's offsets while somebody else is a member of the group, on librdkafka's mock cluster."""

from __future__ import annotations

from datetime import timedelta

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException
from confluent_kafka import TopicPartition as KafkaPartition

from analytics_defs.adapters.kafka import group_offsets
from analytics_defs.adapters.kafka.client import KafkaConfig
from analytics_defs.adapters.kafka.event_log import KafkaEventLog
from analytics_defs.core.offsets import TopicPartition
from analytics_defs.errors import ConsumerGroupActive, Unavailable
from tests.contracts.event_log_fixtures import MockCluster, Written, impatient, quiet
from tests.devstack.waiting import until


def test_offsets_of_a_group_that_has_members_are_refused_with_what_to_do() -> None:
    cluster = MockCluster()
    topic = cluster.create_topic()
    cluster.write(topic, 0, [Written(b"0")])
    config = impatient(cluster.brokers)
    log, partition = KafkaEventLog(config), TopicPartition(topic, 0, 0)
    log.commit({partition: 0})
    member = Consumer({"bootstrap.servers": cluster.brokers, "group.id": config.group_id, "logger": quiet})
    member.subscribe([topic])
    until(lambda: member.poll(0.05) is not None or bool(member.assignment()))
    try:
        with pytest.raises(
            ConsumerGroupActive, match=rf"another consumer is a member of group {config.group_id}; stop it or choose another"
        ) as raised:
            log.commit({partition: 1})
        assert not raised.value.retryable
    finally:
        member.close()
        log.close()
        cluster.close()


class MovingCoordinator:
    """A client that hears, so many times, that its broker is not the group's coordinator."""

    def __init__(self, refusals: int) -> None:
        self.refusals = refusals

    def committed(self, partitions: list[KafkaPartition], _timeout: float) -> list[KafkaPartition]:
        if self.refusals:
            self.refusals -= 1
            raise KafkaException(KafkaError(KafkaError.NOT_COORDINATOR))
        return [KafkaPartition(each.topic, each.partition, 7) for each in partitions]

    def poll(self, _timeout: float) -> None: ...


@pytest.mark.parametrize(("refusals", "answer"), [(2, 7), (100, None)])
def test_a_coordinator_on_the_move_is_asked_again_for_as_long_as_a_request_may_take(
    refusals: int, answer: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, partition = MovingCoordinator(refusals), TopicPartition("t", 0, 0)
    monkeypatch.setattr(group_offsets, "connect_kafka", lambda *_: client)
    group = group_offsets.GroupOffsets(KafkaConfig(request_timeout=timedelta(seconds=2)))
    if answer is None:
        with pytest.raises(Unavailable, match="NOT_COORDINATOR"):
            group.committed([partition])
    else:
        assert group.committed([partition]) == {partition: answer}
