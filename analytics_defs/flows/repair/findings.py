"""What one batch of a replay has, and what it lacks."""

from __future__ import annotations

from dataclasses import dataclass, field

from analytics_defs.core.repair import State, Store


@dataclass(slots=True)
class Findings:
    notes: list[tuple[Store, State, str]] = field(default_factory=list)
    """By object, file or item: how it was found, and its key."""
    lost: list[str] = field(default_factory=list)
    """What no store holds any more, in words."""

    def note(self, store: Store, state: State, key: str) -> None:
        self.notes.append((store, state, key))
