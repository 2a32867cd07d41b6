"""A lock for doubles that several threads use."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")
_S = TypeVar("_S", bound="LockedStore")


class LockedStore:
    """Base of the memory doubles: each `atomic` method runs alone, as one request of the real store does."""

    def __init__(self) -> None:
        self.lock = threading.RLock()


def atomic(method: Callable[Concatenate[_S, _P], _T]) -> Callable[Concatenate[_S, _P], _T]:
    def locked(self: _S, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        with self.lock:
            return method(self, *args, **kwargs)

    return locked
