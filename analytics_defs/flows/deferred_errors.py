"""Errors that must not stop independent work: collected first, raised when the rest is done."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from analytics_defs.errors import AnalyticsError


@dataclass(slots=True)
class DeferredErrors:
    """The errors of one flow, in the order in which they occurred."""

    faults: list[AnalyticsError] = field(default_factory=list)

    @contextmanager
    def defer_all(self) -> Iterator[None]:
        """Collect every error of this package that the block raises."""
        try:
            yield
        except AnalyticsError as fault:
            self.faults.append(fault)

    @contextmanager
    def defer_non_retryable(self) -> Iterator[None]:
        """Collect errors that only an operator can resolve. Retryable errors are raised at once."""
        try:
            yield
        except AnalyticsError as fault:
            if fault.retryable:
                raise
            self.faults.append(fault)


def raise_first(faults: Sequence[AnalyticsError]) -> None:
    """Raise the first error, with the other messages as notes, each message once. Do nothing if there is none."""
    for first in faults[:1]:
        for message in dict.fromkeys(map(str, faults[1:])):
            if message != str(first):
                first.add_note(message)
        raise first
