"""One closed batch of a replay: what it has to have, what differs from that, and putting it back."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial

from analytics_defs.core.events.decimal_json import parse_decimal_json
from analytics_defs.core.events.event import Event, Rejection, ValidationRules
from analytics_defs.core.hours.revision import ArchiveRevision
from analytics_defs.core.ledger import BatchRecord
from analytics_defs.core.offsets import Source
from analytics_defs.core.repair import ComparisonResult, EventOutcomes, IdOwner, StoreKind, missing_by_hour, resolve_outcomes
from analytics_defs.core.storage import event_parquet
from analytics_defs.core.storage.content_types import PARQUET_CONTENT_TYPE
from analytics_defs.core.storage.object_keys import part_key
from analytics_defs.core.timestamps import iso_milliseconds
from analytics_defs.flows.ingest.write_batch import CLAIM_CHUNK_EVENTS
from analytics_defs.flows.progress import ProgressCallback, no_progress
from analytics_defs.flows.repair.conflicts import SurvivingCopies, require_no_conflicts
from analytics_defs.flows.repair.findings import Findings
from analytics_defs.flows.repair.repair_event_json import EventJsonRepair
from analytics_defs.flows.repair.repair_files import FileRepair
from analytics_defs.flows.repair.surviving_records import (
    HourArchives,
    RereadRecords,
    read_duplicates,
    read_event_json_rows,
    read_part_rows,
    repair_manifest,
    reread_from_kafka,
)
from analytics_defs.flows.stored.hour_files import ConcurrentCompaction
from analytics_defs.ports import RECENT_EVENTS_TTL, Ports, StoredEvent, StoredObject


class BatchRepair:
    """First `look`, then `repair`."""

    def __init__(self, record: BatchRecord, ports: Ports, archives: HourArchives, rules: ValidationRules) -> None:
        self.record, self._ports, self._archives, self._rules = record, ports, archives, rules
        self.revisions: dict[str, ArchiveRevision] = {}
        """Of its hours whose archive holds it."""
        for hour in record.parts:
            revision = ports.ledger.latest_revision(hour)
            if revision and record.batch.id in revision.known_batches:
                self.revisions[hour] = revision
        self.findings = Findings()
        self.is_undecided = False
        """Whether its events were stored or are repeats: an item of another batch may tell, once it is back."""
        self._objects, self._files = EventJsonRepair(record, ports, self.findings), FileRepair(record, ports, self.findings)
        self._items: list[Event] = []
        self._leftovers: list[str] = []

    def compare(self, told: ProgressCallback = no_progress) -> None:
        """Raises InconsistentState where its records are not those it closed, Moved where somebody compacts an hour of it."""
        record, ports = self.record, self._ports
        kafka = reread_from_kafka(record, ports, self._rules)
        parts = {hour: ports.object_store.get(key) for hour, key in record.parts.items()}
        rows = {source: event for hour, data in parts.items() if data for source, event in read_part_rows(data, record, hour).items()}
        events = rows | {source: each for source, each in kafka.records.items() if isinstance(each, Event)}
        if kafka.missing:
            for revision in self.revisions.values():
                rows |= self._archives.rows(revision, record)
            events = rows | self._of_tree(rows | events) | events
        ordered = [events[each] for each in sorted(events)]
        items = dict(ports.recent_events.get_items([each.id for each in ordered]))
        bodies = self._objects.inspect(ordered, items, told)
        require_no_conflicts(record.batch, SurvivingCopies(events, rows, bodies, kafka.records), self._is_proven)
        lines = read_duplicates(ports.object_store.get(record.duplicates_key) if record.duplicates_key else None, record)
        became = resolve_outcomes(ordered, {*rows, *bodies}, {each: self._held(item) for each, item in items.items()}, record, lines)
        self.is_undecided = bool(became.undecided)
        stored = sorted(became.stored, key=lambda event: event.record.source)
        less = missing_by_hour(record, stored, whole=not kafka.missing and not became.undecided)
        self._say_lost(became, less, kafka)
        rejections = [each for _, each in sorted(kafka.records.items()) if isinstance(each, Rejection)]
        self._files.dead_letters(rejections, partly=bool(kafka.missing))
        self._files.duplicates(events, became)
        self._look_items(stored, items)
        self._objects.compare(stored, items)
        for hour in record.parts:
            self._look_part(hour, parts[hour], [each for each in stored if each.hour == hour], hour in less)

    def _of_tree(self, found: Mapping[Source, Event]) -> dict[Source, Event]:
        """From the JSON tree of those hours that lack events; a tree is read whole, which takes long."""
        if not self.record.write_event_json:
            return {}
        has = Counter(each.hour for each in found.values())
        wanted = [hour for hour, types in self.record.hours.items() if has[hour] < sum(types.values())]
        return {source: event for hour in wanted for source, event in read_event_json_rows(self.record, hour, self._ports).items()}

    def _held(self, item: StoredEvent) -> IdOwner:
        time = self.record.batch.time
        return IdOwner(item.source, not item.is_outside_deduplication_window(time) and item.created_at <= iso_milliseconds(time))

    def _is_proven(self, hour: str) -> bool:
        return hour in self.revisions and self._archives.is_sound(self.revisions[hour])

    def _say_lost(self, became: EventOutcomes, less: Mapping[str, tuple[int, int]], kafka: RereadRecords) -> None:
        batch = self.record.batch.id
        if became.undecided:
            self.findings.lost.append(
                f"batch {batch}: whether {len(became.undecided)} of its events were stored or are repeats is in no store any more, for "
                f"example {became.undecided[0].record.source}"
            )
        if kafka.missing:
            self.findings.lost += [
                f"batch {batch}: {noted - found} of {noted} events of hour {hour} are in no store any more, and Kafka does not have "
                f"{', '.join(map(str, kafka.missing))}"
                for hour, (found, noted) in less.items()
            ]

    def _look_items(self, stored: Sequence[Event], items: dict[str, StoredEvent]) -> None:
        """An id that another source holds by now is theirs, unless this batch had claimed it after them; what has expired is left out."""
        time = self.record.batch.time
        if time + RECENT_EVENTS_TTL <= self._ports.clock.now():
            return
        for event in stored:
            item = items.get(event.id)
            if item is not None and item.source != event.record.source and not item.is_outside_deduplication_window(time):
                continue
            ttl = int((time + RECENT_EVENTS_TTL).timestamp())
            if item is None:
                state = ComparisonResult.MISSING
            elif (item.type, item.timestamp, item.created_at, item.ttl) == (event.type, event.timestamp, iso_milliseconds(time), ttl) and (
                item.data is None or item.data == parse_decimal_json(event.data)
            ):
                state = ComparisonResult.IDENTICAL
            else:
                state = ComparisonResult.DIFFERENT
            self.findings.note(StoreKind.ITEM, state, event.id)
            self._items += [] if state is ComparisonResult.IDENTICAL else [event]

    def _look_part(self, hour: str, data: bytes | None, events: Sequence[Event], is_short: bool) -> None:
        """A leftover of an archive that is damaged stays: it may be the last that holds its rows."""
        batch, key = self.record.batch, part_key(hour, self.record.batch.id)
        if hour in self.revisions:
            if data is not None and self._is_proven(hour):
                self.findings.note(StoreKind.PART, ComparisonResult.LEFTOVER, key)
                self._leftovers.append(key)
            return
        if self._in_archive(hour):
            raise ConcurrentCompaction(f"hour {hour}: a compaction took the part meanwhile")
        if not is_short:
            self._files.compare(
                StoreKind.PART, data, StoredObject(key, event_parquet.encode_part(batch.id, batch.time, events), PARQUET_CONTENT_TYPE, {})
            )

    def repair(self) -> None:
        """Items before their objects, as a batch does.

        An object is written only over what was seen: another batch may have claimed an id that was gone. A part that a compaction takes
        meanwhile is removed again; like a leftover only after the marker names the archive, whose readers would look for it otherwise.
        """
        ports, time = self._ports, self.record.batch.time
        chunks = [self._items[start : start + CLAIM_CHUNK_EVENTS] for start in range(0, len(self._items), CLAIM_CHUNK_EVENTS)]
        claims = ports.task_pool.run_all([partial(ports.recent_events.claim, chunk, time) for chunk in chunks])
        pointers = [(self._objects.pointed[each], None) for some in claims for each in some.pointers if each in self._objects.pointed]
        ports.task_pool.run_all([partial(_write_over, blob, seen, ports) for blob, seen in (*self._objects.differing, *pointers)])
        ports.object_store.put(self._files.differing)
        written = {blob.key for blob in self._files.differing}
        late = {hour: key for hour, key in self.record.parts.items() if key in written and self._in_archive(hour)}
        for hour in {*late, *(hour for hour, key in self.record.parts.items() if key in self._leftovers)}:
            repair_manifest(hour, ports)
        ports.object_store.delete([*self._leftovers, *late.values()])

    def _in_archive(self, hour: str) -> bool:
        revision = self._ports.ledger.latest_revision(hour)
        return revision is not None and self.record.batch.id in revision.known_batches


def _write_over(blob: StoredObject, seen: bytes | None, ports: Ports) -> bool:
    return ports.object_store.put_if(blob, partial(operator.eq, seen))
