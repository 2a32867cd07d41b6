"""Behaviour that needs Apache Kafka: many transactions, compaction, retention during a read, members of the group."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise

import pytest
from confluent_kafka import Consumer
from confluent_kafka import TopicPartition as KafkaPartition

from analytics_defs.adapters.kafka.admin import KafkaAdmin
from analytics_defs.adapters.kafka.event_log import KafkaEventLog
from analytics_defs.adapters.kafka.topic_config import TopicSpec
from analytics_defs.core.ledger import Gap, GapReason
from analytics_defs.core.monitoring.backlog import TopicRetention
from analytics_defs.core.offsets import Range, Record, TopicPartition
from analytics_defs.errors import ConsumerGroupActive, ResourceNotReady, TopicRecreated, Unavailable
from analytics_defs.ports import ReadResult
from tests.contracts.event_log_fixtures import PARTITIONS, RealBroker, Written, real_broker, real_brokers, send, short_timeouts, values
from tests.devstack.waiting import until

NOW = 0
"""The timestamp that makes the producer use its clock. Kafka rolls segments by the timestamps of records."""
pytestmark = pytest.mark.real


@pytest.fixture
def broker() -> Iterator[RealBroker]:
    with real_broker() as broker:
        yield broker


def numbered(count: int, first: int = 0) -> list[Written]:
    return [Written(b"%d" % number) for number in range(first, first + count)]


def admit_all(record: Record) -> bool:
    return bool(record)


def uncovered(whole: Range, result: ReadResult) -> list[Range]:
    """Return the ranges of consecutive offsets without a record."""
    offsets = [whole.start - 1, *(record.source.offset for record in result.records), whole.end]
    return [Range(whole.topic_partition, before + 1, after) for before, after in pairwise(offsets) if after > before + 1]


def assert_balanced(whole: Range, result: ReadResult, gaps: Sequence[Gap]) -> None:
    """Fail unless every offset of the range is a record or in exactly one gap."""
    outcomes = [record.source.offset for record in result.records]
    outcomes += [offset for gap in gaps for offset in range(gap.range.start, gap.range.end)]
    assert sorted(outcomes) == list(range(whole.start, whole.end))


def test_every_marker_of_a_hundred_small_transactions_is_explained(broker: RealBroker) -> None:
    topic, producer = broker.create_topic(), broker.transactional()
    partition, expected = TopicPartition(topic, 0, 0), list[bytes]()
    for number in range(120):
        producer.begin_transaction()
        send(producer, topic, 0, numbered(2, first=2 * number))
        if number % 10:
            producer.commit_transaction()
            expected += [b"%d" % (2 * number), b"%d" % (2 * number + 1)]
        else:
            producer.abort_transaction()
    until(lambda: broker.port.watermarks([partition])[partition].last_stable_offset == 360)
    whole = Range(partition, 0, 360)
    result = broker.port.read([whole], admit_all)
    gaps = broker.port.explain_gaps(uncovered(whole, result))
    assert values(result.records) == expected
    assert sum(len(gap.range) for gap in gaps if gap.reason is GapReason.ABORTED) == 24
    assert_balanced(whole, result, gaps)


def test_adjacent_markers_of_two_producers_are_one_explained_gap(broker: RealBroker) -> None:
    topic = broker.create_topic()
    partition = TopicPartition(topic, 0, 0)
    first, second = broker.begin(topic, 0, numbered(2)), broker.begin(topic, 0, numbered(2, first=2))
    first.end(commit=True)
    second.end(commit=False)
    whole = Range(partition, 0, 6)
    result = broker.port.read([whole], admit_all)
    assert values(result.records) == [b"0", b"1"]
    assert broker.port.explain_gaps(uncovered(whole, result)) == (
        Gap(Range(partition, 2, 4), GapReason.ABORTED),
        Gap(Range(partition, 4, 6), GapReason.CONTROL),
    )


def test_a_long_aborted_transaction_is_two_gaps(broker: RealBroker) -> None:
    topic = broker.create_topic()
    partition = TopicPartition(topic, 0, 0)
    broker.begin(topic, 0, [Written(b"x" * 100)] * 20_000).end(commit=False)
    broker.write(topic, 0, numbered(1))
    whole = Range(partition, 0, 20_002)
    result = broker.port.read([whole], admit_all)
    assert values(result.records) == [b"0"]
    assert broker.port.explain_gaps(uncovered(whole, result)) == (
        Gap(Range(partition, 0, 20_000), GapReason.ABORTED),
        Gap(Range(partition, 20_000, 20_001), GapReason.CONTROL),
    )


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
def test_compressed_transactions_are_read_from_any_offset(broker: RealBroker, codec: str) -> None:
    topic = broker.create_topic()
    broker.settings |= {"compression.type": codec, "linger.ms": 50}
    broker.begin(topic, 0, numbered(100)).end(commit=True)
    broker.begin(topic, 0, numbered(100, first=500)).end(commit=False)
    broker.begin(topic, 0, numbered(100, first=202)).end(commit=True)
    result = broker.port.read([Range(TopicPartition(topic, 0, 0), 57, 303)], admit_all)
    assert values(result.records) == [b"%d" % number for number in [*range(57, 100), *range(202, 302)]]


def test_offsets_that_compaction_removed_are_explained_by_the_cleanup_policy(broker: RealBroker) -> None:
    topic = broker.create_topic(
        **{"cleanup.policy": "compact", "segment.ms": "100", "min.cleanable.dirty.ratio": "0.01", "max.compaction.lag.ms": "100"}
    )
    partition = TopicPartition(topic, 0, 0)
    for number in range(30):
        broker.write(topic, 0, [Written(b"%d" % number, b"key-%d" % (number % 3), timestamp_ms=NOW)])
    whole = Range(partition, 0, 30)

    def compacted() -> bool:
        broker.write(topic, 0, [Written(b"roll", b"roll", timestamp_ms=NOW)])
        return len(broker.port.read([whole], admit_all).records) < 10

    until(compacted, seconds=60)
    result = broker.port.read([whole], admit_all)
    assert result.ends == {partition: 30}
    gaps = broker.port.explain_gaps(uncovered(whole, result))
    assert {gap.reason for gap in gaps} == {GapReason.COMPACTED}
    assert_balanced(whole, result, gaps)


def test_retention_during_a_read_leaves_no_offset_without_an_outcome(broker: RealBroker) -> None:
    topic = broker.create_topic()
    partition = TopicPartition(topic, 0, 0)
    for _ in range(20):
        broker.write(topic, 0, [Written(b"x" * 1_000)] * 100)

    def admit(record: Record) -> bool:
        if record.source.offset == 50:
            broker.retain_from(topic, 0, 1_500)
        return True

    log = KafkaEventLog(replace(short_timeouts(real_brokers()), prefetch_bytes=64 * 1024))
    result = log.read([Range(partition, 0, 2_000)], admit)
    log.close()
    assert [range_.end for range_ in result.lost] == [1_500]
    assert result.lost[0].start >= 51
    read = [record.source.offset for record in result.records]
    assert read == [*range(result.lost[0].start), *range(1_500, 2_000)]


def test_gaps_that_retention_removed_before_the_explanation_require_another_read(broker: RealBroker) -> None:
    topic = broker.create_topic()
    partition = TopicPartition(topic, 0, 0)
    broker.begin(topic, 0, numbered(5)).end(commit=False)
    broker.write(topic, 0, numbered(5))
    assert broker.port.read([Range(partition, 0, 8)], admit_all).ends == {partition: 8}
    broker.retain_from(topic, 0, 7)
    with pytest.raises(Unavailable, match="read again"):
        broker.port.explain_gaps([Range(partition, 0, 6)])
    assert broker.port.read([Range(partition, 0, 8)], admit_all).lost == (Range(partition, 0, 7),)


def test_a_topic_that_is_recreated_between_two_reads_is_detected(broker: RealBroker) -> None:
    topic = broker.create_topic()
    partition = TopicPartition(topic, 0, 0)
    broker.write(topic, 0, numbered(10))
    assert broker.port.read([Range(partition, 0, 5)], admit_all).ends == {partition: 5}
    broker.recreate(topic)
    broker.write(topic, 0, numbered(2))
    with pytest.raises(TopicRecreated, match=rf"{topic}/0: the log ends at 2"):
        broker.port.read([Range(partition, 5, 10)], admit_all)


def test_reading_a_deleted_topic_raises_resource_missing(broker: RealBroker) -> None:
    topic = broker.create_topic()
    partition = TopicPartition(topic, 0, 0)
    broker.write(topic, 0, numbered(10))
    assert broker.port.read([Range(partition, 0, 5)], admit_all).ends == {partition: 5}
    broker.delete(topic)
    with pytest.raises(ResourceNotReady, match=topic):
        broker.port.read([Range(partition, 5, 10)], admit_all)
    with pytest.raises(ResourceNotReady, match=topic):
        broker.port.watermarks([partition])
    assert broker.port.topics([topic]) == {}


def test_offsets_that_an_operator_moved_are_read_and_can_be_committed_again(broker: RealBroker) -> None:
    topic = broker.create_topic()
    partition = TopicPartition(topic, 0, 0)
    broker.write(topic, 0, numbered(10))
    broker.port.commit({partition: 7})
    operator = Consumer(broker.settings | {"group.id": broker.group})
    operator.commit(offsets=[KafkaPartition(topic, 0, 2)], asynchronous=False)
    assert broker.port.committed([partition]) == {partition: 2}
    broker.port.commit({partition: 7})
    assert operator.committed([KafkaPartition(topic, 0)], timeout=10)[0].offset == 7
    operator.close()


def test_a_commit_is_refused_while_the_group_has_a_member(broker: RealBroker) -> None:
    topic = broker.create_topic()
    partition = TopicPartition(topic, 0, 0)
    broker.write(topic, 0, numbered(10))
    member = Consumer(broker.settings | {"group.id": broker.group, "auto.offset.reset": "earliest", "enable.auto.commit": False})
    member.subscribe([topic])
    until(lambda: member.poll(0.1) is not None)
    try:
        with pytest.raises(ConsumerGroupActive, match=f"another consumer is a member of group {broker.group}"):
            broker.port.commit({partition: 7})
    finally:
        member.close()
    broker.port.commit({partition: 7})
    assert broker.port.committed([partition]) == {partition: 7}


def test_a_commit_names_the_partition_that_is_missing(broker: RealBroker) -> None:
    topic = broker.create_topic()
    with pytest.raises(ResourceNotReady, match="never-created/0: 3"):
        broker.port.commit({TopicPartition(topic, 0, 0): 7, TopicPartition("never-created", 0, 0): 3})


def test_topics_are_created_once_and_described_with_their_configuration(broker: RealBroker) -> None:
    a_week = timedelta(days=7)
    existing, admin = (
        broker.create_topic(
            **{"retention.ms": str(a_week // timedelta(milliseconds=1)), "retention.bytes": "5000000", "segment.bytes": "1048576"}
        ),
        KafkaAdmin(short_timeouts(real_brokers())),
    )
    created = TopicSpec(f"{existing}-created", 3, 1, {"cleanup.policy": "compact", "retention.ms": "-1"})
    assert admin.create_topics([created, TopicSpec(existing, 99)]) == [created.name]
    broker.adopt(created.name)
    until(lambda: created.name in admin.topics([created.name]))
    assert admin.create_topics([created]) == []
    descriptions = admin.describe([created.name, existing, "never-created"])
    retention = admin.retention([created.name, existing, "never-created"])
    admin.close()
    assert set(descriptions) == {created.name, existing}
    assert (descriptions[created.name].partitions, descriptions[created.name].replication) == (3, 1)
    assert descriptions[created.name].cleanup_policy == frozenset({"compact"})
    assert descriptions[created.name].retention == timedelta.max
    assert (descriptions[existing].partitions, descriptions[existing].cleanup_policy) == (PARTITIONS, frozenset({"delete"}))
    assert descriptions[existing].retention == a_week
    assert retention == {created.name: TopicRetention(timedelta.max), existing: TopicRetention(a_week, 5_000_000, 1_048_576)}
