"""Do the JSON objects of an hour hold the bytes that its Parquet holds? One read for each event: asked for, never on the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from analytics_defs.core.hours.revision import merge_summaries
from analytics_defs.core.storage.object_keys import batch_time
from analytics_defs.flows.hours.restore import event_of
from analytics_defs.flows.hours.statistics import StatisticsEngineFactory
from analytics_defs.flows.progress import ProgressCallback, no_progress
from analytics_defs.flows.stored.event_json import event_json_object
from analytics_defs.flows.stored.hour_files import HourFiles, download_verified, retry_on_compaction
from analytics_defs.ports import Ports, StoredRow

COMPARED_AT_ONCE = 100
"""Objects in memory together."""
MAX_EXAMPLES_PER_DIFFERENCE = 5


@dataclass(slots=True)
class BytesAudit:
    """What a comparison of one hour found. Objects that are not there are the business of `audit_hour`."""

    hour: str
    compared: int = 0
    other_bytes: list[str] = field(default_factory=list)
    """Ids whose object is not the payload in Parquet, byte for byte."""
    other_origin: list[str] = field(default_factory=list)
    """Ids whose object has those bytes, and metadata that name another source or batch."""

    @property
    def findings(self) -> tuple[str, ...]:
        said = (("other bytes than Parquet", self.other_bytes), ("another source or batch in its metadata", self.other_origin))
        return tuple(
            f"{len(ids)} JSON objects with {what}, for example {', '.join(ids[:MAX_EXAMPLES_PER_DIFFERENCE])}" for what, ids in said if ids
        )


def compare_bytes(hour: str, ports: Ports, bench: StatisticsEngineFactory, told: ProgressCallback = no_progress) -> BytesAudit:
    """Reads every file and every object of the hour. Raises InconsistentState where Parquet itself is damaged."""
    return retry_on_compaction(hour, ports, lambda account: _compare(account, ports, bench, told))


def _compare(account: HourFiles, ports: Ports, bench: StatisticsEngineFactory, told: ProgressCallback) -> BytesAudit:
    found = BytesAudit(account.hour)
    with bench() as table:
        paths = download_verified(account, table, ports)
        done, of = 0, merge_summaries(rows for rows in table.summarize(paths).values() if rows is not None).count
        for rows in table.read_rows(paths):
            for start in range(0, len(rows), COMPARED_AT_ONCE):
                told("objects compared", done, of)
                some = rows[start : start + COMPARED_AT_ONCE]
                _compare_some(some, found, ports)
                done += len(some)
    return found


def _compare_some(rows: Sequence[StoredRow], found: BytesAudit, ports: Ports) -> None:
    events = [event_of(row, found.hour) for row in rows]
    looks = [partial(event_json_object, event, batch_time(row.batch_id), ports) for event, row in zip(events, rows, strict=True)]
    for event, row, (_, blob) in zip(events, rows, ports.task_pool.run_all(looks), strict=True):
        if blob is None:
            continue
        found.compared += 1
        if blob.body != row.payload:
            found.other_bytes.append(event.id)
        elif (blob.metadata.get("source"), blob.metadata.get("batch")) != (str(row.source), row.batch_id):
            found.other_origin.append(event.id)
