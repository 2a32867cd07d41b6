"""A probe queries in the background, at most once at a time, and reports the age of its result."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from datetime import timedelta

import pytest

from analytics_defs.adapters.memory import ManualClock
from analytics_defs.errors import Unavailable
from analytics_defs.web.probe import PROBE_TIMEOUT, Probe
from tests.proof.world import NOW

TTL = timedelta(seconds=3)


class Service:
    """A service that answers at once, or blocks until a test releases it."""

    def __init__(self) -> None:
        self.clock, self.queries = ManualClock(NOW), 0
        self.error: Exception | None = None
        self.released = threading.Event()
        self.released.set()
        self.probe = Probe("service", self.answer, self.clock, TTL)

    def answer(self) -> int:
        self.queries += 1
        assert self.released.wait(20)
        if self.error:
            raise self.error
        return self.queries

    def complete_attempt(self) -> None:
        attempt = self.probe.refresh()
        if attempt is not None:
            attempt.result(20)


@pytest.fixture
def service() -> Service:
    return Service()


def test_nothing_is_queried_without_a_request(service: Service) -> None:
    assert service.probe.result().ok is False
    assert (service.queries, service.probe.is_stale()) == (0, True)


def test_a_fresh_result_is_returned_again_with_its_age(service: Service) -> None:
    service.complete_attempt()
    service.clock.advance(TTL - timedelta(milliseconds=1))
    assert [service.probe.refresh() for _ in range(1000)] == [None] * 1000
    result = service.probe.result()
    assert (result.value, result.ok, result.age_ms, service.queries) == (1, True, 2999, 1)


def test_an_expired_result_is_returned_while_a_new_attempt_runs(service: Service) -> None:
    service.complete_attempt()
    service.clock.advance(TTL)
    service.released.clear()
    attempts = [service.probe.refresh() for _ in range(100)]
    assert len(set(attempts)) == 1
    assert service.probe.result().ok
    assert not service.probe.is_stale()
    service.released.set()
    _wait_for(attempts[0])
    assert (service.probe.result().value, service.queries) == (2, 2)


def test_a_hanging_service_is_an_error_after_the_timeout_and_is_queried_once(service: Service) -> None:
    service.complete_attempt()
    service.clock.advance(TTL * 2)
    service.released.clear()
    attempt = service.probe.refresh()
    assert service.probe.is_stale()
    service.clock.advance(PROBE_TIMEOUT + timedelta(seconds=1))
    assert service.probe.refresh() is None  # not worth waiting for
    result = service.probe.result()
    assert (result.ok, result.error, result.value) == (False, "no answer for 3 s", 1)
    service.clock.advance(timedelta(minutes=1))
    service.probe.refresh()
    assert service.queries == 2
    service.released.set()
    _wait_for(attempt)
    assert service.probe.result().ok


def test_an_error_keeps_the_value_of_the_last_success(service: Service) -> None:
    service.complete_attempt()
    service.error = Unavailable("it is down")
    service.clock.advance(TTL)
    service.complete_attempt()
    result = service.probe.result()
    assert (result.ok, result.error, result.value, result.succeeded_at) == (False, "it is down", 1, NOW)
    service.error = None
    service.clock.advance(TTL)
    service.complete_attempt()
    assert (service.probe.result().ok, service.probe.result().value) == (True, 3)


def test_an_unexpected_error_is_reported_by_its_type_only(service: Service) -> None:
    service.error = KeyError("secret payload")
    service.complete_attempt()
    assert service.probe.result().error == "failed with KeyError"


def test_the_preparation_is_not_part_of_the_latency() -> None:
    clock = ManualClock(NOW)
    probe = Probe("service", lambda: clock.advance(timedelta(milliseconds=7)), clock, TTL, lambda: clock.advance(timedelta(seconds=1)))
    _wait_for(probe.refresh())
    assert probe.result().latency_ms == 7


def _wait_for(attempt: Future[None] | None) -> None:
    assert attempt is not None
    attempt.result(20)
