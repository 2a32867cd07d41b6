"""What Kafka says about topics and offsets, asked and changed by requests of their own: nothing here reads a record."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from typing import TypeVar

from confluent_kafka import IsolationLevel, KafkaError, KafkaException, TopicCollection
from confluent_kafka import TopicPartition as KafkaPartition
from confluent_kafka.admin import (
    AdminClient,
    ConfigResource,
    ListOffsetsResultInfo,
    NewTopic,
    OffsetSpec,
    ResourceType,
)
from confluent_kafka.admin import TopicDescription as KafkaTopic

from analytics_defs.adapters.kafka.client import (
    AUTHORIZATION_ERRORS,
    MISSING_RESOURCE_ERRORS,
    NO_LEADERS,
    TIMED_OUT,
    KafkaConfig,
    LastClientError,
    connect_kafka,
    kafka_error_to_analytics_error,
    translate_kafka_error,
)
from analytics_defs.adapters.kafka.retry import LEADER_CHANGE_ERRORS, retry_while_leader_changes
from analytics_defs.adapters.kafka.topic_config import (
    TopicConfig,
    TopicSettings,
    TopicSpec,
    cleanup_policy,
    describe_topic,
    parse_topic_config,
    topic_retention,
)
from analytics_defs.core.monitoring.backlog import TopicRetention
from analytics_defs.core.offsets import TopicPartition
from analytics_defs.errors import AnalyticsError
from analytics_defs.ports import PartitionWatermarks, TopicDescription, Watermarks

K = TypeVar("K")
V = TypeVar("V")

EARLIEST: OffsetSpec = OffsetSpec.earliest()  # type: ignore[no-untyped-call]
LATEST: OffsetSpec = OffsetSpec.latest()  # type: ignore[no-untyped-call]


class KafkaAdmin:
    """Requests to the brokers, each bounded by the request timeout. The client is made on first use. Used by one thread at a time."""

    def __init__(self, config: KafkaConfig) -> None:
        self._config = config
        self._faults = LastClientError()
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
                return {name: describe_topic(topic) for name, topic in self._described(client, names).items()}
            found = {name: self._partitions(client, name) for name in names}
            return {name: TopicDescription(name, partitions, None) for name, partitions in found.items() if partitions}

        return self._ask(f"describing the topics {', '.join(names)}", ask)

    def watermarks(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, Watermarks]:
        found = self.available_watermarks(partitions)
        for fault in found.unavailable.values():
            raise fault
        return dict(found.watermarks)

    def available_watermarks(self, partitions: Iterable[TopicPartition]) -> PartitionWatermarks:
        """Asked in this order, so that `low <= stable <= high` holds although the log moves on in between."""
        silent: dict[TopicPartition, AnalyticsError] = {}
        lows = self._offsets(list(partitions), EARLIEST, IsolationLevel.READ_UNCOMMITTED, silent)
        stables = self._offsets(list(lows), LATEST, IsolationLevel.READ_COMMITTED, silent)
        highs = self._offsets(list(stables), LATEST, IsolationLevel.READ_UNCOMMITTED, silent)
        marks = {
            each: Watermarks(lows[each], max(lows[each], stables[each]), max(lows[each], stables[each], high))
            for each, high in highs.items()
        }
        return PartitionWatermarks(marks, silent)

    def cleanup_policies(self, topics: Collection[str]) -> dict[str, frozenset[str] | None]:
        """`cleanup.policy` of each topic, None where it cannot be learned: no permission, or a broker that does not tell."""
        return {topic: cleanup_policy(settings) for topic, settings in self._settings(topics).items()}

    def retention(self, topics: Collection[str]) -> dict[str, TopicRetention]:
        """Of the topics for which it can be learned."""
        return {topic: topic_retention(settings) for topic, settings in self._settings(topics).items() if settings is not None}

    def describe(self, names: Sequence[str]) -> dict[str, TopicConfig]:
        """How those of the topics that exist are set up."""
        if not names:
            return {}
        found = self._ask(f"describing the topics {', '.join(names)}", lambda client: self._described(client, names))
        settings = self._settings(found)
        return {name: parse_topic_config(topic, settings[name]) for name, topic in found.items()}

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
        """One request, which must bear to be repeated."""

        def once() -> V:
            try:
                return ask(self._admin())
            except KafkaException:
                self._admin()  # to hear why
                raise

        with translate_kafka_error(self._config.brokers, doing, self._faults):
            try:
                return retry_while_leader_changes(self._seconds, once)
            except KafkaException:
                self.close()  # what it knows of leaders and brokers is of no use any more
                raise

    def _admin(self) -> AdminClient:
        if self._client is None:
            self._client = connect_kafka(AdminClient, self._config.common(), self._faults)
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
        if found.error is not None and found.error.code() not in MISSING_RESOURCE_ERRORS:
            raise KafkaException(found.error)
        return tuple(sorted(found.partitions))

    def _described(self, client: AdminClient, names: Iterable[str]) -> dict[str, KafkaTopic]:
        asked = TopicCollection(sorted(set(names)))
        return self._results(client.describe_topics(asked, request_timeout=self._seconds), MISSING_RESOURCE_ERRORS)

    def _settings(self, topics: Collection[str]) -> dict[str, TopicSettings | None]:
        def ask(client: AdminClient) -> dict[ConfigResource, TopicSettings]:
            if not self._tells_all(client, next(iter(topics))):
                return {}
            resources = [ConfigResource(ResourceType.TOPIC, topic) for topic in topics]
            return self._results(
                client.describe_configs(resources, request_timeout=self._seconds), AUTHORIZATION_ERRORS | MISSING_RESOURCE_ERRORS
            )

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
                each, worst = min(failed.items(), key=lambda item: item[1].code() in LEADER_CHANGE_ERRORS)
                raise self._without_leaders(client, list(failed), _named(_kafka(each), worst))

        try:
            if partitions:
                self._ask(f"reading watermarks of {', '.join(map(str, partitions))}", ask)
        except AnalyticsError as fault:
            if not found or not fault.retryable:
                raise
            silent |= {
                each: kafka_error_to_analytics_error(why, self._config.brokers, f"reading watermarks of {each}")
                for each, why in failed.items()
            }
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
