"""What every event log promises: the memory double, librdkafka's mock cluster, and Apache Kafka."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import pytest

from analytics_defs.core.ledger import Gap, GapReason
from analytics_defs.core.offsets import Range, Record, Source, TopicPartition
from analytics_defs.errors import CorruptRecordBatch, ResourceMissing, TopicRecreated, Unavailable
from analytics_defs.ports import EventLog, ReadResult, Watermarks
from tests.contracts.event_log_fixtures import (
    BROKERS,
    DAMAGED,
    LOGS,
    PARTITIONS,
    TIMESTAMP_MS,
    BrokerUnderTest,
    DamagedUnderTest,
    LogUnderTest,
    Written,
    values,
)


@pytest.fixture(params=["memory", "mock", pytest.param("real", marks=pytest.mark.real)])
def log(request: pytest.FixtureRequest) -> Iterator[LogUnderTest]:
    with LOGS[request.param]() as found:
        yield found


@pytest.fixture(params=["memory", pytest.param("real", marks=pytest.mark.real)])
def broker(request: pytest.FixtureRequest) -> Iterator[BrokerUnderTest]:
    with BROKERS[request.param]() as found:
        yield found


def numbered(count: int, first: int = 0) -> list[Written]:
    return [Written(b"%d" % number) for number in range(first, first + count)]


def everything(record: Record) -> bool:
    return bool(record)


def at_most(count: int) -> Admit:
    return Admit(count)


class Admit:
    """Admits `count` records and remembers all it was asked about."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.asked: list[Record] = []

    def __call__(self, record: Record) -> bool:
        self.asked.append(record)
        return len(self.asked) <= self.count


def read_whole(port: EventLog, ranges: Sequence[Range], batch: int) -> list[ReadResult]:
    """Read on from each reading's ends, `batch` records at a time."""
    readings = []
    while ranges:
        reading = port.read(ranges, at_most(batch))
        readings.append(reading)
        ranges = [left for each in ranges if (left := Range(each.topic_partition, reading.ends[each.topic_partition], each.end))]
    return readings


# Topics, watermarks, the group.


def test_topics_are_described_as_they_are(log: LogUnderTest) -> None:
    one, other = log.create_topic(), log.create_topic()
    found = log.port.topics([one, other, one])
    assert {name: (each.name, each.partitions) for name, each in found.items()} == {
        name: (name, tuple(range(PARTITIONS))) for name in (one, other)
    }
    assert found == log.port.topics([other, one]), "a topic's id does not change"


def test_a_topic_that_does_not_exist_is_not_in_the_answer_and_asking_does_not_create_it(log: LogUnderTest) -> None:
    topic = log.create_topic()
    for _ in range(2):
        assert set(log.port.topics(["never-created", topic])) == {topic}
    assert log.port.topics(["never-created"]) == {}
    assert log.port.topics([]) == {}


def test_watermarks_follow_what_is_written(log: LogUnderTest) -> None:
    topic = log.create_topic()
    log.write(topic, 1, numbered(3))
    assert log.port.watermarks([TopicPartition(topic, 0, 1), TopicPartition(topic, 0, 2)]) == {
        TopicPartition(topic, 0, 1): Watermarks(0, 3, 3),
        TopicPartition(topic, 0, 2): Watermarks(0, 0, 0),
    }
    assert log.port.watermarks([]) == {}


def test_watermarks_of_a_topic_that_does_not_exist_are_missing(log: LogUnderTest) -> None:
    log.create_topic()
    with pytest.raises(ResourceMissing, match="never-created"):
        log.port.watermarks([TopicPartition("never-created", 0, 0)])


def test_the_groups_offsets_are_kept_by_partition_and_move_both_ways(log: LogUnderTest) -> None:
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


def test_a_generation_is_kept_in_every_answer(log: LogUnderTest) -> None:
    topic = log.create_topic()
    third_life = TopicPartition(topic, 2, 1)
    log.write(topic, 1, numbered(3))
    assert set(log.port.watermarks([third_life])) == {third_life}
    log.port.commit({third_life: 3})
    assert log.port.committed([third_life]) == {third_life: 3}
    reading = log.port.read([Range(third_life, 0, 3)], everything)
    assert [each.source for each in reading.records] == [Source(third_life, offset) for offset in range(3)]
    assert reading.ends == {third_life: 3}


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
    records = log.port.read([Range(TopicPartition(topic, 0, 0), 0, 5)], everything).records
    assert [Written(each.value, each.key, each.headers, each.timestamp_ms) for each in records] == written
    assert records[0].timestamp_ms == at
    assert records[1].timestamp_ms == TIMESTAMP_MS


