"""The JSON objects of one batch: where each belongs, what lies there, and which of them is somebody else's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from analytics_defs.core.events.event import Event
from analytics_defs.core.ledger import BatchRecord
from analytics_defs.core.offsets import Source
from analytics_defs.core.repair import ComparisonResult, StoreKind
from analytics_defs.core.storage.content_types import JSON_CONTENT_TYPE
from analytics_defs.core.storage.object_keys import RECORD_TIMESTAMP, event_metadata
from analytics_defs.flows.ingest.write_batch import CLAIM_CHUNK_EVENTS
from analytics_defs.flows.progress import ProgressCallback
from analytics_defs.flows.repair.findings import Findings
from analytics_defs.flows.stored.event_json import event_json_object
from analytics_defs.ports import Ports, StoredEvent, StoredObject


class EventJsonRepair:
    """First `look`, then `compare`."""

    def __init__(self, record: BatchRecord, ports: Ports, findings: Findings) -> None:
        self.record, self._ports, self._findings = record, ports, findings
        self.differing: list[tuple[StoredObject, bytes | None]] = []
        """Each with what its key held instead."""
        self.pointed: dict[Source, StoredObject] = {}
        """Objects that are there only where an item cannot hold its event."""
        self._keys: dict[Source, str] = {}
        """Where the object of each event belongs."""
        self._there: dict[str, StoredObject] = {}
        """What lay under these keys: asked once, so that nobody's object comes in between unseen."""
        self._foreign = set[str]()
        """Keys that another batch wrote over."""

    def inspect(self, events: Sequence[Event], items: Mapping[str, StoredEvent], told: ProgressCallback) -> dict[Source, StoredObject]:
        """Objects of these events, as far as they are there and name this batch and source."""
        looks = [partial(event_json_object, each, self.record.batch.time, self._ports) for each in events]
        places = list[tuple[Event, tuple[str, StoredObject | None]]]()
        for start in range(0, len(events), CLAIM_CHUNK_EVENTS):
            told("objects looked at", start, len(events))
            places += zip(
                events[start : start + CLAIM_CHUNK_EVENTS],
                self._ports.task_pool.run_all(looks[start : start + CLAIM_CHUNK_EVENTS]),
                strict=True,
            )
        self._keys = {each.record.source: key for each, (key, _) in places}
        found = [(each, blob) for each, (_, blob) in places if blob]
        self._there = {blob.key: blob for _, blob in found}
        self._foreign = {blob.key for each, blob in found if self._is_foreign(blob, items.get(each.id))}
        return {
            each.record.source: blob
            for each, blob in found
            if (blob.metadata.get("batch"), blob.metadata.get("source")) == (self.record.batch.id, str(each.record.source))
        }

    def _is_foreign(self, blob: StoredObject, item: StoredEvent | None) -> bool:
        """The id came again when it was not remembered any more, or its item was lost, and the object is the other one's.

        Asked for its entry first: a batch that is closed meanwhile has its record then.
        """
        batch, ledger = blob.metadata.get("batch", ""), self._ports.ledger
        is_theirs = batch > self.record.batch.id or (item is not None and str(item.source) == blob.metadata.get("source"))
        return batch != self.record.batch.id and is_theirs and bool(ledger.pending_batch(batch) or ledger.batch_record(batch))

    def compare(self, stored: Sequence[Event], items: Mapping[str, StoredEvent]) -> None:
        """With what the stored events make."""
        for event in stored:
            source = event.record.source
            key = self._keys[source]
            if key in self._foreign:
                continue
            blob = StoredObject(key, event.record.value or b"", JSON_CONTENT_TYPE, event_metadata(event, self.record.batch.id))
            if not self.record.write_event_json and not self._points(event, items.get(event.id)):
                self.pointed[source] = blob
                continue
            there = self._there.get(key)
            same = there and there.body == blob.body and _same_metadata(there.metadata, blob.metadata)
            self._findings.note(
                StoreKind.OBJECT,
                ComparisonResult.IDENTICAL if same else ComparisonResult.DIFFERENT if there else ComparisonResult.MISSING,
                key,
            )
            self.differing += [] if same else [(blob, there.body if there else None)]

    def _points(self, event: Event, item: StoredEvent | None) -> bool:
        if item is not None and item.source == event.record.source and item.data is None:
            return True
        return self._ports.recent_events.needs_pointer(event, self.record.batch.time)


def _same_metadata(there: Mapping[str, str], expected: Mapping[str, str]) -> bool:
    """Objects of older versions do not carry the record's timestamp, and where Kafka has lost the record nobody else knows it."""
    one, other = dict(there), {name.lower(): each for name, each in expected.items()}
    times = {one.pop(RECORD_TIMESTAMP.lower(), None), other.pop(RECORD_TIMESTAMP.lower(), None)}
    return one == other and len(times - {None}) <= 1
