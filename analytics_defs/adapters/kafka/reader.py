"""Reads of offset ranges with one consumer: by position, never by count, and never past the end of a range."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from itertools import chain
from typing import Final

from confluent_kafka import Consumer, KafkaError, Message
from confluent_kafka import TopicPartition as KafkaPartition

from analytics_defs.adapters.kafka.client import (
    AUTO_OFFSET_RESET,
    CORRUPT_DATA_ERRORS,
    LOG_TRUNCATION,
    PARTITION_EOF,
    KafkaConfig,
    LastClientError,
    connect_kafka,
    kafka_error_to_analytics_error,
    translate_kafka_error,
)
from analytics_defs.adapters.kafka.read_progress import Key, ReadProgress
from analytics_defs.adapters.kafka.records import to_record
from analytics_defs.core.offsets import Range, Record, TopicPartition
from analytics_defs.errors import AnalyticsError, CorruptRecordBatch, TopicRecreated, Unavailable
from analytics_defs.ports import ReadResult, Watermarks

READER_POLL_SECONDS = 0.05
"""One poll for messages. Short, so that signals are handled and positions are checked."""
MAX_DRAINED = 1_000
"""Messages per call that empties the client's queue. One call takes librdkafka's lock and Python's only once for all of them."""
MAX_REPOSITIONS = 3
"""How often a partition is assigned again after the broker refused an offset inside its log."""
OUT_OF_RANGE: Final = frozenset({AUTO_OFFSET_RESET, LOG_TRUNCATION, KafkaError.OFFSET_OUT_OF_RANGE})


