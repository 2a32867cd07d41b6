"""The contract of the event log, for the memory double, librdkafka's mock cluster, and Apache Kafka."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import pytest

from analytics_defs.core.ledger import Gap, GapReason
from analytics_defs.core.offsets import Range, Record, Source, TopicPartition
from analytics_defs.errors import CorruptRecordBatch, ResourceNotReady, TopicRecreated, Unavailable
from analytics_defs.ports import EventLog, ReadResult, Watermarks
from tests.contracts.event_log_fixtures import (
    BROKERS,
    DAMAGEABLE_LOGS,
    LOGS,
    PARTITIONS,
    TIMESTAMP_MS,
    BrokerUnderTest,
    DamageableLogUnderTest,
    LogUnderTest,
    Written,
    values,
)


@pytest.fixture(params=["memory", "mock", pytest.param("real", marks=pytest.mark.real)])
def log(request: pytest.FixtureRequest) -> Iterator[LogUnderTest]:
    with LOGS[request.param]() as log_under_test:
        yield log_under_test


@pytest.fixture(params=["memory", pytest.param("real", marks=pytest.mark.real)])
def broker(request: pytest.FixtureRequest) -> Iterator[BrokerUnderTest]:
    with BROKERS[request.param]() as broker_under_test:
        yield broker_under_test


def numbered(count: int, first: int = 0) -> list[Written]:
    return [Written(b"%d" % number) for number in range(first, first + count)]


def admit_all(record: Record) -> bool:
    return bool(record)


def admit_at_most(count: int) -> CountingAdmit:
    return CountingAdmit(count)


class CountingAdmit:
    """Admits `count` records and keeps all records that it was called with."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.calls: list[Record] = []

    def __call__(self, record: Record) -> bool:
        self.calls.append(record)
        return len(self.calls) <= self.count


def read_in_batches(port: EventLog, ranges: Sequence[Range], batch: int) -> list[ReadResult]:
    """Read on from the ends of each read, `batch` records at a time."""
    results = []
    while ranges:
        result = port.read(ranges, admit_at_most(batch))
        results.append(result)
        ranges = [rest for range_ in ranges if (rest := Range(range_.topic_partition, result.ends[range_.topic_partition], range_.end))]
    return results


# Topics, watermarks, the group.


def test_topics_are_described_with_their_partitions_and_a_stable_id(log: LogUnderTest) -> None:
    first, second = log.create_topic(), log.create_topic()
    topics = log.port.topics([first, second, first])
    assert {name: (topic.name, topic.partitions) for name, topic in topics.items()} == {
        name: (name, tuple(range(PARTITIONS))) for name in (first, second)
    }
    assert topics == log.port.topics([second, first]), "a topic's id does not change"


def test_a_missing_topic_is_left_out_and_not_created_by_the_request(log: LogUnderTest) -> None:
    topic = log.create_topic()
    for _ in range(2):
        assert set(log.port.topics(["never-created", topic])) == {topic}
    assert log.port.topics(["never-created"]) == {}
    assert log.port.topics([]) == {}


def test_watermarks_follow_written_records(log: LogUnderTest) -> None:
    topic = log.create_topic()
    log.write(topic, 1, numbered(3))
    assert log.port.watermarks([TopicPartition(topic, 0, 1), TopicPartition(topic, 0, 2)]) == {
        TopicPartition(topic, 0, 1): Watermarks(0, 3, 3),
        TopicPartition(topic, 0, 2): Watermarks(0, 0, 0),
    }
    assert log.port.watermarks([]) == {}


def test_watermarks_of_a_missing_topic_raise(log: LogUnderTest) -> None:
    log.create_topic()
    with pytest.raises(ResourceNotReady, match="never-created"):
        log.port.watermarks([TopicPartition("never-created", 0, 0)])


def test_group_offsets_are_stored_by_partition_and_may_move_backwards(log: LogUnderTest) -> None:
    topic = log.create_topic()
    first, second, third = (TopicPartition(topic, 0, number) for number in range(3))
    log.write(topic, 0, numbered(9))
    assert log.port.committed([first, second]) == {first: None, second: None}
    log.port.commit({first: 7, third: 0})
    log.port.commit({})
    assert log.port.committed([first, second, third]) == {first: 7, second: None, third: 0}
    log.port.commit({first: 2})
    assert log.port.committed([first]) == {first: 2}
    assert log.port.committed([]) == {}


