"""Publishing records: every one is confirmed by the broker, or the call fails."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from analytics_defs.adapters.kafka.client import (
    KafkaConfig,
    LastClientError,
    connect_kafka,
    kafka_error_to_analytics_error,
    milliseconds,
    translate_kafka_error,
)
from analytics_defs.errors import AnalyticsError

OutgoingRecord = tuple[str, bytes | None, bytes | None, tuple[tuple[str, bytes | None], ...]]
"""Topic, key, value, headers. The key decides the partition as in Java's and Node's clients."""

PRODUCER_POLL_SECONDS = 0.1
PROGRESS_SECONDS = 0.5
RECORDS_BETWEEN_POLLS = 200
TOO_LARGE = frozenset({KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE})


@dataclass(slots=True)
class _Outcome:
    """What the broker said so far of the records of one call."""

    confirmed: int = 0
    refused: tuple[KafkaError, str] | None = None
    """The first refusal, and the topic of its record."""

    def settle(self, error: KafkaError | None, message: Message) -> None:
        if error is None:
            self.confirmed += 1
        elif self.refused is None:
            self.refused = (error, message.topic() or "")


class KafkaProducer:
    """An idempotent producer with one request in flight. Its client is made on first use. Used by one thread at a time.

    With several in flight, a broker that does not lead a new partition yet refuses the first request, takes the second, and confirms
    the repeated first one as a duplicate of it: 29 records in the log of 30 confirmed ones (measured on Kafka 4.3, once in 1,200 new
    partitions).
    """

    def __init__(self, config: KafkaConfig, compression: str = "zstd") -> None:
        """`compression`: none, gzip, snappy, lz4 or zstd."""
        self._config = config
        self._compression = compression
        self._faults = LastClientError()
        self._client: Producer | None = None

    def close(self) -> None:
        """Let go of the connections. A later call makes new ones."""
        self._client = None

    def publish(self, records: Iterable[OutgoingRecord], on_progress: Callable[[int], None] = lambda _: None) -> int:
        """Publish all of them, in order within a key; answers how many: all are confirmed. What is queued is bounded.

        `on_progress` hears now and then how many are confirmed. Raises for the first record that is refused: the message tells how
        many were confirmed until then, and they stay published. Records that wait then are dropped.
        """
        outcome = _Outcome()
        self._faults.clear()
        try:
            with translate_kafka_error(self._config.brokers, "publishing", self._faults):
                self._publish(records, outcome, on_progress)
            if outcome.refused:
                raise self._refused(*outcome.refused, outcome.confirmed)
        except BaseException:
            self._abandon()
            raise
        return outcome.confirmed

    def _publish(self, records: Iterable[OutgoingRecord], outcome: _Outcome, on_progress: Callable[[int], None]) -> None:
        client, told = self._producer(), time.monotonic()
        for count, record in enumerate(records, 1):
            self._send(client, record, outcome)
            if count % RECORDS_BETWEEN_POLLS == 0:
                self._listen(client, 0, outcome)
            if outcome.refused:
                return
            if time.monotonic() - told > PROGRESS_SECONDS:
                told = time.monotonic()
                on_progress(outcome.confirmed)
        while len(client) and not outcome.refused:
            self._listen(client, PRODUCER_POLL_SECONDS, outcome)
            on_progress(outcome.confirmed)

    def _send(self, client: Producer, record: OutgoingRecord, outcome: _Outcome) -> None:
        """Queue one record; wait while the queue is full, which the delivery timeout bounds."""
        topic, key, value, headers = record
        while not outcome.refused:
            try:
                client.produce(topic, value, key, headers=list(headers), on_delivery=outcome.settle)
            except BufferError:
                self._listen(client, PRODUCER_POLL_SECONDS, outcome)
            except KafkaException as error:
                outcome.refused = (error.args[0], topic)
            else:
                return

    def _listen(self, client: Producer, seconds: float, outcome: _Outcome) -> None:
        """Hear of deliveries. Refused credentials refuse every record, long before the delivery timeout does."""
        client.poll(seconds)
        if self._faults.authentication_error and self._faults.last is not None and outcome.refused is None:
            outcome.refused = (self._faults.last, "any topic")

    def _abandon(self) -> None:
        """Drop what waits: it must not reach Kafka after the call that published it. A purge may hit later records too: the client goes."""
        client, self._client = self._client, None
        if client is not None:
            with suppress(KafkaException):
                client.purge()
                client.flush(PRODUCER_POLL_SECONDS)

    def _producer(self) -> Producer:
        if self._client is None:
            settings = self._config.common() | {
                "enable.idempotence": True,
                "max.in.flight.requests.per.connection": 1,
                "compression.type": self._compression,
                "partitioner": "murmur2_random",
                "linger.ms": 20,
                "delivery.timeout.ms": milliseconds(self._config.delivery_timeout),
                "queue.buffering.max.messages": 100_000,
                "queue.buffering.max.kbytes": 32 * 1024,
                "topic.metadata.propagation.max.ms": 3_000,
            }
            self._client = connect_kafka(Producer, settings, self._faults)
        return self._client

    def _refused(self, error: KafkaError, topic: str, confirmed: int) -> AnalyticsError:
        doing = f"publishing to {topic}, after {confirmed} confirmed records"
        if error.code() in TOO_LARGE:
            return AnalyticsError(
                f"Kafka at {self._config.brokers}: {doing}: {error.str()}. Make the record smaller, or raise the topic's max.message.bytes."
            )
        return kafka_error_to_analytics_error(error, self._config.brokers, doing, self._faults)
