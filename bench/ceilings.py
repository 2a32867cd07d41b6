"""What the stores give at most: the same requests as the pipeline's, prepared before the clock starts, and nothing else done meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from typing import Any

from analytics_defs import wiring
from analytics_defs.adapters.dynamodb.attribute_values import Item
from analytics_defs.adapters.dynamodb.client import DynamoConfig
from analytics_defs.adapters.dynamodb.recent_events import DynamoRecentEvents
from analytics_defs.adapters.dynamodb.requests import DynamoClient
from analytics_defs.adapters.object_store.store import S3ObjectStore
from analytics_defs.adapters.runtime.system import ThreadTaskPool
from analytics_defs.config import Settings
from analytics_defs.core.events.event import Event, ValidationRules, classify
from analytics_defs.core.offsets import Range, Record, Source, TopicPartition
from analytics_defs.core.storage.content_types import JSON_CONTENT_TYPE
from analytics_defs.core.storage.object_keys import batch_id, event_key, event_metadata
from analytics_defs.core.timestamps import whole_milliseconds
from analytics_defs.flows.ingest.write_batch import CLAIM_CHUNK_EVENTS
from analytics_defs.ports import StoredObject
from analytics_defs.simulator.shop import CLEAN_MIX, messages
from bench.drain import EventObjects
from bench.world import new_world

CLAIM_THREADS = (4, 8, 16)
OBJECT_STORE_CONCURRENCY = (16, 32, 64)
TARS_IN_FLIGHT = (2, 4, 8)
PROBE_SHARE = 25
"""One in so many requests is made with each of these, to see which is best."""

Action = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Ceilings:
    """Events a second that the stores take, each into a table or bucket that was empty, with the best of several numbers in flight."""

    claims: float
    """Transactions of 100 conditional puts."""
    puts: float
    """Single PUTs."""
    tars: float
    """The same objects in tars of one claim's events each."""
    claims_and_puts: float
    """Side by side, for the same events: what is left of the two where stores and clients share a machine."""
    claims_and_tars: float

    def of(self, write_event_json: EventObjects) -> float:
        """Of the store that limits such a drain."""
        return {EventObjects.BY_PUT: self.puts, EventObjects.BY_TAR: self.tars, EventObjects.OFF: self.claims}[write_event_json]

    def side_by_side(self, write_event_json: EventObjects) -> float:
        """Of everything that such a drain asks of the stores for each event."""
        both = {EventObjects.BY_PUT: self.claims_and_puts, EventObjects.BY_TAR: self.claims_and_tars, EventObjects.OFF: self.claims}
        return both[write_event_json]


def ceilings(count: int, on_progress: Callable[[int], None]) -> Ceilings:
    """`count` is that of the drains beside it: a table of 100,000 items takes longer for one more than a table of 10,000.

    `on_progress` is told how many of the five are known.
    """
    some = count // PROBE_SHARE
    threads = max(CLAIM_THREADS, key=lambda each: _rate(some, claims=each))
    puts = partial(_rate, write_event_json=EventObjects.BY_PUT)
    object_store_concurrency = max(OBJECT_STORE_CONCURRENCY, key=lambda each: puts(some, in_flight=each))
    tars = partial(_rate, write_event_json=EventObjects.BY_TAR)
    tars_in_flight = max(TARS_IN_FLIGHT, key=lambda each: tars(some, in_flight=each))
    found = []
    for rate in (
        partial(_rate, count, claims=threads),
        partial(puts, count, in_flight=object_store_concurrency),
        partial(tars, count, in_flight=tars_in_flight),
        partial(puts, count, in_flight=object_store_concurrency, claims=threads),
        partial(tars, count, in_flight=tars_in_flight, claims=threads),
    ):
        found.append(rate())
        on_progress(len(found))
    return Ceilings(*found)


class _Recorder(DynamoClient):
    """Keeps what would be sent."""

    def __init__(self) -> None:
        super().__init__(DynamoConfig())
        self.transactions: list[Sequence[Action]] = []

    def transact(self, actions: Sequence[Action]) -> dict[int, Item]:
        self.transactions.append(actions)
        return {}


def _rate(count: int, *, claims: int = 0, write_event_json: EventObjects = EventObjects.OFF, in_flight: int = 1) -> float:
    """Of `count` events in a world of their own: claimed by so many threads (0: not at all), their objects put with so many in flight."""
    settings = new_world(write_threads=str(max(claims, 1)), **write_event_json.settings).settings
    events = _events(count, settings.validation_rules())
    with _puts(settings, events, write_event_json, in_flight) as puts:
        sides = [_beside(1 if write_event_json is EventObjects.BY_PUT else in_flight, puts)]
        sides += [_beside(claims, _claims(settings, events))] if claims else []
        begun = time.monotonic()
        _beside(len(sides), sides)()
        return count / (time.monotonic() - begun)


def _beside(threads: int, jobs: Sequence[Callable[[], object]]) -> Callable[[], None]:
    def run() -> None:
        workers = ThreadTaskPool(threads)
        workers.run_all(jobs)
        workers.close()

    return run


def _claims(settings: Settings, events: Sequence[Event]) -> list[Callable[[], object]]:
    recorder, now = _Recorder(), whole_milliseconds(datetime.now(UTC))
    recent = DynamoRecentEvents(recorder, settings.recent_events_table_name)
    for start in range(0, len(events), CLAIM_CHUNK_EVENTS):
        recent.claim(events[start : start + CLAIM_CHUNK_EVENTS], now)
    dynamo = DynamoClient(wiring.dynamo_config(settings))
    return [partial(dynamo.transact, each) for each in recorder.transactions]


@contextmanager
def _puts(settings: Settings, events: Sequence[Event], how: EventObjects, in_flight: int) -> Iterator[list[Callable[[], object]]]:
    """Single PUTs as one job, for the archive itself keeps so many in flight; tars as one job for each claim's events, as runs put them."""
    batch = batch_id(datetime.now(UTC), [Range(TopicPartition("bench", 0, 0), 0, len(events))])
    blobs = [
        StoredObject(event_key(each.hour, each.id), each.record.value or b"", JSON_CONTENT_TYPE, event_metadata(each, batch))
        for each in events
    ]
    config = wiring.object_store_config(settings)
    archive = S3ObjectStore(replace(config, max_in_flight=in_flight) if how is EventObjects.BY_PUT else config)
    try:
        if how is EventObjects.BY_TAR:
            assert (why := archive.snowball_unavailable_reason()) is None, f"nothing to measure: objects go one by one: {why}"
            yield [partial(archive.put, blobs[start : start + CLAIM_CHUNK_EVENTS]) for start in range(0, len(blobs), CLAIM_CHUNK_EVENTS)]
        else:
            yield [partial(archive.put, blobs)] if how is EventObjects.BY_PUT else []
    finally:
        archive.close()


def _events(count: int, rules: ValidationRules) -> list[Event]:
    now = whole_milliseconds(datetime.now(UTC))
    made = islice(messages(1, lambda: datetime.now(UTC), CLEAN_MIX), count)
    records = (Record(Source(TopicPartition("bench", 0, 0), offset), 0, message.key, message.value) for offset, message in enumerate(made))
    verdicts = [classify(record, rules, now) for record in records]
    return [each for each in verdicts if isinstance(each, Event)]