def test_the_incarnation_of_a_partition_is_kept_in_every_answer(log: LogUnderTest) -> None:
    topic = log.create_topic()
    third_incarnation = TopicPartition(topic, 2, 1)
    log.write(topic, 1, numbered(3))
    assert set(log.port.watermarks([third_incarnation])) == {third_incarnation}
    log.port.commit({third_incarnation: 3})
    assert log.port.committed([third_incarnation]) == {third_incarnation: 3}
    result = log.port.read([Range(third_incarnation, 0, 3)], admit_all)
    assert [record.source for record in result.records] == [Source(third_incarnation, offset) for offset in range(3)]
    assert result.ends == {third_incarnation: 3}


# Reading.


def test_records_come_back_byte_for_byte(log: LogUnderTest) -> None:
    topic, at = log.create_topic(), 1_699_999_999_999
    written = [
        Written(b'{"a": 1}', b"key", (("trace", b"\x00\xff"), ("trace", b"again"), ("empty", b""), ("none", None)), at),
        Written(None, b"tombstone"),
        Written(b"", b""),
        Written(b"\xff\xfe not text"),
        Written(b"x" * 900_000, headers=(("größe", "groß".encode()),)),
    ]
    log.write(topic, 0, written)
    records = log.port.read([Range(TopicPartition(topic, 0, 0), 0, 5)], admit_all).records
    assert [Written(record.value, record.key, record.headers, record.timestamp_ms) for record in records] == written
    assert records[0].timestamp_ms == at
    assert records[1].timestamp_ms == TIMESTAMP_MS


def test_any_number_that_a_producer_writes_as_timestamp_is_read_unchanged(log: LogUnderTest) -> None:
    topic = log.create_topic()
    times = [1_796_084_566_626_462_208, 1_800_000_000_000_000, 2**63 - 1, 253_402_300_800_000, -62_135_596_800_000, -(2**63), 1]
    log.write(topic, 0, [Written(b"v", timestamp_ms=time) for time in times])
    records = log.port.read([Range(TopicPartition(topic, 0, 0), 0, len(times))], lambda _: True).records
    assert [record.timestamp_ms for record in records] == times


def test_a_read_ends_exactly_at_the_end_of_its_range(log: LogUnderTest) -> None:
    topic = log.create_topic()
    partition = TopicPartition(topic, 0, 0)
    log.write(topic, 0, numbered(20))
    admit = admit_at_most(100)
    result = log.port.read([Range(partition, 5, 9)], admit)
    assert values(result.records) == [b"5", b"6", b"7", b"8"]
    assert values(admit.calls) == values(result.records)
    assert (result.ends, result.lost) == ({partition: 9}, ())


def test_an_empty_range_is_read_at_once(log: LogUnderTest) -> None:
    partition = TopicPartition(log.create_topic(), 0, 0)
    assert log.port.read([Range(partition, 0, 0)], admit_all) == ReadResult((), {partition: 0}, ())
    assert log.port.read([], admit_all) == ReadResult((), {}, ())


def test_a_refused_record_is_the_first_of_the_next_read(log: LogUnderTest) -> None:
    topic = log.create_topic()
    partition = TopicPartition(topic, 0, 0)
    log.write(topic, 0, numbered(10))
    results = read_in_batches(log.port, [Range(partition, 0, 10)], batch=4)
    assert [values(result.records) for result in results] == [[b"0", b"1", b"2", b"3"], [b"4", b"5", b"6", b"7"], [b"8", b"9"]]
    assert [result.ends[partition] for result in results] == [4, 8, 10]


def test_a_read_that_admits_nothing_returns_no_records(log: LogUnderTest) -> None:
    topic = log.create_topic()
    partition = TopicPartition(topic, 0, 0)
    log.write(topic, 0, numbered(3))
    assert log.port.read([Range(partition, 1, 3)], admit_at_most(0)) == ReadResult((), {partition: 1}, ())
    assert values(log.port.read([Range(partition, 1, 3)], admit_all).records) == [b"1", b"2"]


def test_records_are_admitted_by_partition_order_and_returned_sorted_by_source(log: LogUnderTest) -> None:
    topic = log.create_topic()
    for number in range(PARTITIONS):
        log.write(topic, number, numbered(50, first=100 * number))
    admit = admit_at_most(1_000)
    result = log.port.read([Range(TopicPartition(topic, 0, number), 10, 50) for number in reversed(range(PARTITIONS))], admit)
    expected = [Source(TopicPartition(topic, 0, number), offset) for number in range(PARTITIONS) for offset in range(10, 50)]
    assert [record.source for record in result.records] == expected
    for number in range(PARTITIONS):
        assert [record.source.offset for record in admit.calls if record.source.topic_partition.partition == number] == list(range(10, 50))


