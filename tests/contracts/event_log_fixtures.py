"""The event log's port over each broker that implements it, with an independent producer."""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, Protocol, cast

from confluent_kafka import TIMESTAMP_CREATE_TIME, Consumer, KafkaError, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic, OffsetSpec

from analytics_defs.adapters.kafka.client import KafkaConfig
from analytics_defs.adapters.kafka.event_log import KafkaEventLog
from analytics_defs.adapters.kafka.reader import KafkaReader
from analytics_defs.adapters.memory import MemoryEventLog
from analytics_defs.core.offsets import Range, Record
from analytics_defs.core.offsets import TopicPartition as OurPartition
from analytics_defs.ports import EventLog, ReadResult, Watermarks
from tests.devstack.waiting import until

PARTITIONS = 4
"""Partitions of every topic here. The mock cluster supports no other number."""
TIMESTAMP_MS = 1_700_000_000_000
TEN_SECONDS = 10.0
EXACT = {"enable.idempotence": True, "max.in.flight": 1}
"""A confirmed record is in the log, even if its partition is new: see `KafkaProducer`."""
_COORDINATOR_MOVES = (KafkaError.NOT_COORDINATOR, KafkaError.COORDINATOR_NOT_AVAILABLE, KafkaError.COORDINATOR_LOAD_IN_PROGRESS)
BAD_MSG: Final = int(getattr(KafkaError, "_BAD_MSG"))  # noqa: B009 - public, although its name begins with an underscore
quiet_logger = logging.getLogger("analytics.tests.kafka")


@dataclass(frozen=True, slots=True)
class Written:
    """A record to write."""

    value: bytes | None
    key: bytes | None = None
    headers: tuple[tuple[str, bytes | None], ...] = ()
    timestamp_ms: int = TIMESTAMP_MS


class OpenTransaction(Protocol):
    def end(self, *, commit: bool) -> None: ...


class LogUnderTest(Protocol):
    port: EventLog

    def create_topic(self) -> str:
        """Create a topic with `PARTITIONS` partitions. Return its name."""
        ...

    def write(self, topic: str, partition: int, records: Sequence[Written]) -> None:
        """Append the records. They are in the log when this returns."""
        ...


class BrokerUnderTest(LogUnderTest, Protocol):
    """A broker with transactions and retention, which librdkafka's mock cluster does not have."""

    def begin(self, topic: str, partition: int, records: Sequence[Written]) -> OpenTransaction:
        """Append the records in a transaction that stays open."""
        ...

    def retain_from(self, topic: str, partition: int, low: int) -> None: ...

    def recreate(self, topic: str) -> None:
        """Delete the topic and create it again, empty."""
        ...

    def add_partition(self, topic: str) -> None: ...


class ReadPort(Protocol):
    def read(self, ranges: Sequence[Range], admit: Callable[[Record], bool]) -> ReadResult: ...


class DamageableLogUnderTest(Protocol):
    """A log in which record batches can be damaged. Each record is a batch of its own."""

    @property
    def port(self) -> ReadPort: ...

    def create_topic(self) -> str: ...

    def write(self, topic: str, partition: int, records: Sequence[Written]) -> None: ...

    def damage(self, topic: str, partition: int, offset: int) -> None: ...

    def repair(self, topic: str, partition: int, offset: int) -> None: ...

    def write_marker(self, topic: str, partition: int) -> None:
        """Append an offset that holds no record."""
        ...


class MemoryBroker:
    def __init__(self) -> None:
        self._log = MemoryEventLog()
        self.port: EventLog = self._log

    def create_topic(self) -> str:
        topic = _name()
        self._log.create_topic(topic, PARTITIONS)
        return topic

    def write(self, topic: str, partition: int, records: Sequence[Written]) -> None:
        for record in records:
            self._log.append(topic, partition, record.value, key=record.key, headers=record.headers, timestamp_ms=record.timestamp_ms)

    def begin(self, topic: str, partition: int, records: Sequence[Written]) -> OpenTransaction:
        self._log.open_transaction(topic, partition)
        self.write(topic, partition, records)
        return _MemoryTransaction(self._log, topic, partition)

    def retain_from(self, topic: str, partition: int, low: int) -> None:
        self._log.retain_from(topic, partition, low)

    def recreate(self, topic: str) -> None:
        self._log.delete_topic(topic)
        self._log.create_topic(topic, PARTITIONS)

    def add_partition(self, topic: str) -> None:
        self._log.add_partition(topic)

    def damage(self, topic: str, partition: int, offset: int) -> None:
        self._log.damage(topic, partition, offset)

    def repair(self, topic: str, partition: int, offset: int) -> None:
        self._log.repair(topic, partition, offset)

    def write_marker(self, topic: str, partition: int) -> None:
        self._log.append_marker(topic, partition)


