"""A run's sign of life in the ledger. It helps the sensor to see a dead run; the work never depends on it."""

from __future__ import annotations

import logging
import threading
from datetime import timedelta
from types import TracebackType
from typing import Self

from analytics_defs.core.ledger import Lease
from analytics_defs.errors import AnalyticsError
from analytics_defs.ports import Clock, Ledger

_log = logging.getLogger(__name__)


class LeaseHeartbeat:
    """Renews a lease at once and then every few seconds, in a thread, while the block runs; gives it back at the end.

    A ledger that cannot be reached is logged once, until it can be reached again, and never ends the work.
    """

    def __init__(self, ledger: Ledger, run_id: str, lane: int, clock: Clock, *, every: timedelta = timedelta(seconds=5)) -> None:
        self._ledger = ledger
        self._run_id = run_id
        self._lane = lane
        self._clock = clock
        self._every = every
        self._ended = threading.Event()
        self._failing = False
        self._thread = threading.Thread(target=self._beat, name=f"lease of {run_id}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()
        try:
            self._ledger.release_lease(self._run_id)
        except AnalyticsError as fault:
            _log.warning("The lease of run %s was not given back; it expires by itself. %s", self._run_id, fault)

    def _beat(self) -> None:
        while True:
            try:
                self._ledger.renew_lease(Lease(self._run_id, self._lane, self._clock.now()))
                self._failing = False
            except AnalyticsError as fault:
                if not self._failing:
                    _log.warning("The lease of run %s cannot be renewed; the work goes on. %s", self._run_id, fault)
                self._failing = True
            if self._ended.wait(self._every.total_seconds()):
                return