def test_an_exception_in_admit_leaves_the_log_usable(log: LogUnderTest) -> None:
    topic = log.create_topic()
    partition = TopicPartition(topic, 0, 0)
    log.write(topic, 0, numbered(5))

    def raise_at_offset_2(record: Record) -> bool:
        if record.source.offset == 2:
            raise ArithmeticError
        return True

    with pytest.raises(ArithmeticError):
        log.port.read([Range(partition, 0, 5)], raise_at_offset_2)
    assert values(log.port.read([Range(partition, 0, 5)], admit_all).records) == [b"0", b"1", b"2", b"3", b"4"]


def test_a_read_from_any_offset_is_right_after_any_other_read(log: LogUnderTest) -> None:
    topic, random_source = log.create_topic(), random.Random(20240115)
    for number in range(PARTITIONS):
        log.write(topic, number, numbered(300))
    for _ in range(25):
        chosen = random_source.sample(range(PARTITIONS), random_source.randint(1, PARTITIONS))
        ranges = []
        for number in chosen:
            start = random_source.randint(0, 300)
            ranges.append(Range(TopicPartition(topic, 0, number), start, random_source.randint(start, 300)))
        for result in read_in_batches(log.port, ranges, batch=random_source.choice([7, 100, 2_000]))[: random_source.randint(1, 3)]:
            assert all(record.value == b"%d" % record.source.offset for record in result.records)
        results = read_in_batches(log.port, ranges, batch=random_source.choice([50, 2_000]))
        sources = [record.source for result in results for record in result.records]
        assert sorted(sources) == sorted(
            Source(range_.topic_partition, offset) for range_ in ranges for offset in range(range_.start, range_.end)
        )


def test_a_start_beyond_the_end_of_the_log_raises_topic_recreated(log: LogUnderTest) -> None:
    topic = log.create_topic()
    log.write(topic, 0, numbered(3))
    with pytest.raises(TopicRecreated, match=rf"{topic}/0: the log ends at 3, before the next offset to read, 4"):
        log.port.read([Range(TopicPartition(topic, 0, 0), 4, 6)], admit_all)
    assert values(log.port.read([Range(TopicPartition(topic, 0, 0), 0, 3)], admit_all).records) == [b"0", b"1", b"2"]


def test_an_end_beyond_the_end_of_the_log_raises_topic_recreated(log: LogUnderTest) -> None:
    topic = log.create_topic()
    log.write(topic, 0, numbered(3))
    with pytest.raises(TopicRecreated, match=rf"{topic}/0: the log ends at 3"):
        log.port.read([Range(TopicPartition(topic, 0, 0), 1, 6)], admit_all)


def test_explaining_an_offset_with_a_committed_record_raises(log: LogUnderTest) -> None:
    topic = log.create_topic()
    log.write(topic, 0, numbered(5))
    assert log.port.explain_gaps([]) == ()
    with pytest.raises(Unavailable, match="read again"):
        log.port.explain_gaps([Range(TopicPartition(topic, 0, 0), 2, 3)])


# Transactions, retention, recreated topics.


def test_aborted_records_and_markers_are_skipped_and_count_as_read(broker: BrokerUnderTest) -> None:
    topic = broker.create_topic()
    partition = TopicPartition(topic, 0, 0)
    broker.write(topic, 0, numbered(2))
    broker.begin(topic, 0, numbered(3, first=100)).end(commit=False)  # 2, 3, 4, marker 5
    broker.begin(topic, 0, numbered(2, first=6)).end(commit=True)  # 6, 7, marker 8
    broker.begin(topic, 0, numbered(2, first=200)).end(commit=False)  # 9, 10, marker 11
    result = broker.port.read([Range(partition, 0, 12)], admit_all)
    assert values(result.records) == [b"0", b"1", b"6", b"7"]
    assert result.ends == {partition: 12}
    assert broker.port.explain_gaps([Range(partition, 2, 6), Range(partition, 8, 12)]) == (
        Gap(Range(partition, 2, 5), GapReason.ABORTED),
        Gap(Range(partition, 5, 6), GapReason.CONTROL),
        Gap(Range(partition, 8, 9), GapReason.CONTROL),
        Gap(Range(partition, 9, 11), GapReason.ABORTED),
        Gap(Range(partition, 11, 12), GapReason.CONTROL),
    )


