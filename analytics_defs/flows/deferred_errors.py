"""Errors that must not stop independent work: collected first, raised when the rest is done."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from analytics_defs.errors import AnalyticsError


@dataclass(slots=True)
class DeferredErrors:
    """The errors of one flow, in the order in which they occurred."""

    errors: list[AnalyticsError] = field(default_factory=list)

    @contextmanager
    def defer_all(self) -> Iterator[None]:
        """Collect every error of this package that the block raises."""
        try:
            yield
        except AnalyticsError as error:
            self.errors.append(error)

    @contextmanager
    def defer_non_retryable(self) -> Iterator[None]:
        """Collect errors that only an operator can resolve. Retryable errors are raised at once."""
        try:
            yield
        except AnalyticsError as error:
            if error.retryable:
                raise
            self.errors.append(error)


def raise_first(errors: Sequence[AnalyticsError]) -> None:
    """Raise the first error, with the other messages as notes, each message once. Do nothing if there is none."""
    for first in errors[:1]:
        for message in dict.fromkeys(map(str, errors[1:])):
            if message != str(first):
                first.add_note(message)
        raise first
