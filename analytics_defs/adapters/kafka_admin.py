"""What Kafka says about topics and offsets, asked and changed by requests of their own: nothing here reads a record."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Final, TypeVar

from confluent_kafka import IsolationLevel, KafkaError, KafkaException, TopicCollection
from confluent_kafka import TopicPartition as KafkaPartition
from confluent_kafka.admin import (
    AdminClient,
    ConfigEntry,
    ConfigResource,
    ListOffsetsResultInfo,
    NewTopic,
    OffsetSpec,
    ResourceType,
)
from confluent_kafka.admin import TopicDescription as KafkaTopic

from analytics_defs.adapters.kafka_client import (
    DENIED,
    MISSING,
    NO_LEADERS,
    TIMED_OUT,
    Faults,
    KafkaConfig,
    as_ours,
    connect,
    translated,
)
from analytics_defs.core.offsets import TopicPartition
from analytics_defs.core.waiting import Kept
from analytics_defs.errors import AnalyticsError
from analytics_defs.ports import Survey, TopicDescription, Watermarks

K = TypeVar("K")
V = TypeVar("V")
Settings = Mapping[str, ConfigEntry]

EARLIEST: OffsetSpec = OffsetSpec.earliest()  # type: ignore[no-untyped-call]
LATEST: OffsetSpec = OffsetSpec.latest()  # type: ignore[no-untyped-call]
PAUSES_SECONDS: Final = (0.1, 0.2, 0.4, 0.8, 1.6)
"""Each is cut at random, so that executors do not ask in step."""
MOVING: Final = frozenset(
    {
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NOT_CONTROLLER,
        KafkaError.NOT_COORDINATOR,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.OFFSET_NOT_AVAILABLE,
        KafkaError.REPLICA_NOT_AVAILABLE,
        KafkaError.UNKNOWN_LEADER_EPOCH,
    }
)
"""What a broker answers while leaders or coordinators change."""
NO_TOPIC_ID = "AAAAAAAAAAAAAAAAAAAAAA"
"""What brokers older than topic ids answer."""


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """A topic to create."""

    name: str
    partitions: int
    replication: int = -1
    """-1: the broker's default."""
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TopicShape:
    """A topic as it was set up. None where the broker does not tell, or not to us."""

    partitions: int
    replication: int
    cleanup_policy: frozenset[str] | None
    retention: timedelta | None
    """By time; `timedelta.max` for one that keeps everything."""
    max_message_bytes: int | None


