"""Cost and memory of reads on librdkafka's mock cluster. Rare messages are built by hand."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import cast

import pytest
from confluent_kafka import TIMESTAMP_NOT_AVAILABLE, Message, Producer

from analytics_defs.adapters.kafka.event_log import KafkaEventLog
from analytics_defs.adapters.kafka.read_progress import ReadProgress
from analytics_defs.adapters.kafka.reader import KafkaReader
from analytics_defs.adapters.kafka.records import UNREADABLE_HEADERS, to_record
from analytics_defs.core.offsets import Range, Record, Source, TopicPartition
from analytics_defs.errors import Unavailable
from analytics_defs.ports import Watermarks
from tests.contracts.event_log_fixtures import MockCluster, Written, quiet_logger, send, short_timeouts, values


@pytest.fixture
def cluster() -> Iterator[MockCluster]:
    cluster = MockCluster()
    yield cluster
    cluster.close()


def first(count: int) -> Callable[[Record], bool]:
    """Return a function that admits the first `count` records."""
    counter = itertools.count()
    return lambda _: next(counter) < count


def write_as_one_batch(cluster: MockCluster, topic: str, written: Sequence[Written]) -> None:
    """Write one batch: the mock cluster answers a fetch with one batch."""
    send(Producer({"bootstrap.servers": cluster.brokers, "linger.ms": 50, "logger": quiet_logger}), topic, 0, written)


def test_continuing_a_read_sends_no_request(cluster: MockCluster) -> None:
    topic = cluster.create_topic()
    write_as_one_batch(cluster, topic, [Written(b"%d" % number) for number in range(10)])
    log, partition = KafkaEventLog(short_timeouts(cluster.brokers)), TopicPartition(topic, 0, 0)
    assert log.read([Range(partition, 0, 10)], first(3)).ends == {partition: 3}
    cluster.close()
    assert values(log.read([Range(partition, 3, 10)], first(100)).records) == [b"%d" % number for number in range(3, 10)]
    log.close()


def test_a_read_from_another_offset_sends_a_request(cluster: MockCluster) -> None:
    topic = cluster.create_topic()
    write_as_one_batch(cluster, topic, [Written(b"%d" % number) for number in range(10)])
    log, partition = KafkaEventLog(short_timeouts(cluster.brokers)), TopicPartition(topic, 0, 0)
    log.read([Range(partition, 0, 10)], first(3))
    cluster.close()
    with pytest.raises(Unavailable, match=r"\[2,10\) at 2"):
        log.read([Range(partition, 2, 10)], first(100))
    log.close()


def test_prefetched_bytes_are_bounded_for_any_backlog(cluster: MockCluster) -> None:
    topic, prefetch = cluster.create_topic(), 256 * 1024
    for _ in range(30):
        write_as_one_batch(cluster, topic, [Written(b"x" * 1_000)] * 100)
    config = replace(short_timeouts(cluster.brokers), prefetch_bytes=prefetch)
    reader = KafkaReader(config, lambda _: Watermarks(0, 0, 0), committed_only=True)
    range_, largest = Range(TopicPartition(topic, 0, 0), 0, 3_000), 0
    for start in range(0, 3_000, 50):
        assert len(reader.read([replace(range_, start=start)], first(50)).records) == 50
        largest = max(largest, sum(len(message) for message in reader._buffer))
    reader.close()
    assert 0 < largest <= 2 * prefetch, "the whole backlog is 3 MB"


def test_a_record_larger_than_every_limit_is_still_read(cluster: MockCluster) -> None:
    topic = cluster.create_topic()
    cluster.write(topic, 0, [Written(b"x" * 900_000), Written(b"small"), Written(b"y" * 900_000)])
    log, partition = KafkaEventLog(replace(short_timeouts(cluster.brokers), prefetch_bytes=64 * 1024)), TopicPartition(topic, 0, 0)
    records = log.read([Range(partition, 0, 3)], first(100)).records
    log.close()
    assert [len(record.value or b"") for record in records] == [900_000, 5, 900_000]


@pytest.mark.parametrize("codec", ["none", "gzip", "snappy", "lz4", "zstd"])
def test_records_of_every_codec_are_read(cluster: MockCluster, codec: str) -> None:
    topic = cluster.create_topic()
    written = [Written(b'{"number": %d}' % number * 20, b"key") for number in range(500)]
    producer = Producer({"bootstrap.servers": cluster.brokers, "compression.type": codec, "linger.ms": 50, "logger": quiet_logger})
    send(producer, topic, 1, written)
    log = KafkaEventLog(short_timeouts(cluster.brokers))
    records = log.read([Range(TopicPartition(topic, 0, 1), 7, 500)], first(1_000)).records
    log.close()
    assert values(records) == [record.value for record in written[7:]]


def test_a_closed_log_can_be_used_again(cluster: MockCluster) -> None:
    topic = cluster.create_topic()
    cluster.write(topic, 0, [Written(b"%d" % number) for number in range(3)])
    log, partition = KafkaEventLog(short_timeouts(cluster.brokers)), TopicPartition(topic, 0, 0)
    for _ in range(2):
        assert values(log.read([Range(partition, 1, 3)], first(1)).records) == [b"1"]
        assert log.watermarks([partition]) == {partition: Watermarks(0, 3, 3)}
        log.close()
        log.close()


def test_two_ranges_of_one_partition_are_rejected() -> None:
    partition = TopicPartition("topic", 0, 0)
    with pytest.raises(ValueError, match="one range for each topic-partition"):
        ReadProgress([Range(partition, 0, 1), Range(replace(partition, incarnation=1), 5, 6)])


def test_a_record_without_a_timestamp_has_minus_one() -> None:
    partition = TopicPartition("topic", 1, 2)
    message = Message(topic="topic", partition=2, offset=7, value=b"v", timestamp=(TIMESTAMP_NOT_AVAILABLE, 0))
    assert to_record(partition, message) == Record(Source(partition, 7), -1, None, b"v")


def test_headers_that_cannot_be_decoded_do_not_halt_the_partition(caplog: pytest.LogCaptureFixture) -> None:
    class Undecodable:
        """A message that behaves like the client's when a header name is not UTF-8."""

        def __getattr__(self, name: str) -> object:
            return getattr(Message(topic="topic", partition=0, offset=7, value=b"v", timestamp=(1, 17)), name)

        def headers(self) -> None:
            raise SystemError

    partition = TopicPartition("topic", 0, 0)
    assert to_record(partition, cast(Message, Undecodable())) == Record(Source(partition, 7), 17, None, b"v", UNREADABLE_HEADERS)
    assert "topic/0/7" in caplog.text
