"""What may have become of a record, and the answer that says so."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from analytics_defs.core.offsets import Source


class RecordOutcome(StrEnum):
    STORED = "stored"
    DUPLICATE = "duplicate"
    DEAD_LETTER = "dead_letter"
    TOMBSTONE = "tombstone"
    GAP = "gap"
    LOST = "lost"
    UNACCOUNTED = "unaccounted"
    EXPIRED = "expired"
    """Its batch counts it, and retention removed the files that tell as what."""
    PENDING = "pending"
    """In a batch that was taken and is not closed yet."""
    NOT_READ = "not_read"
    """At or beyond the next offset to read."""
    BEFORE_START = "before_start"
    """Before the offset where the ledger's account of the partition begins."""
    UNKNOWN_PARTITION = "unknown_partition"
    """The ledger has no account of this topic-partition."""


@dataclass(frozen=True, slots=True)
class Trace:
    """Coordinates and reasons, never payloads."""

    source: Source
    outcome: RecordOutcome
    batch_id: str | None = None
    event_id: str | None = None
    detail: str = ""
    original_source: Source | None = None
    """Of a repeat: the source that holds its id."""
    part: str | None = None
    """Key of the Parquet file that holds it: its batch's part, or the hour's archive."""
    event_json: str | None = None
    """Key of the JSON object, where it is there."""
    item: str | None = None
    """What RecentEvents says: `held`, `expired`, or `held by <source>`."""
    redrive: Trace | None = None
    """Of a dead letter that was put through again: what became of it then."""
    before: Trace | None = None
    """Where an event was asked for by its id: what its source was before it was put through again."""
