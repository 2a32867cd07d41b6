"""Brokers that are down, never answer or refuse; errors, log lines and secrets."""

from __future__ import annotations

import logging
import re
import select
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from datetime import timedelta

import pytest
from confluent_kafka import KafkaError, KafkaException

from analytics_defs.adapters.kafka.admin import KafkaAdmin
from analytics_defs.adapters.kafka.client import (
    ALL_BROKERS_DOWN,
    AUTHORIZATION_ERRORS,
    MESSAGE_TIMED_OUT,
    MISSING_RESOURCE_ERRORS,
    NO_ANSWER_ERRORS,
    KafkaConfig,
    LastClientError,
    RateLimitedLogFilter,
    kafka_error_to_analytics_error,
    short_message,
    translate_kafka_error,
)
from analytics_defs.adapters.kafka.event_log import KafkaEventLog
from analytics_defs.adapters.kafka.producer import KafkaProducer
from analytics_defs.adapters.kafka.topic_config import TopicSpec
from analytics_defs.core.offsets import Range, TopicPartition
from analytics_defs.errors import AccessDenied, AnalyticsError, ResourceNotReady, SettingsError, Unavailable
from tests.adapters.kafka.scripted_kafka import broker_that_is_down, broker_that_never_answers, broker_that_refuses_credentials

PARTITION = TopicPartition("ProductCreated", 0, 3)
PASSWORD = "hunter2-is-a-secret"
TIMEOUT = timedelta(milliseconds=400)
CALLS: dict[str, Callable[[KafkaEventLog], object]] = {
    "topics": lambda log: log.topics(["ProductCreated"]),
    "watermarks": lambda log: log.watermarks([PARTITION]),
    "read": lambda log: log.read([Range(PARTITION, 100, 200)], bool),
    "explain": lambda log: log.explain_gaps([Range(PARTITION, 100, 200)]),
    "committed": lambda log: log.committed([PARTITION]),
    "commit": lambda log: log.commit({PARTITION: 7}),
}


def config_of(brokers: str, **security: str) -> KafkaConfig:
    return KafkaConfig(brokers, request_timeout=TIMEOUT, read_timeout=TIMEOUT, delivery_timeout=TIMEOUT, security=security)


def sasl(brokers: str) -> KafkaConfig:
    settings = {
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanism": "PLAIN",
        "sasl.username": "analytics",
        "sasl.password": PASSWORD,
    }
    return config_of(brokers, **settings)


@contextmanager
def event_log(config: KafkaConfig) -> Iterator[KafkaEventLog]:
    log = KafkaEventLog(config)
    try:
        yield log
    finally:
        log.close()


def error_codes() -> list[tuple[str, int]]:
    codes = sorted((name, code) for name, code in vars(KafkaError).items() if isinstance(code, int) and name.lstrip("_").isupper())
    assert len(codes) > 150
    return codes


def failure(call: Callable[[KafkaEventLog], object], log: KafkaEventLog) -> tuple[str, bool]:
    """Return the error's message and `retryable`, not the error itself.

    Its traceback would keep dropped clients alive, and the time of their end belongs to the call.
    """
    try:
        call(log)
    except Unavailable as error:
        return str(error), error.retryable
    return "no failure", False


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("broker", [broker_that_is_down, broker_that_never_answers])
def test_every_call_to_an_unresponsive_broker_ends_in_time(broker: Callable[[], AbstractContextManager[str]], call: str) -> None:
    with broker() as address, event_log(config_of(address)) as log:
        started = time.monotonic()
        message, retryable = failure(CALLS[call], log)
        assert time.monotonic() - started < 10 * TIMEOUT.total_seconds()
        assert message.startswith(f"Kafka at {address} does not answer (")
        assert retryable


@pytest.mark.parametrize("call", CALLS)
def test_an_unresponsive_broker_is_reported_in_one_sentence_with_the_cause(call: str) -> None:
    with broker_that_is_down() as address, event_log(config_of(address)) as log:
        message, _ = failure(CALLS[call], log)
    assert re.fullmatch(
        rf"Kafka at {address} does not answer \(Connection refused\) while [a-z]+ing .+\. "
        r"Check that the brokers are up and reachable from this machine\. It is safe to try again\.",
        message,
    )
    assert not re.search(r"Local:|_[A-Z]+|bootstrap|ipv4|\dms|before that", message)


