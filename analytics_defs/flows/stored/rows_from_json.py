"""Rows of an hour from its JSON tree: each object holds an event's own bytes, and names its source and its batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import timedelta
from functools import partial
from itertools import islice

from analytics_defs.core.events.event import Event, ValidationRules, classify
from analytics_defs.core.offsets import Record, Source
from analytics_defs.core.storage import event_parquet
from analytics_defs.core.storage.event_parquet import Row
from analytics_defs.core.storage.object_keys import batch_time, candidate_event_keys, event_json_dir, metadata_record_timestamp
from analytics_defs.errors import InconsistentState
from analytics_defs.ports import ParquetWorkspace, Ports, StoredObject

REBUILD_CHUNK_OBJECTS = 2_000
"""Objects in memory at once."""
ACCEPT_ALL_RULES = ValidationRules(max_event_bytes=2**31, max_future_skew=timedelta(days=1))
"""They were judged when they came."""


def rows_from_json(hour: str, wanted: Mapping[str, int], table: ParquetWorkspace, ports: Ports) -> list[str]:
    """Files with the rows of these batches, which have so many each. Record timestamps that their objects do not carry are null.

    Raises InconsistentState where the tree does not hold exactly those rows.
    """
    if not wanted:
        return []
    paths, found = list[str](), Counter[str]()
    keys = ports.object_store.list_keys(event_json_dir(hour))
    while some := list(islice(keys, REBUILD_CHUNK_OBJECTS)):
        blobs = ports.task_pool.run_all([partial(ports.object_store.get_object, key) for key in some])
        rows = list(_rows(blobs, hour, wanted, ports))
        found.update(row.batch_id for row in rows)
        if rows:
            paths.append(table.put(f"json/{len(paths)}.parquet", event_parquet.encode_rows(rows)))
    if short := [f"{batch} ({found[batch]} of {count})" for batch, count in sorted(wanted.items()) if found[batch] != count]:
        raise InconsistentState(
            f"hour {hour}: Parquet of {len(wanted)} closed batches is missing or damaged, and the JSON tree does not hold their events: "
            f"{', '.join(short[:5])}{_because(hour, ports)}. Nothing was changed. "
            f"Restore the files below {event_json_dir(hour)} or the Parquet from the bucket's "
            "versions or a backup; with WRITE_EVENT_JSON=false there is no JSON tree."
        )
    return paths


def _because(hour: str, ports: Ports) -> str:
    revision = ports.ledger.latest_revision(hour)
    return f" ({revision.expired})" if revision and revision.expired else ""


def _rows(blobs: list[StoredObject | None], hour: str, wanted: Mapping[str, int], ports: Ports) -> Iterator[Row]:
    for blob in blobs:
        if blob is not None and blob.metadata.get("batch") in wanted and _counts(blob, hour, ports):
            yield _row(blob, hour)


def _counts(blob: StoredObject, hour: str, ports: Ports) -> bool:
    """Not a copy that somebody made of it, nor the second of two names: in an hour that retention has touched a late event has both."""
    names = candidate_event_keys(hour, blob.metadata)
    if names and blob.key not in names:
        return False
    plain = ports.object_store.get_object(names[0]) if names and blob.key != names[0] else None
    return plain is None or plain.metadata.get("source") != blob.metadata["source"]


def _row(blob: StoredObject, hour: str) -> Row:
    """Raises InconsistentState where the object is not the event that its name and its metadata say."""
    batch_id = blob.metadata["batch"]
    try:
        source = Source.parse(blob.metadata.get("source", ""))
    except ValueError as error:
        raise InconsistentState(f"{blob.key}: its metadata names no source ({error}). Restore the object.") from error
    time = batch_time(batch_id)
    verdict = classify(Record(source, metadata_record_timestamp(blob.metadata), None, blob.body), ACCEPT_ALL_RULES, time)
    if not isinstance(verdict, Event) or verdict.hour != hour:
        raise InconsistentState(f"{blob.key} is not an event of hour {hour} any more: somebody altered it. Restore the object.")
    return Row(verdict, batch_id, time)
