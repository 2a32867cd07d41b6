"""Creation for `analytics setup` and checks for `analytics check`, one implementation a technology."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

NamedCheck: TypeAlias = tuple[str, Callable[[], str]]
"""Name of a check, and the call that returns its finding or raises an AnalyticsError."""


class Checkable(Protocol):
    """A broker or store that can be checked."""

    @property
    def name(self) -> str:
        """Kind and address, for display."""
        ...

    def checks(self) -> Sequence[NamedCheck]:
        """Return the checks in order. Each is meaningful only if the one before it passed."""
        ...


class Provisioner(Protocol):
    """A broker or store whose topics, tables or bucket can be created."""

    @property
    def name(self) -> str:
        """Kind and address, for display."""
        ...

    def provision(self) -> Sequence[str]:
        """Create what is missing. Return one line per action. Idempotent.

        Raise ResourceNotReady if something exists with another schema.
        """
        ...
