"""The group's offsets while somebody else is a member of the group, on librdkafka's mock cluster."""

from __future__ import annotations

import pytest
from confluent_kafka import Consumer

from analytics_defs.adapters.kafka import KafkaLog
from analytics_defs.core.offsets import TopicPartition
from analytics_defs.errors import GroupInUse
from tests.contracts.event_log_fixtures import MockCluster, Written, impatient, quiet
from tests.local.waiting import until


def test_offsets_of_a_group_that_has_members_are_refused_with_what_to_do() -> None:
    cluster = MockCluster()
    topic = cluster.create_topic()
    cluster.write(topic, 0, [Written(b"0")])
    config = impatient(cluster.brokers)
    log, partition = KafkaLog(config), TopicPartition(topic, 0, 0)
    log.commit({partition: 0})
    member = Consumer({"bootstrap.servers": cluster.brokers, "group.id": config.group_id, "logger": quiet})
    member.subscribe([topic])
    until(lambda: member.poll(0.05) is not None or bool(member.assignment()))
    try:
        with pytest.raises(
            GroupInUse, match=rf"another consumer is a member of group {config.group_id}; stop it or choose another"
        ) as raised:
            log.commit({partition: 1})
        assert not raised.value.retryable
    finally:
        member.close()
        log.close()
        cluster.close()
