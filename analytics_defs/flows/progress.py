"""Progress callbacks for long-running flows."""

from __future__ import annotations

from collections.abc import Callable

ProgressCallback = Callable[[str, int, int], None]
"""Called as `progress(step, done, total)` before each item. `done` restarts at 0 for a new step."""


def no_progress(_step: str, _done: int, _total: int) -> None:
    """Ignore the progress. Default of every flow."""
