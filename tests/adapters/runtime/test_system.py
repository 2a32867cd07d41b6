"""Clock, thread pool and lease heartbeat."""

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
def pool() -> Iterator[ThreadTaskPool]:
    pool = ThreadTaskPool(4)
    yield pool
    pool.close()


def failing(error: BaseException) -> Callable[[], None]:
    def job() -> None:
        raise error

    return job


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_the_clock_is_aware_and_its_elapsed_time_never_decreases() -> None:
    clock = SystemClock()
    assert clock.now().tzinfo is UTC
    readings = [clock.elapsed_ms() for _ in range(1_000)]
    assert readings == sorted(readings)


def test_results_are_in_the_order_of_the_jobs(pool: ThreadTaskPool) -> None:
    assert pool.run_all([partial(pow, number, 2) for number in range(100)]) == [number * number for number in range(100)]


def test_no_jobs_give_no_results(pool: ThreadTaskPool) -> None:
    assert pool.run_all([]) == []


def test_jobs_run_concurrently(pool: ThreadTaskPool) -> None:
    barrier = threading.Barrier(4)
    assert sorted(pool.run_all([lambda: barrier.wait(10)] * 4)) == [0, 1, 2, 3]


class SignallingJobs(list[Callable[[], None]]):
    """Jobs whose iterator sets an event at its end. A thread reaches the end after it recorded its own error."""

    def __init__(self, jobs: Sequence[Callable[[], None]], exhausted: threading.Event) -> None:
        super().__init__(jobs)
        self._exhausted = exhausted

    def __iter__(self) -> Iterator[Callable[[], None]]:
        return chain(super().__iter__(), iter(self._exhausted.set, None))


def test_the_first_error_is_raised_after_all_jobs_ended_with_others_as_notes(pool: ThreadTaskPool) -> None:
    started, first_recorded, second_fails, ended = threading.Barrier(3), threading.Event(), threading.Event(), threading.Event()

    def first() -> None:
        started.wait(10)
        raise Unavailable("one")

    def second() -> None:
        started.wait(10)
        first_recorded.wait(10)
        second_fails.set()
        raise AccessDenied("two")

    def slow() -> None:
        started.wait(10)
        second_fails.wait(10)
        ended.set()

    with pytest.raises(Unavailable, match="one") as raised:
        pool.run_all(SignallingJobs([first, second, slow], first_recorded))
    assert ended.is_set()
    assert raised.value.__notes__ == ["also: AccessDenied: two"]


def test_no_job_starts_after_an_error(pool: ThreadTaskPool) -> None:
    started, recorded = list[int](), threading.Event()

    def job() -> None:
        started.append(1)
        recorded.wait(10)

    with pytest.raises(Unavailable):
        pool.run_all(SignallingJobs([failing(Unavailable("down")), *[job] * 100], recorded))
    assert len(started) < 4


def test_an_interrupt_inside_a_job_takes_precedence_over_an_error(pool: ThreadTaskPool) -> None:
    barrier = threading.Barrier(2)

    def job(error: BaseException) -> None:
        barrier.wait(10)
        raise error

    with pytest.raises(KeyboardInterrupt) as raised:
        pool.run_all([lambda: job(Unavailable("down")), lambda: job(KeyboardInterrupt())])
    assert raised.value.__notes__ == ["also: Unavailable: down"]


def test_after_an_interrupt_of_the_caller_no_job_runs_or_starts(pool: ThreadTaskPool) -> None:
    """The interrupt is like Terminate in the UI: one signal, whose handler raises in the main thread."""
    interrupted, stopped, ended, signals = threading.Event(), threading.Event(), list[int](), iter([signal.SIGUSR1])

    def interrupt(*_: object) -> None:
        interrupted.set()
        raise KeyboardInterrupt

    def job() -> None:
        for number in signals:
            signal.raise_signal(number)
        interrupted.wait(10)
        stopped.wait(10)
        ended.append(1)

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            pool.run_all(SignallingJobs([job] * 100, stopped))
    finally:
        signal.signal(signal.SIGUSR1, before)
    count = len(ended)
    assert pool.run_all([lambda: len(ended)]) == [count]
    assert 0 < count <= 4


class UnreliableLedger(MemoryLedger):
    """Ledger that is unavailable while `down` is set."""

    down = False
    renewals = 0

    def renew_lease(self, lease: Lease) -> None:
        self.renewals += 1
        if self.down:
            raise Unavailable("the ledger is down")
        super().renew_lease(lease)

    def release_lease(self, run_id: str) -> None:
        if self.down:
            raise Unavailable("the ledger is down")
        super().release_lease(run_id)


def heartbeat(ledger: MemoryLedger, clock: ManualClock) -> LeaseHeartbeat:
    return LeaseHeartbeat(ledger, "run", 1, clock, every=timedelta(milliseconds=1))


def test_a_lease_is_renewed_during_the_block_and_released_at_its_end() -> None:
    ledger, clock = MemoryLedger(), ManualClock(NOON)
    with heartbeat(ledger, clock):
        until(lambda: ledger.snapshot().leases.get("run") == Lease("run", 1, NOON))
        clock.advance(timedelta(seconds=5))
        until(lambda: ledger.snapshot().leases["run"].renewed_at == NOON + timedelta(seconds=5))
    assert ledger.snapshot().leases == {}


def test_a_lease_is_released_if_the_block_fails() -> None:
    ledger = MemoryLedger()
    with pytest.raises(Unavailable), heartbeat(ledger, ManualClock(NOON)):
        raise Unavailable("the block failed")
    assert ledger.snapshot().leases == {}


def test_an_unavailable_ledger_is_logged_once_and_never_ends_the_block(caplog: pytest.LogCaptureFixture) -> None:
    ledger = UnreliableLedger()
    ledger.down = True
    with caplog.at_level(logging.WARNING), heartbeat(ledger, ManualClock(NOON)):
        until(lambda: ledger.renewals > 20)
    assert [record.message.partition(";")[0] for record in caplog.records] == [
        "The lease of run run cannot be renewed",
        "The lease of run run was not released",
    ]
