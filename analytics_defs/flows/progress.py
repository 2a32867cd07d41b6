"""Who waits for a long flow hears how far it is."""

from __future__ import annotations

from collections.abc import Callable

ProgressCallback = Callable[[str, int, int], None]
"""What is being done, how many are done, of how many. Called before each; a count may begin anew."""


def no_progress(_what: str, _done: int, _of: int) -> None:
    """For who does not ask."""