class KafkaAdmin:
    """Requests to the brokers, each bounded by the request timeout. The client is made on first use. Used by one thread at a time."""

    def __init__(self, config: KafkaConfig) -> None:
        self._config = config
        self._faults = Faults()
        self._client: AdminClient | None = None

    def close(self) -> None:
        """Let go of the connections. A later call makes new ones."""
        self._client = None

    def topics(self, names: Sequence[str]) -> dict[str, TopicDescription]:
        """Those of the topics that exist."""
        if not names:
            return {}

        def ask(client: AdminClient) -> dict[str, TopicDescription]:
            if self._tells_all(client, names[0]):
                return {name: _description(topic) for name, topic in self._described(client, names).items()}
            found = {name: self._partitions(client, name) for name in names}
            return {name: TopicDescription(name, partitions, None) for name, partitions in found.items() if partitions}

        return self._ask(f"describing the topics {', '.join(names)}", ask)

    def watermarks(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, Watermarks]:
        found = self.survey(partitions)
        for fault in found.silent.values():
            raise fault
        return dict(found.marks)

    def survey(self, partitions: Iterable[TopicPartition]) -> Survey:
        """Asked in this order, so that `low <= stable <= high` holds although the log moves on in between."""
        silent: dict[TopicPartition, AnalyticsError] = {}
        lows = self._offsets(list(partitions), EARLIEST, IsolationLevel.READ_UNCOMMITTED, silent)
        stables = self._offsets(list(lows), LATEST, IsolationLevel.READ_COMMITTED, silent)
        highs = self._offsets(list(stables), LATEST, IsolationLevel.READ_UNCOMMITTED, silent)
        marks = {
            each: Watermarks(lows[each], max(lows[each], stables[each]), max(lows[each], stables[each], high))
            for each, high in highs.items()
        }
        return Survey(marks, silent)

    def cleanup_policies(self, topics: Collection[str]) -> dict[str, frozenset[str] | None]:
        """`cleanup.policy` of each topic, None where it cannot be learned: no permission, or a broker that does not tell."""
        return {topic: _policy(settings) for topic, settings in self._settings(topics).items()}

    def retention(self, topics: Collection[str]) -> dict[str, Kept]:
        """Of the topics for which it can be learned."""
        return {topic: _kept(settings) for topic, settings in self._settings(topics).items() if settings is not None}

    def describe(self, names: Sequence[str]) -> dict[str, TopicShape]:
        """How those of the topics that exist are set up."""
        if not names:
            return {}
        found = self._ask(f"describing the topics {', '.join(names)}", lambda client: self._described(client, names))
        settings = self._settings(found)
        return {name: _shape(topic, settings[name]) for name, topic in found.items()}

    def create_topics(self, topics: Sequence[TopicSpec]) -> list[str]:
        """Create those that are missing; answers their names. A topic that exists is left as it is."""
        return [each.name for each in topics if self._ask(f"creating the topic {each.name}", partial(self._create, each))]

    def _create(self, topic: TopicSpec, client: AdminClient) -> bool:
        new = NewTopic(topic.name, topic.partitions, topic.replication, config=dict(topic.settings))
        try:
            self._result(client.create_topics([new], operation_timeout=self._seconds, request_timeout=self._seconds)[topic.name])
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise
            return False
        return True

    def _ask(self, doing: str, ask: Callable[[AdminClient], V]) -> V:
        """One request. Where leaders or coordinators are on the move it is repeated, which every request here bears."""
        deadline = time.monotonic() + self._seconds
        pauses = iter(PAUSES_SECONDS)
        with translated(self._config.brokers, doing, self._faults):
            while True:
                try:
                    return ask(self._admin())
                except KafkaException as error:
                    self._admin()  # to hear why
                    pause = next(pauses, None)
                    if pause is None or error.args[0].code() not in MOVING or time.monotonic() + pause > deadline:
                        self.close()  # what it knows of leaders and brokers is of no use any more
                        raise
                time.sleep(random.uniform(0, pause))

    def _admin(self) -> AdminClient:
        if self._client is None:
            self._client = connect(AdminClient, self._config.common(), self._faults)
        self._client.poll(0)  # hands over what the library wants to log and complain about
        return self._client

    @property
    def _seconds(self) -> float:
        return self._config.request_timeout.total_seconds()

    def _result(self, future: Future[V]) -> V:
        """The library bounds the request; a second on top guards against the library."""
        found = future.result(self._seconds + 1)
        self._faults.clear()
        return found

    def _tells_all(self, client: AdminClient, topic: str) -> bool:
        """Whether requests for the controller can be answered.

        librdkafka's mock cluster names a controller that is none of its brokers: such requests only time out there.
        """
        cluster = client.list_topics(topic, timeout=self._seconds)
        return cluster.controller_id < 0 or cluster.controller_id in cluster.brokers

    def _partitions(self, client: AdminClient, name: str) -> tuple[int, ...]:
        found = client.list_topics(name, timeout=self._seconds).topics[name]
        if found.error is not None and found.error.code() not in MISSING:
            raise KafkaException(found.error)
        return tuple(sorted(found.partitions))

    def _described(self, client: AdminClient, names: Iterable[str]) -> dict[str, KafkaTopic]:
        asked = TopicCollection(sorted(set(names)))
        return self._results(client.describe_topics(asked, request_timeout=self._seconds), MISSING)

    def _settings(self, topics: Collection[str]) -> dict[str, Settings | None]:
        def ask(client: AdminClient) -> dict[ConfigResource, Settings]:
            if not self._tells_all(client, next(iter(topics))):
                return {}
            resources = [ConfigResource(ResourceType.TOPIC, topic) for topic in topics]
            return self._results(client.describe_configs(resources, request_timeout=self._seconds), DENIED | MISSING)

        found = self._ask(f"reading the settings of the topics {', '.join(topics)}", ask) if topics else {}
        return dict.fromkeys(topics) | {resource.name: settings for resource, settings in found.items()}

    def _offsets(
        self,
        partitions: Sequence[TopicPartition],
        spec: OffsetSpec,
        isolation: IsolationLevel,
        silent: dict[TopicPartition, AnalyticsError],
    ) -> dict[TopicPartition, int]:
        """Of those that answer. Who does not is asked again for a while, then noted in `silent`. Raises where nobody answers."""
        found: dict[TopicPartition, int] = {}
        failed: dict[TopicPartition, KafkaError] = {}

        def ask(client: AdminClient) -> None:
            asked = {KafkaPartition(each.topic, each.partition): each for each in partitions if each not in found}
            failed.clear()
            futures = client.list_offsets(dict.fromkeys(asked, spec), isolation_level=isolation, request_timeout=self._seconds)
            for key, future in futures.items():
                try:
                    found[asked[key]] = self._offset(future)
                except KafkaException as error:
                    failed[asked[key]] = error.args[0]
            if failed:
                each, worst = min(failed.items(), key=lambda item: item[1].code() in MOVING)
                raise self._without_leaders(client, list(failed), _named(_kafka(each), worst))

        try:
            if partitions:
                self._ask(f"reading watermarks of {', '.join(map(str, partitions))}", ask)
        except AnalyticsError as fault:
            if not found or not fault.retryable:
                raise
            silent |= {each: as_ours(why, self._config.brokers, f"reading watermarks of {each}") for each, why in failed.items()}
        return found

    def _offset(self, future: Future[ListOffsetsResultInfo]) -> int:
        """Raises KafkaException also where the library does not keep its own limit."""
        try:
            offset = self._result(future).offset
        except TimeoutError:
            offset = -1
        if offset < 0:  # what the library says where the leader never answered
            raise KafkaException(KafkaError(TIMED_OUT))
        return offset

    def _without_leaders(self, client: AdminClient, partitions: Sequence[TopicPartition], error: KafkaException) -> KafkaException:
        """The library says the same of a topic that is not there and of brokers that are not: metadata tell, or raise."""
        if error.args[0].code() != NO_LEADERS:
            return error
        absent = sorted(name for name in {each.topic for each in partitions} if not self._partitions(client, name))
        if absent:
            return _named(", ".join(absent), KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART))
        return KafkaException(KafkaError(KafkaError.LEADER_NOT_AVAILABLE, error.args[0].str()))

    def _results(self, futures: Mapping[K, Future[V]], left_out: Collection[int] = ()) -> dict[K, V]:
        """The answers, without those whose error is one of `left_out`."""
        found = {}
        for key, future in futures.items():
            try:
                found[key] = self._result(future)
            except KafkaException as error:
                if error.args[0].code() not in left_out:
                    raise _named(key, error.args[0]) from error
        return found


