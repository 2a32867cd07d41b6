"""Limits of the stores: the requests of the pipeline, prepared in advance and sent without the pipeline."""

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
from bench.drain import EventJson
from bench.world import new_world

CLAIM_THREADS = (4, 8, 16)
OBJECT_STORE_CONCURRENCY = (16, 32, 64)
TARS_IN_FLIGHT = (2, 4, 8)
PROBE_DIVISOR = 25
"""The fraction 1/25 of the requests is sent with each level of concurrency, to find the fastest."""

Action = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Ceilings:
    """Events per second that the stores accept, with the best of several levels of concurrency.

    Each is measured with an empty table or bucket.
    """

    claims: float
    """Transactions of 100 conditional puts."""
    puts: float
    """Single PUTs."""
    tars: float
    """Rate of the objects in tar files, each with the events of one claim."""
    claims_and_puts: float
    """Claims and PUTs of the same events side by side: stores and clients share the machine."""
    claims_and_tars: float

    def of(self, event_json: EventJson) -> float:
        """Return the ceiling of the store that limits such a drain."""
        return {EventJson.BY_PUT: self.puts, EventJson.BY_TAR: self.tars, EventJson.OFF: self.claims}[event_json]

    def side_by_side(self, event_json: EventJson) -> float:
        """Return the ceiling of all requests that such a drain sends for each event."""
        both = {EventJson.BY_PUT: self.claims_and_puts, EventJson.BY_TAR: self.claims_and_tars, EventJson.OFF: self.claims}
        return both[event_json]


def ceilings(count: int, on_progress: Callable[[int], None]) -> Ceilings:
    """Measure the five ceilings. `on_progress` gets the number of those that are measured.

    `count` should equal that of the drains: a write to a table of 100,000 items is slower than to one of 10,000.
    """
    probe_count = count // PROBE_DIVISOR
    threads = max(CLAIM_THREADS, key=lambda level: _rate(probe_count, claims=level))
    puts = partial(_rate, event_json=EventJson.BY_PUT)
    object_store_concurrency = max(OBJECT_STORE_CONCURRENCY, key=lambda level: puts(probe_count, in_flight=level))
    tars = partial(_rate, event_json=EventJson.BY_TAR)
    tars_in_flight = max(TARS_IN_FLIGHT, key=lambda level: tars(probe_count, in_flight=level))
    rates = []
    for rate in (
        partial(_rate, count, claims=threads),
        partial(puts, count, in_flight=object_store_concurrency),
        partial(tars, count, in_flight=tars_in_flight),
        partial(puts, count, in_flight=object_store_concurrency, claims=threads),
        partial(tars, count, in_flight=tars_in_flight, claims=threads),
    ):
        rates.append(rate())
        on_progress(len(rates))
    return Ceilings(*rates)


class _Recorder(DynamoClient):
    """A client that records transactions instead of sending them."""

    def __init__(self) -> None:
        super().__init__(DynamoConfig())
        self.transactions: list[Sequence[Action]] = []

    def transact(self, actions: Sequence[Action]) -> dict[int, Item]:
        self.transactions.append(actions)
        return {}


def _rate(count: int, *, claims: int = 0, event_json: EventJson = EventJson.OFF, in_flight: int = 1) -> float:
    """Measure events per second in a new world.

    `claims`: number of threads that claim, 0 for none. `in_flight`: number of concurrent uploads.
    """
    settings = new_world(write_threads=str(max(claims, 1)), **event_json.settings).settings
    events = _events(count, settings.validation_rules())
    with _puts(settings, events, event_json, in_flight) as puts:
        sides = [_in_threads(1 if event_json is EventJson.BY_PUT else in_flight, puts)]
        sides += [_in_threads(claims, _claims(settings, events))] if claims else []
        started = time.monotonic()
        _in_threads(len(sides), sides)()
        return count / (time.monotonic() - started)


def _in_threads(threads: int, jobs: Sequence[Callable[[], object]]) -> Callable[[], None]:
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
    return [partial(dynamo.transact, actions) for actions in recorder.transactions]


@contextmanager
def _puts(settings: Settings, events: Sequence[Event], event_json: EventJson, in_flight: int) -> Iterator[list[Callable[[], object]]]:
    """Yield the upload jobs.

    Single PUTs are one job: the object store itself sends them concurrently. Tar files are one job for each
    claim, as in runs.
    """
    batch = batch_id(datetime.now(UTC), [Range(TopicPartition("bench", 0, 0), 0, len(events))])
    objects = [
        StoredObject(event_key(event.hour, event.id), event.record.value or b"", JSON_CONTENT_TYPE, event_metadata(event, batch))
        for event in events
    ]
    config = wiring.object_store_config(settings)
    store = S3ObjectStore(replace(config, max_in_flight=in_flight) if event_json is EventJson.BY_PUT else config)
    try:
        if event_json is EventJson.BY_TAR:
            assert (reason := store.snowball_unavailable_reason()) is None, f"the store does not unpack tar files: {reason}"
            yield [partial(store.put, objects[start : start + CLAIM_CHUNK_EVENTS]) for start in range(0, len(objects), CLAIM_CHUNK_EVENTS)]
        else:
            yield [partial(store.put, objects)] if event_json is EventJson.BY_PUT else []
    finally:
        store.close()


def _events(count: int, rules: ValidationRules) -> list[Event]:
    now = whole_milliseconds(datetime.now(UTC))
    produced = islice(messages(1, lambda: datetime.now(UTC), CLEAN_MIX), count)
    records = (
        Record(Source(TopicPartition("bench", 0, 0), offset), 0, message.key, message.value) for offset, message in enumerate(produced)
    )
    classified = [classify(record, rules, now) for record in records]
    return [record for record in classified if isinstance(record, Event)]
