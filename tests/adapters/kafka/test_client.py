"""Brokers that are down, silent or refuse; errors, log lines and secrets."""

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
from analytics_defs.errors import AccessDenied, AnalyticsError, ResourceMissing, SettingsError, Unavailable
from tests.adapters.kafka.scripted_kafka import broker_that_is_down, broker_that_never_answers, broker_that_refuses_credentials

PARTITION = TopicPartition("ProductCreated", 0, 3)
PASSWORD = "hunter2-is-a-secret"
IMPATIENCE = timedelta(milliseconds=400)
CALLS: dict[str, Callable[[KafkaEventLog], object]] = {
    "topics": lambda log: log.topics(["ProductCreated"]),
    "watermarks": lambda log: log.watermarks([PARTITION]),
    "read": lambda log: log.read([Range(PARTITION, 100, 200)], bool),
    "explain": lambda log: log.explain_gaps([Range(PARTITION, 100, 200)]),
    "committed": lambda log: log.committed([PARTITION]),
    "commit": lambda log: log.commit({PARTITION: 7}),
}


def impatient(brokers: str, **security: str) -> KafkaConfig:
    return KafkaConfig(brokers, request_timeout=IMPATIENCE, read_timeout=IMPATIENCE, delivery_timeout=IMPATIENCE, security=security)


def sasl(brokers: str) -> KafkaConfig:
    settings = {
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanism": "PLAIN",
        "sasl.username": "analytics",
        "sasl.password": PASSWORD,
    }
    return impatient(brokers, **settings)


@contextmanager
def using(config: KafkaConfig) -> Iterator[KafkaEventLog]:
    log = KafkaEventLog(config)
    try:
        yield log
    finally:
        log.close()


def codes() -> list[tuple[str, int]]:
    found = sorted((name, code) for name, code in vars(KafkaError).items() if isinstance(code, int) and name.lstrip("_").isupper())
    assert len(found) > 150
    return found


def failure(call: Callable[[KafkaEventLog], object], log: KafkaEventLog) -> tuple[str, bool]:
    """The error's words, and whether it is retryable; not the error: with its traceback go the clients that it dropped, and what their
    end takes belongs to the call.
    """
    try:
        call(log)
    except Unavailable as error:
        return str(error), error.retryable
    return "no failure", False


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("broker", [broker_that_is_down, broker_that_never_answers])
def test_every_call_to_a_broker_that_does_not_answer_ends_in_time(broker: Callable[[], AbstractContextManager[str]], call: str) -> None:
    with broker() as address, using(impatient(address)) as log:
        started = time.monotonic()
        message, retryable = failure(CALLS[call], log)
        assert time.monotonic() - started < 10 * IMPATIENCE.total_seconds()
        assert message.startswith(f"Kafka at {address} does not answer (")
        assert retryable


@pytest.mark.parametrize("call", CALLS)
def test_where_nobody_answers_one_sentence_says_so_and_why(call: str) -> None:
    with broker_that_is_down() as address, using(impatient(address)) as log:
        message, _ = failure(CALLS[call], log)
    assert re.fullmatch(
        rf"Kafka at {address} does not answer \(Connection refused\) while [a-z]+ing .+: "
        r"check that the brokers are up and reachable from here; asking again does no harm\.",
        message,
    )
    assert not re.search(r"Local:|_[A-Z]+|bootstrap|ipv4|\dms|before that", message)


SAID = {
    "127.0.0.1:1/bootstrap: Connect to ipv4#127.0.0.1:1 failed: Connection refused (after 0ms in state CONNECT)": "Connection refused",
    "[::1]:1/7: Connect to ipv6#[::1]:1 failed: Connection refused (after 3ms in state CONNECT, 2 identical error(s) suppressed)": (
        "Connection refused"
    ),
    "sasl_ssl://kafka:9092/bootstrap: SASL authentication error: not us (after 0ms in state AUTH_REQ)": "SASL authentication error: not us",
    "GroupCoordinator: kafka:9092: Disconnected (after 12ms in state UP)": "Disconnected",
    "ProductCreated/3: Failed to query partition leaders: Local: Timed out": "Timed out",
    "Failed to resolve 'kafka:9092': Name or service not known (after 0ms in state CONNECT)": (
        "Failed to resolve 'kafka:9092': Name or service not known"
    ),
    "ProductCreated/3: Broker: Unknown topic or partition": "ProductCreated/3: Broker: Unknown topic or partition",
}


