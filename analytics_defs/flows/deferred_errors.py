"""Faults that must not keep anything else from being done: noted where they happen, raised when the rest is done."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from analytics_defs.errors import AnalyticsError


@dataclass(slots=True)
class DeferredErrors:
    """The faults of one flow, in the order of their happening."""

    faults: list[AnalyticsError] = field(default_factory=list)

    @contextmanager
    def defer_all(self) -> Iterator[None]:
        """Note whatever of ours is raised inside."""
        try:
            yield
        except AnalyticsError as fault:
            self.faults.append(fault)

    @contextmanager
    def defer_non_retryable(self) -> Iterator[None]:
        """Note what waits for a person. What may pass by itself is raised at once."""
        try:
            yield
        except AnalyticsError as fault:
            if fault.retryable:
                raise
            self.faults.append(fault)


def raise_first(faults: Sequence[AnalyticsError]) -> None:
    """The first, with the others as notes, each once."""
    for first in faults[:1]:
        for other in dict.fromkeys(map(str, faults[1:])):
            if other != str(first):
                first.add_note(other)
        raise first
