"""A lock for doubles that several threads use."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
S = TypeVar("S", bound="LockedStore")


class LockedStore:
    def __init__(self) -> None:
        self.lock = threading.RLock()


def atomic(method: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], T]:
    def locked(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        with self.lock:
            return method(self, *args, **kwargs)

    return locked
