"""JSON objects: each by what its own metadata say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from functools import partial
from itertools import islice

from analytics_defs.core.hours.retention import newest_batch_time
from analytics_defs.core.hours.revision import ArchiveRevision, with_expired_event_json
from analytics_defs.core.storage.object_keys import EVENTS, batch_time, candidate_event_keys, event_json_dir
from analytics_defs.core.timestamps import hour_of
from analytics_defs.flows.hours.manifest import write_manifest
from analytics_defs.flows.retention.freezing import mark_expired
from analytics_defs.flows.retention.sweep import DELETE_CHUNK_KEYS, MAX_EVENT_LEAD, ExpirySweep


def expire_event_json(turn: ExpirySweep) -> None:
    for hour, keys in turn.hours(EVENTS, event_json_dir, hour_of(turn.cutoff + MAX_EVENT_LEAD)):
        with turn.skip_on_error(hour):
            _take_objects_of(hour, keys, turn)


def _take_objects_of(hour: str, keys: Iterator[str], turn: ExpirySweep) -> None:
    ports = turn.ports
    revision, batches = ports.ledger.latest_revision(hour), ports.ledger.batches_of_hour(hour)
    through = revision.expired.event_json_expired_through if revision else None
    found = newest_batch_time(batches)
    if through is None or (found and through < found):
        through = turn.expirable_through(hour, batches) or through
    if through is None:
        return
    old = {batch for batch in batches if batch_time(batch) <= min(through, turn.cutoff)}
    is_frozen, sizes = False, list[int]()
    try:
        while some := list(islice(keys, DELETE_CHUNK_KEYS)):
            mine = _old_objects(hour, some, old, turn)
            if mine and turn.write:
                is_frozen = is_frozen or _freeze_objects(hour, through, turn)
                ports.object_store.delete(list(mine))
            sizes += mine.values()
    finally:
        if sizes:
            turn.record_deleted(EVENTS, hour, sizes)


def _old_objects(hour: str, keys: Sequence[str], old: set[str], turn: ExpirySweep) -> dict[str, int]:
    """Objects of these batches, with their sizes: under a name of theirs, and with the metadata that they write."""
    archive, mine = turn.ports.object_store, dict[str, int]()
    for key, found in zip(keys, turn.ports.task_pool.run_all([partial(archive.head, key) for key in keys]), strict=True):
        if found and key not in candidate_event_keys(hour, found.metadata):
            turn.record_foreign([key])
        elif found and found.metadata.get("batch") in old:
            mine[key] = found.bytes
    return mine


def _freeze_objects(hour: str, through: datetime, turn: ExpirySweep) -> bool:
    def change(found: ArchiveRevision) -> ArchiveRevision | None:
        if found.expired.event_json_expired_through is not None and found.expired.event_json_expired_through >= through:
            return None
        turn.require_expirable(found)
        return with_expired_event_json(found, through, turn.now)

    revision = mark_expired(hour, change, turn)
    write_manifest(revision, turn.is_complete(hour), turn.ports)
    return True
