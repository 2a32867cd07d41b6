"""What one execution of retention took, or would take."""

from __future__ import annotations

from dataclasses import dataclass, field

MAX_FOREIGN_NAMED = 100
"""Foreign objects that a report names; it counts them all."""


@dataclass(frozen=True, slots=True)
class DeletedObjects:
    """What went of one hour: of the events' hour, of dead letters and repeats that of their batch."""

    tree: str
    """`events`, `parquet`, `dead-letters` or `repeats`."""
    hour: str
    objects: int
    bytes: int


@dataclass(slots=True)
class RetentionReport:
    """What one execution took, or would take."""

    deleted: list[DeletedObjects] = field(default_factory=list)
    skipped_hours: list[str] = field(default_factory=list)
    """Hours that are old enough and stay, and why."""
    foreign_keys: list[str] = field(default_factory=list)
    """The first `NAMED` objects in front of the limit that nobody here wrote. They are left alone."""
    foreign_count: int = 0

    @property
    def objects(self) -> int:
        return sum(each.objects for each in self.deleted)

    @property
    def bytes(self) -> int:
        return sum(each.bytes for each in self.deleted)