@dataclass(frozen=True, slots=True)
class _MemoryTransaction:
    log: MemoryEventLog
    topic: str
    partition: int

    def end(self, *, commit: bool) -> None:
        self.log.end_transaction(self.topic, self.partition, commit=commit)


class MockCluster:
    """librdkafka's broker in this process: no transactions, no retention on request, about 5 MB a partition. Removed by `close`."""

    def __init__(self) -> None:
        self._owner: Producer | None = Producer({"bootstrap.servers": "mock", "test.mock.num.brokers": 1, "logger": quiet_logger})
        self.brokers = ",".join(f"{broker.host}:{broker.port}" for broker in self._owner.list_topics(timeout=TEN_SECONDS).brokers.values())
        self._producer = Producer({"bootstrap.servers": self.brokers, "logger": quiet_logger, "linger.ms": 0})

    def close(self) -> None:
        self._owner = None

    def create_topic(self) -> str:
        topic = _name()
        self._producer.list_topics(topic, timeout=TEN_SECONDS)
        return topic

    def write(self, topic: str, partition: int, records: Sequence[Written]) -> None:
        send(self._producer, topic, partition, records)


class ScriptedBroker:
    """A reader with a scripted client that behaves like librdkafka: it reports a damaged batch and continues after it."""

    def __init__(self) -> None:
        self._topics: dict[str, list[list[Written | None]]] = {}
        self._damaged: set[tuple[str, int, int]] = set()
        reader = KafkaReader(short_timeouts("scripted"), self._watermarks, committed_only=True)
        reader._client = cast(Consumer, ScriptedConsumer(self._message, self._high))
        self.port: ReadPort = reader

    def create_topic(self) -> str:
        topic = _name()
        self._topics[topic] = [[] for _ in range(PARTITIONS)]
        return topic

    def write(self, topic: str, partition: int, records: Sequence[Written]) -> None:
        self._topics[topic][partition] += records

    def damage(self, topic: str, partition: int, offset: int) -> None:
        self._damaged.add((topic, partition, offset))

    def repair(self, topic: str, partition: int, offset: int) -> None:
        self._damaged.remove((topic, partition, offset))

    def write_marker(self, topic: str, partition: int) -> None:
        self._topics[topic][partition].append(None)

    def _high(self, topic: str, partition: int) -> int:
        return len(self._topics[topic][partition])

    def _watermarks(self, partition: OurPartition) -> Watermarks:
        return Watermarks(0, high := self._high(partition.topic, partition.partition), high)

    def _message(self, topic: str, partition: int, offset: int) -> Message | None:
        if (topic, partition, offset) in self._damaged:
            error = KafkaError(BAD_MSG, f"MessageSet at offset {offset} (96 bytes) failed CRC32C check")
            return Message(topic=topic, partition=partition, offset=offset, error=error)
        if (record := self._topics[topic][partition][offset]) is None:
            return None
        return Message(topic=topic, partition=partition, offset=offset, value=record.value, timestamp=(TIMESTAMP_CREATE_TIME, TIMESTAMP_MS))


