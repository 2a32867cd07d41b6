"""A load generator that publishes the events of the simulated shop."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import islice, takewhile
from types import FrameType
from typing import Protocol, TypeAlias

from analytics_defs.core.events.schema import EVENT_TYPES
from analytics_defs.simulator.shop import TrafficMix, messages

PUBLISH_INTERVAL_SECONDS = 0.25
SimulatedRecord: TypeAlias = tuple[str, bytes | None, bytes | None, tuple[tuple[str, bytes | None], ...]]
"""Topic, key, value, headers."""


def simulated_records(seed: int, mix: TrafficMix, topics: Sequence[str]) -> Iterator[SimulatedRecord]:
    """Yield records endlessly. The n-th event type goes to the n-th topic, modulo the number of topics."""
    by_type = {name: topics[number % len(topics)] for number, name in enumerate(EVENT_TYPES)}
    for message in messages(seed, lambda: datetime.now(UTC), mix):
        yield by_type[message.topic], message.key, message.value, ()


class RecordPublisher(Protocol):
    """A producer that confirms the delivery of each record."""

    def publish(self, records: Iterable[SimulatedRecord], on_progress: Callable[[int], None]) -> int: ...


class LoadGenerator:
    """Publishes records until a count is reached or `stop` is called. Records in flight are still confirmed."""

    def __init__(self, producer: RecordPublisher, records: Iterator[SimulatedRecord]) -> None:
        self._producer = producer
        self._records = records
        self._stopped = threading.Event()
        self.confirmed = 0

    def stop(self, _number: int = 0, _frame: FrameType | None = None) -> None:
        """Stop publishing. Usable as a signal handler. Idempotent."""
        self._stopped.set()

    @contextmanager
    def stopped_by_signals(self) -> Iterator[None]:
        """Stop on SIGINT and SIGTERM within the block, even if they were ignored before. Main thread only."""
        before = {number: signal.signal(number, self.stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def run(self, rate: float | None, count: int | None, on_confirmed: Callable[[int], None]) -> None:
        """Publish `rate` records per second, or as fast as possible. Raise the error of the first rejected record."""
        if rate is None:
            self._publish(count, on_confirmed)
            return
        started = time.monotonic()
        while not self._stopped.is_set() and (count is None or self.confirmed < count):
            due = int((time.monotonic() - started) * rate) + 1 - self.confirmed  # catches up after a delay of the broker
            self._publish(due if count is None else min(due, count - self.confirmed), on_confirmed)
            self._stopped.wait(max(PUBLISH_INTERVAL_SECONDS, 1 / rate))

    def _publish(self, count: int | None, on_confirmed: Callable[[int], None]) -> None:
        before = self.confirmed

        def confirmed(published: int) -> None:
            self.confirmed = before + published
            on_confirmed(self.confirmed)

        records = takewhile(lambda _: not self._stopped.is_set(), islice(self._records, count))
        confirmed(self._producer.publish(records, confirmed))
