"""Work that must not hold up the server, nor its end: threads that nobody waits for when the process stops."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


def run_in_daemon_thread(name: str, job: Callable[[], T]) -> Future[T]:
    """Runs the job in a thread of its own. An executor would be waited for at the end of the process, hung calls and all."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(job())
        except BaseException as fault:  # noqa: BLE001 - handed on to whoever waits
            future.set_exception(fault)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future
