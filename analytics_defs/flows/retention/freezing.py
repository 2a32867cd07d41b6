"""An hour is frozen before anything of it goes: compacted, proven sound, and its next revision says what is taken."""

from __future__ import annotations

from collections.abc import Callable

from analytics_defs.core.hours.revision import Revision, same
from analytics_defs.errors import Contradiction, TakenOver
from analytics_defs.flows.hours.compaction import compact
from analytics_defs.flows.retention.sweep import Turn
from analytics_defs.flows.stored.hour_files import READINGS


def frozen(hour: str, change: Callable[[Revision], Revision | None], turn: Turn) -> Revision:
    """The hour compacted, proven sound, and frozen by the next revision; or as it is, where `change` has nothing to change."""
    for _ in range(READINGS):
        found = compact(hour, turn.ports, turn.bench).revision
        if found is None:
            raise Contradiction(f"hour {hour}: batches marked it, and it has no archive")
        ours = change(found)
        if ours is None:
            return found
        counts = turn.ports.ledger.revise(ours)
        if same(counts, ours):
            return counts
    raise TakenOver(f"hour {hour}: its archive moved {READINGS} times while it was to be frozen. Nothing of it was taken; try again.")
