"""Repair of one closed batch: compare the stores with what the batch wrote, then write back what is missing or different."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial

from analytics_defs.core.events.event import Event, Rejection, ValidationRules
from analytics_defs.core.hours.revision import ArchiveRevision
from analytics_defs.core.ledger import BatchRecord
from analytics_defs.core.offsets import Source
from analytics_defs.core.repair import ComparisonResult, EventOutcomes, IdOwner, StoredKind, missing_by_hour, resolve_outcomes
from analytics_defs.core.storage import event_parquet
from analytics_defs.core.storage.content_types import PARQUET_CONTENT_TYPE
from analytics_defs.core.storage.object_keys import batch_time, part_key
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
    """Repair of one closed batch. Call `compare` first: it only reads. `repair` then writes what `compare` found."""

    def __init__(self, record: BatchRecord, ports: Ports, archives: HourArchives, rules: ValidationRules) -> None:
        self.record, self._ports, self._archives, self._rules = record, ports, archives, rules
        self.revisions: dict[str, ArchiveRevision] = {}
        """The revision by hour, for the hours whose archive contains the batch."""
        for hour in record.parts:
            revision = ports.ledger.latest_revision(hour)
            if revision and record.batch.id in revision.known_batches:
                self.revisions[hour] = revision
        self.findings = Findings()
        self.is_undecided = False
        """True if nothing proves the outcome of an event. An item that the repair of another batch restores may prove it."""
        self._event_json, self._files = EventJsonRepair(record, ports, self.findings), FileRepair(record, ports, self.findings)
        self._entries: list[str] = []
        """Names of the ledger's entries that are not as the batch put them."""
        self._items: list[Event] = []
        self._leftovers: list[str] = []

    def compare(self, progress: ProgressCallback = no_progress) -> None:
        """Compare all stores with what the batch wrote.

        Raises InconsistentState if the surviving records are not those of the batch, ConcurrentCompaction if another executor compacts
        one of its hours.
        """
        record, ports = self.record, self._ports
        self._entries = [*ports.ledger.differing_entries(record)]
        for name in self._entries:
            self.findings.note(StoredKind.LEDGER_ENTRY, ComparisonResult.DIFFERENT, name)
        kafka = reread_from_kafka(record, ports, self._rules)
        parts = {hour: ports.object_store.get(key) for hour, key in record.parts.items()}
        rows = {source: event for hour, data in parts.items() if data for source, event in read_part_rows(data, record, hour).items()}
        events = rows | {source: event for source, event in kafka.records.items() if isinstance(event, Event)}
        if kafka.missing:
            for revision in self.revisions.values():
                rows |= self._archives.rows(revision, record)
            events = rows | self._events_from_json(rows | events) | events
        ordered = [events[source] for source in sorted(events)]
        items = dict(ports.recent_events.get_items([event.id for event in ordered]))
        bodies = self._event_json.read(ordered, items, progress)
        require_no_conflicts(record.batch, SurvivingCopies(events, rows, bodies, kafka.records), self._is_archive_sound)
        owners = {event_id: self._id_owner(item) for event_id, item in items.items()}
        outcomes = resolve_outcomes(ordered, {*rows, *bodies}, owners, record, read_duplicates(record, ports))
        self.is_undecided = bool(outcomes.undecided)
        stored = sorted(outcomes.stored, key=lambda event: event.record.source)
        missing = missing_by_hour(record, stored, is_complete=not kafka.missing and not outcomes.undecided)
        self._report_lost(outcomes, missing, kafka)
        rejections = [rejection for _, rejection in sorted(kafka.records.items()) if isinstance(rejection, Rejection)]
        self._files.compare_dead_letters(rejections, is_partial=bool(kafka.missing))
        self._files.compare_duplicates(outcomes)
        self._compare_items(stored, items)
        self._event_json.compare(stored, items)
        for hour in record.parts:
            self._compare_part(hour, parts[hour], [event for event in stored if event.hour == hour], is_short=hour in missing)

    def _events_from_json(self, known: Mapping[Source, Event]) -> dict[Source, Event]:
        """Return the batch's JSON objects of the hours that lack events. Slow: lists and reads every object of such an hour."""
        if not self.record.write_event_json:
            return {}
        counts = Counter(event.hour for event in known.values())
        short_hours = [hour for hour, types in self.record.hours.items() if counts[hour] < sum(types.values())]
        return {source: event for hour in short_hours for source, event in read_event_json_rows(self.record, hour, self._ports).items()}

    def _id_owner(self, item: StoredEvent) -> IdOwner:
        time = self.record.batch.time
        return IdOwner(item.source, not item.is_outside_deduplication_window(time) and item.created_at <= iso_milliseconds(time))

    def _is_archive_sound(self, hour: str) -> bool:
        return hour in self.revisions and self._archives.is_sound(self.revisions[hour])

    def _report_lost(self, outcomes: EventOutcomes, missing: Mapping[str, tuple[int, int]], kafka: RereadRecords) -> None:
        batch_id = self.record.batch.id
        if outcomes.undecided:
            self.findings.lost.append(
                f"batch {batch_id}: no store shows whether {len(outcomes.undecided)} of its events were stored or are duplicates, for "
                f"example {outcomes.undecided[0].record.source}. They were left as they are."
            )
        if kafka.missing:
            self.findings.lost += [
                f"batch {batch_id}: {recorded - found} of {recorded} events of hour {hour} are in no store any more, and Kafka does not "
                f"have {', '.join(map(str, kafka.missing))}"
                for hour, (found, recorded) in missing.items()
            ]

    def _compare_items(self, stored: Sequence[Event], items: Mapping[str, StoredEvent]) -> None:
        """Compare the items, unless their TTL has passed.

        An item of another source is left alone, unless this batch was cut after the end of that item's deduplication window.
        """
        time = self.record.batch.time
        if time + RECENT_EVENTS_TTL <= self._ports.clock.now():
            return
        for event in stored:
            item = items.get(event.id)
            if item is not None and item.source != event.record.source and not item.is_outside_deduplication_window(time):
                self._compare_owner(item)
                continue
            if item is None:
                result = ComparisonResult.MISSING
            else:
                result = ComparisonResult.DIFFERENT if item.differs_from(event, time) else ComparisonResult.IDENTICAL
            self.findings.note(StoredKind.ITEM, result, event.id)
            self._items += [] if result is ComparisonResult.IDENTICAL else [event]

    def _compare_owner(self, item: StoredEvent) -> None:
        """Report an item whose source no other batch of the item's creation time holds.

        This batch cannot: it stored the event itself, and a batch stores an id once.
        """
        ledger, source = self._ports.ledger, item.source
        closed = ledger.closed_range_at(source)
        batches = {*([closed.batch_id] if closed else []), *ledger.redriven_by([source]).values(), *ledger.snapshot().pending}
        if item.created_at not in {iso_milliseconds(batch_time(batch_id)) for batch_id in batches - {self.record.batch.id}}:
            self.findings.note(StoredKind.ITEM, ComparisonResult.DIFFERENT, item.id)
            self.findings.lost.append(
                f"batch {self.record.batch.id}: the item of id {item.id!r} in RecentEvents names source {source}, expected one whose batch "
                f"has the item's createdAt, {item.created_at or 'none'}. It was altered, and was left alone. Remove the item, then repair "
                "this range again."
            )

    def _compare_part(self, hour: str, data: bytes | None, events: Sequence[Event], is_short: bool) -> None:
        """Compare the part of an hour. A leftover part of a damaged archive stays: it may be the last copy of its rows."""
        batch, key = self.record.batch, part_key(hour, self.record.batch.id)
        if hour in self.revisions:
            if data is not None and self._is_archive_sound(hour):
                self.findings.note(StoredKind.PART, ComparisonResult.LEFTOVER, key)
                self._leftovers.append(key)
            return
        if self._is_in_archive(hour):
            raise ConcurrentCompaction(f"hour {hour}: a compaction has merged the part since its revision was read")
        if not is_short:
            self._files.compare(
                StoredKind.PART, data, StoredObject(key, event_parquet.encode_part(batch.id, batch.time, events), PARQUET_CONTENT_TYPE, {})
            )

    def repair(self) -> None:
        """Write back what differs: first the ledger's entries, then the items, the JSON objects and the files.

        A JSON object is written only if its key still holds what `compare` read. Another batch may have claimed the id since.
        A part that is in the archive by now is deleted again, like a leftover: only after the manifest names the archive, because
        readers of an older manifest would look for the part.
        """
        ports, time = self._ports, self.record.batch.time
        if self._entries:
            ports.ledger.restore_entries(self.record)
        chunks = [self._items[start : start + CLAIM_CHUNK_EVENTS] for start in range(0, len(self._items), CLAIM_CHUNK_EVENTS)]
        claims = ports.task_pool.run_all([partial(ports.recent_events.claim, chunk, time) for chunk in chunks])
        pointers = [source for claim in claims for source in claim.pointers if source in self._event_json.only_if_pointed]
        pointed = [(self._event_json.only_if_pointed[source], None) for source in pointers]
        ports.task_pool.run_all([partial(_replace, object_, held, ports) for object_, held in (*self._event_json.differing, *pointed)])
        ports.object_store.put(self._files.differing)
        written = {object_.key for object_ in self._files.differing}
        compacted = {hour: key for hour, key in self.record.parts.items() if key in written and self._is_in_archive(hour)}
        for hour in {*compacted, *(hour for hour, key in self.record.parts.items() if key in self._leftovers)}:
            repair_manifest(hour, ports)
        ports.object_store.delete([*self._leftovers, *compacted.values()])

    def _is_in_archive(self, hour: str) -> bool:
        revision = self._ports.ledger.latest_revision(hour)
        return revision is not None and self.record.batch.id in revision.known_batches


def _replace(object_: StoredObject, held: bytes | None, ports: Ports) -> bool:
    """Write the object if its key still holds these bytes, or nothing if None. Return whether it was written."""
    return ports.object_store.put_if(object_, partial(operator.eq, held))
