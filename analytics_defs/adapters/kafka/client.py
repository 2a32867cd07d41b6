"""Configuration, error translation and logging shared by all Kafka clients."""

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

from analytics_defs.errors import AccessDenied, AnalyticsError, ResourceNotReady, SettingsError, Unavailable

LOG_REPEAT_SECONDS: Final = 30
ClientT = TypeVar("ClientT")


class RateLimitedLogFilter(logging.Filter):
    """Log filter that drops a line if any client logged it in the last 30 s. A broker outage then does not flood the log.

    Client names, milliseconds and counts of suppressed errors do not make a line different.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._logged_at: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        now = self._clock()
        self._logged_at = {line: at for line, at in self._logged_at.items() if now - at < LOG_REPEAT_SECONDS}
        line = re.sub(r"\[[^]]*\]|\d+ms|, \d+ identical error\(s\) suppressed", "", record.getMessage())
        is_new = line not in self._logged_at
        self._logged_at.setdefault(line, now)
        return is_new


logger = logging.getLogger("analytics.kafka")
"""The logger of librdkafka, which would write to stderr otherwise."""
logger.addFilter(RateLimitedLogFilter())


@dataclass(frozen=True, slots=True)
class KafkaConfig:
    """Connection, timeouts and limits of all Kafka clients."""

    brokers: str = "localhost:9092"
    client_id: str = "analytics-service"
    group_id: str = "analytics-group"
    session_timeout: timedelta = timedelta(seconds=30)
    heartbeat_interval: timedelta = timedelta(seconds=3)
    rebalance_timeout: timedelta = timedelta(seconds=60)
    request_timeout: timedelta = timedelta(seconds=10)
    """Limit of one request with all its retries."""
    read_timeout: timedelta = timedelta(seconds=30)
    """How long a read may make no progress."""
    delivery_timeout: timedelta = timedelta(seconds=30)
    """Limit for the confirmation of a published record, retries included."""
    prefetch_bytes: int = 8 * 1024 * 1024
    """Limit of fetched, unread bytes in librdkafka's queue. The reader may hold as much again, because it reads whole batches."""
    security: Mapping[str, str] = field(default_factory=dict, repr=False)
    """SASL and TLS settings in librdkafka's names (`security.protocol`, `sasl.username`, …). Contains secrets: never shown."""

    def common(self) -> dict[str, object]:
        """Return the librdkafka settings of every client."""
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
        """Return the librdkafka settings of a consumer that is assigned explicit offsets and never falls back to others."""
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
            # Queued bytes are counted after decompression, and one fetch is decompressed as a whole: keep fetches small.
            "queued.max.messages.kbytes": max(1, self.prefetch_bytes // 1024),
            "queued.min.messages": 5_000,
            "fetch.max.bytes": max(1024, self.prefetch_bytes // 32),
            "max.partition.fetch.bytes": max(1024, self.prefetch_bytes // 32),
            "message.max.bytes": max(1000, min(1_000_000, self.prefetch_bytes // 32)),
            "receive.message.max.bytes": max(100_000_000, self.prefetch_bytes),
            # A full queue is drained within milliseconds. A fetch at the end of one partition must not delay a newly assigned one.
            "fetch.queue.backoff.ms": 5,
            "fetch.wait.max.ms": 20,
            "fetch.error.backoff.ms": 100,
            "topic.metadata.propagation.max.ms": 3_000,
        }


def milliseconds(duration: timedelta) -> int:
    return round(duration.total_seconds() * 1000)


def _client_code(name: str) -> int:
    """Return an error code of librdkafka itself. These are public, although their names begin with an underscore."""
    return int(getattr(KafkaError, f"_{name}"))


ALL_BROKERS_DOWN: Final = _client_code("ALL_BROKERS_DOWN")
AUTO_OFFSET_RESET: Final = _client_code("AUTO_OFFSET_RESET")
LOG_TRUNCATION: Final = _client_code("LOG_TRUNCATION")
NO_LEADERS: Final = _client_code("NOENT")
PARTITION_EOF: Final = _client_code("PARTITION_EOF")
TIMED_OUT: Final = _client_code("TIMED_OUT")
CORRUPT_DATA_ERRORS: Final = frozenset({_client_code("BAD_MSG"), _client_code("BAD_COMPRESSION")})
MESSAGE_TIMED_OUT: Final = _client_code("MSG_TIMED_OUT")
NO_ANSWER_ERRORS: Final = frozenset({_client_code("TRANSPORT"), _client_code("RESOLVE"), ALL_BROKERS_DOWN, TIMED_OUT})
"""Errors that librdkafka raises when no broker answered."""
AUTHORIZATION_ERRORS: Final = frozenset(
    {
        _client_code("AUTHENTICATION"),
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
        _client_code("UNKNOWN_TOPIC"),
        _client_code("UNKNOWN_PARTITION"),
    }
)


class LastClientError:
    """The last error that librdkafka reported in the background since the last success. It explains why no answer arrives."""

    def __init__(self) -> None:
        self.error: KafkaError | None = None

    def record(self, error: KafkaError) -> None:
        # ALL_BROKERS_DOWN is less specific than the error of a single broker recorded before it.
        if self.error is None or error.code() != ALL_BROKERS_DOWN:
            self.error = error

    def clear(self) -> None:
        self.error = None

    @property
    def is_authorization_error(self) -> bool:
        """Return whether the credentials were refused, so that waiting does not help."""
        return self.error is not None and self.error.code() in AUTHORIZATION_ERRORS


def kafka_error_to_analytics_error(
    error: KafkaError, brokers: str, action: str, background: LastClientError | None = None
) -> AnalyticsError:
    """Return the AnalyticsError for a client error: AccessDenied, ResourceNotReady, or else Unavailable.

    A refusal in `background` takes precedence. `action` continues the sentence "Kafka at X: …".
    """
    cause = background.error if background is not None else None
    refused = background is not None and background.is_authorization_error
    detail, name = (short_message(cause), cause.name()) if refused and cause is not None else (error.str(), error.name())
    message = f"Kafka at {brokers}: {action}: {detail} ({name})"
    if error.code() in AUTHORIZATION_ERRORS or refused:
        return AccessDenied(f"{message}. Check the security settings of Kafka and the ACLs of the topics and the group.")
    if error.code() in MISSING_RESOURCE_ERRORS:
        return ResourceNotReady(f"{message}. `analytics setup` creates missing topics.")
    advice = "Check that the brokers are up and reachable from this machine. It is safe to try again."
    if _is_without_answer(error, cause):
        return Unavailable(f"Kafka at {brokers} does not answer ({short_message(cause or error)}) while {action}. {advice}")
    before = f"; before that: {short_message(cause)}" if cause is not None and cause.str() != error.str() else ""
    return Unavailable(f"{message}{before}. {advice}")


def short_message(error: KafkaError) -> str:
    """Return librdkafka's message without address, connection state and milliseconds, for example `Connection refused`."""
    return _NOISE.sub("", error.str())


_NOISE = re.compile(r"^.*\bLocal: |^(?:GroupCoordinator: )?\S+:\d+(?:/\w+)?: |Connect to \S+ failed: | \(after \d+ms.*")


def _is_without_answer(error: KafkaError, cause: KafkaError | None) -> bool:
    """Return whether no broker answered.

    An unconfirmed record proves that only together with a connection error: the brokers may be up and slow.
    """
    return error.code() in NO_ANSWER_ERRORS or (
        error.code() == MESSAGE_TIMED_OUT and cause is not None and cause.code() in NO_ANSWER_ERRORS
    )


@contextmanager
def translate_kafka_error(brokers: str, action: str, background: LastClientError | None = None) -> Iterator[None]:
    """Raise the client's errors in the block as AnalyticsError, see `kafka_error_to_analytics_error`."""
    try:
        yield
    except KafkaException as error:
        raise kafka_error_to_analytics_error(error.args[0], brokers, action, background) from error
    except TimeoutError as error:
        raise kafka_error_to_analytics_error(KafkaError(TIMED_OUT), brokers, action, background) from error


def connect_kafka(make: Callable[[dict[str, Any]], ClientT], settings: Mapping[str, object], background: LastClientError) -> ClientT:
    """Return a new client. It connects in the background, so only wrong settings fail here.

    Raise SettingsError with librdkafka's message, which names the setting and never shows a secret's value.
    """
    try:
        return make({**settings, "error_cb": background.record, "logger": logger})
    except KafkaException as error:
        raise SettingsError(f"Kafka's client refused its settings: {error.args[0].str()}") from error