def test_a_reading_ends_exactly_where_its_range_ends(log: LogUnderTest) -> None:
    topic = log.create_topic()
    partition = TopicPartition(topic, 0, 0)
    log.write(topic, 0, numbered(20))
    admit = at_most(100)
    reading = log.port.read([Range(partition, 5, 9)], admit)
    assert values(reading.records) == [b"5", b"6", b"7", b"8"]
    assert values(admit.asked) == values(reading.records)
    assert (reading.ends, reading.lost) == ({partition: 9}, ())


def test_an_empty_range_is_read_at_once(log: LogUnderTest) -> None:
    partition = TopicPartition(log.create_topic(), 0, 0)
    assert log.port.read([Range(partition, 0, 0)], everything) == ReadResult((), {partition: 0}, ())
    assert log.port.read([], everything) == ReadResult((), {}, ())


def test_a_refused_record_is_no_part_of_the_reading_and_comes_first_in_the_next(log: LogUnderTest) -> None:
    topic = log.create_topic()
    partition = TopicPartition(topic, 0, 0)
    log.write(topic, 0, numbered(10))
    readings = read_whole(log.port, [Range(partition, 0, 10)], batch=4)
    assert [values(each.records) for each in readings] == [[b"0", b"1", b"2", b"3"], [b"4", b"5", b"6", b"7"], [b"8", b"9"]]
    assert [each.ends[partition] for each in readings] == [4, 8, 10]


def test_a_reading_that_admits_nothing_reads_nothing(log: LogUnderTest) -> None:
    topic = log.create_topic()
    partition = TopicPartition(topic, 0, 0)
    log.write(topic, 0, numbered(3))
    assert log.port.read([Range(partition, 1, 3)], at_most(0)) == ReadResult((), {partition: 1}, ())
    assert values(log.port.read([Range(partition, 1, 3)], everything).records) == [b"1", b"2"]


def test_records_are_admitted_in_the_order_of_their_partition_and_given_in_the_order_of_sources(log: LogUnderTest) -> None:
    topic = log.create_topic()
    for number in range(PARTITIONS):
        log.write(topic, number, numbered(50, first=100 * number))
    admit = at_most(1_000)
    reading = log.port.read([Range(TopicPartition(topic, 0, number), 10, 50) for number in reversed(range(PARTITIONS))], admit)
    expected = [Source(TopicPartition(topic, 0, number), offset) for number in range(PARTITIONS) for offset in range(10, 50)]
    assert [each.source for each in reading.records] == expected
    for number in range(PARTITIONS):
        assert [each.source.offset for each in admit.asked if each.source.topic_partition.partition == number] == list(range(10, 50))


def test_a_raise_in_admit_leaves_the_log_usable(log: LogUnderTest) -> None:
    topic = log.create_topic()
    partition = TopicPartition(topic, 0, 0)
    log.write(topic, 0, numbered(5))

    def refuse_loudly(record: Record) -> bool:
        if record.source.offset == 2:
            raise ArithmeticError
        return True

    with pytest.raises(ArithmeticError):
        log.port.read([Range(partition, 0, 5)], refuse_loudly)
    assert values(log.port.read([Range(partition, 0, 5)], everything).records) == [b"0", b"1", b"2", b"3", b"4"]


def test_reading_from_anywhere_is_right_whatever_was_read_before(log: LogUnderTest) -> None:
    topic, dice = log.create_topic(), random.Random(20240115)
    for number in range(PARTITIONS):
        log.write(topic, number, numbered(300))
    for _ in range(25):
        chosen = dice.sample(range(PARTITIONS), dice.randint(1, PARTITIONS))
        ranges = []
        for number in chosen:
            start = dice.randint(0, 300)
            ranges.append(Range(TopicPartition(topic, 0, number), start, dice.randint(start, 300)))
        for reading in read_whole(log.port, ranges, batch=dice.choice([7, 100, 2_000]))[: dice.randint(1, 3)]:
            assert all(each.value == b"%d" % each.source.offset for each in reading.records)
        readings = read_whole(log.port, ranges, batch=dice.choice([50, 2_000]))
        found = [each.source for reading in readings for each in reading.records]
        assert sorted(found) == sorted(Source(each.topic_partition, offset) for each in ranges for offset in range(each.start, each.end))


def test_a_start_behind_the_end_of_the_log_is_another_topic(log: LogUnderTest) -> None:
    topic = log.create_topic()
    log.write(topic, 0, numbered(3))
    with pytest.raises(TopicRecreated, match=rf"{topic}/0: the log ends at 3, before the next offset to read, 4"):
        log.port.read([Range(TopicPartition(topic, 0, 0), 4, 6)], everything)
    assert values(log.port.read([Range(TopicPartition(topic, 0, 0), 0, 3)], everything).records) == [b"0", b"1", b"2"]


