"""The group's offsets, the visible copy of the ledger's heads: read and set by a consumer that never joins the group.

Not by the admin client: its requests to a group's coordinator abort the whole process when the coordinator goes away in the middle of
one (librdkafka 2.16, its issues 3663 and 4605; seen here whenever a broker was restarted).
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

V = TypeVar("V")
OTHER_MEMBERS: Final = frozenset(
    {KafkaError.UNKNOWN_MEMBER_ID, KafkaError.ILLEGAL_GENERATION, KafkaError.NON_EMPTY_GROUP, KafkaError.REBALANCE_IN_PROGRESS}
)
"""What a coordinator answers to one who is not a member while others are."""
GROUP_POLL_SECONDS = 0.005
"""One wait for the answer to a commit: short, for the library does not come back from it when the answer is there."""


class GroupOffsets:
    """Each request is bounded by the request timeout. The client is made on first use. Used by one thread at a time."""

    def __init__(self, config: KafkaConfig) -> None:
        self._config = config
        self._faults = LastClientError()
        self._client: Consumer | None = None
        self._answers: list[tuple[KafkaError | None, Sequence[KafkaPartition]]] = []

    def close(self) -> None:
        """Let go of the connections. A later call makes new ones."""
        self._client = None

    def committed(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int | None]:
        asked = list(partitions)
        if not asked:
            return {}

        def ask(consumer: Consumer) -> list[KafkaPartition]:
            answer = consumer.committed([KafkaPartition(each.topic, each.partition) for each in asked], self._seconds)
            _check([each for each in answer if each.error is None or each.error.code() not in MISSING_RESOURCE_ERRORS])
            return answer

        answer = self._ask(f"reading the offsets of group {self._config.group_id}", ask)
        found = {(each.topic, each.partition): each.offset for each in answer if each.error is None and each.offset >= 0}
        return {each: found.get((each.topic, each.partition)) for each in asked}

    def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Set the group's offsets, forwards or backwards. Raises when one partition was refused; others may have moved.

        Raises ConsumerGroupActive while somebody is a member of the group.
        """
        if not offsets:
            return
        wanted = [KafkaPartition(each.topic, each.partition, offset) for each, offset in offsets.items()]
        named = ", ".join(f"{each}: {offset}" for each, offset in offsets.items())
        self._ask(f"setting the offsets of group {self._config.group_id} to {named}", partial(self._commit, wanted))

    def _commit(self, wanted: list[KafkaPartition], consumer: Consumer) -> None:
        self._answers.clear()
        # Waiting for it with `asynchronous=False` knows no time limit.
        consumer.commit(offsets=wanted, asynchronous=True)
        deadline = time.monotonic() + self._seconds
        while not self._answers:
            if time.monotonic() > deadline:
                raise KafkaException(KafkaError(TIMED_OUT))
            consumer.poll(GROUP_POLL_SECONDS)
        error, answer = self._answers[0]
        self._check_members([error, *(each.error for each in answer)])
        _check(answer)
        if error is not None:
            raise KafkaException(error)

    def _check_members(self, errors: Sequence[KafkaError | None]) -> None:
        if any(error is not None and error.code() in OTHER_MEMBERS for error in errors):
            raise ConsumerGroupActive(
                f"Kafka at {self._config.brokers}: another consumer is a member of group {self._config.group_id}; stop it or choose "
                "another KAFKA_GROUP_ID; the ledger has the progress, nothing is lost: the group's offsets are set again when that is done."
            )

    def _ask(self, doing: str, ask: Callable[[Consumer], V]) -> V:
        """One request, repeated where the group's coordinator is on the move: on a fresh broker there is none for a moment.

        After a fault the client is dropped, with what it would still try: an offset set late would undo a newer one. It is not closed:
        closing waits, without a limit, for the coordinator.
        """

        def once() -> V:
            try:
                return ask(self._consumer())
            except BaseException:
                self._drop()
                raise

        with translate_kafka_error(self._config.brokers, doing, self._faults):
            answer = retry_while_leader_changes(self._seconds, once)
            self._faults.clear()
            return answer

    def _consumer(self) -> Consumer:
        if self._client is None:
            self._client = connect_kafka(Consumer, self._settings(), self._faults)
        return self._client

    def _drop(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.poll(0)  # hands over what the library has to complain about

    def _settings(self) -> dict[str, object]:
        """Nobody here is in a session, yet the library puts a commit off for as long as one lasts while it knows no coordinator, and
        lets go of a client only after that: a broker that was gone held the process for 30 s more than the request.
        """
        session = {"session.timeout.ms": milliseconds(self._config.request_timeout)}
        return self._config.consumer(committed_only=True) | session | {"on_commit": self._answered}

    def _answered(self, error: KafkaError | None, partitions: Sequence[KafkaPartition]) -> None:
        self._answers.append((error, partitions))

    @property
    def _seconds(self) -> float:
        return self._config.request_timeout.total_seconds()


def _check(answer: Sequence[KafkaPartition]) -> None:
    """Raises the first partition's error, with its name."""
    for each in answer:
        if each.error is not None:
            raise KafkaException(KafkaError(each.error.code(), f"{each.topic}/{each.partition}: {each.error.str()}"))
