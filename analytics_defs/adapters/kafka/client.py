"""What every use of Kafka's client shares: its settings, its errors as ours, its log lines as Python's."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final, TypeVar

from confluent_kafka import KafkaError, KafkaException

from analytics_defs.errors import AccessDenied, AnalyticsError, ResourceMissing, SettingsError, Unavailable

LOG_REPEAT_SECONDS: Final = 30
ClientT = TypeVar("ClientT")


class RateLimitedLogFilter(logging.Filter):
    """Lets a line pass when it was not said in the last 30 s, whichever client says it: a broker that is down is a line, not a flood."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._said: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        now = self._clock()
        self._said = {line: at for line, at in self._said.items() if now - at < LOG_REPEAT_SECONDS}
        line = re.sub(r"\[[^]]*\]|\d+ms|, \d+ identical error\(s\) suppressed", "", record.getMessage())
        new = line not in self._said
        self._said.setdefault(line, now)
        return new


logger = logging.getLogger("analytics.kafka")
"""Kafka's client library logs here, not to stderr."""
logger.addFilter(RateLimitedLogFilter())


@dataclass(frozen=True, slots=True)
class KafkaConfig:
    """How to reach Kafka, how long to wait for it, how much to hold. A value; nothing connects by making one."""

    brokers: str = "localhost:9092"
    client_id: str = "analytics-service"
    group_id: str = "analytics-group"
    session_timeout: timedelta = timedelta(seconds=30)
    heartbeat_interval: timedelta = timedelta(seconds=3)
    rebalance_timeout: timedelta = timedelta(seconds=60)
    request_timeout: timedelta = timedelta(seconds=10)
    """One request with all its retries."""
    read_timeout: timedelta = timedelta(seconds=30)
    """How long a reading may go without getting any further."""
    delivery_timeout: timedelta = timedelta(seconds=30)
    """How long a published record may wait for its confirmation, retries included."""
    prefetch_bytes: int = 8 * 1024 * 1024
    """Fetched and not yet read, whatever the backlog. As much again may be in the reader's hands, and batches are taken whole."""
    security: Mapping[str, str] = field(default_factory=dict, repr=False)
    """SASL and TLS, in the names of librdkafka (`security.protocol`, `sasl.username`, …). Holds secrets: never shown."""

    def common(self) -> dict[str, object]:
        """Settings of every client."""
        return {
            "bootstrap.servers": self.brokers,
            "client.id": self.client_id,
            "socket.timeout.ms": milliseconds(self.request_timeout),
            "socket.connection.setup.timeout.ms": max(1000, milliseconds(self.request_timeout)),
            "reconnect.backoff.max.ms": 2_000,
            "log.connection.close": False,
            "allow.auto.create.topics": False,
            **self.security,
        }

    def consumer(self, *, committed_only: bool) -> dict[str, object]:
        """Settings of a consumer that reads where it is told to, and nothing else decides where."""
        return self.common() | {
            "group.id": self.group_id,
            "session.timeout.ms": milliseconds(self.session_timeout),
            "heartbeat.interval.ms": milliseconds(self.heartbeat_interval),
            "max.poll.interval.ms": milliseconds(max(self.rebalance_timeout, self.session_timeout)),
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "error",
            "enable.partition.eof": True,
            "isolation.level": "read_committed" if committed_only else "read_uncommitted",
            "check.crcs": True,
            # Counted after decompression, so that what one answer may hold is small: it is decompressed at once.
            "queued.max.messages.kbytes": max(1, self.prefetch_bytes // 1024),
            "queued.min.messages": 5_000,
            "fetch.max.bytes": max(1024, self.prefetch_bytes // 32),
            "max.partition.fetch.bytes": max(1024, self.prefetch_bytes // 32),
            "message.max.bytes": max(1000, min(1_000_000, self.prefetch_bytes // 32)),
            "receive.message.max.bytes": max(100_000_000, self.prefetch_bytes),
            # A full queue is drained in milliseconds, a partition at its end must not delay one that was just added.
            "fetch.queue.backoff.ms": 5,
            "fetch.wait.max.ms": 20,
            "fetch.error.backoff.ms": 100,
            "topic.metadata.propagation.max.ms": 3_000,
        }


def milliseconds(duration: timedelta) -> int:
    return round(duration.total_seconds() * 1000)


def _of_the_library(name: str) -> int:
    """An error code of the client library itself: public, although the names begin with an underscore."""
    return int(getattr(KafkaError, f"_{name}"))


ALL_BROKERS_DOWN: Final = _of_the_library("ALL_BROKERS_DOWN")
AUTO_OFFSET_RESET: Final = _of_the_library("AUTO_OFFSET_RESET")
LOG_TRUNCATION: Final = _of_the_library("LOG_TRUNCATION")
NO_LEADERS: Final = _of_the_library("NOENT")
PARTITION_EOF: Final = _of_the_library("PARTITION_EOF")
TIMED_OUT: Final = _of_the_library("TIMED_OUT")
CORRUPT_DATA_ERRORS: Final = frozenset({_of_the_library("BAD_MSG"), _of_the_library("BAD_COMPRESSION")})
MESSAGE_TIMED_OUT: Final = _of_the_library("MSG_TIMED_OUT")
NO_ANSWER_ERRORS: Final = frozenset({_of_the_library("TRANSPORT"), _of_the_library("RESOLVE"), ALL_BROKERS_DOWN, TIMED_OUT})
"""What the library says where no broker said anything."""
AUTHORIZATION_ERRORS: Final = frozenset(
    {
        _of_the_library("AUTHENTICATION"),
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.DELEGATION_TOKEN_AUTHORIZATION_FAILED,
        KafkaError.DELEGATION_TOKEN_EXPIRED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.ILLEGAL_SASL_STATE,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
        KafkaError.UNSUPPORTED_SASL_MECHANISM,
    }
)
MISSING_RESOURCE_ERRORS: Final = frozenset(
    {
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.UNKNOWN_TOPIC_ID,
        NO_LEADERS,
        _of_the_library("UNKNOWN_TOPIC"),
        _of_the_library("UNKNOWN_PARTITION"),
    }
)


class LastClientError:
    """What the client complained about by itself since the last success: why nothing arrives."""

    def __init__(self) -> None:
        self.last: KafkaError | None = None

    def record(self, error: KafkaError) -> None:
        # That all brokers are down says less than the fault that was noted for one of them.
        if self.last is None or error.code() != ALL_BROKERS_DOWN:
            self.last = error

    def clear(self) -> None:
        self.last = None

    @property
    def authentication_error(self) -> bool:
        """Whether waiting is in vain."""
        return self.last is not None and self.last.code() in AUTHORIZATION_ERRORS


def kafka_error_to_analytics_error(error: KafkaError, brokers: str, doing: str, faults: LastClientError | None = None) -> AnalyticsError:
    """The error of our tree for an error of Kafka's client. Everything that is neither a refusal nor missing may pass by itself."""
    fault = faults.last if faults is not None else None
    refused = faults is not None and faults.authentication_error
    said, name = (short_message(fault), fault.name()) if refused and fault is not None else (error.str(), error.name())
    found = f"Kafka at {brokers}: {doing}: {said} ({name})"
    if error.code() in AUTHORIZATION_ERRORS or refused:
        return AccessDenied(f"{found}. Check the security settings of Kafka and the ACLs of the topics and the group.")
    if error.code() in MISSING_RESOURCE_ERRORS:
        return ResourceMissing(f"{found}. `analytics setup` creates the topics that are missing.")
    advice = "check that the brokers are up and reachable from here; asking again does no harm."
    if _nobody_answered(error, fault):
        return Unavailable(f"Kafka at {brokers} does not answer ({short_message(fault or error)}) while {doing}: {advice}")
    before = f"; before that: {short_message(fault)}" if fault is not None and fault.str() != error.str() else ""
    return Unavailable(f"{found}{before}. {advice.capitalize()}")


def short_message(error: KafkaError) -> str:
    """The library's words without address, state and milliseconds: `Connection refused`."""
    return _NOISE.sub("", error.str())


_NOISE = re.compile(r"^.*\bLocal: |^(?:GroupCoordinator: )?\S+:\d+(?:/\w+)?: |Connect to \S+ failed: | \(after \d+ms.*")


def _nobody_answered(error: KafkaError, fault: KafkaError | None) -> bool:
    """A record that was not confirmed in time tells it only together with a fault of the connection: brokers may be up and slow."""
    return error.code() in NO_ANSWER_ERRORS or (
        error.code() == MESSAGE_TIMED_OUT and fault is not None and fault.code() in NO_ANSWER_ERRORS
    )


@contextmanager
def translate_kafka_error(brokers: str, doing: str, faults: LastClientError | None = None) -> Iterator[None]:
    """The one place where errors of Kafka's client become ours."""
    try:
        yield
    except KafkaException as error:
        raise kafka_error_to_analytics_error(error.args[0], brokers, doing, faults) from error
    except TimeoutError as error:
        raise kafka_error_to_analytics_error(KafkaError(TIMED_OUT), brokers, doing, faults) from error


def connect_kafka(make: Callable[[dict[str, Any]], ClientT], settings: Mapping[str, object], faults: LastClientError) -> ClientT:
    """A client of the library. It connects in the background, so that only wrong settings fail here.

    Raises SettingsError with the library's words, which name the setting and never a secret's value.
    """
    try:
        return make({**settings, "error_cb": faults.record, "logger": logger})
    except KafkaException as error:
        raise SettingsError(f"Kafka's client refused its settings: {error.args[0].str()}") from error
