"""JSON objects: each by what its own metadata say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from functools import partial
from itertools import islice

from analytics_defs.core.hours.retention import newest
from analytics_defs.core.hours.revision import Revision, without_objects
from analytics_defs.core.storage.object_keys import EVENTS, batch_time, event_dir, object_keys
from analytics_defs.core.timestamps import hour_of
from analytics_defs.flows.hours.compaction import mark
from analytics_defs.flows.retention.freezing import frozen
from analytics_defs.flows.retention.sweep import AHEAD, CHUNK, Turn


def take_objects(turn: Turn) -> None:
    for hour, keys in turn.hours(EVENTS, event_dir, hour_of(turn.limit + AHEAD)):
        with turn.passing_over(hour):
            _take_objects_of(hour, keys, turn)


def _take_objects_of(hour: str, keys: Iterator[str], turn: Turn) -> None:
    ports = turn.ports
    revision, batches = ports.ledger.revision(hour), ports.ledger.batches_of_hour(hour)
    through = revision.taken.objects_through if revision else None
    found = newest(batches)
    if through is None or (found and through < found):
        through = turn.old(hour, batches) or through
    if through is None:
        return
    old = {batch for batch in batches if batch_time(batch) <= min(through, turn.limit)}
    is_frozen, sizes = False, list[int]()
    try:
        while some := list(islice(keys, CHUNK)):
            mine = _old_objects(hour, some, old, turn)
            if mine and turn.write:
                is_frozen = is_frozen or _freeze_objects(hour, through, turn)
                ports.archive.delete(list(mine))
            sizes += mine.values()
    finally:
        if sizes:
            turn.went(EVENTS, hour, sizes)


def _old_objects(hour: str, keys: Sequence[str], old: set[str], turn: Turn) -> dict[str, int]:
    """Objects of these batches, with their sizes: under a name of theirs, and with the metadata that they write."""
    archive, mine = turn.ports.archive, dict[str, int]()
    for key, found in zip(keys, turn.ports.workers.run([partial(archive.stat, key) for key in keys]), strict=True):
        if found and key not in object_keys(hour, found.metadata):
            turn.leave([key])
        elif found and found.metadata.get("batch") in old:
            mine[key] = found.bytes
    return mine


def _freeze_objects(hour: str, through: datetime, turn: Turn) -> bool:
    def change(found: Revision) -> Revision | None:
        if found.taken.objects_through is not None and found.taken.objects_through >= through:
            return None
        turn.must_be_old(found)
        return without_objects(found, through, turn.now)

    revision = frozen(hour, change, turn)
    mark(revision, turn.has_passed(hour), turn.ports)
    return True
