"""Repair of the JSON objects of one batch: the key of each, the object that is there, and the objects that belong to other batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from analytics_defs.core.events.event import Event
from analytics_defs.core.ledger import BatchRecord
from analytics_defs.core.offsets import Source
from analytics_defs.core.repair import ComparisonResult, StoredKind
from analytics_defs.core.storage.content_types import JSON_CONTENT_TYPE
from analytics_defs.core.storage.object_keys import event_metadata
from analytics_defs.flows.ingest.write_batch import CLAIM_CHUNK_EVENTS
from analytics_defs.flows.progress import ProgressCallback
from analytics_defs.flows.repair.findings import Findings
from analytics_defs.flows.stored.event_json import event_json_object, has_same_metadata
from analytics_defs.ports import Ports, StoredEvent, StoredObject


class EventJsonRepair:
    """Comparison of the JSON objects of one batch. Call `read` first, then `compare`."""

    def __init__(self, record: BatchRecord, ports: Ports, findings: Findings) -> None:
        self.record, self._ports, self._findings = record, ports, findings
        self.differing: list[tuple[StoredObject, bytes | None]] = []
        """The objects to write, with the bytes that their key holds now."""
        self.only_if_pointed: dict[Source, StoredObject] = {}
        """Objects to write only if the item of the event has to point to its object."""
        self._keys: dict[Source, str] = {}
        """The object key of each event."""
        self._objects: dict[str, StoredObject] = {}
        """The objects at these keys. They are read once: a later object of another batch must not be overwritten unseen."""
        self._foreign = set[str]()
        """Keys whose object belongs to another batch."""

    def read(self, events: Sequence[Event], items: Mapping[str, StoredEvent], progress: ProgressCallback) -> dict[Source, StoredObject]:
        """Return the existing objects of these events whose metadata name this batch and the event's source."""
        reads = [partial(event_json_object, event, self.record.batch.time, self._ports) for event in events]
        answers = list[tuple[str, StoredObject | None]]()
        for start in range(0, len(events), CLAIM_CHUNK_EVENTS):
            progress("objects read", start, len(events))
            answers += self._ports.task_pool.run_all(reads[start : start + CLAIM_CHUNK_EVENTS])
        self._keys = {event.record.source: key for event, (key, _) in zip(events, answers, strict=True)}
        existing = [(event, object_) for event, (_, object_) in zip(events, answers, strict=True) if object_]
        self._objects = {object_.key: object_ for _, object_ in existing}
        self._foreign = {object_.key for event, object_ in existing if self._is_foreign(object_, items.get(event.id))}
        return {
            event.record.source: object_
            for event, object_ in existing
            if (object_.metadata.get("batch"), object_.metadata.get("source")) == (self.record.batch.id, str(event.record.source))
        }

    def _is_foreign(self, object_: StoredObject, item: StoredEvent | None) -> bool:
        """Return whether the object belongs to another batch that stored the same id: a younger batch, or the batch that owns the id.

        The pending entry is read before the record: a batch that closes in between then has its record.
        """
        batch_id, ledger = object_.metadata.get("batch", ""), self._ports.ledger
        owns_id = batch_id > self.record.batch.id or (item is not None and str(item.source) == object_.metadata.get("source"))
        return batch_id != self.record.batch.id and owns_id and bool(ledger.pending_batch(batch_id) or ledger.batch_record(batch_id))

    def compare(self, stored: Sequence[Event], items: Mapping[str, StoredEvent]) -> None:
        """Compare the existing objects with those that the batch wrote for these events."""
        for event in stored:
            source = event.record.source
            key = self._keys[source]
            if key in self._foreign:
                continue
            object_ = StoredObject(key, event.record.value or b"", JSON_CONTENT_TYPE, event_metadata(event, self.record.batch.id))
            if not self.record.write_event_json and not self._needs_object(event, items.get(event.id)):
                self.only_if_pointed[source] = object_
                continue
            existing = self._objects.get(key)
            is_same = existing and existing.body == object_.body and has_same_metadata(existing.metadata, object_.metadata)
            self._findings.note(
                StoredKind.OBJECT,
                ComparisonResult.IDENTICAL if is_same else ComparisonResult.DIFFERENT if existing else ComparisonResult.MISSING,
                key,
            )
            self.differing += [] if is_same else [(object_, existing.body if existing else None)]

    def _needs_object(self, event: Event, item: StoredEvent | None) -> bool:
        if item is not None and item.source == event.record.source and item.data is None:
            return True
        return self._ports.recent_events.needs_pointer(event, self.record.batch.time)