def test_an_end_behind_the_end_of_the_log_is_another_topic(log: LogUnderTest) -> None:
    topic = log.create_topic()
    log.write(topic, 0, numbered(3))
    with pytest.raises(TopicRecreated, match=rf"{topic}/0: the log ends at 3"):
        log.port.read([Range(TopicPartition(topic, 0, 0), 1, 6)], everything)


def test_no_explanation_is_found_for_offsets_that_hold_a_committed_record(log: LogUnderTest) -> None:
    topic = log.create_topic()
    log.write(topic, 0, numbered(5))
    assert log.port.explain_gaps([]) == ()
    with pytest.raises(Unavailable, match="read again"):
        log.port.explain_gaps([Range(TopicPartition(topic, 0, 0), 2, 3)])


# Transactions, retention, topics created again.


def test_offsets_of_aborted_transactions_and_markers_are_passed_over_and_count_as_read(broker: BrokerUnderTest) -> None:
    topic = broker.create_topic()
    partition = TopicPartition(topic, 0, 0)
    broker.write(topic, 0, numbered(2))
    broker.begin(topic, 0, numbered(3, first=100)).end(commit=False)  # 2, 3, 4, marker 5
    broker.begin(topic, 0, numbered(2, first=6)).end(commit=True)  # 6, 7, marker 8
    broker.begin(topic, 0, numbered(2, first=200)).end(commit=False)  # 9, 10, marker 11
    reading = broker.port.read([Range(partition, 0, 12)], everything)
    assert values(reading.records) == [b"0", b"1", b"6", b"7"]
    assert reading.ends == {partition: 12}
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
    assert broker.port.read([Range(partition, 3, 7)], everything) == ReadResult((), {partition: 7}, ())
    assert broker.port.read([Range(partition, 0, 21)], everything) == ReadResult((), {partition: 21}, ())
    assert values(broker.port.read([Range(partition, 15, 22)], everything).records) == [b"21"]


def test_a_refusal_after_a_gap_leaves_the_gap_behind(broker: BrokerUnderTest) -> None:
    topic = broker.create_topic()
    partition = TopicPartition(topic, 0, 0)
    broker.write(topic, 0, numbered(1))
    broker.begin(topic, 0, numbered(3)).end(commit=False)
    broker.write(topic, 0, numbered(2, first=5))
    first = broker.port.read([Range(partition, 0, 7)], at_most(1))
    assert (values(first.records), first.ends) == ([b"0"], {partition: 5})
    assert values(broker.port.read([Range(partition, 5, 7)], everything).records) == [b"5", b"6"]


def test_an_open_transaction_holds_back_its_own_partition_only(broker: BrokerUnderTest) -> None:
    topic = broker.create_topic()
    held, free = TopicPartition(topic, 0, 0), TopicPartition(topic, 0, 1)
    for number in (0, 1):
        broker.write(topic, number, numbered(2))
    transaction = broker.begin(topic, 0, numbered(3, first=2))
    broker.write(topic, 0, numbered(1, first=5))
    broker.write(topic, 1, numbered(1, first=2))
    assert broker.port.watermarks([held, free]) == {held: Watermarks(0, 2, 6), free: Watermarks(0, 3, 3)}
    reading = broker.port.read([Range(held, 0, 2), Range(free, 0, 3)], everything)
    assert reading.ends == {held: 2, free: 3}
    with pytest.raises(Unavailable, match=rf"{topic}/0.* a transaction is open"):
        broker.port.read([Range(held, 2, 6)], everything)
    transaction.end(commit=True)
    assert broker.port.watermarks([held]) == {held: Watermarks(0, 7, 7)}
    assert values(broker.port.read([Range(held, 2, 7)], everything).records) == [b"2", b"3", b"4", b"5"]


def test_what_retention_removed_is_lost_by_name_and_the_rest_is_read(broker: BrokerUnderTest) -> None:
    topic = broker.create_topic()
    first, second, third = (TopicPartition(topic, 0, number) for number in range(3))
    for number in range(3):
        broker.write(topic, number, numbered(10))
    broker.retain_from(topic, 0, 4)
    broker.retain_from(topic, 1, 8)
    assert broker.port.watermarks([first]) == {first: Watermarks(4, 10, 10)}
    reading = broker.port.read([Range(first, 1, 6), Range(second, 2, 7), Range(third, 5, 6)], everything)
    assert values(reading.records) == [b"4", b"5", b"5"]
    assert reading.ends == {first: 6, second: 7, third: 6}
    assert set(reading.lost) == {Range(first, 1, 4), Range(second, 2, 7)}


def test_what_retention_removed_between_two_readings_is_lost(broker: BrokerUnderTest) -> None:
    topic = broker.create_topic()
    partition = TopicPartition(topic, 0, 0)
    broker.write(topic, 0, numbered(30))
    assert broker.port.read([Range(partition, 0, 10)], everything).ends == {partition: 10}
    broker.retain_from(topic, 0, 25)
    reading = broker.port.read([Range(partition, 12, 30)], everything)
    assert (values(reading.records), reading.lost) == ([b"25", b"26", b"27", b"28", b"29"], (Range(partition, 12, 25),))


