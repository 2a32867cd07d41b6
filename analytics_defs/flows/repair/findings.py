"""What one batch of a replay has, and what it lacks."""

from __future__ import annotations

from dataclasses import dataclass, field

from analytics_defs.core.repair import ComparisonResult, StoreKind


@dataclass(slots=True)
class Findings:
    notes: list[tuple[StoreKind, ComparisonResult, str]] = field(default_factory=list)
    """By object, file or item: how it was found, and its key."""
    lost: list[str] = field(default_factory=list)
    """What no store holds any more, in words."""

    def note(self, store: StoreKind, state: ComparisonResult, key: str) -> None:
        self.notes.append((store, state, key))
