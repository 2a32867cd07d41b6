"""Clock, threads and the sign of life."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import chain

import pytest

from analytics_defs.adapters.memory import ManualClock, MemoryLedger
from analytics_defs.adapters.runtime.lease_heartbeat import LeaseHeartbeat
from analytics_defs.adapters.runtime.system import SystemClock, ThreadTaskPool
from analytics_defs.core.ledger import Lease
from analytics_defs.errors import AccessDenied, Unavailable

NOON = datetime(2024, 1, 15, 12, tzinfo=UTC)


@pytest.fixture
def workers() -> Iterator[ThreadTaskPool]:
    workers = ThreadTaskPool(4)
    yield workers
    workers.close()


def failing(error: BaseException) -> Callable[[], None]:
    def job() -> None:
        raise error

    return job


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_the_clock_is_aware_and_its_stopwatch_never_goes_back() -> None:
    clock = SystemClock()
    assert clock.now().tzinfo is UTC
    readings = [clock.elapsed_ms() for _ in range(1_000)]
    assert readings == sorted(readings)


def test_answers_come_in_the_order_of_the_jobs(workers: ThreadTaskPool) -> None:
    assert workers.run_all([partial(pow, number, 2) for number in range(100)]) == [number * number for number in range(100)]


def test_no_jobs_give_no_answers(workers: ThreadTaskPool) -> None:
    assert workers.run_all([]) == []


def test_jobs_run_side_by_side(workers: ThreadTaskPool) -> None:
    together = threading.Barrier(4)
    assert sorted(workers.run_all([lambda: together.wait(10)] * 4)) == [0, 1, 2, 3]


class Announced(list[Callable[[], None]]):
    """Jobs that say when somebody looks for one more than there are: a thread does so when its own failure is noted."""

    def __init__(self, jobs: Sequence[Callable[[], None]], looked_beyond: threading.Event) -> None:
        super().__init__(jobs)
        self._looked_beyond = looked_beyond

    def __iter__(self) -> Iterator[Callable[[], None]]:
        return chain(super().__iter__(), iter(self._looked_beyond.set, None))


def test_the_first_failure_is_raised_after_the_last_job_ended_with_the_others_as_notes(workers: ThreadTaskPool) -> None:
    begun, first_noted, second_fails, ended = threading.Barrier(3), threading.Event(), threading.Event(), threading.Event()

    def first() -> None:
        begun.wait(10)
        raise Unavailable("one")

    def second() -> None:
        begun.wait(10)
        first_noted.wait(10)
        second_fails.set()
        raise AccessDenied("two")

    def slow() -> None:
        begun.wait(10)
        second_fails.wait(10)
        ended.set()

    with pytest.raises(Unavailable, match="one") as raised:
        workers.run_all(Announced([first, second, slow], first_noted))
    assert ended.is_set()
    assert raised.value.__notes__ == ["also: AccessDenied: two"]


def test_nothing_is_begun_after_a_failure(workers: ThreadTaskPool) -> None:
    begun, noted = list[int](), threading.Event()

    def job() -> None:
        begun.append(1)
        noted.wait(10)

    with pytest.raises(Unavailable):
        workers.run_all(Announced([failing(Unavailable("down")), *[job] * 100], noted))
    assert len(begun) < 4


def test_an_interrupt_inside_a_job_is_not_hidden_behind_an_error(workers: ThreadTaskPool) -> None:
    together = threading.Barrier(2)

    def job(error: BaseException) -> None:
        together.wait(10)
        raise error

    with pytest.raises(KeyboardInterrupt) as raised:
        workers.run_all([lambda: job(Unavailable("down")), lambda: job(KeyboardInterrupt())])
    assert raised.value.__notes__ == ["also: Unavailable: down"]


def test_an_interrupted_caller_leaves_nothing_running_and_begins_nothing_more(workers: ThreadTaskPool) -> None:
    """The interrupt is what Terminate in the UI does: a signal, once, whose handler raises in the main thread."""
    interrupted, left_out, ended, once = threading.Event(), threading.Event(), list[int](), iter([signal.SIGUSR1])

    def interrupt(*_: object) -> None:
        interrupted.set()
        raise KeyboardInterrupt

    def job() -> None:
        for number in once:
            signal.raise_signal(number)
        interrupted.wait(10)
        left_out.wait(10)
        ended.append(1)

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            workers.run_all(Announced([job] * 100, left_out))
    finally:
        signal.signal(signal.SIGUSR1, before)
    count = len(ended)
    assert workers.run_all([lambda: len(ended)]) == [count]
    assert 0 < count <= 4


class ForgetfulLedger(MemoryLedger):
    """Cannot be reached while `down`."""

    down = False
    asked = 0

    def renew_lease(self, lease: Lease) -> None:
        self.asked += 1
        if self.down:
            raise Unavailable("the ledger is down")
        super().renew_lease(lease)

    def release_lease(self, run_id: str) -> None:
        if self.down:
            raise Unavailable("the ledger is down")
        super().release_lease(run_id)


def heartbeat(ledger: MemoryLedger, clock: ManualClock) -> LeaseHeartbeat:
    return LeaseHeartbeat(ledger, "run", 1, clock, every=timedelta(milliseconds=1))


def test_a_lease_is_renewed_while_the_work_goes_on_and_given_back_at_the_end() -> None:
    ledger, clock = MemoryLedger(), ManualClock(NOON)
    with heartbeat(ledger, clock):
        until(lambda: ledger.snapshot().leases.get("run") == Lease("run", 1, NOON))
        clock.advance(timedelta(seconds=5))
        until(lambda: ledger.snapshot().leases["run"].renewed_at == NOON + timedelta(seconds=5))
    assert ledger.snapshot().leases == {}


def test_a_lease_is_given_back_when_the_work_fails() -> None:
    ledger = MemoryLedger()
    with pytest.raises(Unavailable), heartbeat(ledger, ManualClock(NOON)):
        raise Unavailable("the work failed")
    assert ledger.snapshot().leases == {}


def test_a_ledger_that_cannot_be_reached_never_ends_the_work_and_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    ledger = ForgetfulLedger()
    ledger.down = True
    with caplog.at_level(logging.WARNING), heartbeat(ledger, ManualClock(NOON)):
        until(lambda: ledger.asked > 20)
    assert [record.message.partition(";")[0] for record in caplog.records] == [
        "The lease of run run cannot be renewed",
        "The lease of run run was not given back",
    ]
