"""Publishing on librdkafka's mock cluster: no record is lost without an error."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

import pytest

from analytics_defs.adapters.kafka.event_log import KafkaEventLog
from analytics_defs.adapters.kafka.producer import KafkaProducer, OutgoingRecord
from analytics_defs.core.offsets import Range, TopicPartition
from analytics_defs.errors import AnalyticsError, ResourceNotReady, Unavailable
from tests.adapters.kafka.scripted_kafka import broker_that_is_down
from tests.contracts.event_log_fixtures import PARTITIONS, MockCluster, short_timeouts


@pytest.fixture
def cluster() -> Iterator[MockCluster]:
    cluster = MockCluster()
    yield cluster
    cluster.close()


def outgoing(topic: str, count: int) -> Iterator[OutgoingRecord]:
    for number in range(count):
        yield topic, b"key-%d" % (number % 50), b"%d" % number, (("number", b"%d" % number), ("none", None))


def test_after_publish_every_record_is_stored_in_the_order_of_its_key(cluster: MockCluster) -> None:
    topic, progress = cluster.create_topic(), list[int]()
    producer = KafkaProducer(short_timeouts(cluster.brokers))
    assert producer.publish(outgoing(topic, 2_000), progress.append) == 2_000
    assert producer.publish([(topic, None, None, ())]) == 1
    producer.close()
    log = KafkaEventLog(short_timeouts(cluster.brokers))
    watermarks = log.watermarks([TopicPartition(topic, 0, number) for number in range(PARTITIONS)])
    records = log.read(
        [Range(partition, mark.log_start_offset, mark.high_watermark) for partition, mark in watermarks.items()], bool
    ).records
    log.close()
    assert len(records) == 2_001
    keyed = [record for record in records if record.key is not None]
    assert sorted(int(record.value or b"") for record in keyed) == list(range(2_000))
    assert all(record.headers == (("number", record.value), ("none", None)) for record in keyed)
    for key in {record.key for record in keyed}:
        of_key = [record for record in keyed if record.key == key]
        assert len({record.source.topic_partition for record in of_key}) == 1
        assert [int(record.value or b"") for record in of_key] == sorted(int(record.value or b"") for record in of_key)
    assert progress == sorted(progress)
    assert progress[-1] == 2_000


def test_a_record_that_is_too_large_fails_with_topic_and_confirmed_count(cluster: MockCluster) -> None:
    topic = cluster.create_topic()
    producer = KafkaProducer(short_timeouts(cluster.brokers))
    producer.publish(outgoing(topic, 1))
    with pytest.raises(AnalyticsError, match=f"publishing to {topic}, after .* confirmed records: .*max.message.bytes") as raised:
        producer.publish([*outgoing(topic, 3), (topic, None, b"x" * 2_000_000, ())])
    assert not raised.value.retryable
    assert producer.publish(outgoing(topic, 3)) == 3
    producer.close()


def test_publishing_to_a_topic_that_does_not_exist_fails_and_does_not_create_it(cluster: MockCluster) -> None:
    producer = KafkaProducer(replace(short_timeouts(cluster.brokers), delivery_timeout=timedelta(seconds=8)))
    with pytest.raises(ResourceNotReady, match="never-created"):
        producer.publish(outgoing("never-created", 5))
    producer.close()
    log = KafkaEventLog(short_timeouts(cluster.brokers))
    assert log.topics(["never-created"]) == {}
    log.close()


def test_a_broker_that_is_down_fails_within_the_delivery_timeout() -> None:
    with broker_that_is_down() as address:
        producer = KafkaProducer(replace(short_timeouts(address), delivery_timeout=timedelta(seconds=1)))
        with pytest.raises(Unavailable, match=r"Connection refused.*after 0 confirmed records"):
            producer.publish(outgoing("topic", 500_000))


def test_an_error_while_generating_records_does_not_affect_the_next_publish(cluster: MockCluster) -> None:
    topic = cluster.create_topic()
    producer = KafkaProducer(short_timeouts(cluster.brokers))

    def broken() -> Iterator[OutgoingRecord]:
        yield from outgoing(topic, 10)
        raise ArithmeticError

    for _ in range(3):
        with pytest.raises(ArithmeticError):
            producer.publish(broken())
        assert producer.publish(outgoing(topic, 100)) == 100
    producer.close()