MESSAGES = {
    "127.0.0.1:1/bootstrap: Connect to ipv4#127.0.0.1:1 failed: Connection refused (after 0ms in state CONNECT)": "Connection refused",
    "[::1]:1/7: Connect to ipv6#[::1]:1 failed: Connection refused (after 3ms in state CONNECT, 2 identical error(s) suppressed)": (
        "Connection refused"
    ),
    "sasl_ssl://kafka:9092/bootstrap: SASL authentication error: denied (after 0ms in state AUTH_REQ)": "SASL authentication error: denied",
    "GroupCoordinator: kafka:9092: Disconnected (after 12ms in state UP)": "Disconnected",
    "ProductCreated/3: Failed to query partition leaders: Local: Timed out": "Timed out",
    "Failed to resolve 'kafka:9092': Name or service not known (after 0ms in state CONNECT)": (
        "Failed to resolve 'kafka:9092': Name or service not known"
    ),
    "ProductCreated/3: Broker: Unknown topic or partition": "ProductCreated/3: Broker: Unknown topic or partition",
}


@pytest.mark.parametrize("message", MESSAGES)
def test_the_short_message_keeps_the_cause(message: str) -> None:
    assert short_message(KafkaError(KafkaError.UNKNOWN, message)) == MESSAGES[message]


def test_an_unconfirmed_record_means_no_answer_only_after_a_connection_error() -> None:
    timed_out, background = KafkaError(MESSAGE_TIMED_OUT), LastClientError()
    assert "does not answer" not in str(kafka_error_to_analytics_error(timed_out, "b", "publishing", background))
    background.record(KafkaError(ALL_BROKERS_DOWN))
    assert str(kafka_error_to_analytics_error(timed_out, "b", "publishing", background)).startswith("Kafka at b does not answer (")


def test_a_read_without_data_reports_offsets_and_cause() -> None:
    with broker_that_is_down() as address, event_log(config_of(address)) as log, pytest.raises(Unavailable) as raised:
        log.read([Range(PARTITION, 100, 200)], bool)
    assert all(part in str(raised.value) for part in (address, "ProductCreated/3[100,200) at 100", "Connection refused"))