def test_a_range_without_any_record_is_read_to_its_end(broker: BrokerUnderTest) -> None:
    topic = broker.create_topic()
    partition = TopicPartition(topic, 0, 0)
    broker.begin(topic, 0, numbered(20)).end(commit=False)
    broker.write(topic, 0, numbered(1, first=21))
    assert broker.port.read([Range(partition, 3, 7)], admit_all) == ReadResult((), {partition: 7}, ())
    assert broker.port.read([Range(partition, 0, 21)], admit_all) == ReadResult((), {partition: 21}, ())
    assert values(broker.port.read([Range(partition, 15, 22)], admit_all).records) == [b"21"]


def test_a_gap_before_a_refused_record_counts_as_read(broker: BrokerUnderTest) -> None:
    topic = broker.create_topic()
    partition = TopicPartition(topic, 0, 0)
    broker.write(topic, 0, numbered(1))
    broker.begin(topic, 0, numbered(3)).end(commit=False)
    broker.write(topic, 0, numbered(2, first=5))
    first = broker.port.read([Range(partition, 0, 7)], admit_at_most(1))
    assert (values(first.records), first.ends) == ([b"0"], {partition: 5})
    assert values(broker.port.read([Range(partition, 5, 7)], admit_all).records) == [b"5", b"6"]


def test_an_open_transaction_holds_back_its_own_partition_only(broker: BrokerUnderTest) -> None:
    topic = broker.create_topic()
    held, free = TopicPartition(topic, 0, 0), TopicPartition(topic, 0, 1)
    for number in (0, 1):
        broker.write(topic, number, numbered(2))
    transaction = broker.begin(topic, 0, numbered(3, first=2))
    broker.write(topic, 0, numbered(1, first=5))
    broker.write(topic, 1, numbered(1, first=2))
    assert broker.port.watermarks([held, free]) == {held: Watermarks(0, 2, 6), free: Watermarks(0, 3, 3)}
    result = broker.port.read([Range(held, 0, 2), Range(free, 0, 3)], admit_all)
    assert result.ends == {held: 2, free: 3}
    with pytest.raises(Unavailable, match=rf"{topic}/0.* a transaction is open"):
        broker.port.read([Range(held, 2, 6)], admit_all)
    transaction.end(commit=True)
    assert broker.port.watermarks([held]) == {held: Watermarks(0, 7, 7)}
    assert values(broker.port.read([Range(held, 2, 7)], admit_all).records) == [b"2", b"3", b"4", b"5"]


def test_offsets_removed_by_retention_are_reported_lost_and_the_rest_is_read(broker: BrokerUnderTest) -> None:
    topic = broker.create_topic()
    first, second, third = (TopicPartition(topic, 0, number) for number in range(3))
    for number in range(3):
        broker.write(topic, number, numbered(10))
    broker.retain_from(topic, 0, 4)
    broker.retain_from(topic, 1, 8)
    assert broker.port.watermarks([first]) == {first: Watermarks(4, 10, 10)}
    result = broker.port.read([Range(first, 1, 6), Range(second, 2, 7), Range(third, 5, 6)], admit_all)
    assert values(result.records) == [b"4", b"5", b"5"]
    assert result.ends == {first: 6, second: 7, third: 6}
    assert set(result.lost) == {Range(first, 1, 4), Range(second, 2, 7)}


def test_offsets_removed_between_two_reads_are_reported_lost(broker: BrokerUnderTest) -> None:
    topic = broker.create_topic()
    partition = TopicPartition(topic, 0, 0)
    broker.write(topic, 0, numbered(30))
    assert broker.port.read([Range(partition, 0, 10)], admit_all).ends == {partition: 10}
    broker.retain_from(topic, 0, 25)
    result = broker.port.read([Range(partition, 12, 30)], admit_all)
    assert (values(result.records), result.lost) == ([b"25", b"26", b"27", b"28", b"29"], (Range(partition, 12, 25),))


