"""A flow in a thread of its own, which stops before each of its calls until it is let through. One thread runs at any time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from tests.proof.doors import Call, Crashed, Door

PATIENCE_SECONDS = 60


class Actor:
    """Parked at `call` before it took effect, or ended: then `call` is None, and `failure` says with what."""

    def __init__(self, run: Callable[[Door], object], passes: Callable[[Call], bool] = lambda _: False) -> None:
        """`passes`: calls it does not stop at."""
        self.call: Call | None = None
        self.failure: BaseException | None = None
        self._run, self._passes = run, passes
        self._dies = False
        self._turn, self._stopped = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._live, daemon=True)
        self._thread.start()
        self._wait()

    def step(self) -> None:
        """Its call takes effect, and it goes on to the next one."""
        self._turn.release()
        self._wait()

    def crash(self) -> None:
        """It dies instead of making its call."""
        self._dies = True
        self.step()

    def finish(self) -> None:
        while self.call is not None:
            self.step()

    def _wait(self) -> None:
        if not self._stopped.acquire(timeout=PATIENCE_SECONDS):
            raise TimeoutError(f"the flow neither made another call nor ended within {PATIENCE_SECONDS} s")
        if self.call is None:
            self._thread.join()

    def _live(self) -> None:
        try:
            self._run(self._door)
        except BaseException as failure:  # noqa: BLE001 - whatever it is, the test that let it go on has to see it
            self.failure = failure
        self.call = None
        self._stopped.release()

    def _door(self, call: Call, perform: Callable[[], Any]) -> Any:
        if self._passes(call):
            return perform()
        self.call = call
        self._stopped.release()
        self._turn.acquire()
        if self._dies:
            raise Crashed
        return perform()