class ScriptedConsumer:
    """The part of `confluent_kafka.Consumer` that the reader uses. Messages of the partitions alternate."""

    def __init__(self, message: Callable[[str, int, int], Message | None], high: Callable[[str, int], int]) -> None:
        self._message, self._high = message, high
        self._next: dict[tuple[str, int], int] = {}
        self._given: dict[tuple[str, int], int] = {}

    def incremental_assign(self, partitions: Sequence[TopicPartition]) -> None:
        self._next |= {(partition.topic, partition.partition): partition.offset for partition in partitions}

    def incremental_unassign(self, partitions: Sequence[TopicPartition]) -> None:
        for partition in partitions:
            del self._next[partition.topic, partition.partition]
            self._given.pop((partition.topic, partition.partition), None)

    def poll(self, _: float) -> Message | None:
        return next(iter(self.consume(1, 0)), None)

    def consume(self, count: int, _: float) -> list[Message]:
        messages: list[Message] = []
        while len(messages) < count and (ready := [key for key in self._next if self._next[key] < self._high(*key)]):
            key = min(ready, key=lambda partition: (self._next[partition], partition))
            message = self._message(*key, self._next[key])
            self._next[key] += 1
            messages += [message] if message is not None else []
            if message is not None and message.error() is None:
                self._given[key] = self._next[key]
        return messages

    def position(self, partitions: Sequence[TopicPartition]) -> list[TopicPartition]:
        """Return the position after the last returned message, as librdkafka does.

        It passes a damaged batch once a message behind that batch was returned.
        """
        return [
            TopicPartition(partition.topic, partition.partition, self._given.get((partition.topic, partition.partition), -1001))
            for partition in partitions
        ]

    def close(self) -> None:
        self._next.clear()


class MockBroker:
    def __init__(self, cluster: MockCluster, log: KafkaEventLog) -> None:
        self.port: EventLog = log
        self.create_topic = cluster.create_topic
        self.write = cluster.write


class RealBroker:
    """Apache Kafka, with topics and a consumer group of this test only."""

    def __init__(self, config: KafkaConfig, log: KafkaEventLog) -> None:
        self.port: EventLog = log
        self.group, brokers = config.group_id, config.brokers
        self.admin = AdminClient({"bootstrap.servers": brokers}, logger=quiet_logger)
        self.settings: dict[str, Any] = {"bootstrap.servers": brokers, "logger": quiet_logger, "linger.ms": 0, **EXACT}
        self._producer = Producer(self.settings)
        self._topics: set[str] = set()

    def create_topic(self, **config: str) -> str:
        topic = _name()
        self._create(topic, config)
        return topic

    def write(self, topic: str, partition: int, records: Sequence[Written]) -> None:
        send(self._producer, topic, partition, records)

    def transactional(self) -> Producer:
        """Return a producer with a new transactional id, ready to begin."""
        producer = Producer(self.settings | {"transactional.id": uuid.uuid4().hex})
        producer.init_transactions(TEN_SECONDS)
        return producer

    def begin(self, topic: str, partition: int, records: Sequence[Written]) -> OpenTransaction:
        producer = self.transactional()
        producer.begin_transaction()
        send(producer, topic, partition, records)
        return _KafkaTransaction(self, producer, TopicPartition(topic, partition))

    def high(self, partition: TopicPartition) -> int:
        latest: OffsetSpec = OffsetSpec.latest()  # type: ignore[no-untyped-call]
        return int(self.admin.list_offsets({partition: latest})[partition].result(TEN_SECONDS).offset)

    def retain_from(self, topic: str, partition: int, low: int) -> None:
        for future in self.admin.delete_records([TopicPartition(topic, partition, low)]).values():
            future.result(TEN_SECONDS)

    def recreate(self, topic: str) -> None:
        self.delete(topic)
        self._create(topic, {})

    def add_partition(self, topic: str) -> None:
        self.admin.create_partitions([NewPartitions(topic, PARTITIONS + 1)])[topic].result(TEN_SECONDS)
        until(lambda: self._partitions(topic) == PARTITIONS + 1)

    def delete(self, topic: str) -> None:
        self.admin.delete_topics([topic], operation_timeout=TEN_SECONDS)[topic].result(TEN_SECONDS)
        until(lambda: self._partitions(topic) == 0)
        self._topics.discard(topic)

    def adopt(self, topic: str) -> None:
        """Delete the topic at the end of the test."""
        self._topics.add(topic)

    def remove(self) -> None:
        for future in self.admin.delete_topics(sorted(self._topics)).values() if self._topics else ():
            future.result(TEN_SECONDS)
        until(self._is_group_deleted)

    def _create(self, topic: str, config: dict[str, str]) -> None:
        """Create the topic without retention and without limits of timestamps: the records are years old, or have no date at all."""
        unlimited = {"retention.ms": "-1"} | dict.fromkeys(
            ("message.timestamp.before.max.ms", "message.timestamp.after.max.ms"), str(2**63 - 1)
        )
        new = NewTopic(topic, PARTITIONS, 1, config=unlimited | config)
        self.admin.create_topics([new], operation_timeout=TEN_SECONDS)[topic].result(TEN_SECONDS)
        self.adopt(topic)
        until(lambda: self._partitions(topic) == PARTITIONS)

    def _is_group_deleted(self) -> bool:
        """Return False while a broker that has just started does not yet serve groups."""
        error = self.admin.delete_consumer_groups([self.group])[self.group].exception(TEN_SECONDS)
        code = None if error is None else error.args[0].code()
        assert code in (None, KafkaError.GROUP_ID_NOT_FOUND, *_COORDINATOR_MOVES), error  # most tests commit nothing
        return code not in _COORDINATOR_MOVES

    def _partitions(self, topic: str) -> int:
        """Return the number of partitions with a leader. Brokers learn of a change shortly after the controller confirms it."""
        partitions = self.admin.list_topics(topic, timeout=TEN_SECONDS).topics[topic].partitions
        return sum(partition.leader >= 0 for partition in partitions.values())


