"""The event log's port over each broker that implements it, with an independent producer beside it."""

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
"""Of every topic here: the mock cluster knows no other number."""
TIMESTAMP_MS = 1_700_000_000_000
TEN_SECONDS = 10.0
EXACT = {"enable.idempotence": True, "max.in.flight": 1}
"""What is confirmed is in the log, also of a partition that is new: see `KafkaProducer`."""
_COORDINATOR_MOVES = (KafkaError.NOT_COORDINATOR, KafkaError.COORDINATOR_NOT_AVAILABLE, KafkaError.COORDINATOR_LOAD_IN_PROGRESS)
BAD_MSG: Final = int(getattr(KafkaError, "_BAD_MSG"))  # noqa: B009 - public, although its name begins with an underscore
quiet = logging.getLogger("analytics.tests.kafka")


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
        """A topic with `PARTITIONS` partitions; answers its name."""
        ...

    def write(self, topic: str, partition: int, records: Sequence[Written]) -> None:
        """Append them. They are there when this returns."""
        ...


class BrokerUnderTest(LogUnderTest, Protocol):
    """A broker that can do everything, which librdkafka's mock cluster cannot."""

    def begin(self, topic: str, partition: int, records: Sequence[Written]) -> OpenTransaction:
        """Append them in a transaction that stays open."""
        ...

    def retain_from(self, topic: str, partition: int, low: int) -> None: ...

    def recreate(self, topic: str) -> None:
        """Delete the topic and create it again, empty."""
        ...

    def add_partition(self, topic: str) -> None: ...


class ReadPort(Protocol):
    def read(self, ranges: Sequence[Range], admit: Callable[[Record], bool]) -> ReadResult: ...


class DamagedUnderTest(Protocol):
    """A log in which record batches can be damaged. Each record here is a batch of its own."""

    @property
    def port(self) -> ReadPort: ...

    def create_topic(self) -> str: ...

    def write(self, topic: str, partition: int, records: Sequence[Written]) -> None: ...

    def damage(self, topic: str, partition: int, offset: int) -> None: ...

    def mend(self, topic: str, partition: int, offset: int) -> None: ...

    def write_marker(self, topic: str, partition: int) -> None:
        """An offset that gives no record."""
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
        for each in records:
            self._log.append(topic, partition, each.value, key=each.key, headers=each.headers, timestamp_ms=each.timestamp_ms)

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

    def mend(self, topic: str, partition: int, offset: int) -> None:
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
    """librdkafka's broker in this process: no transactions, no retention on request, about 5 MB a partition. Gone when closed."""

    def __init__(self) -> None:
        self._owner: Producer | None = Producer({"bootstrap.servers": "mock", "test.mock.num.brokers": 1, "logger": quiet})
        self.brokers = ",".join(f"{each.host}:{each.port}" for each in self._owner.list_topics(timeout=TEN_SECONDS).brokers.values())
        self._producer = Producer({"bootstrap.servers": self.brokers, "logger": quiet, "linger.ms": 0})

    def close(self) -> None:
        self._owner = None

    def create_topic(self) -> str:
        topic = _name()
        self._producer.list_topics(topic, timeout=TEN_SECONDS)
        return topic

    def write(self, topic: str, partition: int, records: Sequence[Written]) -> None:
        send(self._producer, topic, partition, records)


class ScriptedBroker:
    """A reader whose client is a script that does what librdkafka does: says that a batch is damaged, and goes on behind it."""

    def __init__(self) -> None:
        self._topics: dict[str, list[list[Written | None]]] = {}
        self._damaged: set[tuple[str, int, int]] = set()
        reader = KafkaReader(impatient("scripted"), self._watermarks, committed_only=True)
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

    def mend(self, topic: str, partition: int, offset: int) -> None:
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
    """As much of `confluent_kafka.Consumer` as the reader uses. Partitions give their messages in turn."""

    def __init__(self, message: Callable[[str, int, int], Message | None], high: Callable[[str, int], int]) -> None:
        self._message, self._high = message, high
        self._next: dict[tuple[str, int], int] = {}
        self._given: dict[tuple[str, int], int] = {}

    def incremental_assign(self, partitions: Sequence[TopicPartition]) -> None:
        self._next |= {(each.topic, each.partition): each.offset for each in partitions}

    def incremental_unassign(self, partitions: Sequence[TopicPartition]) -> None:
        for each in partitions:
            del self._next[each.topic, each.partition]
            self._given.pop((each.topic, each.partition), None)

    def poll(self, _: float) -> Message | None:
        return next(iter(self.consume(1, 0)), None)

    def consume(self, count: int, _: float) -> list[Message]:
        found: list[Message] = []
        while len(found) < count and (ready := [key for key in self._next if self._next[key] < self._high(*key)]):
            key = min(ready, key=lambda each: (self._next[each], each))
            message = self._message(*key, self._next[key])
            self._next[key] += 1
            found += [message] if message is not None else []
            if message is not None and message.error() is None:
                self._given[key] = self._next[key]
        return found

    def position(self, partitions: Sequence[TopicPartition]) -> list[TopicPartition]:
        """Follows the messages given, as librdkafka's: behind a damaged batch as soon as one behind it was given."""
        return [TopicPartition(each.topic, each.partition, self._given.get((each.topic, each.partition), -1001)) for each in partitions]

    def close(self) -> None:
        self._next.clear()