def _named(what: object, error: KafkaError) -> KafkaException:
    """The same error, saying for which of many it came."""
    name = f"{what.topic}/{what.partition}" if isinstance(what, KafkaPartition) else str(what)
    return KafkaException(KafkaError(error.code(), f"{name}: {error.str()}"))


def _kafka(topic_partition: TopicPartition) -> KafkaPartition:
    """Generations are our own business: Kafka knows the name alone."""
    return KafkaPartition(topic_partition.topic, topic_partition.partition)


def _description(topic: KafkaTopic) -> TopicDescription:
    topic_id = str(topic.topic_id)
    return TopicDescription(topic.name, tuple(sorted(each.id for each in topic.partitions)), None if topic_id == NO_TOPIC_ID else topic_id)


def _setting(settings: Settings | None, name: str) -> str | None:
    return settings[name].value if settings is not None and name in settings else None


def _policy(settings: Settings | None) -> frozenset[str] | None:
    text = _setting(settings, "cleanup.policy")
    return None if text is None else frozenset(each.strip() for each in text.split(",") if each.strip())


def _retention(settings: Settings | None) -> timedelta | None:
    text = _setting(settings, "retention.ms")
    if text is None:
        return None
    return timedelta(milliseconds=int(text)) if int(text) >= 0 else timedelta.max


def _kept(settings: Settings) -> Kept:
    """A topic that is compacted and nothing else loses old values, but no record for its age or the size of its log."""
    policy = _policy(settings)
    if policy is not None and "delete" not in policy:
        return Kept(timedelta.max)
    size = int(_setting(settings, "retention.bytes") or -1)
    return Kept(_retention(settings), size if size >= 0 else None, int(_setting(settings, "segment.bytes") or 0))


def _shape(topic: KafkaTopic, settings: Settings | None) -> TopicShape:
    max_message_bytes = _setting(settings, "max.message.bytes")
    return TopicShape(
        partitions=len(topic.partitions),
        replication=min((len(each.replicas) for each in topic.partitions), default=0),
        cleanup_policy=_policy(settings),
        retention=_retention(settings),
        max_message_bytes=None if max_message_bytes is None else int(max_message_bytes),
    )
