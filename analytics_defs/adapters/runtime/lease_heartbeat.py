"""The heartbeat of a run in the ledger. Two sensors use it to detect dead runs. No safety property depends on it."""

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
    """Context manager that renews a lease in a thread, at once and then every few seconds, and releases it at the end.

    An unavailable ledger never ends the work. It is logged once, and again only after a renewal succeeded in between.
    """

    def __init__(self, ledger: Ledger, run_id: str, lane: int | None, clock: Clock, *, every: timedelta = timedelta(seconds=5)) -> None:
        self._ledger = ledger
        self._run_id = run_id
        self._lane = lane
        self._clock = clock
        self._every = every
        self._stopped = threading.Event()
        self._failing = False
        self._thread = threading.Thread(target=self._renew_until_stopped, name=f"lease of {run_id}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, error_type: type[BaseException] | None, raised: BaseException | None, trace: TracebackType | None) -> None:
        self._stopped.set()
        self._thread.join()
        try:
            self._ledger.release_lease(self._run_id)
        except AnalyticsError as error:
            _log.warning("The lease of run %s was not released; it expires by itself. %s", self._run_id, error)

    def _renew_until_stopped(self) -> None:
        while True:
            try:
                self._ledger.renew_lease(Lease(self._run_id, self._lane, self._clock.now()))
                self._failing = False
            except AnalyticsError as error:
                if not self._failing:
                    _log.warning("The lease of run %s cannot be renewed; the run continues. %s", self._run_id, error)
                self._failing = True
            if self._stopped.wait(self._every.total_seconds()):
                return
