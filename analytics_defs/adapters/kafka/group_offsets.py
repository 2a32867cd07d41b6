"""The consumer group's offsets, the visible copy of the ledger's checkpoints.

They are read and set with a consumer that never joins the group. The admin client is not used: its requests to a coordinator abort
the whole process if the coordinator disappears meanwhile (librdkafka 2.16, issues 3663 and 4605; seen at every broker restart).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Final, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException
from confluent_kafka import TopicPartition as KafkaPartition

from analytics_defs.adapters.kafka.client import (
    MISSING_RESOURCE_ERRORS,
    TIMED_OUT,
    KafkaConfig,
    LastClientError,
    connect_kafka,
    milliseconds,
    translate_kafka_error,
)
from analytics_defs.adapters.kafka.retry import retry_while_leader_changes
from analytics_defs.core.offsets import TopicPartition
from analytics_defs.errors import ConsumerGroupActive

_V = TypeVar("_V")
OTHER_MEMBERS: Final = frozenset(
    {KafkaError.UNKNOWN_MEMBER_ID, KafkaError.ILLEGAL_GENERATION, KafkaError.NON_EMPTY_GROUP, KafkaError.REBALANCE_IN_PROGRESS}
)
"""Errors that a coordinator returns to a non-member while the group has members."""
GROUP_POLL_SECONDS = 0.005
"""One poll for the result of a commit. Short, because librdkafka does not return early when the result arrives."""


class GroupOffsets:
    """Requests for the group's offsets, each bounded by the request timeout. Connects on first use. Not thread-safe."""

    def __init__(self, config: KafkaConfig) -> None:
        self._config = config
        self._background = LastClientError()
        self._client: Consumer | None = None
        self._commit_results: list[tuple[KafkaError | None, Sequence[KafkaPartition]]] = []

    def close(self) -> None:
        """Close the connections. A later call opens new ones."""
        self._client = None

    def committed(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int | None]:
        requested = list(partitions)
        if not requested:
            return {}

        def request(consumer: Consumer) -> list[KafkaPartition]:
            results = consumer.committed([KafkaPartition(partition.topic, partition.partition) for partition in requested], self._seconds)
            _raise_first_error([result for result in results if result.error is None or result.error.code() not in MISSING_RESOURCE_ERRORS])
            return results

        results = self._send(f"reading the offsets of group {self._config.group_id}", request)
        offsets = {(result.topic, result.partition): result.offset for result in results if result.error is None and result.offset >= 0}
        return {partition: offsets.get((partition.topic, partition.partition)) for partition in requested}

    def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Set the group's offsets, forwards or backwards. Not atomic: if one partition is refused, others may have changed.

        Raise ConsumerGroupActive while the group has members.
        """
        if not offsets:
            return
        positions = [KafkaPartition(partition.topic, partition.partition, offset) for partition, offset in offsets.items()]
        listing = ", ".join(f"{partition}: {offset}" for partition, offset in offsets.items())
        self._send(f"setting the offsets of group {self._config.group_id} to {listing}", partial(self._commit, positions))

    def _commit(self, positions: list[KafkaPartition], consumer: Consumer) -> None:
        self._commit_results.clear()
        # A commit with `asynchronous=False` has no time limit.
        consumer.commit(offsets=positions, asynchronous=True)
        deadline = time.monotonic() + self._seconds
        while not self._commit_results:
            if time.monotonic() > deadline:
                raise KafkaException(KafkaError(TIMED_OUT))
            consumer.poll(GROUP_POLL_SECONDS)
        error, results = self._commit_results[0]
        self._check_members([error, *(result.error for result in results)])
        _raise_first_error(results)
        if error is not None:
            raise KafkaException(error)

    def _check_members(self, errors: Sequence[KafkaError | None]) -> None:
        if any(error is not None and error.code() in OTHER_MEMBERS for error in errors):
            raise ConsumerGroupActive(
                f"Kafka at {self._config.brokers}: another consumer is a member of group {self._config.group_id}. Stop it or choose "
                "another KAFKA_GROUP_ID. Nothing is lost: the ledger has the progress, and the group's offsets are set again afterwards."
            )

    def _send(self, action: str, request: Callable[[Consumer], _V]) -> _V:
        """Return the result of a request, retried while the coordinator changes. A new broker has none for a moment.

        After an error the client is dropped, because a late commit of it would undo a newer one. It is not closed: closing waits for
        the coordinator without a limit.
        """

        def attempt() -> _V:
            try:
                return request(self._consumer())
            except BaseException:
                self._drop()
                raise

        with translate_kafka_error(self._config.brokers, action, self._background):
            result = retry_while_leader_changes(self._seconds, attempt)
            self._background.clear()
            return result

    def _consumer(self) -> Consumer:
        if self._client is None:
            self._client = connect_kafka(Consumer, self._settings(), self._background)
        return self._client

    def _drop(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.poll(0)  # runs the callback that records the cause

    def _settings(self) -> dict[str, object]:
        """Return the settings of a consumer, with a session as short as a request.

        This consumer has no session. But while librdkafka knows no coordinator, it delays a commit, and the end of the client, by a
        session timeout: a broker outage blocked the process for 30 s longer than the request.
        """
        session = {"session.timeout.ms": milliseconds(self._config.request_timeout)}
        return self._config.consumer(committed_only=True) | session | {"on_commit": self._on_commit}

    def _on_commit(self, error: KafkaError | None, partitions: Sequence[KafkaPartition]) -> None:
        self._commit_results.append((error, partitions))

    @property
    def _seconds(self) -> float:
        return self._config.request_timeout.total_seconds()


def _raise_first_error(results: Sequence[KafkaPartition]) -> None:
    """Raise the first error among the partitions, with the partition's name."""
    for result in results:
        if result.error is not None:
            raise KafkaException(KafkaError(result.error.code(), f"{result.topic}/{result.partition}: {result.error.str()}"))
