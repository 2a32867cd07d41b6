"""The interfaces that the flows need from outside: one Protocol for each role.

The store ports have one real adapter and one memory double, and both pass the same contract tests. Every call may raise `Unavailable` or
`AccessDenied`. After `Unavailable` it is unknown whether the call took effect, so every call is idempotent and can be retried.
"""

from __future__ import annotations

from dataclasses import dataclass

from analytics_defs.ports.conditional_writes import prove_conditional_writes
from analytics_defs.ports.event_log import EventLog, PartitionWatermarks, ReadResult, TopicDescription, Watermarks
from analytics_defs.ports.ledger import MAX_TRANSACT_READS, BatchHistory, Checkpoints, Counters, HourRevisions, Ledger
from analytics_defs.ports.object_store import ObjectInfo, ObjectStore, StoredObject
from analytics_defs.ports.parquet import HourCounts, MergedFile, ParquetWorkspace, StatisticsEngine, StoredRow
from analytics_defs.ports.provisioning import Checkable, NamedCheck, Provisioner
from analytics_defs.ports.recent_events import (
    DEDUPLICATION_WINDOW,
    NO_TTL,
    RECENT_EVENTS_TTL,
    ClaimResult,
    RecentEvents,
    StoredEvent,
    may_have_been_reused,
)
from analytics_defs.ports.runtime import Clock, TaskPool

__all__ = [
    "DEDUPLICATION_WINDOW",
    "MAX_TRANSACT_READS",
    "NO_TTL",
    "RECENT_EVENTS_TTL",
    "BatchHistory",
    "Checkable",
    "Checkpoints",
    "ClaimResult",
    "Clock",
    "Counters",
    "EventLog",
    "HourCounts",
    "HourRevisions",
    "Ledger",
    "MergedFile",
    "NamedCheck",
    "ObjectInfo",
    "ObjectStore",
    "ParquetWorkspace",
    "PartitionWatermarks",
    "Ports",
    "Provisioner",
    "ReadResult",
    "RecentEvents",
    "StatisticsEngine",
    "StoredEvent",
    "StoredObject",
    "StoredRow",
    "TaskPool",
    "TopicDescription",
    "Watermarks",
    "may_have_been_reused",
    "prove_conditional_writes",
]


@dataclass(frozen=True, slots=True)
class Ports:
    """All ports of one platform."""

    event_log: EventLog
    recent_events: RecentEvents
    object_store: ObjectStore
    ledger: Ledger
    clock: Clock
    task_pool: TaskPool
    table_names: tuple[str, ...] = ()
    """Names of the tables beside the ledger's own: recent events, counters."""
    bucket: str = ""
    """Address of the object store and name of the bucket."""