class MockBroker:
    def __init__(self, cluster: MockCluster, log: KafkaEventLog) -> None:
        self.port: EventLog = log
        self.create_topic = cluster.create_topic
        self.write = cluster.write


class RealBroker:
    """Apache Kafka, with topics and a group of this test's own."""

    def __init__(self, config: KafkaConfig, log: KafkaEventLog) -> None:
        self.port: EventLog = log
        self.group, brokers = config.group_id, config.brokers
        self.admin = AdminClient({"bootstrap.servers": brokers}, logger=quiet)
        self.settings: dict[str, Any] = {"bootstrap.servers": brokers, "logger": quiet, "linger.ms": 0, **EXACT}
        self._producer = Producer(self.settings)
        self._topics: set[str] = set()

    def create_topic(self, **config: str) -> str:
        topic = _name()
        self._create(topic, config)
        return topic

    def write(self, topic: str, partition: int, records: Sequence[Written]) -> None:
        send(self._producer, topic, partition, records)

    def transactional(self) -> Producer:
        """A producer of its own transactional id, ready to begin."""
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
        """Remove it in the end."""
        self._topics.add(topic)

    def remove(self) -> None:
        for future in self.admin.delete_topics(sorted(self._topics)).values() if self._topics else ():
            future.result(TEN_SECONDS)
        until(self._group_is_gone)

    def _create(self, topic: str, config: dict[str, str]) -> None:
        """Records here are years old: the broker's own retention would take them whenever it looks."""
        new = NewTopic(topic, PARTITIONS, 1, config={"retention.ms": "-1"} | config)
        self.admin.create_topics([new], operation_timeout=TEN_SECONDS)[topic].result(TEN_SECONDS)
        self.adopt(topic)
        until(lambda: self._partitions(topic) == PARTITIONS)

    def _group_is_gone(self) -> bool:
        """False while a broker that has just started does not yet answer for groups."""
        error = self.admin.delete_consumer_groups([self.group])[self.group].exception(TEN_SECONDS)
        code = None if error is None else error.args[0].code()
        assert code in (None, KafkaError.GROUP_ID_NOT_FOUND, *_COORDINATOR_MOVES), error  # most tests commit nothing
        return code not in _COORDINATOR_MOVES

    def _partitions(self, topic: str) -> int:
        """How many of them have a leader. Brokers hear of a change a moment after the controller confirmed it."""
        found = self.admin.list_topics(topic, timeout=TEN_SECONDS).topics[topic].partitions
        return sum(each.leader >= 0 for each in found.values())


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
        until(lambda: self.broker.high(self.partition) > before)  # the marker is written after the producer is told


@contextmanager
def memory_broker() -> Iterator[MemoryBroker]:
    yield MemoryBroker()


@contextmanager
def mock_broker() -> Iterator[MockBroker]:
    cluster = MockCluster()
    log = KafkaEventLog(impatient(cluster.brokers))
    try:
        yield MockBroker(cluster, log)
    finally:
        log.close()
        cluster.close()


@contextmanager
def real_broker() -> Iterator[RealBroker]:
    config = impatient(real_brokers())
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


DAMAGED: dict[str, Callable[[], AbstractContextManager[DamagedUnderTest]]] = {"memory": memory_broker, "scripted": scripted_broker}
BROKERS: dict[str, Callable[[], AbstractContextManager[BrokerUnderTest]]] = {"memory": memory_broker, "real": real_broker}


def real_brokers() -> str:
    """Fails where the environment names none."""
    brokers = os.environ.get("KAFKA_BROKERS")
    assert brokers, "KAFKA_BROKERS is not set: tests marked `real` need Apache Kafka. Run `make test-real`."
    return brokers


def impatient(brokers: str) -> KafkaConfig:
    """A group of its own, and not much time to wait for what will not come."""
    return KafkaConfig(brokers, group_id=_name(), request_timeout=timedelta(seconds=10), read_timeout=timedelta(seconds=2))


def send(producer: Producer, topic: str, partition: int, records: Sequence[Written]) -> None:
    """Write the records and wait for every confirmation."""
    failed: list[object] = []
    for each in records:
        producer.produce(
            topic,
            each.value,
            each.key,
            partition,
            on_delivery=lambda error, _: failed.append(error) if error else None,
            timestamp=each.timestamp_ms,
            headers=list(each.headers),
        )
        producer.poll(0)
    assert producer.flush(TEN_SECONDS) == 0
    assert failed == []


def values(records: Sequence[Record]) -> list[bytes | None]:
    return [each.value for each in records]


def _name() -> str:
    return f"contract-{uuid.uuid4().hex[:12]}"