@dataclass(frozen=True, slots=True)
class _KafkaTransaction:
    broker: RealBroker
    producer: Producer
    partition: TopicPartition

    def end(self, *, commit: bool) -> None:
        before = self.broker.high(self.partition)
        if commit:
            self.producer.commit_transaction(TEN_SECONDS)
        else:
            self.producer.abort_transaction(TEN_SECONDS)
        until(lambda: self.broker.high(self.partition) > before)  # the broker writes the marker after it answers the producer


@contextmanager
def memory_broker() -> Iterator[MemoryBroker]:
    yield MemoryBroker()


@contextmanager
def mock_broker() -> Iterator[MockBroker]:
    cluster = MockCluster()
    log = KafkaEventLog(short_timeouts(cluster.brokers))
    try:
        yield MockBroker(cluster, log)
    finally:
        log.close()
        cluster.close()


@contextmanager
def real_broker() -> Iterator[RealBroker]:
    config = short_timeouts(real_brokers())
    log = KafkaEventLog(config)
    broker = RealBroker(config, log)
    try:
        yield broker
    finally:
        log.close()
        broker.remove()


LOGS: dict[str, Callable[[], AbstractContextManager[LogUnderTest]]] = {"memory": memory_broker, "mock": mock_broker, "real": real_broker}


@contextmanager
def scripted_broker() -> Iterator[ScriptedBroker]:
    yield ScriptedBroker()


DAMAGEABLE_LOGS: dict[str, Callable[[], AbstractContextManager[DamageableLogUnderTest]]] = {
    "memory": memory_broker,
    "scripted": scripted_broker,
}
BROKERS: dict[str, Callable[[], AbstractContextManager[BrokerUnderTest]]] = {"memory": memory_broker, "real": real_broker}


def real_brokers() -> str:
    """Return the real brokers. Fail if the environment names none."""
    brokers = os.environ.get("KAFKA_BROKERS")
    assert brokers, "KAFKA_BROKERS is not set: tests marked `real` need Apache Kafka. Run `make test-real`."
    return brokers


def short_timeouts(brokers: str) -> KafkaConfig:
    """Return a configuration with a new group and short timeouts."""
    return KafkaConfig(brokers, group_id=_name(), request_timeout=timedelta(seconds=10), read_timeout=timedelta(seconds=2))


def send(producer: Producer, topic: str, partition: int, records: Sequence[Written]) -> None:
    """Write the records and wait for every confirmation."""
    failed: list[object] = []
    for record in records:
        producer.produce(
            topic,
            record.value,
            record.key,
            partition,
            on_delivery=lambda error, _: failed.append(error) if error else None,
            timestamp=record.timestamp_ms,
            headers=list(record.headers),
        )
        producer.poll(0)
    assert producer.flush(TEN_SECONDS) == 0
    assert failed == []


def values(records: Sequence[Record]) -> list[bytes | None]:
    return [record.value for record in records]


def _name() -> str:
    return f"contract-{uuid.uuid4().hex[:12]}"