@pytest.mark.parametrize("said", SAID)
def test_of_the_library_s_words_the_cause_stays(said: str) -> None:
    assert short_message(KafkaError(KafkaError.UNKNOWN, said)) == SAID[said]


def test_a_record_that_is_not_confirmed_in_time_means_silent_brokers_only_where_a_connection_failed() -> None:
    late, faults = KafkaError(MESSAGE_TIMED_OUT), LastClientError()
    assert "does not answer" not in str(kafka_error_to_analytics_error(late, "b", "publishing", faults))
    faults.record(KafkaError(ALL_BROKERS_DOWN))
    assert str(kafka_error_to_analytics_error(late, "b", "publishing", faults)).startswith("Kafka at b does not answer (")


def test_a_reading_that_gets_nothing_says_which_offsets_and_why() -> None:
    with broker_that_is_down() as address, using(impatient(address)) as log, pytest.raises(Unavailable) as raised:
        log.read([Range(PARTITION, 100, 200)], bool)
    assert all(part in str(raised.value) for part in (address, "ProductCreated/3[100,200) at 100", "Connection refused"))


def test_a_broker_that_is_down_is_one_line_in_the_log_and_none_on_stderr(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with broker_that_is_down() as address, using(impatient(address)) as log:
        for call in CALLS.values():
            with pytest.raises(Unavailable):
                call(log)
        assert len([line for line in caplog.messages if "Connection refused" in line and address in line]) == 1
    assert capfd.readouterr().err == ""


def test_a_line_is_said_again_when_half_a_minute_has_passed() -> None:
    now = [0.0]
    said = RateLimitedLogFilter(lambda: now[0])

    def passes(text: str) -> bool:
        return bool(said.filter(logging.LogRecord("analytics.kafka", logging.ERROR, "", 0, text, (), None)))

    assert passes("FAIL [client#1] broker:9092 refused (after 3ms)")
    now[0] = 29
    assert not passes("FAIL [client#2] broker:9092 refused (after 17ms)")
    assert not passes("FAIL [client#2] broker:9092 refused (after 17ms, 1 identical error(s) suppressed)")
    assert passes("FAIL [client#2] other:9092 refused (after 17ms)")
    now[0] = 31
    assert passes("FAIL [client#1] broker:9092 refused (after 0ms)")


@pytest.mark.parametrize("call", ["topics", "read"])
def test_refused_credentials_are_denied_and_shown_nowhere(call: str, caplog: pytest.LogCaptureFixture) -> None:
    with broker_that_refuses_credentials() as address, using(sasl(address)) as log, pytest.raises(AccessDenied, match="not us") as raised:
        CALLS[call](log)
    assert not raised.value.retryable
    assert PASSWORD not in "\n".join([str(raised.value), str(raised.value.__cause__), repr(sasl(address)), *caplog.messages])


def test_refused_credentials_are_denied_when_publishing_long_before_the_delivery_timeout() -> None:
    with broker_that_refuses_credentials() as address:
        producer = KafkaProducer(replace(sasl(address), delivery_timeout=timedelta(minutes=10)))
        with pytest.raises(AccessDenied, match="not us"):
            producer.publish([("ProductCreated", None, b"{}", ())])


def test_wrong_settings_are_named_without_their_secrets() -> None:
    for wrong in ({"security.protocol": "NO-SUCH"}, {"no.such.setting": "1"}, {"ssl.key.pem": PASSWORD, "security.protocol": "SSL"}):
        config = impatient("localhost:9092", **({"sasl.password": PASSWORD} | wrong))
        for call in ("topics", "read"):
            with using(config) as log, pytest.raises(SettingsError) as raised:
                CALLS[call](log)
            assert any(name in str(raised.value) for name in wrong)
            assert PASSWORD not in str(raised.value)


def test_nothing_connects_before_it_is_used() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        config = impatient(f"127.0.0.1:{listening.getsockname()[1]}")
        log = KafkaEventLog(config)
        assert log.read([Range(PARTITION, 5, 5)], bool).ends == {PARTITION: 5}
        assert (log.topics([]), log.watermarks([]), log.committed([]), log.explain_gaps([])) == ({}, {}, {}, ())
        log.commit({})
        log.close()
        assert KafkaAdmin(config).create_topics([]) == []
        KafkaProducer(config).close()
        assert select.select([listening], [], [], 0.2)[0] == []


def test_every_error_of_the_client_becomes_one_of_ours() -> None:
    for name, code in codes():
        ours = kafka_error_to_analytics_error(KafkaError(code), "broker:9092", "reading ProductCreated/3")
        expected = AccessDenied if code in AUTHORIZATION_ERRORS else ResourceMissing if code in MISSING_RESOURCE_ERRORS else Unavailable
        assert type(ours) is expected
        assert ours.retryable == (expected is Unavailable)
        assert all(
            part in str(ours)
            for part in ("broker:9092", "reading ProductCreated/3", "does not answer" if code in NO_ANSWER_ERRORS else name)
        )
        refusal = "AUTHORIZATION_FAILED" in name or "AUTHENTICATION" in name
        assert not refusal or expected is AccessDenied, name


def test_an_earlier_refusal_explains_a_timeout() -> None:
    faults = LastClientError()
    faults.record(KafkaError(KafkaError.SASL_AUTHENTICATION_FAILED, "wrong password"))
    faults.record(KafkaError(KafkaError.NETWORK_EXCEPTION, "gone"))
    assert isinstance(kafka_error_to_analytics_error(KafkaError(KafkaError.REQUEST_TIMED_OUT), "b", "asking", faults), Unavailable)
    faults.record(KafkaError(KafkaError.SASL_AUTHENTICATION_FAILED, "wrong password"))
    assert isinstance(kafka_error_to_analytics_error(KafkaError(KafkaError.REQUEST_TIMED_OUT), "b", "asking", faults), AccessDenied)
    faults.clear()
    assert isinstance(kafka_error_to_analytics_error(KafkaError(KafkaError.REQUEST_TIMED_OUT), "b", "asking", faults), Unavailable)


def test_translation_keeps_the_cause_and_leaves_other_errors_alone() -> None:
    cause = KafkaException(KafkaError(KafkaError.BROKER_NOT_AVAILABLE))
    with pytest.raises(Unavailable) as raised, translate_kafka_error("b", "asking"):
        raise cause
    assert raised.value.__cause__ is cause
    with pytest.raises(Unavailable), translate_kafka_error("b", "asking"):
        raise TimeoutError
    with pytest.raises(ArithmeticError), translate_kafka_error("b", "asking"):
        raise ArithmeticError


def test_a_request_is_repeated_while_leaders_move_and_not_otherwise() -> None:
    admin = KafkaAdmin(impatient("127.0.0.1:1"))
    answers = [KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.NOT_COORDINATOR, None]

    def ask(_: object) -> str:
        answer = answers.pop(0)
        if answer is not None:
            raise KafkaException(KafkaError(answer))
        return "answered"

    assert admin._ask("asking", ask) == "answered"
    answers += [KafkaError.INVALID_REQUEST, None]
    with pytest.raises(AnalyticsError, match="INVALID_REQUEST"):
        admin._ask("asking", ask)
    assert answers == [None]
    admin.close()


def test_creating_topics_on_a_broker_that_is_down_ends_in_time() -> None:
    with broker_that_is_down() as address, pytest.raises(Unavailable, match="creating the topic ProductCreated"):
        KafkaAdmin(impatient(address)).create_topics([TopicSpec("ProductCreated", 4)])
