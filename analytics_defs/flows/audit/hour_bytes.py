"""Audit of the bytes of an hour's JSON objects against Parquet. It reads every object, so it runs only on request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from analytics_defs.core.hours.revision import merge_summaries
from analytics_defs.core.storage.object_keys import batch_time, event_metadata
from analytics_defs.flows.hours.restore import event_of
from analytics_defs.flows.hours.statistics import StatisticsEngineFactory
from analytics_defs.flows.progress import ProgressCallback, no_progress
from analytics_defs.flows.stored.event_json import event_json_object, has_same_metadata
from analytics_defs.flows.stored.hour_files import HourFiles, download_verified, retry_on_compaction
from analytics_defs.ports import DEDUPLICATION_WINDOW, Ports, StoredRow

COMPARE_CHUNK_ROWS = 100
"""Objects in memory at once."""
MAX_EXAMPLES_PER_DIFFERENCE = 5


@dataclass(slots=True)
class BytesAudit:
    """Differences of one hour. Missing objects are left to `audit_hour`."""

    hour: str
    compared: int = 0
    other_bytes: list[str] = field(default_factory=list)
    """Ids whose object differs from the payload in Parquet."""
    other_metadata: list[str] = field(default_factory=list)
    """Ids whose object has the payload, and other metadata than its batch wrote."""

    other_items: list[str] = field(default_factory=list)
    """Ids whose item in RecentEvents has other attributes than their claim wrote, with the first of them."""

    @property
    def findings(self) -> tuple[str, ...]:
        differences = (
            ("JSON objects with other bytes than Parquet", self.other_bytes),
            ("JSON objects with other metadata than their batch wrote", self.other_metadata),
            ("items with other attributes than Parquet", self.other_items),
        )
        return tuple(f"{len(ids)} {what}, for example {', '.join(ids[:MAX_EXAMPLES_PER_DIFFERENCE])}" for what, ids in differences if ids)


def compare_bytes(hour: str, ports: Ports, engine_factory: StatisticsEngineFactory, progress: ProgressCallback = no_progress) -> BytesAudit:
    """Compare every existing JSON object of the hour with its row. Raises InconsistentState if a Parquet file is damaged."""
    return retry_on_compaction(hour, ports, lambda files: _compare(files, ports, engine_factory, progress))


def _compare(files: HourFiles, ports: Ports, engine_factory: StatisticsEngineFactory, progress: ProgressCallback) -> BytesAudit:
    audit = BytesAudit(files.hour)
    with engine_factory() as workspace:
        paths = download_verified(files, workspace, ports)
        done, total = 0, merge_summaries(rows for rows in workspace.summarize(paths).values() if rows is not None).count
        for rows in workspace.read_rows(paths):
            for start in range(0, len(rows), COMPARE_CHUNK_ROWS):
                progress("objects compared", done, total)
                chunk = rows[start : start + COMPARE_CHUNK_ROWS]
                _compare_chunk(chunk, audit, ports)
                done += len(chunk)
    return audit


def _compare_chunk(rows: Sequence[StoredRow], audit: BytesAudit, ports: Ports) -> None:
    events = [event_of(row, audit.hour) for row in rows]
    recent = [(event, batch_time(row.batch_id)) for event, row in zip(events, rows, strict=True)]
    recent = [(event, time) for event, time in recent if time + DEDUPLICATION_WINDOW > ports.clock.now()]
    items = ports.recent_events.get_items([event.id for event, _ in recent])
    for event, time in recent:
        item = items.get(event.id)
        if item and item.source == event.record.source and (attribute := item.differs_from(event, time)):
            audit.other_items.append(f"{event.id} ({attribute})")
    reads = [partial(event_json_object, event, batch_time(row.batch_id), ports) for event, row in zip(events, rows, strict=True)]
    for event, row, (_, object_) in zip(events, rows, ports.task_pool.run_all(reads), strict=True):
        if object_ is None:
            continue
        audit.compared += 1
        if object_.body != row.payload:
            audit.other_bytes.append(event.id)
        elif not has_same_metadata(object_.metadata, event_metadata(event, row.batch_id)):
            audit.other_metadata.append(event.id)
