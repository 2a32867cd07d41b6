"""Retries of requests while leaders change."""

from __future__ import annotations

import gc
import time
import weakref

import pytest
from confluent_kafka import KafkaError, KafkaException

from analytics_defs.adapters.kafka.retry import retry_while_leader_changes


class Client:
    """A client whose requests fail with one error code."""

    def __init__(self, code: int) -> None:
        self._code = code
        self.requests = 0

    def request(self) -> None:
        self.requests += 1
        raise KafkaException(KafkaError(self._code))


def test_a_request_is_retried_until_the_next_retry_would_start_after_the_limit() -> None:
    client, started = Client(KafkaError.NOT_COORDINATOR), time.monotonic()
    with pytest.raises(KafkaException, match="NOT_COORDINATOR"):
        retry_while_leader_changes(0.5, client.request)
    assert client.requests > 1
    assert time.monotonic() - started < 0.6


def test_other_errors_are_not_retried() -> None:
    client = Client(KafkaError.INVALID_REQUEST)
    with pytest.raises(KafkaException, match="INVALID_REQUEST"):
        retry_while_leader_changes(10, client.request)
    assert client.requests == 1


@pytest.mark.parametrize("code", [KafkaError.INVALID_REQUEST, KafkaError.NOT_COORDINATOR])
def test_a_client_whose_request_failed_is_freed_without_a_garbage_collection(code: int) -> None:
    """A client that stays alive may send a late commit, which would undo a newer one."""
    freed: list[int] = []

    def request() -> None:
        client = Client(code)
        weakref.finalize(client, freed.append, 1)
        client.request()

    gc.disable()
    try:
        for attempt in range(1, 4):
            try:
                retry_while_leader_changes(0, request)
            except KafkaException:
                pass
            assert len(freed) == attempt
    finally:
        gc.enable()