def test_a_broker_that_is_down_gives_one_log_line_and_none_on_stderr(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with broker_that_is_down() as address, event_log(config_of(address)) as log:
        for call in CALLS.values():
            with pytest.raises(Unavailable):
                call(log)
        assert len([line for line in caplog.messages if "Connection refused" in line and address in line]) == 1
    assert capfd.readouterr().err == ""


def test_a_line_is_logged_again_after_half_a_minute() -> None:
    now = [0.0]
    log_filter = RateLimitedLogFilter(lambda: now[0])

    def passes(text: str) -> bool:
        return bool(log_filter.filter(logging.LogRecord("analytics.kafka", logging.ERROR, "", 0, text, (), None)))

    assert passes("FAIL [client#1] broker:9092 refused (after 3ms)")
    now[0] = 29
    assert not passes("FAIL [client#2] broker:9092 refused (after 17ms)")
    assert not passes("FAIL [client#2] broker:9092 refused (after 17ms, 1 identical error(s) suppressed)")
    assert passes("FAIL [client#2] other:9092 refused (after 17ms)")
    now[0] = 31
    assert passes("FAIL [client#1] broker:9092 refused (after 0ms)")


@pytest.mark.parametrize("call", ["topics", "read"])
def test_refused_credentials_are_denied_and_never_shown(call: str, caplog: pytest.LogCaptureFixture) -> None:
    with (
        broker_that_refuses_credentials() as address,
        event_log(sasl(address)) as log,
        pytest.raises(AccessDenied, match="denied") as raised,
    ):
        CALLS[call](log)
    assert not raised.value.retryable
    assert PASSWORD not in "\n".join([str(raised.value), str(raised.value.__cause__), repr(sasl(address)), *caplog.messages])


def test_refused_credentials_fail_a_publish_before_the_delivery_timeout() -> None:
    with broker_that_refuses_credentials() as address:
        producer = KafkaProducer(replace(sasl(address), delivery_timeout=timedelta(minutes=10)))
        with pytest.raises(AccessDenied, match="denied"):
            producer.publish([("ProductCreated", None, b"{}", ())])


def test_wrong_settings_are_named_without_secrets() -> None:
    for wrong in ({"security.protocol": "NO-SUCH"}, {"no.such.setting": "1"}, {"ssl.key.pem": PASSWORD, "security.protocol": "SSL"}):
        config = config_of("localhost:9092", **({"sasl.password": PASSWORD} | wrong))
        for call in ("topics", "read"):
            with event_log(config) as log, pytest.raises(SettingsError) as raised:
                CALLS[call](log)
            assert any(name in str(raised.value) for name in wrong)
            assert PASSWORD not in str(raised.value)


def test_nothing_connects_before_it_is_used() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = config_of(f"127.0.0.1:{listener.getsockname()[1]}")
        log = KafkaEventLog(config)
        assert log.read([Range(PARTITION, 5, 5)], bool).ends == {PARTITION: 5}
        assert (log.topics([]), log.watermarks([]), log.committed([]), log.explain_gaps([])) == ({}, {}, {}, ())
        log.commit({})
        log.close()
        assert KafkaAdmin(config).create_topics([]) == []
        KafkaProducer(config).close()
        assert select.select([listener], [], [], 0.2)[0] == []


def test_every_client_error_becomes_an_analytics_error() -> None:
    for name, code in error_codes():
        translated = kafka_error_to_analytics_error(KafkaError(code), "broker:9092", "reading ProductCreated/3")
        expected = AccessDenied if code in AUTHORIZATION_ERRORS else ResourceNotReady if code in MISSING_RESOURCE_ERRORS else Unavailable
        assert type(translated) is expected
        assert translated.retryable == (expected is Unavailable)
        assert all(
            part in str(translated)
            for part in ("broker:9092", "reading ProductCreated/3", "does not answer" if code in NO_ANSWER_ERRORS else name)
        )
        is_refusal = "AUTHORIZATION_FAILED" in name or "AUTHENTICATION" in name
        assert not is_refusal or expected is AccessDenied, name


def test_an_earlier_refusal_explains_a_timeout() -> None:
    background = LastClientError()
    background.record(KafkaError(KafkaError.SASL_AUTHENTICATION_FAILED, "wrong password"))
    background.record(KafkaError(KafkaError.NETWORK_EXCEPTION, "gone"))
    assert isinstance(kafka_error_to_analytics_error(KafkaError(KafkaError.REQUEST_TIMED_OUT), "b", "testing", background), Unavailable)
    background.record(KafkaError(KafkaError.SASL_AUTHENTICATION_FAILED, "wrong password"))
    assert isinstance(kafka_error_to_analytics_error(KafkaError(KafkaError.REQUEST_TIMED_OUT), "b", "testing", background), AccessDenied)
    background.clear()
    assert isinstance(kafka_error_to_analytics_error(KafkaError(KafkaError.REQUEST_TIMED_OUT), "b", "testing", background), Unavailable)


def test_translation_keeps_the_cause_and_passes_other_errors() -> None:
    cause = KafkaException(KafkaError(KafkaError.BROKER_NOT_AVAILABLE))
    with pytest.raises(Unavailable) as raised, translate_kafka_error("b", "testing"):
        raise cause
    assert raised.value.__cause__ is cause
    with pytest.raises(Unavailable), translate_kafka_error("b", "testing"):
        raise TimeoutError
    with pytest.raises(ArithmeticError), translate_kafka_error("b", "testing"):
        raise ArithmeticError


def test_a_request_is_retried_only_while_leaders_change() -> None:
    admin = KafkaAdmin(config_of("127.0.0.1:1"))
    codes = [KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.NOT_COORDINATOR, None]

    def request(_: object) -> str:
        code = codes.pop(0)
        if code is not None:
            raise KafkaException(KafkaError(code))
        return "result"

    assert admin._send("testing", request) == "result"
    codes += [KafkaError.INVALID_REQUEST, None]
    with pytest.raises(AnalyticsError, match="INVALID_REQUEST"):
        admin._send("testing", request)
    assert codes == [None]
    admin.close()


def test_creating_topics_on_a_broker_that_is_down_ends_in_time() -> None:
    with broker_that_is_down() as address, pytest.raises(Unavailable, match="creating the topic ProductCreated"):
        KafkaAdmin(config_of(address)).create_topics([TopicSpec("ProductCreated", 4)])
