"""Durations of the steps of a batch."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime

from analytics_defs.core.ingest.batch_accounting import BatchTimings
from analytics_defs.core.timestamps import whole_milliseconds
from analytics_defs.ports import Clock


class Stopwatch:
    """Milliseconds by step, measured from any thread. Steps that run in parallel sum up to more than the duration."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._started_ms = clock.elapsed_ms()
        self._lock = threading.Lock()
        self._steps: Counter[str] = Counter()

    @contextmanager
    def __call__(self, step: str) -> Iterator[None]:
        """Add the duration of the block to the step, also if the block raises."""
        started_ms = self._clock.elapsed_ms()
        try:
            yield
        finally:
            with self._lock:
                self._steps[step] += self._clock.elapsed_ms() - started_ms

    @property
    def steps_ms(self) -> Mapping[str, int]:
        with self._lock:
            return dict(self._steps)

    def timings(self, now: datetime, code_version: str) -> BatchTimings:
        """Return the timings of the batch from the start of the stopwatch until `now`."""
        return BatchTimings(whole_milliseconds(now), self._clock.elapsed_ms() - self._started_ms, self.steps_ms, code_version)