def test_a_recreated_topic_has_another_id(broker: BrokerUnderTest) -> None:
    topic = broker.create_topic()
    broker.write(topic, 0, numbered(5))
    before = broker.port.topics([topic])[topic].topic_id
    assert before is not None
    assert broker.port.read([Range(TopicPartition(topic, 0, 0), 0, 5)], admit_at_most(2)).ends == {TopicPartition(topic, 0, 0): 2}
    broker.recreate(topic)
    after = broker.port.topics([topic])[topic].topic_id
    assert after not in (None, before)
    assert broker.port.watermarks([TopicPartition(topic, 1, 0)]) == {TopicPartition(topic, 1, 0): Watermarks(0, 0, 0)}
    broker.write(topic, 0, [Written(b"new")])
    assert values(broker.port.read([Range(TopicPartition(topic, 1, 0), 0, 1)], admit_all).records) == [b"new"]


def test_a_partition_that_is_added_later_is_described_and_read(broker: BrokerUnderTest) -> None:
    topic = broker.create_topic()
    assert broker.port.topics([topic])[topic].partitions == tuple(range(PARTITIONS))
    broker.add_partition(topic)
    assert broker.port.topics([topic])[topic].partitions == tuple(range(PARTITIONS + 1))
    broker.write(topic, PARTITIONS, numbered(1))
    added = TopicPartition(topic, 0, PARTITIONS)
    assert values(broker.port.read([Range(added, 0, 1)], admit_all).records) == [b"0"]


# Damaged record batches.


@pytest.fixture(params=sorted(DAMAGEABLE_LOGS))
def damaged(request: pytest.FixtureRequest) -> Iterator[DamageableLogUnderTest]:
    with DAMAGEABLE_LOGS[request.param]() as log_under_test:
        yield log_under_test


def test_a_damaged_record_batch_ends_only_its_own_range(damaged: DamageableLogUnderTest) -> None:
    topic = damaged.create_topic()
    bad, good, last = (TopicPartition(topic, 0, number) for number in range(3))
    for number in range(3):
        damaged.write(topic, number, numbered(6, first=10 * number))
    damaged.damage(topic, 0, 3)
    result = damaged.port.read([Range(bad, 1, 6), Range(good, 0, 6), Range(last, 2, 4)], admit_all)
    assert values(result.records) == [b"1", b"2", *(b"%d" % number for number in range(10, 16)), b"22", b"23"]
    assert (result.ends, result.lost) == ({bad: 3, good: 6, last: 4}, ())
    assert list(result.errors) == [bad]
    error = result.errors[bad]
    assert isinstance(error, CorruptRecordBatch)
    assert not error.retryable
    assert f"{topic}/0: the record batch at offset 3 is damaged" in str(error)


def test_a_range_that_begins_with_a_damaged_batch_returns_nothing_until_repaired(damaged: DamageableLogUnderTest) -> None:
    topic = damaged.create_topic()
    partition = TopicPartition(topic, 0, 0)
    damaged.write(topic, 0, numbered(4))
    damaged.damage(topic, 0, 1)
    for _ in range(2):
        result = damaged.port.read([Range(partition, 1, 4)], admit_all)
        assert (result.records, result.ends, list(result.errors)) == ((), {partition: 1}, [partition])
    damaged.repair(topic, 0, 1)
    result = damaged.port.read([Range(partition, 1, 4)], admit_all)
    assert (values(result.records), result.ends, result.errors) == ([b"1", b"2", b"3"], {partition: 4}, {})


def test_damage_beyond_a_range_or_a_refused_record_is_not_reported(damaged: DamageableLogUnderTest) -> None:
    topic = damaged.create_topic()
    partition = TopicPartition(topic, 0, 0)
    damaged.write(topic, 0, numbered(6))
    damaged.damage(topic, 0, 4)
    assert damaged.port.read([Range(partition, 0, 4)], admit_all).errors == {}
    damaged.write(topic, 1, numbered(3))
    damaged.write_marker(topic, 1)
    damaged.write(topic, 1, numbered(2))
    damaged.damage(topic, 1, 4)
    before_damage = damaged.port.read([Range(TopicPartition(topic, 0, 1), 0, 4)], admit_all)
    assert (list(before_damage.ends.values()), before_damage.errors) == ([4], {})
    first = damaged.port.read([Range(partition, 0, 6)], admit_at_most(2))
    assert (first.ends, first.errors) == ({partition: 2}, {})
    second = damaged.port.read([Range(partition, 2, 6)], admit_all)
    assert (values(second.records), second.ends, list(second.errors)) == ([b"2", b"3"], {partition: 4}, [partition])
