"""One closed batch of a replay: what it has to have, what differs from that, and putting it back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from analytics_defs.core import letters, tables
from analytics_defs.core.attribute_values import parse_document
from analytics_defs.core.events import Event, Rejection, Rules, judge
from analytics_defs.core.hours import Revision
from analytics_defs.core.layout import event_key, event_metadata, part_key
from analytics_defs.core.ledger import BatchRecord
from analytics_defs.core.offsets import Record, Source
from analytics_defs.core.replaying import Fates, Held, State, Store, fates, settled, short
from analytics_defs.core.timestamps import iso_milliseconds
from analytics_defs.errors import Contradiction
from analytics_defs.flows.evidence import from_kafka, repeats_in, rows_of_archive, rows_of_part, rows_of_tree
from analytics_defs.flows.hourly_stats import CalculatorBench
from analytics_defs.flows.hours import Moved
from analytics_defs.flows.rebuild import ANY
from analytics_defs.flows.steps import CHUNK
from analytics_defs.ports import KEPT, Blob, Ports, StoredEvent

_PARQUET, _NDJSON = "application/vnd.apache.parquet", "application/x-ndjson"


class Mending:
    """One batch: what it has to have, and what differs from that."""

    def __init__(self, record: BatchRecord, ports: Ports, bench: CalculatorBench, rules: Rules) -> None:
        self.record, self._ports, self._bench, self._rules = record, ports, bench, rules
        self.revisions: dict[str, Revision] = {}
        """Of its hours whose archive holds it."""
        self.notes: list[tuple[Store, State, str]] = []
        self.lost: list[str] = []
        self._items: list[Event] = []
        self._blobs: list[Blob] = []
        self._leftovers: list[str] = []
        self._foreign = set[str]()
        """Keys that a later batch wrote over."""

    def note(self, store: Store, state: State, key: str) -> None:
        self.notes.append((store, state, key))

    def archived(self) -> dict[str, Revision]:
        """Its hours whose archive holds it."""
        for hour in self.record.parts:
            revision = self._ports.ledger.revision(hour)
            if revision and self.record.batch.id in revision.batches:
                self.revisions[hour] = revision
        return self.revisions

    def look(self, sound: Mapping[str, bool]) -> None:
        """Raises Contradiction where its records are not those it closed, Moved where somebody compacts an hour of it."""
        record, ports = self.record, self._ports
        kafka = from_kafka(record, ports, self._rules)
        parts = {hour: ports.archive.get(key) for hour, key in record.parts.items()}
        rows = {source: event for hour, data in parts.items() if data for source, event in rows_of_part(data, record, hour).items()}
        if kafka.missing:
            for revision in (each for hour, each in self.revisions.items() if sound[hour]):
                rows |= rows_of_archive(revision, record, ports, self._bench)
        events = rows | {source: each for source, each in kafka.verdicts.items() if isinstance(each, Event)}
        if kafka.missing and record.event_objects:
            events = {s: e for hour in record.hours for s, e in rows_of_tree(record, hour, ports).items()} | events
        repeats = repeats_in(ports.archive.get(record.repeats_key) if record.repeats_key else None, record)
        ordered = [events[each] for each in sorted(events)]
        bodies, items = self._bodies(ordered), dict(ports.recent.held([each.id for each in ordered]))
        self._agree(events, rows, bodies)
        known = {*rows, *bodies}
        held = {each: Held(item.source, item.created_at) for each, item in items.items()}
        became = settled(fates(ordered, known, held, iso_milliseconds(record.batch.time)), record, repeats)
        if became.undecided:
            self.lost.append(
                f"batch {record.batch.id}: whether {len(became.undecided)} of its events were stored or are repeats is in no store "
                f"any more, for example {became.undecided[0].record.source}"
            )
            return
        stored = sorted(became.stored, key=lambda event: event.record.source)
        less = short(record, stored, whole=not kafka.missing)
        self.lost += [
            f"batch {record.batch.id}: {noted - found} of {noted} events of hour {hour} are in no store any more, and Kafka does not have "
            f"{', '.join(map(str, kafka.missing))}"
            for hour, (found, noted) in less.items()
        ]
        self._dead_letters([each for _, each in sorted(kafka.verdicts.items()) if isinstance(each, Rejection)], bool(kafka.missing))
        self._repeats(events, became, whole=not kafka.missing)
        self._look_items(stored, items)
        self._look_objects(stored, bodies, items)
        for hour in record.parts:
            self._look_part(hour, parts[hour], [each for each in stored if each.hour == hour], hour in less)

    def _bodies(self, events: Sequence[Event]) -> dict[Source, Blob]:
        """Objects of these events, as far as they are there and name this batch and source."""
        blobs = self._ports.workers.run([partial(self._ports.archive.fetch, event_key(each.hour, each.id)) for each in events])
        self._foreign = {blob.key for blob in blobs if blob and self._is_of_a_later_batch(blob)}
        return {
            each.record.source: blob
            for each, blob in zip(events, blobs, strict=True)
            if blob and (blob.metadata.get("batch"), blob.metadata.get("source")) == (self.record.batch.id, str(each.record.source))
        }

    def _is_of_a_later_batch(self, blob: Blob) -> bool:
        """The id came again when it was not remembered any more, and its object is the later one's."""
        batch = blob.metadata.get("batch", "")
        return batch > self.record.batch.id and self._ports.ledger.record(batch) is not None

    def _agree(self, events: dict[Source, Event], rows: dict[Source, Event], bodies: dict[Source, Blob]) -> None:
        """Raises Contradiction where Parquet and object agree on other bytes than Kafka's, or differ without Kafka.

        Rows of an archive are proven by the digest of its revision; an object that is no such event any more proves nothing.
        """
        for source in rows.keys() & bodies.keys() & events.keys():
            event, row, body = events[source], rows[source].record.value, bodies[source].body
            if event is not rows[source]:
                wrong = row == body != event.record.value
            else:
                again = judge(Record(source, -1, None, body), ANY, self.record.batch.time)
                is_event = isinstance(again, Event) and (again.id, again.hour) == (event.id, event.hour)
                wrong = row != body and is_event and event.hour not in self.revisions
            if wrong:
                raise Contradiction(
                    f"batch {self.record.batch.id}: {source} has {len(row or b'')} bytes in Parquet, {len(body)} in its object and "
                    f"{len(event.record.value or b'')} where it is read from; they are not the same, and no third store decides. "
                    "Nothing of this batch was changed."
                )

    def _dead_letters(self, rejections: Sequence[Rejection], partly: bool) -> None:
        """Raises Contradiction where Kafka's records make another file than the digest in the ledger says."""
        record, key = self.record, self.record.dead_letters_key
        made = letters.dead_letter_file(rejections)
        complete = len(rejections) == record.tally.dead_letters
        if not partly and (not complete or (key and record.dead_letters_digest not in (None, letters.digest(made)))):
            raise Contradiction(
                f"batch {record.batch.id}: its records in Kafka make {len(rejections)} dead letters of SHA-256 {letters.digest(made)}; the "
                f"ledger has {record.tally.dead_letters} of {record.dead_letters_digest}. Nothing of this batch was changed."
            )
        if key is None:
            return
        held = self._ports.archive.get(key)
        noted = record.dead_letters_digest or (letters.digest(made) if complete else None)
        if held is not None and noted in (None, letters.digest(held)):
            self.note(Store.DEAD_LETTERS, State.IDENTICAL, key)
        elif complete and noted == letters.digest(made):
            self._file(Store.DEAD_LETTERS, held, Blob(key, made, _NDJSON, {}))
        else:
            self.lost.append(f"batch {record.batch.id}: its {record.tally.dead_letters} dead letters in {key} are altered or gone, and "
                             "Kafka does not have their records any more. Restore the object from the bucket's versions.")  # fmt: skip

    def _repeats(self, events: dict[Source, Event], became: Fates, whole: bool) -> None:
        record, key = self.record, self.record.repeats_key
        if key is None:
            return
        held = self._ports.archive.get(key)
        pairs = [(events[each], holder) for each, holder in sorted(became.repeats.items()) if each in events]
        if len(pairs) == record.tally.repeats:
            self._file(Store.REPEATS, held, Blob(key, letters.repeat_file(pairs), _NDJSON, {}))
        elif repeats_in(held, record) is not None and not whole:
            self.note(Store.REPEATS, State.IDENTICAL, key)
        else:
            self.lost.append(f"batch {record.batch.id}: {record.tally.repeats - len(pairs)} of the {record.tally.repeats} repeats in {key} "
                             "are altered or gone, and Kafka does not have their records any more.")  # fmt: skip

    def _file(self, store: Store, held: bytes | None, blob: Blob) -> None:
        if held == blob.body:
            self.note(store, State.IDENTICAL, blob.key)
            return
        self.note(store, State.MISSING if held is None else State.DIFFERENT, blob.key)
        self._blobs.append(blob)

    def _look_items(self, stored: Sequence[Event], items: dict[str, StoredEvent]) -> None:
        """An id that another source holds by now is theirs; what has expired is left out."""
        time = self.record.batch.time
        if time + KEPT <= self._ports.clock.now():
            return
        for event in stored:
            item = items.get(event.id)
            if item is not None and item.source != event.record.source:
                continue
            ttl = int((time + KEPT).timestamp())
            if item is None:
                state = State.MISSING
            elif (item.type, item.timestamp, item.created_at, item.ttl) == (event.type, event.timestamp, iso_milliseconds(time), ttl) and (
                item.data is None or item.data == parse_document(event.data)
            ):
                state = State.IDENTICAL
            else:
                state = State.DIFFERENT
            self.note(Store.ITEM, state, event.id)
            self._items += [] if state is State.IDENTICAL else [event]

    def _look_objects(self, stored: Sequence[Event], bodies: dict[Source, Blob], items: dict[str, StoredEvent]) -> None:
        for event in stored:
            key, item = event_key(event.hour, event.id), items.get(event.id)
            points = item is not None and item.source == event.record.source and item.data is None
            if key in self._foreign or not (self.record.event_objects or points):
                continue
            blob = Blob(key, event.record.value or b"", "application/json", event_metadata(event, self.record.batch.id))
            there = bodies.get(event.record.source) or self._ports.archive.fetch(key)
            same = there and (there.body, there.metadata) == (blob.body, {name.lower(): each for name, each in blob.metadata.items()})
            self.note(Store.OBJECT, State.IDENTICAL if same else State.DIFFERENT if there else State.MISSING, key)
            self._blobs += [] if same else [blob]

    def _look_part(self, hour: str, data: bytes | None, events: Sequence[Event], is_short: bool) -> None:
        batch, key = self.record.batch, part_key(hour, self.record.batch.id)
        if hour in self.revisions:
            if data is not None:
                self.note(Store.PART, State.LEFTOVER, key)
                self._leftovers.append(key)
            return
        now = self._ports.ledger.revision(hour)
        if now and batch.id in now.batches:
            raise Moved(f"hour {hour}: revision {now.number} took the part meanwhile")
        if not is_short:
            self._file(Store.PART, data, Blob(key, tables.part(batch.id, batch.time, events), _PARQUET, {}))

    def put_back(self) -> None:
        """Items before their objects, as a batch does. A part that a compaction takes meanwhile is removed again."""
        ports, time = self._ports, self.record.batch.time
        chunks = [self._items[start : start + CHUNK] for start in range(0, len(self._items), CHUNK)]
        ports.workers.run([partial(ports.recent.claim, chunk, time) for chunk in chunks])
        ports.archive.put(self._blobs)
        written = {blob.key for blob in self._blobs}
        late = [key for hour, key in self.record.parts.items() if key in written and self._in_archive(hour)]
        ports.archive.delete([*self._leftovers, *late])

    def _in_archive(self, hour: str) -> bool:
        revision = self._ports.ledger.revision(hour)
        return revision is not None and self.record.batch.id in revision.batches
