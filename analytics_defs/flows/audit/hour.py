"""Do the stores agree about one hour? Event ids, counters and files, each against the records of the hour's closed batches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice, pairwise

from analytics_defs.core.ledger import BatchRecord
from analytics_defs.core.offsets import Source
from analytics_defs.core.sha256 import sha256_hex
from analytics_defs.core.storage import event_parquet
from analytics_defs.core.storage.object_keys import batch_time, event_id_of_key, event_json_dir, event_key, part_key, reused_id_event_key
from analytics_defs.core.timestamps import hour_of
from analytics_defs.flows.progress import ProgressCallback, no_progress
from analytics_defs.flows.stored.expired_data import expired_dead_letters_of
from analytics_defs.flows.stored.hour_files import (
    HourFiles,
    batch_records,
    expected_rows,
    live_counters,
    require_unchanged,
    retry_on_compaction,
)
from analytics_defs.ports import DEDUPLICATION_WINDOW, Ports, may_have_been_reused

MAX_EXAMPLES_PER_FINDING = 5


@dataclass(frozen=True, slots=True)
class HourAudit:
    """Event ids of one hour, store by store, over closed batches."""

    hour: str
    batches: tuple[str, ...]
    recorded: int
    """Sum of the batches' own records."""
    counted: int
    """The counter of the hour."""
    parquet: int
    parquet_distinct: int
    objects: int | None
    """Rows that have theirs. None where none needs one: no batch of the hour wrote them, by its settings."""
    items: int
    """Ids of those rows that RecentEvents has to hold, and holds under the same source."""
    expired_items: int
    """Ids that it need not hold any more: their batches are older than `REMEMBERED`."""
    findings: tuple[str, ...]
    expired_rows: int = 0
    """Rows that retention took: they are in `recorded` and `counted`, and in no store any more."""
    expiry: str = ""
    """What retention took of the hour, in words."""

    @property
    def agrees(self) -> bool:
        return not self.findings


def audit_hour(hour: str, ports: Ports, told: ProgressCallback = no_progress) -> HourAudit:
    """Reads every file of the hour, lists its objects, and asks RecentEvents for each id. Batches that close meanwhile are left out.

    Also the dead-letter and repeat files of these batches, and of those whose own time lies in the hour. Never the bytes of the JSON
    objects: the bucket's listing tells keys only, and one read for each event takes long. `flows.audit.hour_bytes` compares those.
    """
    return retry_on_compaction(hour, ports, lambda account: _audit_hour(account, ports, told))


def _audit_hour(account: HourFiles, ports: Ports, told: ProgressCallback) -> HourAudit:
    hour, batches = account.hour, account.batches
    records = list(batch_records(batches, ports).values())
    rows, findings = _rows(account, records, ports, told)
    recorded = sum(sum(record.hours[hour].values()) for record in records)
    counted = live_counters(hour, ports, lambda counts: counts.get("events", 0) == recorded).get("events", 0)
    if counted != recorded and tuple(ports.ledger.batches_of_hour(hour)) == batches:
        findings.append(f"{counted} events in the counters, {recorded} in the records of {len(batches)} batches")
    findings += _files(hour, records, ports)
    ids = {row.event_id for row in rows}
    findings += _named(f"stored twice within {DEDUPLICATION_WINDOW.days} days", _doubled(rows))
    kept = {row.event_id: row.source for row in rows if row.batch_time + DEDUPLICATION_WINDOW > ports.clock.now()}
    held = _held(kept, ports, told)
    findings += _named("not held by RecentEvents under their source", sorted(kept.keys() - held.keys()))
    objects, said = _objects(account, records, rows, held, ports)
    return HourAudit(
        hour,
        batches,
        recorded,
        counted,
        parquet=len(rows),
        parquet_distinct=len(ids),
        objects=objects,
        items=len(held),
        expired_items=len(ids - kept.keys()),
        findings=(*findings, *said),
        expired_rows=account.expired.expired_rows,
        expiry=str(account.expired) if account.expired else "",
    )


def _objects(
    account: HourFiles, records: Sequence[BatchRecord], rows: Sequence[_Row], held: Mapping[str, bool], ports: Ports
) -> tuple[int | None, list[str]]:
    """How many objects the rows have, None where none needs one; and where the tree is not what the batches wrote, each by its settings."""
    wrote, taken = {record.batch.id for record in records if record.write_event_json}, account.expired
    needed = Counter(
        row.event_id
        for row in rows
        if (row.batch_id in wrote or held.get(row.event_id)) and not taken.has_expired_event_json_of(row.batch_time)
    )
    return _in_tree(account, rows, needed, ports) if needed or wrote or not records else (None, [])


