"""Rows of an hour from its JSON objects. Each object holds an event's own bytes; its metadata names source and batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
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
"""Maximum number of objects in memory at once."""
ACCEPT_ALL_RULES = ValidationRules(max_event_bytes=2**31, max_future_skew=timedelta(days=1))
"""Rules for stored events. They were validated by the rules of their batch when it was read."""


def rows_from_json(hour: str, wanted: Mapping[str, int], workspace: ParquetWorkspace, ports: Ports) -> list[str]:
    """Write Parquet files with the rows of these batches. `wanted` is the number of rows by batch. Return the local paths.

    The record timestamp is null for objects without that metadata.
    Raises InconsistentState if the tree does not hold exactly those rows.
    """
    if not wanted:
        return []
    paths, row_counts = list[str](), Counter[str]()
    keys = ports.object_store.list_keys(event_json_dir(hour))
    while chunk := list(islice(keys, REBUILD_CHUNK_OBJECTS)):
        objects = ports.task_pool.run_all([partial(ports.object_store.get_object, key) for key in chunk])
        rows = list(_rows(objects, hour, wanted, ports))
        row_counts.update(row.batch_id for row in rows)
        if rows:
            paths.append(workspace.put(f"json/{len(paths)}.parquet", event_parquet.encode_rows(rows)))
    if wrong := [f"{batch} ({row_counts[batch]} of {count})" for batch, count in sorted(wanted.items()) if row_counts[batch] != count]:
        raise InconsistentState(
            f"hour {hour}: Parquet of {len(wanted)} closed batches is missing or damaged, and the JSON objects do not hold their events: "
            f"{', '.join(wrong[:5])}{_expiry_note(hour, ports)}. Nothing was changed. "
            f"Restore the files below {event_json_dir(hour)} or the Parquet from the bucket's "
            "versions or a backup; with WRITE_EVENT_JSON=false there is no JSON objects."
        )
    return paths


def _expiry_note(hour: str, ports: Ports) -> str:
    revision = ports.ledger.latest_revision(hour)
    return f" ({revision.expired})" if revision and revision.expired else ""


def _rows(objects: Sequence[StoredObject | None], hour: str, wanted: Mapping[str, int], ports: Ports) -> Iterator[Row]:
    for object_ in objects:
        if object_ is not None and object_.metadata.get("batch") in wanted and _is_counted(object_, hour, ports):
            yield _row(object_, hour)


def _is_counted(object_: StoredObject, hour: str, ports: Ports) -> bool:
    """Return False for copies under other keys, and for the second key of an event.

    In an hour with expired data, a late event has both the plain key and the key with the hash of its source.
    """
    keys = candidate_event_keys(hour, object_.metadata)
    if keys and object_.key not in keys:
        return False
    plain = ports.object_store.get_object(keys[0]) if keys and object_.key != keys[0] else None
    return plain is None or plain.metadata.get("source") != object_.metadata["source"]


def _row(object_: StoredObject, hour: str) -> Row:
    """Decode one object. Raise InconsistentState if its body is not the event that its key and metadata name."""
    batch_id = object_.metadata["batch"]
    try:
        source = Source.parse(object_.metadata.get("source", ""))
    except ValueError as error:
        raise InconsistentState(f"{object_.key}: its metadata names no source ({error}). Restore the object.") from error
    time = batch_time(batch_id)
    event = classify(Record(source, metadata_record_timestamp(object_.metadata), None, object_.body), ACCEPT_ALL_RULES, time)
    if not isinstance(event, Event) or event.hour != hour:
        raise InconsistentState(f"{object_.key} is not an event of hour {hour} any more: it was altered. Restore the object.")
    return Row(event, batch_id, time)
