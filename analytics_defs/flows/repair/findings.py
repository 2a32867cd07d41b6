"""Findings of the comparison of one batch: the state of every item, object and file, and the data that is lost."""

from __future__ import annotations

from dataclasses import dataclass, field

from analytics_defs.core.repair import ComparisonResult, StoredKind


@dataclass(slots=True)
class Findings:
    """Findings of one batch."""

    notes: list[tuple[StoredKind, ComparisonResult, str]] = field(default_factory=list)
    """The state and the key of each item, object or file."""
    lost: list[str] = field(default_factory=list)
    """Sentences about data that no store holds any more."""

    def note(self, store: StoredKind, result: ComparisonResult, key: str) -> None:
        self.notes.append((store, result, key))
