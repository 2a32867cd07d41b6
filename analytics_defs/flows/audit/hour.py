"""Audit of one hour: event ids, counters and files of all stores, compared with the records of the hour's closed batches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import islice, pairwise

from analytics_defs.core.ledger import BatchRecord
from analytics_defs.core.offsets import Source
from analytics_defs.core.sha256 import sha256_hex
from analytics_defs.core.storage import event_parquet
from analytics_defs.core.storage.object_keys import batch_time, event_id_of_key, event_json_dir, event_key, part_key, reused_id_event_key
from analytics_defs.core.timestamps import hour_of, iso_milliseconds
from analytics_defs.flows.audit.hour_folder import compare_folder
from analytics_defs.flows.progress import ProgressCallback, no_progress
from analytics_defs.flows.stored.compacted_parts import compacted_part_findings
from analytics_defs.flows.stored.expired_data import expired_dead_letters_of
from analytics_defs.flows.stored.hour_files import (
    HourFiles,
    batch_records,
    expected_rows,
    live_counters,
    require_unchanged,
    retry_on_compaction,
)
from analytics_defs.ports import DEDUPLICATION_WINDOW, RECENT_EVENTS_TTL, Ports, StoredEvent, may_have_been_reused

MAX_EXAMPLES_PER_FINDING = 5
READ_CHUNK_IDS = 1000


@dataclass(frozen=True, slots=True)
class HourAudit:
    """Event ids of one hour, store by store, over closed batches."""

    hour: str
    batches: tuple[str, ...]
    recorded: int
    """Events by the batch records."""
    counted: int
    """Events by the live counter of the hour."""
    parquet: int
    parquet_distinct: int
    objects: int | None
    """JSON objects of those rows. None if no row needs one, because no batch of the hour wrote JSON objects."""
    items: int
    """Ids that RecentEvents has to hold, and holds under the same source."""
    expired_items: int
    """Ids that RecentEvents need not hold any more: their batches are older than `DEDUPLICATION_WINDOW`."""
    findings: tuple[str, ...]
    expired_rows: int = 0
    """Rows that retention deleted. They are in `recorded` and `counted`, and in no store."""
    expiry: str = ""
    """Description of what retention deleted of the hour."""

    @property
    def agrees(self) -> bool:
        return not self.findings


def audit_hour(hour: str, ports: Ports, progress: ProgressCallback = no_progress) -> HourAudit:
    """Compare the stores for one hour. Batches that close meanwhile are left out.

    Reads every Parquet file of the hour, lists its JSON objects and reads the item of each id. Reads the dead-letter and duplicates
    files of these batches, and of the batches that were cut in the hour. It does not read the JSON objects, which takes one request for
    each event: see `flows.audit.hour_bytes`.
    """
    return retry_on_compaction(hour, ports, lambda files: _audit_hour(files, ports, progress))


def _audit_hour(files: HourFiles, ports: Ports, progress: ProgressCallback) -> HourAudit:
    hour, batches = files.hour, files.batches
    records = list(batch_records(batches, ports).values())
    rows = _read_rows(files, ports, progress)
    findings = _compare_rows(files, records, rows)
    recorded = sum(sum(record.hours[hour].values()) for record in records)
    counted = live_counters(hour, ports, lambda counts: counts.get("events", 0) == recorded).get("events", 0)
    if counted != recorded and tuple(ports.ledger.batches_of_hour(hour)) == batches:
        findings.append(f"{counted} events in the counters, {recorded} in the records of {len(batches)} batches")
    findings += _compare_ndjson_files(hour, records, ports)
    findings += compacted_part_findings(files, ports)
    ids = {row.event_id for row in rows}
    findings += _finding(f"stored twice within {DEDUPLICATION_WINDOW.days} days", _ids_stored_twice(rows))
    expected = {row.event_id: row.source for row in rows if row.batch_time + DEDUPLICATION_WINDOW > ports.clock.now()}
    held = _held_items(expected, ports, progress)
    findings += _finding("not held by RecentEvents under their source", sorted(expected.keys() - held.keys()))
    findings += _finding("held with other attributes than their claim wrote", _altered_items(rows, held))
    findings += compare_folder(files, ports)
    pointers = {event_id: item.data is None for event_id, item in held.items()}
    objects, object_findings = _compare_event_json(files, records, rows, pointers, ports)
    return HourAudit(
        hour,
        batches,
        recorded,
        counted,
        parquet=len(rows),
        parquet_distinct=len(ids),
        objects=objects,
        items=len(held),
        expired_items=len(ids - expected.keys()),
        findings=(*findings, *object_findings),
        expired_rows=files.expired.expired_rows,
        expiry=str(files.expired) if files.expired else "",
    )


@dataclass(frozen=True, slots=True)
class _Row:
    event_id: str
    event_type: str
    source: Source
    batch_id: str

    @property
    def batch_time(self) -> datetime:
        return batch_time(self.batch_id)


def _read_rows(files: HourFiles, ports: Ports, progress: ProgressCallback) -> list[_Row]:
    """Return all rows of the hour. A missing file has none. Raises ConcurrentCompaction if a newer revision replaced it."""
    rows: list[_Row] = []
    for number, key in enumerate(files.keys):
        progress("files read", number, len(files.keys))
        data = ports.object_store.get(key)
        if data is None:
            require_unchanged(files, ports)
            continue
        rows += [
            _Row(row["event_id"], row["event_type"], Source.parse(f"{row['topic']}/{row['partition']}/{row['offset']}"), row["batch_id"])
            for row in event_parquet.read_rows(data, ("event_id", "event_type", "topic", "partition", "offset", "batch_id"), key)
        ]
    return rows


def _compare_rows(files: HourFiles, records: Sequence[BatchRecord], rows: Sequence[_Row]) -> list[str]:
    """Compare the number of rows of each batch with its record, expired batches excepted."""
    counts = Counter(row.batch_id for row in rows)
    expired = set(files.expired.expired_batches)
    recorded = expected_rows(files.hour, {record.batch.id: record for record in records if record.batch.id not in expired})
    return [
        f"batch {batch}: {counts[batch]} rows in {_keys_of(batch, files)}, {recorded.get(batch, 0)} in its record"
        for batch in sorted({*counts, *recorded})
        if counts[batch] != recorded.get(batch, 0)
    ]


def _keys_of(batch: str, files: HourFiles) -> str:
    if batch in files.uncompacted_batches or not files.revision:
        return part_key(files.hour, batch)
    return ", ".join(files.revision.keys)


def _compare_event_json(
    files: HourFiles, records: Sequence[BatchRecord], rows: Sequence[_Row], held: Mapping[str, bool], ports: Ports
) -> tuple[int | None, list[str]]:
    """Return the number of JSON objects of the rows, None if no row needs one, and the differences.

    A row needs an object if its batch wrote JSON objects, or if its item points to one.
    """
    writing_batches = {record.batch.id for record in records if record.write_event_json}
    needed = Counter(
        row.event_id
        for row in rows
        if (row.batch_id in writing_batches or held.get(row.event_id)) and not files.expired.has_expired_event_json_of(row.batch_time)
    )
    if not (needed or writing_batches or not records):
        return None, []
    return _compare_keys(files, rows, needed, ports)


def _compare_keys(files: HourFiles, rows: Sequence[_Row], needed: Mapping[str, int], ports: Ports) -> tuple[int, list[str]]:
    """Compare the listed keys with the rows. `needed` is the number of objects by id.

    After rows have expired, an object without a row is no finding: its key does not show whether it is foreign.
    """
    hour, keys = files.hour, set(ports.object_store.list_keys(event_json_dir(files.hour)))
    id_by_key = {event_key(hour, row.event_id): row.event_id for row in rows}
    id_by_key |= {
        reused_id_event_key(hour, row.event_id, row.source): row.event_id for row in rows if may_have_been_reused(hour, row.batch_time)
    }
    counts = Counter(event_id for key, event_id in id_by_key.items() if key in keys)
    findings = _finding("without JSON object", sorted(event_id for event_id, count in needed.items() if counts[event_id] < count))
    snapshot = ports.ledger.snapshot()
    if (
        not files.expired.expired_batches
        and not snapshot.pending
        and not snapshot.unreadable
        and tuple(ports.ledger.batches_of_hour(hour)) == files.batches
    ):
        findings += _finding("JSON objects without row", sorted(event_id_of_key(key) or key for key in keys - id_by_key.keys()))
    return counts.total(), findings


def _compare_ndjson_files(hour: str, records: Sequence[BatchRecord], ports: Ports) -> list[str]:
    """Compare dead-letter and duplicates files with the batch records. They lie under the hour in which their batch was cut."""
    cut_in_hour = (record for record in ports.ledger.batches_of_day(hour[:10]) if hour_of(record.batch.time) == hour)
    findings = []
    for record in {record.batch.id: record for record in (*records, *cut_in_hour)}.values():
        is_expired = expired_dead_letters_of(record, ports) is not None
        for kind, key, recorded, digest in (
            ("dead letters", record.dead_letters_key, record.outcome_counts.dead_letters, record.dead_letters_digest),
            ("duplicates", record.duplicates_key, record.outcome_counts.duplicates, record.duplicates_digest),
        ):
            data = ports.object_store.get(key) if key else None
            if data is None and is_expired:
                continue
            difference = _compare_lines(f"{kind} in {key or 'no file'}", data, recorded, digest)
            findings += [f"batch {record.batch.id}: {difference}"] if difference else []
    return findings


def _compare_lines(what: str, data: bytes | None, recorded: int, digest: str | None) -> str | None:
    """Return how the file differs from the recorded number of lines and SHA-256, or None. A missing file has no lines."""
    lines = sum(1 for line in (data or b"").split(b"\n") if line)
    if lines != recorded:
        return f"{lines} {what}, {recorded} in its record"
    if data is not None and digest not in (None, sha256 := sha256_hex(data)):
        return f"{lines} {what} as recorded, but their SHA-256 is {sha256}, {digest} in its record"
    return None


def _ids_stored_twice(rows: Sequence[_Row]) -> list[str]:
    """Return the ids of two rows whose second batch came within the deduplication window, which ends at a whole second."""
    ordered = sorted((row.event_id, row.batch_time.replace(microsecond=0)) for row in rows)
    return [
        event_id
        for (event_id, time), (next_id, next_time) in pairwise(ordered)
        if event_id == next_id and next_time < time + DEDUPLICATION_WINDOW
    ]


def _held_items(sources: Mapping[str, Source], ports: Ports, progress: ProgressCallback) -> dict[str, StoredEvent]:
    """Return the items of the ids that RecentEvents holds under their source. Their documents are left out: they may be large."""
    held: dict[str, StoredEvent] = {}
    ids, done = iter(sources), 0
    while chunk := list(islice(ids, READ_CHUNK_IDS)):
        progress("ids read", done, len(sources))
        done += len(chunk)
        items = ports.recent_events.get_items(chunk)
        held |= {
            event_id: replace(item, data={} if isinstance(item.data, dict) else item.data)
            for event_id, item in items.items()
            if item.source == sources[event_id]
        }
    return held


def _altered_items(rows: Sequence[_Row], held: Mapping[str, StoredEvent]) -> list[str]:
    """Return the ids whose item has another type, creation time or lifetime, or no document."""
    return sorted(
        row.event_id
        for row in rows
        if (item := held.get(row.event_id))
        and item.source == row.source
        and (item.type, item.created_at, item.ttl, item.data in (None, {}))
        != (row.event_type, iso_milliseconds(row.batch_time), int((row.batch_time + RECENT_EVENTS_TTL).timestamp()), True)
    )


def _finding(what: str, ids: Sequence[str]) -> list[str]:
    return [f"{len(ids)} ids {what}, for example {', '.join(ids[:MAX_EXAMPLES_PER_FINDING])}"] if ids else []
