"""What has to become of every record, as a second, much smaller opinion: it sees what is produced and who asks to claim, nothing else."""

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

DAYS_REMEMBERED = timedelta(days=29)


class Kind(Enum):
    """What was produced."""

    EVENT = auto()
    LARGE = auto()
    """An event or a rejection: that depends on the rules at the moment it is staged."""
    BROKEN = auto()
    TOMBSTONE = auto()
    NOTHING = auto()
    """An aborted record, or a marker."""


@dataclass
class Model:
    kinds: dict[Source, Kind] = field(default_factory=dict)
    must_be_lost: set[Source] = field(default_factory=set)
    may_be_lost: set[Source] = field(default_factory=set)
    holders: dict[str, tuple[Source, datetime]] = field(default_factory=dict)
    granted: set[Source] = field(default_factory=set)
    """Sources that ever held their id."""
    dethroned: set[Source] = field(default_factory=set)
    """Sources whose id expired and was taken by another."""

    def claimed(self, event_id: str, source: Source, batch_time: datetime) -> None:
        """First claim wins, for as long as ids are remembered."""
        holder, since = self.holders.get(event_id, (source, batch_time))
        if holder != source and since + DAYS_REMEMBERED > batch_time:
            return
        if holder != source:
            self.dethroned.add(holder)
        self.holders[event_id] = source, batch_time
        self.granted.add(source)

    def disagreements(self, source: Source, found: Trace) -> Iterable[str]:
        expected = self._expected(source)
        if found.outcome not in expected:
            yield f"{source}, {self.kinds[source].name}: expected {' or '.join(sorted(expected))}, trace says {found}"
        if (
            found.outcome is RecordOutcome.DEAD_LETTER
            and source in self.granted
            and (found.redrive is None or found.redrive.outcome is not RecordOutcome.STORED)
        ):
            yield f"{source} was redriven and holds its id, trace says {found}"
        for each in (found, found.redrive):
            if each and each.outcome is RecordOutcome.DUPLICATE and each.original_source not in self.granted:
                yield f"{source} repeats {each.original_source}, which never held an id"

    def _expected(self, source: Source) -> set[RecordOutcome]:
        if source in self.must_be_lost:
            return {RecordOutcome.LOST}
        fates = {
            Kind.EVENT: {RecordOutcome.STORED if source in self.granted else RecordOutcome.DUPLICATE},
            Kind.LARGE: {RecordOutcome.DEAD_LETTER, RecordOutcome.STORED if source in self.granted else RecordOutcome.DUPLICATE},
            Kind.BROKEN: {RecordOutcome.DEAD_LETTER},
            Kind.TOMBSTONE: {RecordOutcome.TOMBSTONE},
            Kind.NOTHING: {RecordOutcome.GAP},
        }[self.kinds[source]]
        return fates | ({RecordOutcome.LOST} if source in self.may_be_lost else set())


class WatchedRecentEvents(MemoryRecentEvents):
    """Tells the model who asks for which id."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()

    def claim(self, events: Sequence[Event], batch_time: datetime) -> ClaimResult:
        for event in events:
            self.model.claimed(event.id, event.record.source, batch_time)
        return super().claim(events, batch_time)