class KafkaReader:
    """A consumer with explicit assignments. Connects on first use. Not thread-safe.

    Prefetched messages stay for the next read if that one continues at the same offset. Memory: at most twice the prefetch limit.
    """

    def __init__(self, config: KafkaConfig, watermarks: Callable[[TopicPartition], Watermarks], *, committed_only: bool) -> None:
        self._config = config
        self._watermarks = watermarks
        self._committed_only = committed_only
        self._background = LastClientError()
        self._client: Consumer | None = None
        self._buffer: deque[Message] = deque()
        """Messages polled from the client and not yet returned, in the client's order."""
        self._positions: dict[Key, int] = {}
        """The assigned partitions. `_buffer` and the client continue at these offsets."""

    def close(self) -> None:
        """Close the connections. A later read opens new ones."""
        client, self._client = self._client, None
        self._buffer.clear()
        self._positions.clear()
        if client is not None:
            client.close()

    def read(self, ranges: Sequence[Range], admit: Callable[[Record], bool]) -> ReadResult:
        """Read as `ports.EventLog.read` says."""
        progress = ReadProgress(ranges)
        records: dict[TopicPartition, list[Record]] = {range_.topic_partition: [] for range_ in ranges}
        with closing(self.read_messages(progress)) as messages:
            for topic_partition, message in messages:
                record = to_record(topic_partition, message)
                if not admit(record):
                    break
                records[topic_partition].append(record)
        ordered = tuple(chain.from_iterable(records[topic_partition] for topic_partition in sorted(records)))
        return ReadResult(ordered, progress.ends, tuple(progress.lost), progress.errors)

    def read_messages(self, progress: ReadProgress) -> Generator[tuple[TopicPartition, Message], None, None]:
        """Yield the records of the open ranges, in offset order within a partition, until every range is read or failed.

        If the caller stops early, the last message does not count as read: the next read yields it again.
        Raise Unavailable if no data arrives within the read timeout. After an error all prefetched messages are dropped.
        """
        try:
            self._assign_open_ranges(progress)
            while progress.open:
                self._wait(progress)
                while self._buffer:
                    message = self._buffer[0]
                    key = (message.topic() or "", message.partition() or 0)
                    error, offset, range_ = message.error(), message.offset() or 0, progress.open.get(key)
                    if error is not None:
                        self._buffer.popleft()
                        self._handle_error(key, error, offset, progress)
                    elif range_ is None:
                        self._buffer.popleft()
                    elif offset >= range_.end:
                        self._advance(key, offset, progress)
                    else:
                        progress.ends[range_.topic_partition] = self._positions[key] = offset
                        yield range_.topic_partition, message
                        self._buffer.popleft()
                        self._advance(key, offset + 1, progress)
        except GeneratorExit:
            raise
        except BaseException:
            self.close()
            raise

    def _consumer(self) -> Consumer:
        if self._client is None:
            self._client = connect_kafka(Consumer, self._config.consumer(committed_only=self._committed_only), self._background)
        return self._client

    def _assign_open_ranges(self, progress: ReadProgress) -> None:
        """Assign the open ranges. Partitions that continue at their position stay assigned, with their prefetched messages."""
        self._background.clear()
        unchanged = {key for key, range_ in progress.open.items() if self._positions.get(key) == range_.start}
        self._unassign(self._positions.keys() - unchanged)
        self._assign({key: range_.start for key, range_ in progress.open.items() if key not in unchanged})

    def _assign(self, positions: Mapping[Key, int]) -> None:
        if positions:
            with self._translated(f"assigning {positions}"):
                self._consumer().incremental_assign([KafkaPartition(*key, offset) for key, offset in positions.items()])
            self._positions |= positions

    def _unassign(self, keys: Collection[Key]) -> None:
        """Stop reading these partitions. Drop their prefetched messages, here and in the client."""
        removed = self._positions.keys() & set(keys)
        if removed:
            with self._translated(f"unassigning {removed}"):
                self._consumer().incremental_unassign([KafkaPartition(*key) for key in removed])
            self._buffer = deque(message for message in self._buffer if (message.topic(), message.partition()) not in removed)
            self._positions = {key: offset for key, offset in self._positions.items() if key not in removed}

    def _advance(self, key: Key, position: int, progress: ReadProgress) -> None:
        """Move the partition to `position`. At the end of its range unassign it, so that the client fetches no more than requested."""
        self._positions[key] = position
        progress.advance(key, position)
        if key not in progress.open:
            self._unassign({key})

    def _wait(self, progress: ReadProgress) -> None:
        """Wait until messages arrive, or until the client skipped the rest of the ranges because it holds no records."""
        client = self._consumer()
        timeout = self._config.read_timeout.total_seconds()
        deadline = time.monotonic() + timeout
        while not self._buffer and progress.open:
            with self._translated(f"reading {progress}"):
                if self._skip_offsets_without_records(client, progress):
                    deadline = time.monotonic() + timeout
                elif (first := client.poll(READER_POLL_SECONDS)) is not None:
                    self._buffer.append(first)
                    self._buffer.extend(client.consume(MAX_DRAINED, 0))
                    self._background.clear()
                elif self._background.is_authorization_error or time.monotonic() > deadline:
                    raise self._no_data_error(progress)

    def _skip_offsets_without_records(self, client: Consumer, progress: ReadProgress) -> bool:
        """Advance to the client's positions. Return whether a partition advanced.

        The client reports transaction markers and aborted records by its position only, not by a message. A newly assigned partition
        has no position until the client returned or skipped one of its offsets.
        """
        advanced = False
        for partition in client.position([KafkaPartition(*key) for key in progress.open]):
            key = (partition.topic, partition.partition)
            if partition.offset > self._positions[key]:
                self._advance(key, partition.offset, progress)
                advanced = True
        return advanced

    def _no_data_error(self, progress: ReadProgress) -> AnalyticsError:
        """Return the broker's error if there is one, for example a deleted topic. Else Unavailable, with open transactions."""
        background = self._background.error
        if background is not None:
            return kafka_error_to_analytics_error(background, self._config.brokers, f"reading {progress}")
        stable = {range_: self._watermarks(range_.topic_partition).last_stable_offset for range_ in progress.open.values()}
        blocked = [f"{range_.topic_partition} is stable up to {offset} only" for range_, offset in stable.items() if offset < range_.end]
        reason = "; ".join([f"no data arrived for {self._config.read_timeout.total_seconds():g} s", *blocked])
        open_transaction = ": a transaction is open" if blocked else ""
        return Unavailable(f"Kafka at {self._config.brokers}: reading {progress}: {reason}{open_transaction}. The next run reads again.")

    def _handle_error(self, key: Key, error: KafkaError, offset: int, progress: ReadProgress) -> None:
        """Handle an error that the client returned in place of a record."""
        range_ = progress.open.get(key)
        if range_ is None and key[0]:
            return  # of a partition that is no longer read
        if range_ is None or error.code() not in OUT_OF_RANGE | CORRUPT_DATA_ERRORS | {PARTITION_EOF}:
            raise kafka_error_to_analytics_error(error, self._config.brokers, f"reading {progress}")
        if error.code() in CORRUPT_DATA_ERRORS:
            self._handle_corrupt_batch(key, error, offset, progress)
        elif error.code() == PARTITION_EOF:
            self._advance(key, max(self._positions[key], offset), progress)
            if key in progress.open:
                self._check_log_end(range_)
        else:
            self._handle_out_of_range(key, range_, progress)

    def _handle_corrupt_batch(self, key: Key, error: KafkaError, offset: int, progress: ReadProgress) -> None:
        """End the range before the corrupt record batch.

        The client skips the batch and continues after it. No later record may be read until the outcome of the batch is known.
        """
        range_ = progress.open[key]
        if offset >= range_.end:
            self._advance(key, offset, progress)
            return
        progress.fail(key, _corrupt_batch_error(range_, max(offset, progress.ends[range_.topic_partition]), error))
        self._unassign({key})

    def _check_log_end(self, range_: Range) -> None:
        """Raise TopicRecreated if the log ends before the range. The client may just be at the end of what it fetched."""
        high = self._watermarks(range_.topic_partition).high_watermark
        if high < range_.end:
            raise _short_log_error(range_, high, f"the end of the range planned, {range_.end}")

    def _handle_out_of_range(self, key: Key, range_: Range, progress: ReadProgress) -> None:
        """Continue at the log start offset if retention removed records. Raise TopicRecreated if the log is shorter than expected."""
        position, watermarks = self._positions[key], self._watermarks(range_.topic_partition)
        if position > watermarks.high_watermark:
            raise _short_log_error(range_, watermarks.high_watermark, f"the next offset to read, {position}")
        self._unassign({key})
        start = max(position, min(watermarks.log_start_offset, range_.end))
        if start > position:
            progress.lost.append(Range(range_.topic_partition, position, start))
            progress.advance(key, start)
        elif progress.count_reposition(key) > MAX_REPOSITIONS:
            raise Unavailable(
                f"Kafka at {self._config.brokers}: {range_}: the broker refuses offset {position}, although it reports the log as "
                f"[{watermarks.log_start_offset}, {watermarks.high_watermark}). A replica may be behind. The next run reads again."
            )
        if key in progress.open:
            self._assign({key: start})

    def _translated(self, action: str) -> AbstractContextManager[None]:
        return translate_kafka_error(self._config.brokers, action, self._background)


def _short_log_error(range_: Range, high: int, expected: str) -> TopicRecreated:
    topic = range_.topic_partition.topic
    return TopicRecreated(
        f"{range_.topic_partition}: the log ends at {high}, before {expected}: the topic was created again or its log was truncated. "
        f"Run `analytics accept-recreated-topic {topic}` to continue: a topic with the same id at the end of its log, "
        "another topic from its start. Stored events stay."
    )


def _corrupt_batch_error(range_: Range, offset: int, error: KafkaError) -> CorruptRecordBatch:
    topic, partition = range_.topic_partition.topic, range_.topic_partition.partition
    return CorruptRecordBatch(
        f"{range_.topic_partition}: the record batch at offset {offset} is damaged in Kafka: {error.str()} ({error.name()}). All records "
        "before it were read. This partition waits, the others continue. Let another replica lead the partition, or restore the log "
        f"segment. If no replica has the batch intact, give it up: delete the records of {topic}, partition {partition}, up to the first "
        "offset behind it (kafka-delete-records). With ON_DATA_LOSS=continue they are recorded as lost."
    )
