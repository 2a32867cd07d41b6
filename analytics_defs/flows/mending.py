"""One closed batch of a replay: what it has to have, what differs from that, and putting it back."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial

from analytics_defs.core import letters, tables
from analytics_defs.core.attribute_values import parse_document, pointer_key, recent_event_item
from analytics_defs.core.events import Event, Rejection, Rules, judge
from analytics_defs.core.hours import Revision
from analytics_defs.core.layout import RECORD_TIMESTAMP, event_metadata, part_key
from analytics_defs.core.ledger import BatchRecord
from analytics_defs.core.offsets import Record, Source
from analytics_defs.core.replaying import Fates, Held, State, Store, fates, short
from analytics_defs.core.timestamps import iso_milliseconds
from analytics_defs.errors import Contradiction
from analytics_defs.flows.event_objects import object_of
from analytics_defs.flows.evidence import Archives, FromKafka, from_kafka, mark_again, repeats_in, rows_of_part, rows_of_tree
from analytics_defs.flows.hours import Moved
from analytics_defs.flows.rebuild import ANY
from analytics_defs.flows.steps import CHUNK
from analytics_defs.flows.told import Told, untold
from analytics_defs.ports import KEPT, Blob, Ports, StoredEvent

_PARQUET, _NDJSON = "application/vnd.apache.parquet", "application/x-ndjson"


class Mending:
    """One batch: what it has to have, and what differs from that."""

    def __init__(self, record: BatchRecord, ports: Ports, archives: Archives, rules: Rules) -> None:
        self.record, self._ports, self._archives, self._rules = record, ports, archives, rules
        self.revisions: dict[str, Revision] = {}
        """Of its hours whose archive holds it."""
        for hour in record.parts:
            revision = ports.ledger.revision(hour)
            if revision and record.batch.id in revision.known:
                self.revisions[hour] = revision
        self.notes: list[tuple[Store, State, str]] = []
        self.lost: list[str] = []
        self.is_undecided = False
        """Whether its events were stored or are repeats: an item of another batch may tell, once it is back."""
        self._items: list[Event] = []
        self._objects: list[tuple[Blob, bytes | None]] = []
        """Each with what its key held instead."""
        self._files: list[Blob] = []
        self._leftovers: list[str] = []
        self._pointed: dict[Source, Blob] = {}
        """Objects that are there only where an item cannot hold its event."""
        self._keys: dict[Source, str] = {}
        """Where the object of each event belongs."""
        self._there: dict[str, Blob] = {}
        """What lay under these keys: asked once, so that nobody's object comes in between unseen."""
        self._foreign = set[str]()
        """Keys that another batch wrote over."""

    def note(self, store: Store, state: State, key: str) -> None:
        self.notes.append((store, state, key))

    def look(self, told: Told = untold) -> None:
        """Raises Contradiction where its records are not those it closed, Moved where somebody compacts an hour of it."""
        record, ports = self.record, self._ports
        kafka = from_kafka(record, ports, self._rules)
        parts = {hour: ports.archive.get(key) for hour, key in record.parts.items()}
        rows = {source: event for hour, data in parts.items() if data for source, event in rows_of_part(data, record, hour).items()}
        events = rows | {source: each for source, each in kafka.verdicts.items() if isinstance(each, Event)}
        if kafka.missing:
            for revision in self.revisions.values():
                rows |= self._archives.rows(revision, record)
            events = rows | self._of_tree(rows | events) | events
        ordered = [events[each] for each in sorted(events)]
        items = dict(ports.recent.held([each.id for each in ordered]))
        bodies = self._bodies(ordered, items, told)
        self._agree(events, rows, bodies, kafka)
        lines = repeats_in(ports.archive.get(record.repeats_key) if record.repeats_key else None, record)
        became = fates(ordered, {*rows, *bodies}, {each: self._held(item) for each, item in items.items()}, record, lines)
        self.is_undecided = bool(became.undecided)
        stored = sorted(became.stored, key=lambda event: event.record.source)
        less = short(record, stored, whole=not kafka.missing and not became.undecided)
        self._say_lost(became, less, kafka)
        self._dead_letters([each for _, each in sorted(kafka.verdicts.items()) if isinstance(each, Rejection)], bool(kafka.missing))
        self._repeats(events, became)
        self._look_items(stored, items)
        self._look_objects(stored, items)
        for hour in record.parts:
            self._look_part(hour, parts[hour], [each for each in stored if each.hour == hour], hour in less)

    def _of_tree(self, found: Mapping[Source, Event]) -> dict[Source, Event]:
        """From the JSON tree of those hours that lack events; a tree is read whole, which takes long."""
        if not self.record.event_objects:
            return {}
        has = Counter(each.hour for each in found.values())
        wanted = [hour for hour, types in self.record.hours.items() if has[hour] < sum(types.values())]
        return {source: event for hour in wanted for source, event in rows_of_tree(self.record, hour, self._ports).items()}

    def _held(self, item: StoredEvent) -> Held:
        time = self.record.batch.time
        return Held(item.source, not item.is_forgotten(time) and item.created_at <= iso_milliseconds(time))

    def _bodies(self, events: Sequence[Event], items: Mapping[str, StoredEvent], told: Told) -> dict[Source, Blob]:
        """Objects of these events, as far as they are there and name this batch and source."""
        looks = [partial(object_of, each, self.record.batch.time, self._ports) for each in events]
        places = list[tuple[Event, tuple[str, Blob | None]]]()
        for start in range(0, len(events), CHUNK):
            told("objects looked at", start, len(events))
            places += zip(events[start : start + CHUNK], self._ports.workers.run(looks[start : start + CHUNK]), strict=True)
        self._keys = {each.record.source: key for each, (key, _) in places}
        found = [(each, blob) for each, (_, blob) in places if blob]
        self._there = {blob.key: blob for _, blob in found}
        self._foreign = {blob.key for each, blob in found if self._is_foreign(blob, items.get(each.id))}
        return {
            each.record.source: blob
            for each, blob in found
            if (blob.metadata.get("batch"), blob.metadata.get("source")) == (self.record.batch.id, str(each.record.source))
        }

    def _is_foreign(self, blob: Blob, item: StoredEvent | None) -> bool:
        """The id came again when it was not remembered any more, or its item was lost, and the object is the other one's.

        Asked for its entry first: a batch that is closed meanwhile has its record then.
        """
        batch, ledger = blob.metadata.get("batch", ""), self._ports.ledger
        is_theirs = batch > self.record.batch.id or (item is not None and str(item.source) == blob.metadata.get("source"))
        return batch != self.record.batch.id and is_theirs and bool(ledger.pending(batch) or ledger.record(batch))

    def _agree(self, events: dict[Source, Event], rows: dict[Source, Event], bodies: dict[Source, Blob], kafka: FromKafka) -> None:
        """Raises Contradiction where Parquet and object agree on other bytes than Kafka's, or differ without Kafka.

        Also where Kafka has another event than Parquet. Rows of an archive are proven by the digest of its revision; an object that is no
        such event any more proves nothing.
        """
        for source, there in rows.items():
            now = kafka.verdicts.get(source)
            if now is not None and not (isinstance(now, Event) and (now.id, now.hour) == (there.id, there.hour)):
                said = f"event {now.id} of hour {now.hour}" if isinstance(now, Event) else "no event"
                raise Contradiction(
                    f"batch {self.record.batch.id}: {source} is event {there.id} of hour {there.hour} in Parquet, and {said} in Kafka. Is "
                    "the topic another one by now, or was the part altered? Nothing of this batch was changed."
                )
        for source in rows.keys() & bodies.keys():
            event, row, body = events[source], rows[source].record.value, bodies[source].body
            if source in kafka.verdicts:
                wrong = row == body != event.record.value
            else:
                again = judge(Record(source, -1, None, body), ANY, self.record.batch.time)
                is_event = isinstance(again, Event) and (again.id, again.hour) == (event.id, event.hour)
                wrong = row != body and is_event and not self._is_proven(event.hour)
            if wrong:
                raise Contradiction(
                    f"batch {self.record.batch.id}: {source} has {len(row or b'')} bytes in Parquet, {len(body)} in its object and "
                    f"{len(event.record.value or b'')} where it is read from; they are not the same, and no third store decides. "
                    "Nothing of this batch was changed."
                )

    def _is_proven(self, hour: str) -> bool:
        return hour in self.revisions and self._archives.is_sound(self.revisions[hour])

    def _say_lost(self, became: Fates, less: Mapping[str, tuple[int, int]], kafka: FromKafka) -> None:
        batch = self.record.batch.id
        if became.undecided:
            self.lost.append(
                f"batch {batch}: whether {len(became.undecided)} of its events were stored or are repeats is in no store any more, for "
                f"example {became.undecided[0].record.source}"
            )
        if kafka.missing:
            self.lost += [
                f"batch {batch}: {noted - found} of {noted} events of hour {hour} are in no store any more, and Kafka does not have "
                f"{', '.join(map(str, kafka.missing))}"
                for hour, (found, noted) in less.items()
            ]

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

    def _repeats(self, events: dict[Source, Event], became: Fates) -> None:
        record, key = self.record, self.record.repeats_key
        if key is None:
            return
        held = self._ports.archive.get(key)
        pairs = [(events[each], holder) for each, holder in sorted(became.repeats.items()) if holder and each in events]
        if len(pairs) == record.tally.repeats:
            self._file(Store.REPEATS, held, Blob(key, letters.repeat_file(pairs), _NDJSON, {}))
        elif became.lines_agree:
            self.note(Store.REPEATS, State.IDENTICAL, key)
        else:
            self.lost.append(f"batch {record.batch.id}: {record.tally.repeats - len(pairs)} of the {record.tally.repeats} repeats in {key} "
                             "are altered or gone, and no store has their records, or who held their ids, any more.")  # fmt: skip

    def _file(self, store: Store, held: bytes | None, blob: Blob) -> None:
        if held == blob.body:
            self.note(store, State.IDENTICAL, blob.key)
            return
        self.note(store, State.MISSING if held is None else State.DIFFERENT, blob.key)
        self._files.append(blob)

    def _look_items(self, stored: Sequence[Event], items: dict[str, StoredEvent]) -> None:
        """An id that another source holds by now is theirs, unless this batch had claimed it after them; what has expired is left out."""
        time = self.record.batch.time
        if time + KEPT <= self._ports.clock.now():
            return
        for event in stored:
            item = items.get(event.id)
            if item is not None and item.source != event.record.source and not item.is_forgotten(time):
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

    def _look_objects(self, stored: Sequence[Event], items: dict[str, StoredEvent]) -> None:
        for event in stored:
            source = event.record.source
            key = self._keys[source]
            if key in self._foreign:
                continue
            blob = Blob(key, event.record.value or b"", "application/json", event_metadata(event, self.record.batch.id))
            if not self.record.event_objects and not self._points(event, items.get(event.id)):
                self._pointed[source] = blob
                continue
            there = self._there.get(key)
            same = there and there.body == blob.body and _same_metadata(there.metadata, blob.metadata)
            self.note(Store.OBJECT, State.IDENTICAL if same else State.DIFFERENT if there else State.MISSING, key)
            self._objects += [] if same else [(blob, there.body if there else None)]

    def _points(self, event: Event, item: StoredEvent | None) -> bool:
        if item is not None and item.source == event.record.source and item.data is None:
            return True
        return pointer_key(recent_event_item(event, self.record.batch.time, KEPT)["data"]) is not None

    def _look_part(self, hour: str, data: bytes | None, events: Sequence[Event], is_short: bool) -> None:
        """A leftover of an archive that is damaged stays: it may be the last that holds its rows."""
        batch, key = self.record.batch, part_key(hour, self.record.batch.id)
        if hour in self.revisions:
            if data is not None and self._is_proven(hour):
                self.note(Store.PART, State.LEFTOVER, key)
                self._leftovers.append(key)
            return
        if self._in_archive(hour):
            raise Moved(f"hour {hour}: a compaction took the part meanwhile")
        if not is_short:
            self._file(Store.PART, data, Blob(key, tables.part(batch.id, batch.time, events), _PARQUET, {}))

    def put_back(self) -> None:
        """Items before their objects, as a batch does.

        An object is written only over what was seen: another batch may have claimed an id that was gone. A part that a compaction takes
        meanwhile is removed again; like a leftover only after the marker names the archive, whose readers would look for it otherwise.
        """
        ports, time = self._ports, self.record.batch.time
        chunks = [self._items[start : start + CHUNK] for start in range(0, len(self._items), CHUNK)]
        claims = ports.workers.run([partial(ports.recent.claim, chunk, time) for chunk in chunks])
        pointers = [(self._pointed[each], None) for some in claims for each in some.pointers if each in self._pointed]
        ports.workers.run([partial(_write_over, blob, seen, ports) for blob, seen in (*self._objects, *pointers)])
        ports.archive.put(self._files)
        written = {blob.key for blob in self._files}
        late = {hour: key for hour, key in self.record.parts.items() if key in written and self._in_archive(hour)}
        for hour in {*late, *(hour for hour, key in self.record.parts.items() if key in self._leftovers)}:
            mark_again(hour, ports)
        ports.archive.delete([*self._leftovers, *late.values()])

    def _in_archive(self, hour: str) -> bool:
        revision = self._ports.ledger.revision(hour)
        return revision is not None and self.record.batch.id in revision.known


def _same_metadata(there: Mapping[str, str], expected: Mapping[str, str]) -> bool:
    """Objects of older versions do not carry the record's timestamp, and where Kafka has lost the record nobody else knows it."""
    one, other = dict(there), {name.lower(): each for name, each in expected.items()}
    times = {one.pop(RECORD_TIMESTAMP.lower(), None), other.pop(RECORD_TIMESTAMP.lower(), None)}
    return one == other and len(times - {None}) <= 1


def _write_over(blob: Blob, seen: bytes | None, ports: Ports) -> bool:
    return ports.archive.advance(blob, partial(operator.eq, seen))
