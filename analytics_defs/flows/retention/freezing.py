"""An hour is frozen before anything of it goes: compacted, proven sound, and its next revision says what is taken."""

from __future__ import annotations

from collections.abc import Callable

from analytics_defs.core.hours.revision import ArchiveRevision, same_content
from analytics_defs.errors import InconsistentState, Superseded
from analytics_defs.flows.hours.compaction import compact_hour
from analytics_defs.flows.retention.sweep import ExpirySweep
from analytics_defs.flows.stored.hour_files import MAX_HOUR_READS


def mark_expired(hour: str, change: Callable[[ArchiveRevision], ArchiveRevision | None], turn: ExpirySweep) -> ArchiveRevision:
    """The hour compacted, proven sound, and frozen by the next revision; or as it is, where `change` has nothing to change."""
    for _ in range(MAX_HOUR_READS):
        found = compact_hour(hour, turn.ports, turn.workspace_factory).revision
        if found is None:
            raise InconsistentState(f"hour {hour}: batches marked it, and it has no archive")
        ours = change(found)
        if ours is None:
            return found
        counts = turn.ports.ledger.put_revision(ours)
        if same_content(counts, ours):
            return counts
    raise Superseded(
        f"hour {hour}: its archive moved {MAX_HOUR_READS} times while it was to be frozen. Nothing of it was taken; try again."
    )
