"""Whether the stores agree, hour by hour, over the hours that ingest touched lately."""

from __future__ import annotations

from dataclasses import dataclass

from analytics_defs.core.ingest.batch_accounting import recent_hours
from analytics_defs.flows.audit.hour import audit_hour
from analytics_defs.flows.stored.hour_files import HourFiles, batch_records, expected_rows, hour_files, live_counters
from analytics_defs.ports import Ports

LAST_HOURS, LAST_BATCHES = 24, 50
MAX_HOURS_COMPARED = 48
MAX_EVENTS_COMPARED_BY_ID = 20_000
"""Events of an hour that is compared id by id; a larger one by its counts. `analytics audit --hour` compares any by id."""


@dataclass(frozen=True, slots=True)
class StoreMismatch:
    """What differs in one hour, with both numbers and the batches."""

    hour: str
    finding: str
    batches: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StoreComparison:
    by_id: tuple[str, ...]
    """Hours compared id by id: DynamoDB, JSON, Parquet, counters."""
    by_counts: tuple[str, ...]
    mismatches: tuple[StoreMismatch, ...]


def compare_stores(ports: Ports) -> StoreComparison:
    """The last day's hours, and those that the newest batches added to, newest first."""
    by_id, by_counts, found = list[str](), list[str](), list[StoreMismatch]()
    for hour, events in _touched(ports):
        if events <= MAX_EVENTS_COMPARED_BY_ID:
            audited = audit_hour(hour, ports)
            by_id.append(hour)
            found += [StoreMismatch(hour, finding, audited.batches) for finding in audited.findings]
        else:
            by_counts.append(hour)
            account = hour_files(hour, ports)
            found += [StoreMismatch(hour, finding, account.batches) for finding in _by_counts(account, ports)]
    return StoreComparison(tuple(by_id), tuple(by_counts), tuple(found))


def _touched(ports: Ports) -> list[tuple[str, int]]:
    day = recent_hours(ports.clock.now(), LAST_HOURS)
    counted = dict(ports.ledger.hourly_counters(day[0], "9999-12-31T23"))
    late = {hour for record in ports.ledger.last_batches(LAST_BATCHES) for hour in record.hours} - counted.keys()
    counted |= {
        hour: dict(ports.ledger.hourly_counters(hour, hour)).get(hour, {}) for hour in sorted(late, reverse=True)[:MAX_HOURS_COMPARED]
    }
    return [(hour, counts.get("events", 0)) for hour, counts in sorted(counted.items(), reverse=True)[:MAX_HOURS_COMPARED]]


def _by_counts(account: HourFiles, ports: Ports) -> list[str]:
    """Batch records, the archive's revision and the live counter, unless a batch closed meanwhile."""
    recorded = expected_rows(account.hour, batch_records(account.batches, ports))
    total, findings = sum(recorded.values()), list[str]()
    counter = live_counters(account.hour, ports, lambda counts: counts.get("events", 0) == total).get("events", 0)
    if account.revision and (archived := sum(recorded[batch] for batch in account.revision.batches)) != account.revision.rows:
        findings.append(f"{account.revision.rows} rows in revision {account.revision.number}, {archived} in the records of its batches")
    if counter != total and len(ports.ledger.batches_of_hour(account.hour)) == len(account.batches):
        findings.append(f"{counter} events in the counters, {total} in the records of {len(account.batches)} batches")
    return findings
