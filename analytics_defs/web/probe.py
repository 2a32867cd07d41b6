"""One question to one service: asked in the background, answered at once from what is known."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Generic, TypeVar

from analytics_defs.core.monitoring.health import ProbeResult
from analytics_defs.errors import AnalyticsError
from analytics_defs.ports import Clock

T = TypeVar("T")
_log = logging.getLogger(__name__)

PROBE_TIMEOUT = timedelta(seconds=2)
"""An attempt that takes longer counts as no answer, until it comes back."""


@dataclass(frozen=True, slots=True)
class _Attempt:
    done: Future[None]
    started_ms: int


class Probe(Generic[T]):
    """Thread-safe. At most one attempt is under way, in a thread of its own, and only after somebody looked.

    A service that accepts and never answers holds up that thread and nobody else; it is not asked a second time meanwhile.
    """

    def __init__(
        self, name: str, ask: Callable[[], T], clock: Clock, fresh_for: timedelta, before: Callable[[], object] | None = None
    ) -> None:
        """`before` runs ahead of each attempt and outside its latency."""
        self.name = name
        self._ask = ask
        self._before = before
        self._clock = clock
        self._fresh_ms = int(fresh_for.total_seconds() * 1000)
        self._limit_ms = int(PROBE_TIMEOUT.total_seconds() * 1000)
        self._lock = threading.Lock()
        self._newest: ProbeResult[T] = ProbeResult()
        self._finished_ms = 0
        self._attempt: _Attempt | None = None

    def result(self) -> ProbeResult[T]:
        """How it stands. Never waits."""
        with self._lock:
            now, answer = self._clock.elapsed_ms(), replace(self._newest, age_ms=self._age_ms())
            if self._attempt is not None and now - self._attempt.started_ms > self._limit_ms:
                return replace(answer, error=f"no answer for {(now - self._attempt.started_ms) / 1000:.0f} s")
            return answer

    def refresh(self, *, again: bool = False) -> Future[None] | None:
        """Starts an attempt where the newest answer is no longer fresh, or `again` says that it is not.

        Answers the attempt under way, unless it is past its limit.
        """
        with self._lock:
            now, age = self._clock.elapsed_ms(), self._age_ms()
            if self._attempt is None and (again or age is None or age >= self._fresh_ms):
                self._attempt = _Attempt(Future(), now)
                threading.Thread(target=self._run, args=(self._attempt,), name=f"probe of {self.name}", daemon=True).start()
            attempt = self._attempt
            return attempt.done if attempt is not None and now - attempt.started_ms <= self._limit_ms else None

    def is_old(self) -> bool:
        """Whether an answer of this moment is worth a short wait: the newest is not one of the last few seconds."""
        with self._lock:
            age = self._age_ms()
            return age is None or age >= 2 * self._fresh_ms

    def _age_ms(self) -> int | None:
        return None if self._newest.age_ms is None else self._clock.elapsed_ms() - self._finished_ms

    def _run(self, attempt: _Attempt) -> None:
        value, error = None, None
        started_ms = attempt.started_ms
        try:
            if self._before is not None:
                self._before()
                started_ms = self._clock.elapsed_ms()
            value = self._ask()
        except AnalyticsError as fault:
            error = str(fault)
        except Exception as fault:  # noqa: BLE001 - whatever a client raises is an answer about its service, never the end of the watch
            error = f"failed with {type(fault).__name__}"
        with self._lock:
            before, self._finished_ms = self._newest, self._clock.elapsed_ms()
            took = self._finished_ms - started_ms
            if error is None:
                self._newest = ProbeResult(value, None, took, 0, self._clock.now())
            else:
                self._newest = ProbeResult(before.value, error, took, 0, before.succeeded_at)
            self._attempt = None
        if (error is None) != (before.error is None):
            _log.warning("%s: %s", self.name, error or "answers again")
        attempt.done.set_result(None)
