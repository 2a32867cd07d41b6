"""A probe asks in the background, at most once at a time, and says how old what it knows is."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from datetime import timedelta

import pytest

from analytics_defs.adapters.memory import ManualClock
from analytics_defs.errors import Unavailable
from analytics_defs.web.probe import PROBE_TIMEOUT, Probe
from tests.proof.world import NOW

FRESH = timedelta(seconds=3)


class Service:
    """Answers at once, or holds every question until it is let go."""

    def __init__(self) -> None:
        self.clock, self.asked = ManualClock(NOW), 0
        self.fault: Exception | None = None
        self.free = threading.Event()
        self.free.set()
        self.probe = Probe("service", self.answer, self.clock, FRESH)

    def answer(self) -> int:
        self.asked += 1
        assert self.free.wait(20)
        if self.fault:
            raise self.fault
        return self.asked

    def finished(self) -> None:
        attempt = self.probe.refresh()
        if attempt is not None:
            attempt.result(20)


@pytest.fixture
def service() -> Service:
    return Service()


def test_nobody_is_asked_before_somebody_looks(service: Service) -> None:
    assert service.probe.result().ok is False
    assert (service.asked, service.probe.is_old()) == (0, True)


def test_a_fresh_answer_is_given_again_and_its_age_with_it(service: Service) -> None:
    service.finished()
    service.clock.advance(FRESH - timedelta(milliseconds=1))
    assert [service.probe.refresh() for _ in range(1000)] == [None] * 1000
    found = service.probe.result()
    assert (found.value, found.ok, found.age_ms, service.asked) == (1, True, 2999, 1)


def test_an_answer_that_is_no_longer_fresh_is_still_given_while_a_new_one_is_fetched(service: Service) -> None:
    service.finished()
    service.clock.advance(FRESH)
    service.free.clear()
    attempts = [service.probe.refresh() for _ in range(100)]
    assert len(set(attempts)) == 1
    assert service.probe.result().ok
    assert not service.probe.is_old()
    service.free.set()
    _ended(attempts[0])
    assert (service.probe.result().value, service.asked) == (2, 2)


def test_one_that_accepts_and_never_answers_is_no_answer_after_the_limit_and_is_asked_once(service: Service) -> None:
    service.finished()
    service.clock.advance(FRESH * 2)
    service.free.clear()
    attempt = service.probe.refresh()
    assert service.probe.is_old()
    service.clock.advance(PROBE_TIMEOUT + timedelta(seconds=1))
    assert service.probe.refresh() is None  # nothing that is worth waiting for
    found = service.probe.result()
    assert (found.ok, found.error, found.value) == (False, "no answer for 3 s", 1)
    service.clock.advance(timedelta(minutes=1))
    service.probe.refresh()
    assert service.asked == 2
    service.free.set()
    _ended(attempt)
    assert service.probe.result().ok


def test_a_fault_is_told_and_what_was_known_before_is_kept(service: Service) -> None:
    service.finished()
    service.fault = Unavailable("it is down")
    service.clock.advance(FRESH)
    service.finished()
    found = service.probe.result()
    assert (found.ok, found.error, found.value, found.succeeded_at) == (False, "it is down", 1, NOW)
    service.fault = None
    service.clock.advance(FRESH)
    service.finished()
    assert (service.probe.result().ok, service.probe.result().value) == (True, 3)


def test_what_a_client_raises_that_is_none_of_ours_is_named_by_its_kind_alone(service: Service) -> None:
    service.fault = KeyError("secret payload")
    service.finished()
    assert service.probe.result().error == "failed with KeyError"


def test_what_comes_before_the_question_is_no_part_of_its_latency() -> None:
    clock = ManualClock(NOW)
    probe = Probe("service", lambda: clock.advance(timedelta(milliseconds=7)), clock, FRESH, lambda: clock.advance(timedelta(seconds=1)))
    _ended(probe.refresh())
    assert probe.result().latency_ms == 7


def _ended(attempt: Future[None] | None) -> None:
    assert attempt is not None
    attempt.result(20)