def test_a_topic_that_was_created_again_has_another_id(broker: BrokerUnderTest) -> None:
    topic = broker.create_topic()
    broker.write(topic, 0, numbered(5))
    before = broker.port.topics([topic])[topic].topic_id
    assert before is not None
    assert broker.port.read([Range(TopicPartition(topic, 0, 0), 0, 5)], at_most(2)).ends == {TopicPartition(topic, 0, 0): 2}
    broker.recreate(topic)
    after = broker.port.topics([topic])[topic].topic_id
    assert after not in (None, before)
    assert broker.port.watermarks([TopicPartition(topic, 1, 0)]) == {TopicPartition(topic, 1, 0): Watermarks(0, 0, 0)}
    broker.write(topic, 0, [Written(b"new")])
    assert values(broker.port.read([Range(TopicPartition(topic, 1, 0), 0, 1)], everything).records) == [b"new"]


def test_a_partition_that_appears_later_is_seen_and_read(broker: BrokerUnderTest) -> None:
    topic = broker.create_topic()
    assert broker.port.topics([topic])[topic].partitions == tuple(range(PARTITIONS))
    broker.add_partition(topic)
    assert broker.port.topics([topic])[topic].partitions == tuple(range(PARTITIONS + 1))
    broker.write(topic, PARTITIONS, numbered(1))
    added = TopicPartition(topic, 0, PARTITIONS)
    assert values(broker.port.read([Range(added, 0, 1)], everything).records) == [b"0"]


# Damage in Kafka.


@pytest.fixture(params=sorted(DAMAGED))
def damaged(request: pytest.FixtureRequest) -> Iterator[DamagedUnderTest]:
    with DAMAGED[request.param]() as found:
        yield found


def test_a_damaged_batch_ends_its_own_range_before_it_and_no_other(damaged: DamagedUnderTest) -> None:
    topic = damaged.create_topic()
    bad, good, last = (TopicPartition(topic, 0, number) for number in range(3))
    for number in range(3):
        damaged.write(topic, number, numbered(6, first=10 * number))
    damaged.damage(topic, 0, 3)
    reading = damaged.port.read([Range(bad, 1, 6), Range(good, 0, 6), Range(last, 2, 4)], everything)
    assert values(reading.records) == [b"1", b"2", *(b"%d" % number for number in range(10, 16)), b"22", b"23"]
    assert (reading.ends, reading.lost) == ({bad: 3, good: 6, last: 4}, ())
    assert list(reading.errors) == [bad]
    fault = reading.errors[bad]
    assert isinstance(fault, CorruptRecordBatch)
    assert not fault.retryable
    assert f"{topic}/0: the record batch at offset 3 is damaged" in str(fault)


def test_a_range_that_begins_with_a_damaged_batch_gives_nothing_as_often_as_it_is_read(damaged: DamagedUnderTest) -> None:
    topic = damaged.create_topic()
    partition = TopicPartition(topic, 0, 0)
    damaged.write(topic, 0, numbered(4))
    damaged.damage(topic, 0, 1)
    for _ in range(2):
        reading = damaged.port.read([Range(partition, 1, 4)], everything)
        assert (reading.records, reading.ends, list(reading.errors)) == ((), {partition: 1}, [partition])
    damaged.mend(topic, 0, 1)
    reading = damaged.port.read([Range(partition, 1, 4)], everything)
    assert (values(reading.records), reading.ends, reading.errors) == ([b"1", b"2", b"3"], {partition: 4}, {})


def test_damage_behind_the_end_of_a_range_or_behind_a_refused_record_is_no_fault_of_the_reading(damaged: DamagedUnderTest) -> None:
    topic = damaged.create_topic()
    partition = TopicPartition(topic, 0, 0)
    damaged.write(topic, 0, numbered(6))
    damaged.damage(topic, 0, 4)
    assert damaged.port.read([Range(partition, 0, 4)], everything).errors == {}
    damaged.write(topic, 1, numbered(3))
    damaged.write_marker(topic, 1)
    damaged.write(topic, 1, numbered(2))
    damaged.damage(topic, 1, 4)
    behind_a_marker = damaged.port.read([Range(TopicPartition(topic, 0, 1), 0, 4)], everything)
    assert (list(behind_a_marker.ends.values()), behind_a_marker.errors) == ([4], {})
    first = damaged.port.read([Range(partition, 0, 6)], at_most(2))
    assert (first.ends, first.errors) == ({partition: 2}, {})
    second = damaged.port.read([Range(partition, 2, 6)], everything)
    assert (values(second.records), second.ends, list(second.errors)) == ([b"2", b"3"], {partition: 4}, [partition])
