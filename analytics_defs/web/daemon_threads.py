"""Threads for calls that may hang. They delay neither the server nor the end of the process."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

_T = TypeVar("_T")


def run_in_daemon_thread(name: str, job: Callable[[], _T]) -> Future[_T]:
    """Start the job in a new daemon thread. An executor would wait for hung calls at the end of the process."""
    future: Future[_T] = Future()

    def run() -> None:
        try:
            future.set_result(job())
        except BaseException as error:  # noqa: BLE001 - passed on to the caller of the future
            future.set_exception(error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future
