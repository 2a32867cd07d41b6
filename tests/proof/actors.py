"""A flow in its own thread that stops before each of its calls until the test lets it continue. Only one thread runs at any time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from tests.proof.interceptors import Call, Crashed, Interceptor

TIMEOUT_SECONDS = 60


class Actor:
    """A flow that is stopped before `call`. After its end `call` is None, and `failure` is the exception that it raised, if any."""

    def __init__(self, run: Callable[[Interceptor], object], passes: Callable[[Call], bool] = lambda _: False) -> None:
        """Start the flow. It does not stop at calls for which `passes` is true."""
        self.call: Call | None = None
        self.failure: BaseException | None = None
        self._run, self._passes = run, passes
        self._crashes = False
        self._resumed, self._stopped = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._execute, daemon=True)
        self._thread.start()
        self._wait()

    def step(self) -> None:
        """Execute the current call and continue to the next one."""
        self._resumed.release()
        self._wait()

    def crash(self) -> None:
        """Crash the flow instead of executing its current call."""
        self._crashes = True
        self.step()

    def finish(self) -> None:
        while self.call is not None:
            self.step()

    def _wait(self) -> None:
        if not self._stopped.acquire(timeout=TIMEOUT_SECONDS):
            raise TimeoutError(f"the flow neither made another call nor ended within {TIMEOUT_SECONDS} s")
        if self.call is None:
            self._thread.join()

    def _execute(self) -> None:
        try:
            self._run(self._interceptor)
        except BaseException as failure:  # noqa: BLE001 - the test has to see every exception of the thread
            self.failure = failure
        self.call = None
        self._stopped.release()

    def _interceptor(self, call: Call, perform: Callable[[], Any]) -> Any:
        if self._passes(call):
            return perform()
        self.call = call
        self._stopped.release()
        self._resumed.acquire()
        if self._crashes:
            raise Crashed
        return perform()
