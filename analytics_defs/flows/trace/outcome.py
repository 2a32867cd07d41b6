"""Outcomes of a record, and the answer of a trace."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from analytics_defs.core.offsets import Source


class RecordOutcome(StrEnum):
    """Outcome of a record."""

    STORED = "stored"
    DUPLICATE = "duplicate"
    DEAD_LETTER = "dead_letter"
    TOMBSTONE = "tombstone"
    GAP = "gap"
    LOST = "lost"
    UNACCOUNTED = "unaccounted"
    EXPIRED = "expired"
    """Its batch counts it, and retention deleted the files that name its outcome."""
    PENDING = "pending"
    """In a batch that is begun and not closed."""
    NOT_READ = "not_read"
    """At or beyond the next offset to read."""
    BEFORE_START = "before_start"
    """Before the first offset that the ledger accounts for."""
    UNKNOWN_PARTITION = "unknown_partition"
    """The ledger has no account of this topic-partition."""


@dataclass(frozen=True, slots=True)
class Trace:
    """The outcome of one record, with coordinates and reasons. It never contains payloads."""

    source: Source
    outcome: RecordOutcome
    batch_id: str | None = None
    event_id: str | None = None
    detail: str = ""
    original_source: Source | None = None
    """For a duplicate: the source that owns its id."""
    part: str | None = None
    """Key of the Parquet file with its row: the part of its batch, or the archive of the hour."""
    event_json: str | None = None
    """Key of the JSON object, if the object exists."""
    item: str | None = None
    """State of the id in RecentEvents: `held`, `expired` or `held by <source>`. None if there is no item."""
    redrive: Trace | None = None
    """For a redriven dead letter: its new outcome."""
    before: Trace | None = None
    """For a redriven event that was traced by its id: its rejection."""
