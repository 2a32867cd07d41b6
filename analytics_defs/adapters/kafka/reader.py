"""Reading ranges of offsets with one consumer: by position, never by count, and never past the end of a range."""

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
"""One wait for messages. Short, so that signals are served and positions are looked at."""
MAX_DRAINED = 1_000
"""Messages taken from the client's queue at once: its lock and Python's are paid once for all of them."""
MAX_PLACEMENTS = 3
"""How often a partition is placed anew because the broker refused an offset that lies inside its log."""
OUT_OF_RANGE: Final = frozenset({AUTO_OFFSET_RESET, LOG_TRUNCATION, KafkaError.OFFSET_OUT_OF_RANGE})


class KafkaReader:
    """A consumer that is told where to read. Made on first use. Used by one thread at a time.

    What it prefetched stays for the next pass, as long as that goes on where this one stopped. Memory: twice the prefetch at most.
    """

    def __init__(self, config: KafkaConfig, watermarks: Callable[[TopicPartition], Watermarks], *, committed_only: bool) -> None:
        self._config = config
        self._watermarks = watermarks
        self._committed_only = committed_only
        self._faults = LastClientError()
        self._client: Consumer | None = None
        self._taken: deque[Message] = deque()
        """Taken from the client and not yet given, in the client's order."""
        self._at: dict[Key, int] = {}
        """The partitions the client reads, each with the offset from which `_taken` and the client go on."""

    def close(self) -> None:
        """Let go of the connections. A later pass makes new ones."""
        client, self._client = self._client, None
        self._taken.clear()
        self._at.clear()
        if client is not None:
            client.close()

    def read(self, ranges: Sequence[Range], admit: Callable[[Record], bool]) -> ReadResult:
        """See `ports.EventLog.read`."""
        passage = ReadProgress(ranges)
        records: dict[TopicPartition, list[Record]] = {each.topic_partition: [] for each in ranges}
        with closing(self.read_messages(passage)) as messages:
            for topic_partition, message in messages:
                record = to_record(topic_partition, message)
                if not admit(record):
                    break
                records[topic_partition].append(record)
        given = tuple(chain.from_iterable(records[each] for each in sorted(records)))
        return ReadResult(given, passage.ends, tuple(passage.lost), passage.faults)

    def read_messages(self, passage: ReadProgress) -> Generator[tuple[TopicPartition, Message], None, None]:
        """The records of the open ranges, by partition in the order of offsets, until all ranges are read or end with a fault.

        Who stops early gets the last message again in the next pass; it is not counted as read.
        Raises Unavailable when nothing arrives for the read timeout. After a raise nothing prefetched is kept.
        """
        try:
            self._place(passage)
            while passage.open:
                self._wait(passage)
                while self._taken:
                    message = self._taken[0]
                    key = (message.topic() or "", message.partition() or 0)
                    error, offset, whole = message.error(), message.offset() or 0, passage.open.get(key)
                    if error is not None:
                        self._taken.popleft()
                        self._event(key, error, offset, passage)
                    elif whole is None:
                        self._taken.popleft()
                    elif offset >= whole.end:
                        self._reached(key, offset, passage)
                    else:
                        passage.ends[whole.topic_partition] = self._at[key] = offset
                        yield whole.topic_partition, message
                        self._taken.popleft()
                        self._reached(key, offset + 1, passage)
        except GeneratorExit:
            raise
        except BaseException:
            self.close()
            raise

    def _consumer(self) -> Consumer:
        if self._client is None:
            self._client = connect_kafka(Consumer, self._config.consumer(committed_only=self._committed_only), self._faults)
        return self._client

    def _place(self, passage: ReadProgress) -> None:
        """Put the client on the open ranges; those that go on where it stands stay as they are."""
        self._faults.clear()
        staying = {key for key, whole in passage.open.items() if self._at.get(key) == whole.start}
        self._set_aside(self._at.keys() - staying)
        self._assign({key: whole.start for key, whole in passage.open.items() if key not in staying})

    def _assign(self, positions: Mapping[Key, int]) -> None:
        if positions:
            with self._translated(f"assigning {positions}"):
                self._consumer().incremental_assign([KafkaPartition(*key, offset) for key, offset in positions.items()])
            self._at |= positions

    def _set_aside(self, keys: Collection[Key]) -> None:
        """Read these partitions no further. What was prefetched of them is dropped, here and in the client."""
        gone = self._at.keys() & set(keys)
        if gone:
            with self._translated(f"unassigning {gone}"):
                self._consumer().incremental_unassign([KafkaPartition(*key) for key in gone])
            self._taken = deque(each for each in self._taken if (each.topic(), each.partition()) not in gone)
            self._at = {key: offset for key, offset in self._at.items() if key not in gone}

    def _reached(self, key: Key, position: int, passage: ReadProgress) -> None:
        """Go on from here, or no further: nobody idle asks the broker for more than was wanted."""
        self._at[key] = position
        passage.reached(key, position)
        if key not in passage.open:
            self._set_aside({key})

    def _wait(self, passage: ReadProgress) -> None:
        """Until messages arrived, or the client passed over what was left without giving any."""
        client = self._consumer()
        patience = self._config.read_timeout.total_seconds()
        deadline = time.monotonic() + patience
        while not self._taken and passage.open:
            with self._translated(f"reading {passage}"):
                if self._passed_over(client, passage):
                    deadline = time.monotonic() + patience
                elif (first := client.poll(READER_POLL_SECONDS)) is not None:
                    self._taken.append(first)
                    self._taken.extend(client.consume(MAX_DRAINED, 0))
                    self._faults.clear()
                elif self._faults.authentication_error or time.monotonic() > deadline:
                    raise self._nothing_arrived(passage)

    def _passed_over(self, client: Consumer, passage: ReadProgress) -> bool:
        """Whether the client moved on over offsets without records: its position follows markers and aborted records, no message tells.

        A partition that was just placed has no position until the client gave or passed over something of it.
        """
        moved = False
        for each in client.position([KafkaPartition(*key) for key in passage.open]):
            key = (each.topic, each.partition)
            if each.offset > self._at[key]:
                self._reached(key, each.offset, passage)
                moved = True
        return moved

    def _nothing_arrived(self, passage: ReadProgress) -> AnalyticsError:
        """Raises what the broker says itself, where it says something: that the topic is gone, for one."""
        fault = self._faults.last
        if fault is None:
            stable = {each: self._watermarks(each.topic_partition).last_stable_offset for each in passage.open.values()}
            held = [f"{each.topic_partition} is stable up to {offset} only" for each, offset in stable.items() if offset < each.end]
            found = "; ".join([f"nothing arrived for {self._config.read_timeout.total_seconds():g} s", *held])
            open_transaction = ": a transaction is open" if held else ""
            return Unavailable(f"Kafka at {self._config.brokers}: reading {passage}: {found}{open_transaction}. The next run reads again.")
        return kafka_error_to_analytics_error(fault, self._config.brokers, f"reading {passage}")

    def _event(self, key: Key, error: KafkaError, offset: int, passage: ReadProgress) -> None:
        """What the client says between records."""
        whole = passage.open.get(key)
        if whole is None and key[0]:
            return  # of a partition that is read no further: too late
        if whole is None or error.code() not in OUT_OF_RANGE | CORRUPT_DATA_ERRORS | {PARTITION_EOF}:
            raise kafka_error_to_analytics_error(error, self._config.brokers, f"reading {passage}")
        if error.code() in CORRUPT_DATA_ERRORS:
            self._damaged(key, error, offset, passage)
        elif error.code() == PARTITION_EOF:
            self._reached(key, max(self._at[key], offset), passage)
            if key in passage.open:
                self._check_end(whole)
        else:
            self._out_of_range(key, whole, passage)

    def _damaged(self, key: Key, error: KafkaError, offset: int, passage: ReadProgress) -> None:
        """The client skips a damaged record batch and goes on behind it; nothing behind it may be taken before what it held is known."""
        whole = passage.open[key]
        if offset >= whole.end:
            self._reached(key, offset, passage)
            return
        passage.ended(key, _unreadable(whole, max(offset, passage.ends[whole.topic_partition]), error))
        self._set_aside({key})

    def _check_end(self, whole: Range) -> None:
        """The client met the end of the log before the end of the range: fine only while the broker says there is more."""
        high = self._watermarks(whole.topic_partition).high_watermark
        if high < whole.end:
            raise _cut_off(whole, high, f"the end of the range planned, {whole.end}")

    def _out_of_range(self, key: Key, whole: Range, passage: ReadProgress) -> None:
        """The broker has no such offset: retention was faster, or the log is another one."""
        position, marks = self._at[key], self._watermarks(whole.topic_partition)
        if position > marks.high_watermark:
            raise _cut_off(whole, marks.high_watermark, f"the next offset to read, {position}")
        self._set_aside({key})
        start = max(position, min(marks.log_start_offset, whole.end))
        if start > position:
            passage.lost.append(Range(whole.topic_partition, position, start))
            passage.reached(key, start)
        elif passage.reposition(key) > MAX_PLACEMENTS:
            raise Unavailable(
                f"Kafka at {self._config.brokers}: {whole}: the broker refuses offset {position}, although it says that the log "
                f"has [{marks.log_start_offset}, {marks.high_watermark}). A replica may be behind: the next run reads again."
            )
        if key in passage.open:
            self._assign({key: start})

    def _translated(self, doing: str) -> AbstractContextManager[None]:
        return translate_kafka_error(self._config.brokers, doing, self._faults)


def _cut_off(whole: Range, high: int, expected: str) -> TopicRecreated:
    topic = whole.topic_partition.topic
    return TopicRecreated(
        f"{whole.topic_partition}: the log ends at {high}, before {expected}: the topic was created again or its log was cut. "
        f"Run `analytics accept-recreated-topic {topic}` to read the new one from its start; what was stored stays."
    )


def _unreadable(whole: Range, offset: int, error: KafkaError) -> CorruptRecordBatch:
    topic, partition = whole.topic_partition.topic, whole.topic_partition.partition
    return CorruptRecordBatch(
        f"{whole.topic_partition}: the record batch at offset {offset} is damaged in Kafka: {error.str()} ({error.name()}). What lies "
        "before it was read; this partition waits, the others go on. Let another replica lead the partition, or restore the log segment. "
        f"Where no replica has the batch whole, give it up: remove the records of {topic}, partition {partition}, up to the first offset "
        "behind it (kafka-delete-records), and with ON_DATA_LOSS=continue they are recorded as lost."
    )
