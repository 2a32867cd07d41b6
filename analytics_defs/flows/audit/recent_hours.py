"""Comparison of the stores for the hours that ingest changed recently."""

from __future__ import annotations

from dataclasses import dataclass

from analytics_defs.core.ingest.batch_accounting import recent_hours
from analytics_defs.flows.audit.hour import audit_hour
from analytics_defs.flows.stored.compacted_parts import compacted_part_findings
from analytics_defs.flows.stored.hour_files import HourFiles, batch_records, expected_rows, hour_files, live_counters
from analytics_defs.ports import Ports

LAST_HOURS, LAST_BATCHES = 24, 50
MAX_HOURS_COMPARED = 48
MAX_EVENTS_COMPARED_BY_ID = 20_000
"""An hour with more events is compared by counts only. `analytics audit --hour` compares every hour id by id."""


@dataclass(frozen=True, slots=True)
class StoreMismatch:
    """One difference in one hour."""

    hour: str
    finding: str
    batches: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StoreComparison:
    """The compared hours and their differences."""

    by_id: tuple[str, ...]
    """Hours whose DynamoDB items, JSON objects, Parquet rows and counters were compared id by id."""
    by_counts: tuple[str, ...]
    """Hours whose record, archive and counter totals were compared."""
    mismatches: tuple[StoreMismatch, ...]


def compare_stores(ports: Ports) -> StoreComparison:
    """Compare the hours of the last day and the hours that the newest batches added to, newest first."""
    by_id, by_counts, mismatches = list[str](), list[str](), list[StoreMismatch]()
    for hour, events in _recent_event_counts(ports):
        if events <= MAX_EVENTS_COMPARED_BY_ID:
            audited = audit_hour(hour, ports)
            by_id.append(hour)
            mismatches += [StoreMismatch(hour, finding, audited.batches) for finding in audited.findings]
        else:
            by_counts.append(hour)
            files = hour_files(hour, ports)
            mismatches += [StoreMismatch(hour, finding, files.batches) for finding in _compare_counts(files, ports)]
    return StoreComparison(tuple(by_id), tuple(by_counts), tuple(mismatches))


def _recent_event_counts(ports: Ports) -> list[tuple[str, int]]:
    """Return hours and their numbers of events by the live counters, newest first."""
    day = recent_hours(ports.clock.now(), LAST_HOURS)
    counted = dict(ports.ledger.hourly_counters(day[0], "9999-12-31T23"))
    late = {hour for record in ports.ledger.last_batches(LAST_BATCHES) for hour in record.hours} - counted.keys()
    counted |= {
        hour: dict(ports.ledger.hourly_counters(hour, hour)).get(hour, {}) for hour in sorted(late, reverse=True)[:MAX_HOURS_COMPARED]
    }
    return [(hour, counts.get("events", 0)) for hour, counts in sorted(counted.items(), reverse=True)[:MAX_HOURS_COMPARED]]


def _compare_counts(files: HourFiles, ports: Ports) -> list[str]:
    """Compare batch records, revision, live counter and leftover parts. A batch that closes meanwhile is no difference."""
    recorded = expected_rows(files.hour, batch_records(files.batches, ports))
    total, findings = sum(recorded.values()), list[str]()
    counter = live_counters(files.hour, ports, lambda counts: counts.get("events", 0) == total).get("events", 0)
    revision = files.revision
    if revision and (archived := sum(recorded[batch] for batch in revision.batches)) != revision.rows:
        findings.append(f"{revision.rows} rows in revision {revision.number}, {archived} in the records of its batches")
    if counter != total and len(ports.ledger.batches_of_hour(files.hour)) == len(files.batches):
        findings.append(f"{counter} events in the counters, {total} in the records of {len(files.batches)} batches")
    return [*findings, *compacted_part_findings(files, ports)]
