"""Bounded retries of work that another executor can invalidate."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from analytics_defs.errors import AnalyticsError, Superseded

_T = TypeVar("_T")


class Conflict(Superseded):
    """Another executor changed the data during one attempt. `retry_on_conflict` makes the attempt again."""


def retry_on_conflict(attempt: Callable[[], _T], max_attempts: int, error: AnalyticsError) -> _T:
    """Return the result of the first attempt that raises no Conflict. Raise `error` if all attempts do.

    Attempts follow each other without a pause: a conflict means that another executor made progress.
    """
    for _ in range(max_attempts):
        try:
            return attempt()
        except Conflict as conflict:
            error.__cause__ = conflict
    raise error
