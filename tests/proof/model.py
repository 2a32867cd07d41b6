"""The expected outcome of every record, by a small independent model. It observes only produced records and claims."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum, auto

from analytics_defs.adapters.memory import MemoryRecentEvents
from analytics_defs.core.events.event import Event
from analytics_defs.core.offsets import Source
from analytics_defs.flows.trace.outcome import RecordOutcome, Trace
from analytics_defs.ports import ClaimResult

DEDUPLICATION_DAYS = timedelta(days=29)


class Kind(Enum):
    """The kind of a produced record."""

    EVENT = auto()
    LARGE = auto()
    """An event or a dead letter, depending on the rules when it is staged."""
    BROKEN = auto()
    TOMBSTONE = auto()
    NOTHING = auto()
    """An aborted record, or a marker."""


@dataclass
class Model:
    kinds: dict[Source, Kind] = field(default_factory=dict)
    must_be_lost: set[Source] = field(default_factory=set)
    may_be_lost: set[Source] = field(default_factory=set)
    owners: dict[str, tuple[Source, datetime]] = field(default_factory=dict)
    ever_owners: set[Source] = field(default_factory=set)
    """Sources that ever owned their id."""
    former_owners: set[Source] = field(default_factory=set)
    """Sources whose id left the deduplication window and was claimed by another source."""

    def claimed(self, event_id: str, source: Source, batch_time: datetime) -> None:
        """Apply a claim: the first one wins for the length of the deduplication window."""
        owner, since = self.owners.get(event_id, (source, batch_time))
        if owner != source and since + DEDUPLICATION_DAYS > batch_time:
            return
        if owner != source:
            self.former_owners.add(owner)
        self.owners[event_id] = source, batch_time
        self.ever_owners.add(source)

    def disagreements(self, source: Source, trace: Trace) -> Iterable[str]:
        expected = self._expected(source)
        if trace.outcome not in expected:
            yield f"{source}, {self.kinds[source].name}: expected {' or '.join(sorted(expected))}, found trace {trace}"
        if (
            trace.outcome is RecordOutcome.DEAD_LETTER
            and source in self.ever_owners
            and (trace.redrive is None or trace.redrive.outcome is not RecordOutcome.STORED)
        ):
            yield f"{source} was redriven and owns its id, found trace {trace}"
        for traced in (trace, trace.redrive):
            if traced and traced.outcome is RecordOutcome.DUPLICATE and traced.original_source not in self.ever_owners:
                yield f"{source} is a duplicate of {traced.original_source}, which never owned an id"

    def _expected(self, source: Source) -> set[RecordOutcome]:
        if source in self.must_be_lost:
            return {RecordOutcome.LOST}
        outcomes = {
            Kind.EVENT: {RecordOutcome.STORED if source in self.ever_owners else RecordOutcome.DUPLICATE},
            Kind.LARGE: {RecordOutcome.DEAD_LETTER, RecordOutcome.STORED if source in self.ever_owners else RecordOutcome.DUPLICATE},
            Kind.BROKEN: {RecordOutcome.DEAD_LETTER},
            Kind.TOMBSTONE: {RecordOutcome.TOMBSTONE},
            Kind.NOTHING: {RecordOutcome.GAP},
        }[self.kinds[source]]
        return outcomes | ({RecordOutcome.LOST} if source in self.may_be_lost else set())


class WatchedRecentEvents(MemoryRecentEvents):
    """A table of recent events that reports every claim to the model."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()

    def claim(self, events: Sequence[Event], batch_time: datetime) -> ClaimResult:
        for event in events:
            self.model.claimed(event.id, event.record.source, batch_time)
        return super().claim(events, batch_time)
