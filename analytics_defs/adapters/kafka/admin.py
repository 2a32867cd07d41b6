"""Requests about topics, their settings and their offsets. No request reads a record."""

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

_K = TypeVar("_K")
_V = TypeVar("_V")

EARLIEST: OffsetSpec = OffsetSpec.earliest()  # type: ignore[no-untyped-call]
LATEST: OffsetSpec = OffsetSpec.latest()  # type: ignore[no-untyped-call]


class KafkaAdmin:
    """Admin requests, each bounded by the request timeout. Connects on first use. Not thread-safe."""

    def __init__(self, config: KafkaConfig) -> None:
        self._config = config
        self._background = LastClientError()
        self._client: AdminClient | None = None

    def close(self) -> None:
        """Close the connections. A later call opens new ones."""
        self._client = None

    def topics(self, names: Sequence[str]) -> dict[str, TopicDescription]:
        """Return the topics that exist, by name."""
        if not names:
            return {}

        def request(client: AdminClient) -> dict[str, TopicDescription]:
            if self._has_controller(client, names[0]):
                return {name: describe_topic(topic) for name, topic in self._describe(client, names).items()}
            partitions_by_name = {name: self._partitions(client, name) for name in names}
            return {name: TopicDescription(name, partitions, None) for name, partitions in partitions_by_name.items() if partitions}

        return self._send(f"describing the topics {', '.join(names)}", request)

    def watermarks(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, Watermarks]:
        """Return the watermarks of all partitions. Raise the error of the first partition that does not answer."""
        result = self.available_watermarks(partitions)
        for error in result.unavailable.values():
            raise error
        return dict(result.watermarks)

    def available_watermarks(self, partitions: Iterable[TopicPartition]) -> PartitionWatermarks:
        """Return the watermarks of the partitions that answer, and the errors of the others. Raise Unavailable if none answers."""
        errors: dict[TopicPartition, AnalyticsError] = {}
        # In this order, `low <= stable <= high` holds although the log grows between the three requests.
        lows = self._offsets(list(partitions), EARLIEST, IsolationLevel.READ_UNCOMMITTED, errors)
        stables = self._offsets(list(lows), LATEST, IsolationLevel.READ_COMMITTED, errors)
        highs = self._offsets(list(stables), LATEST, IsolationLevel.READ_UNCOMMITTED, errors)
        watermarks = {
            partition: Watermarks(lows[partition], max(lows[partition], stables[partition]), max(lows[partition], stables[partition], high))
            for partition, high in highs.items()
        }
        return PartitionWatermarks(watermarks, errors)

    def cleanup_policies(self, topics: Collection[str]) -> dict[str, frozenset[str] | None]:
        """Return `cleanup.policy` of each topic. None if the permission is missing or the broker does not report settings."""
        return {topic: cleanup_policy(settings) for topic, settings in self._settings(topics).items()}

    def retention(self, topics: Collection[str]) -> dict[str, TopicRetention]:
        """Return the retention of the topics whose settings can be read."""
        return {topic: topic_retention(settings) for topic, settings in self._settings(topics).items() if settings is not None}

    def describe(self, names: Sequence[str]) -> dict[str, TopicConfig]:
        """Return the configuration of the topics that exist, by name."""
        if not names:
            return {}
        topics = self._send(f"describing the topics {', '.join(names)}", lambda client: self._describe(client, names))
        settings = self._settings(topics)
        return {name: parse_topic_config(topic, settings[name]) for name, topic in topics.items()}

    def create_topics(self, topics: Sequence[TopicSpec]) -> list[str]:
        """Create the missing topics. Return their names. An existing topic is not changed."""
        return [topic.name for topic in topics if self._send(f"creating the topic {topic.name}", partial(self._create, topic))]

    def _create(self, topic: TopicSpec, client: AdminClient) -> bool:
        new = NewTopic(topic.name, topic.partitions, topic.replication, config=dict(topic.settings))
        try:
            self._result(client.create_topics([new], operation_timeout=self._seconds, request_timeout=self._seconds)[topic.name])
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise
            return False
        return True

    def _send(self, action: str, request: Callable[[AdminClient], _V]) -> _V:
        """Return the result of an idempotent request, retried while leaders change."""

        def attempt() -> _V:
            try:
                return request(self._admin())
            except KafkaException:
                self._admin()  # runs the callback that records the cause
                raise

        with translate_kafka_error(self._config.brokers, action, self._background):
            try:
                return retry_while_leader_changes(self._seconds, attempt)
            except KafkaException:
                self.close()  # its metadata about leaders and brokers is outdated
                raise

    def _admin(self) -> AdminClient:
        if self._client is None:
            self._client = connect_kafka(AdminClient, self._config.common(), self._background)
        self._client.poll(0)  # runs callbacks: log lines and background errors
        return self._client

    @property
    def _seconds(self) -> float:
        return self._config.request_timeout.total_seconds()

    def _result(self, future: Future[_V]) -> _V:
        """Return the result. The extra second guards against librdkafka missing its own timeout."""
        result = future.result(self._seconds + 1)
        self._background.clear()
        return result

    def _has_controller(self, client: AdminClient, topic: str) -> bool:
        """Return whether requests to the controller can be answered.

        librdkafka's mock cluster reports a controller that is not one of its brokers: such requests time out there.
        """
        cluster = client.list_topics(topic, timeout=self._seconds)
        return cluster.controller_id < 0 or cluster.controller_id in cluster.brokers

    def _partitions(self, client: AdminClient, name: str) -> tuple[int, ...]:
        topic = client.list_topics(name, timeout=self._seconds).topics[name]
        if topic.error is not None and topic.error.code() not in MISSING_RESOURCE_ERRORS:
            raise KafkaException(topic.error)
        return tuple(sorted(topic.partitions))

    def _describe(self, client: AdminClient, names: Iterable[str]) -> dict[str, KafkaTopic]:
        topics = TopicCollection(sorted(set(names)))
        return self._results(client.describe_topics(topics, request_timeout=self._seconds), MISSING_RESOURCE_ERRORS)

    def _settings(self, topics: Collection[str]) -> dict[str, TopicSettings | None]:
        def request(client: AdminClient) -> dict[ConfigResource, TopicSettings]:
            if not self._has_controller(client, next(iter(topics))):
                return {}
            resources = [ConfigResource(ResourceType.TOPIC, topic) for topic in topics]
            return self._results(
                client.describe_configs(resources, request_timeout=self._seconds), AUTHORIZATION_ERRORS | MISSING_RESOURCE_ERRORS
            )

        by_resource = self._send(f"reading the settings of the topics {', '.join(topics)}", request) if topics else {}
        return dict.fromkeys(topics) | {resource.name: settings for resource, settings in by_resource.items()}

    def _offsets(
        self,
        partitions: Sequence[TopicPartition],
        spec: OffsetSpec,
        isolation: IsolationLevel,
        errors: dict[TopicPartition, AnalyticsError],
    ) -> dict[TopicPartition, int]:
        """Return the offsets of the partitions that answer. Retry the others, then add their errors to `errors`.

        Raise if no partition answers, or if an error is not retryable.
        """
        offsets: dict[TopicPartition, int] = {}
        failures: dict[TopicPartition, KafkaError] = {}

        def request(client: AdminClient) -> None:
            missing = {_to_kafka(partition): partition for partition in partitions if partition not in offsets}
            failures.clear()
            futures = client.list_offsets(dict.fromkeys(missing, spec), isolation_level=isolation, request_timeout=self._seconds)
            for key, future in futures.items():
                try:
                    offsets[missing[key]] = self._offset(future)
                except KafkaException as error:
                    failures[missing[key]] = error.args[0]
            if failures:
                partition, worst = min(failures.items(), key=lambda item: item[1].code() in LEADER_CHANGE_ERRORS)
                raise self._leader_error(client, list(failures), _with_name(_to_kafka(partition), worst))

        try:
            if partitions:
                self._send(f"reading watermarks of {', '.join(map(str, partitions))}", request)
        except AnalyticsError as error:
            if not offsets or not error.retryable:
                raise
            errors |= {
                partition: kafka_error_to_analytics_error(cause, self._config.brokers, f"reading watermarks of {partition}")
                for partition, cause in failures.items()
            }
        return offsets

    def _offset(self, future: Future[ListOffsetsResultInfo]) -> int:
        """Return the offset. Raise KafkaException if the leader did not answer."""
        try:
            offset = self._result(future).offset
        except TimeoutError:
            offset = -1
        if offset < 0:  # librdkafka reports a negative offset if the leader never answered
            raise KafkaException(KafkaError(TIMED_OUT))
        return offset

    def _leader_error(self, client: AdminClient, partitions: Sequence[TopicPartition], error: KafkaException) -> KafkaException:
        """Return a more specific error for NO_LEADERS, by a metadata request; any other error unchanged.

        librdkafka reports NO_LEADERS both for a topic that does not exist and for brokers that are down.
        """
        if error.args[0].code() != NO_LEADERS:
            return error
        missing = sorted(name for name in {partition.topic for partition in partitions} if not self._partitions(client, name))
        if missing:
            return _with_name(", ".join(missing), KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART))
        return KafkaException(KafkaError(KafkaError.LEADER_NOT_AVAILABLE, error.args[0].str()))

    def _results(self, futures: Mapping[_K, Future[_V]], ignored_codes: Collection[int] = ()) -> dict[_K, _V]:
        """Return the results by key, without those that failed with one of the ignored codes."""
        results = {}
        for key, future in futures.items():
            try:
                results[key] = self._result(future)
            except KafkaException as error:
                if error.args[0].code() not in ignored_codes:
                    raise _with_name(key, error.args[0]) from error
        return results


def _with_name(resource: object, error: KafkaError) -> KafkaException:
    """Return the error with the name of the topic or partition that it belongs to."""
    name = f"{resource.topic}/{resource.partition}" if isinstance(resource, KafkaPartition) else str(resource)
    return KafkaException(KafkaError(error.code(), f"{name}: {error.str()}"))


def _to_kafka(topic_partition: TopicPartition) -> KafkaPartition:
    """Return the partition as Kafka identifies it, without the incarnation."""
    return KafkaPartition(topic_partition.topic, topic_partition.partition)
