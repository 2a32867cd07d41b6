"""A cached query to one service: it runs in the background, and its newest result is returned at once."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Generic, TypeVar

from analytics_defs.core.monitoring.probe_result import ProbeResult
from analytics_defs.errors import AnalyticsError
from analytics_defs.ports import Clock

_T = TypeVar("_T")
_log = logging.getLogger(__name__)

PROBE_TIMEOUT = timedelta(seconds=2)
"""An attempt that takes longer is reported as an error until it returns."""


@dataclass(frozen=True, slots=True)
class _Attempt:
    done: Future[None]
    started_ms: int


class Probe(Generic[_T]):
    """A cached query.

    Thread-safe. At most one attempt runs at a time, in a thread of its own, and only on demand. A service that accepts
    connections and never answers blocks that thread only; no second attempt is started meanwhile.
    """

    def __init__(
        self,
        name: str,
        query: Callable[[], _T],
        clock: Clock,
        ttl: timedelta,
        prepare: Callable[[], object] | None = None,
    ) -> None:
        """Create a probe whose results are fresh for `ttl`. `prepare` runs before each attempt and is not part of its latency."""
        self.name = name
        self._query = query
        self._prepare = prepare
        self._clock = clock
        self._ttl_ms = int(ttl.total_seconds() * 1000)
        self._timeout_ms = int(PROBE_TIMEOUT.total_seconds() * 1000)
        self._lock = threading.Lock()
        self._newest: ProbeResult[_T] = ProbeResult()
        self._finished_ms = 0
        self._attempt: _Attempt | None = None

    def result(self) -> ProbeResult[_T]:
        """Return the newest result without waiting. An attempt past its timeout makes it an error."""
        with self._lock:
            now, result = self._clock.elapsed_ms(), replace(self._newest, age_ms=self._age_ms())
            if self._attempt is not None and now - self._attempt.started_ms > self._timeout_ms:
                return replace(result, error=f"no answer for {(now - self._attempt.started_ms) / 1000:.0f} s")
            return result

    def refresh(self, *, force: bool = False) -> Future[None] | None:
        """Start an attempt if the newest result is older than the TTL, or if `force` is set, unless one is running.

        Return the running attempt, or None if there is none or it is past its timeout.
        """
        with self._lock:
            now, age = self._clock.elapsed_ms(), self._age_ms()
            if self._attempt is None and (force or age is None or age >= self._ttl_ms):
                self._attempt = _Attempt(Future(), now)
                threading.Thread(target=self._run, args=(self._attempt,), name=f"probe of {self.name}", daemon=True).start()
            attempt = self._attempt
            return attempt.done if attempt is not None and now - attempt.started_ms <= self._timeout_ms else None

    def is_stale(self) -> bool:
        """Return whether the newest result is older than twice the TTL: a request then waits a moment for a new one."""
        with self._lock:
            age = self._age_ms()
            return age is None or age >= 2 * self._ttl_ms

    def _age_ms(self) -> int | None:
        return None if self._newest.age_ms is None else self._clock.elapsed_ms() - self._finished_ms

    def _run(self, attempt: _Attempt) -> None:
        value, error = None, None
        started_ms = attempt.started_ms
        try:
            if self._prepare is not None:
                self._prepare()
                started_ms = self._clock.elapsed_ms()
            value = self._query()
        except AnalyticsError as fault:
            error = str(fault)
        except Exception as fault:  # noqa: BLE001 - any error of a client is a result about its service; the message may hold payload
            error = f"failed with {type(fault).__name__}"
        with self._lock:
            previous, self._finished_ms = self._newest, self._clock.elapsed_ms()
            latency_ms = self._finished_ms - started_ms
            if error is None:
                self._newest = ProbeResult(value, None, latency_ms, 0, self._clock.now())
            else:
                self._newest = ProbeResult(previous.value, error, latency_ms, 0, previous.succeeded_at)
            self._attempt = None
        if (error is None) != (previous.error is None):
            _log.warning("%s: %s", self.name, error or "answers again")
        attempt.done.set_result(None)