def _in_tree(account: HourFiles, rows: Sequence[_Row], needed: Mapping[str, int], ports: Ports) -> tuple[int, list[str]]:
    """The same, where the tree is looked at. `needed`: by id.

    Where retention took rows, their objects may be there: nobody can tell them from strangers by name.
    """
    hour, keys = account.hour, set(ports.object_store.list_keys(event_json_dir(account.hour)))
    mine = {event_key(hour, row.event_id): row.event_id for row in rows}
    mine |= {
        reused_id_event_key(hour, row.event_id, row.source): row.event_id for row in rows if may_have_been_reused(hour, row.batch_time)
    }
    there = Counter(event_id for key, event_id in mine.items() if key in keys)
    findings = _named("without JSON object", sorted(event_id for event_id, count in needed.items() if there[event_id] < count))
    now = ports.ledger.snapshot()
    if (
        not account.expired.expired_batches
        and not now.pending
        and not now.unreadable
        and tuple(ports.ledger.batches_of_hour(hour)) == account.batches
    ):
        findings += _named("JSON objects without row", sorted(event_id_of_key(key) or key for key in keys - mine.keys()))
    return there.total(), findings


@dataclass(frozen=True, slots=True)
class _Row:
    event_id: str
    source: Source
    batch_id: str

    @property
    def batch_time(self) -> datetime:
        return batch_time(self.batch_id)


def _rows(account: HourFiles, records: Sequence[BatchRecord], ports: Ports, told: ProgressCallback) -> tuple[list[_Row], list[str]]:
    """What the hour's files hold, and where that is not what the records say. Raises Moved where somebody compacts it meanwhile."""
    rows: list[_Row] = []
    for number, key in enumerate(account.keys):
        told("files read", number, len(account.keys))
        data = ports.object_store.get(key)
        if data is None:
            require_unchanged(account, ports)
        found_here = (
            event_parquet.read_rows(data, ("event_id", "topic", "partition", "offset", "batch_id"), key) if data is not None else ()
        )
        rows += [
            _Row(row["event_id"], Source.parse(f"{row['topic']}/{row['partition']}/{row['offset']}"), row["batch_id"]) for row in found_here
        ]
    found = Counter(row.batch_id for row in rows)
    taken = set(account.expired.expired_batches)
    recorded = expected_rows(account.hour, {record.batch.id: record for record in records if record.batch.id not in taken})
    return rows, [
        f"batch {batch}: {found[batch]} rows in {_where(batch, account)}, {recorded.get(batch, 0)} in its record"
        for batch in sorted({*found, *recorded})
        if found[batch] != recorded.get(batch, 0)
    ]


def _where(batch: str, account: HourFiles) -> str:
    return (
        part_key(account.hour, batch) if batch in account.uncompacted_batches or not account.revision else ", ".join(account.revision.keys)
    )


def _files(hour: str, records: Sequence[BatchRecord], ports: Ports) -> list[str]:
    """Where dead-letter and repeat files are not what their batches' records say. Those of a batch lie under the hour of its own time."""
    own = (record for record in ports.ledger.batches_of_day(hour[:10]) if hour_of(record.batch.time) == hour)
    findings = []
    for record in {record.batch.id: record for record in (*records, *own)}.values():
        taken = expired_dead_letters_of(record, ports) is not None
        for what, key, recorded, noted in (
            ("dead letters", record.dead_letters_key, record.tally.dead_letters, record.dead_letters_digest),
            ("duplicates", record.duplicates_key, record.tally.duplicates, None),
        ):
            data = ports.object_store.get(key) if key else None
            if data is None and taken:
                continue
            said = _lines(f"{what} in {key or 'no file'}", data, recorded, noted)
            findings += [f"batch {record.batch.id}: {said}"] if said else []
    return findings


def _lines(what: str, data: bytes | None, recorded: int, noted: str | None) -> str | None:
    """Why this is not the file with so many lines and this SHA-256, or None."""
    found = sum(1 for line in (data or b"").split(b"\n") if line)
    if found != recorded:
        return f"{found} {what}, {recorded} in its record"
    if data is not None and noted not in (None, sha256 := sha256_hex(data)):
        return f"{found} {what} as recorded, but their SHA-256 is {sha256}, {noted} in its record"
    return None


def _doubled(rows: Sequence[_Row]) -> list[str]:
    """Ids that two rows hold although the first one's claim had not expired when the second came. Claims expire at whole seconds."""
    ordered = sorted((row.event_id, row.batch_time.replace(microsecond=0)) for row in rows)
    return [
        event_id for (event_id, time), (same_id, later) in pairwise(ordered) if event_id == same_id and later < time + DEDUPLICATION_WINDOW
    ]


def _held(sources: Mapping[str, Source], ports: Ports, told: ProgressCallback) -> dict[str, bool]:
    """Those ids that RecentEvents holds under their source, and whether it points to the JSON object for the event's data."""
    held: dict[str, bool] = {}
    ids, asked = iter(sources), 0
    while some := list(islice(ids, 1000)):
        told("ids asked for", asked, len(sources))
        asked += len(some)
        held |= {each: item.data is None for each, item in ports.recent_events.get_items(some).items() if item.source == sources[each]}
    return held


def _named(what: str, ids: Sequence[str]) -> list[str]:
    return [f"{len(ids)} ids {what}, for example {', '.join(ids[:MAX_EXAMPLES_PER_FINDING])}"] if ids else []
