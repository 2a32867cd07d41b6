"""Rows of an hour from its JSON tree: each object holds an event's own bytes, and names its source and its batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import timedelta
from functools import partial
from itertools import islice

from analytics_defs.core.events.event import Event, Rules, judge
from analytics_defs.core.offsets import Record, Source
from analytics_defs.core.storage import event_parquet
from analytics_defs.core.storage.event_parquet import Row
from analytics_defs.core.storage.object_keys import batch_time, event_dir, metadata_record_timestamp, object_keys
from analytics_defs.errors import Contradiction
from analytics_defs.ports import Blob, Ports, Table

CHUNK = 2_000
"""Objects in memory at once."""
ANY = Rules(max_event_bytes=2**31, max_future_skew=timedelta(days=1))
"""They were judged when they came."""


def rows_from_json(hour: str, wanted: Mapping[str, int], table: Table, ports: Ports) -> list[str]:
    """Files with the rows of these batches, which have so many each. Record timestamps that their objects do not carry are null.

    Raises Contradiction where the tree does not hold exactly those rows.
    """
    if not wanted:
        return []
    paths, found = list[str](), Counter[str]()
    keys = ports.archive.keys(event_dir(hour))
    while some := list(islice(keys, CHUNK)):
        blobs = ports.workers.run([partial(ports.archive.fetch, key) for key in some])
        rows = list(_rows(blobs, hour, wanted, ports))
        found.update(row.batch_id for row in rows)
        if rows:
            paths.append(table.put(f"json/{len(paths)}.parquet", event_parquet.file_of(rows)))
    if short := [f"{batch} ({found[batch]} of {count})" for batch, count in sorted(wanted.items()) if found[batch] != count]:
        raise Contradiction(
            f"hour {hour}: Parquet of {len(wanted)} closed batches is missing or damaged, and the JSON tree does not hold their events: "
            f"{', '.join(short[:5])}{_because(hour, ports)}. Nothing was changed. "
            f"Restore the files below {event_dir(hour)} or the Parquet from the bucket's "
            "versions or a backup; with EVENT_OBJECTS=false there is no JSON tree."
        )
    return paths


def _because(hour: str, ports: Ports) -> str:
    revision = ports.ledger.revision(hour)
    return f" ({revision.taken})" if revision and revision.taken else ""


def _rows(blobs: list[Blob | None], hour: str, wanted: Mapping[str, int], ports: Ports) -> Iterator[Row]:
    for blob in blobs:
        if blob is not None and blob.metadata.get("batch") in wanted and _counts(blob, hour, ports):
            yield _row(blob, hour)


def _counts(blob: Blob, hour: str, ports: Ports) -> bool:
    """Not a copy that somebody made of it, nor the second of two names: in an hour that retention has touched a late event has both."""
    names = object_keys(hour, blob.metadata)
    if names and blob.key not in names:
        return False
    plain = ports.archive.fetch(names[0]) if names and blob.key != names[0] else None
    return plain is None or plain.metadata.get("source") != blob.metadata["source"]


def _row(blob: Blob, hour: str) -> Row:
    """Raises Contradiction where the object is not the event that its name and its metadata say."""
    batch_id = blob.metadata["batch"]
    try:
        source = Source.parse(blob.metadata.get("source", ""))
    except ValueError as error:
        raise Contradiction(f"{blob.key}: its metadata names no source ({error}). Restore the object.") from error
    time = batch_time(batch_id)
    verdict = judge(Record(source, metadata_record_timestamp(blob.metadata), None, blob.body), ANY, time)
    if not isinstance(verdict, Event) or verdict.hour != hour:
        raise Contradiction(f"{blob.key} is not an event of hour {hour} any more: somebody altered it. Restore the object.")
    return Row(verdict, batch_id, time)
