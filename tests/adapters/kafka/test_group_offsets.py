"""The group's offsets while the group has members, on librdkafka's mock cluster, and while its coordinator changes."""

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
from tests.contracts.event_log_fixtures import MockCluster, Written, quiet_logger, short_timeouts
from tests.devstack.waiting import until


def test_a_commit_to_a_group_with_members_is_refused_with_advice() -> None:
    cluster = MockCluster()
    topic = cluster.create_topic()
    cluster.write(topic, 0, [Written(b"0")])
    config = short_timeouts(cluster.brokers)
    log, partition = KafkaEventLog(config), TopicPartition(topic, 0, 0)
    log.commit({partition: 0})
    member = Consumer({"bootstrap.servers": cluster.brokers, "group.id": config.group_id, "logger": quiet_logger})
    member.subscribe([topic])
    until(lambda: member.poll(0.05) is not None or bool(member.assignment()))
    try:
        with pytest.raises(
            ConsumerGroupActive, match=rf"another consumer is a member of group {config.group_id}. Stop it or choose another"
        ) as raised:
            log.commit({partition: 1})
        assert not raised.value.retryable
    finally:
        member.close()
        log.close()
        cluster.close()


class ChangingCoordinatorClient:
    """A client whose first requests fail, because its broker is not the group's coordinator."""

    def __init__(self, refusals: int) -> None:
        self.refusals = refusals

    def committed(self, partitions: list[KafkaPartition], _timeout: float) -> list[KafkaPartition]:
        if self.refusals:
            self.refusals -= 1
            raise KafkaException(KafkaError(KafkaError.NOT_COORDINATOR))
        return [KafkaPartition(partition.topic, partition.partition, 7) for partition in partitions]

    def poll(self, _timeout: float) -> None: ...


@pytest.mark.parametrize(("refusals", "offset"), [(2, 7), (100, None)])
def test_requests_are_retried_within_the_timeout_while_the_coordinator_changes(
    refusals: int, offset: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, partition = ChangingCoordinatorClient(refusals), TopicPartition("t", 0, 0)
    monkeypatch.setattr(group_offsets, "connect_kafka", lambda *_: client)
    group = group_offsets.GroupOffsets(KafkaConfig(request_timeout=timedelta(seconds=2)))
    if offset is None:
        with pytest.raises(Unavailable, match="NOT_COORDINATOR"):
            group.committed([partition])
    else:
        assert group.committed([partition]) == {partition: offset}
