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
from analytics_defs.adapters.dynamodb import Dynamo
from analytics_defs.adapters.dynamodb_client import DynamoConfig
from analytics_defs.adapters.dynamodb_recent import DynamoRecentEvents
from analytics_defs.adapters.object_store import ObjectStoreArchive
from analytics_defs.adapters.system import ThreadWorkers
from analytics_defs.config import Settings
from analytics_defs.core.attribute_values import Item
from analytics_defs.core.events import Event, Rules, judge
from analytics_defs.core.layout import batch_id, event_key, event_metadata
from analytics_defs.core.offsets import Range, Record, Source, TopicPartition
from analytics_defs.core.timestamps import whole_milliseconds
from analytics_defs.flows.steps import CHUNK
from analytics_defs.ports import Blob
from analytics_defs.shop import FLAWLESS, messages
from bench.world import new_world

CLAIM_THREADS = (4, 8, 16)
PUTS_IN_FLIGHT = (16, 32, 64)
PROBE_SHARE = 25
"""One in so many requests is made with each of these, to see which is best."""

Action = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Ceilings:
    """Events a second that the stores take, each into a table or bucket that was empty."""

    claims: float
    """By transactions of 100 conditional puts, with the best of several numbers of threads."""
    puts: float
    """By single PUTs, with the best of several numbers in flight."""
    both: float
    """Claims and PUTs of the same events side by side: what is left of the two where stores and clients share a machine."""


def ceilings(count: int, on_progress: Callable[[int], None]) -> Ceilings:
    """`count` is that of the drains beside it: a table of 100,000 items takes longer for one more than a table of 10,000.

    `on_progress` is told how many of the three are known.
    """
    threads = max(CLAIM_THREADS, key=partial(_rate, count // PROBE_SHARE, 0))
    claims = _rate(count, 0, threads)
    on_progress(1)
    in_flight = max(PUTS_IN_FLIGHT, key=lambda each: _rate(count // PROBE_SHARE, each, 0))
    puts = _rate(count, in_flight, 0)
    on_progress(2)
    both = _rate(count, in_flight, threads)
    on_progress(3)
    return Ceilings(claims, puts, both)


class _Recorder(Dynamo):
    """Keeps what would be sent."""

    def __init__(self) -> None:
        super().__init__(DynamoConfig())
        self.transactions: list[Sequence[Action]] = []

    def transact(self, actions: Sequence[Action]) -> dict[int, Item]:
        self.transactions.append(actions)
        return {}


def _rate(count: int, puts_in_flight: int, claim_threads: int) -> float:
    """Of `count` events in a world of their own; 0: without these requests."""
    settings = new_world(store_threads=str(max(claim_threads, 1))).settings
    events = _events(count, settings.rules())
    claims = _claims(settings, events) if claim_threads else []
    workers = ThreadWorkers(claim_threads + 1)
    with _puts(settings, events, puts_in_flight) as puts:
        jobs = [*([puts] if puts_in_flight else []), *claims]
        begun = time.monotonic()
        workers.run(jobs)
        seconds = time.monotonic() - begun
    workers.close()
    return count / seconds


def _claims(settings: Settings, events: Sequence[Event]) -> list[Callable[[], object]]:
    recorder, now = _Recorder(), whole_milliseconds(datetime.now(UTC))
    recent = DynamoRecentEvents(recorder, settings.recent_events_table_name)
    for start in range(0, len(events), CHUNK):
        recent.claim(events[start : start + CHUNK], now)
    dynamo = Dynamo(wiring.dynamo_config(settings))
    return [partial(dynamo.transact, each) for each in recorder.transactions]


@contextmanager
def _puts(settings: Settings, events: Sequence[Event], in_flight: int) -> Iterator[Callable[[], object]]:
    """One job: the archive itself keeps so many in flight."""
    batch = batch_id(datetime.now(UTC), [Range(TopicPartition("bench", 0, 0), 0, len(events))])
    blobs = [
        Blob(event_key(each.hour, each.id), each.record.value or b"", "application/json", event_metadata(each, batch)) for each in events
    ]
    archive = ObjectStoreArchive(replace(wiring.object_store_config(settings), max_in_flight=max(in_flight, 1)))
    try:
        yield partial(archive.put, blobs)
    finally:
        archive.close()


def _events(count: int, rules: Rules) -> list[Event]:
    now = whole_milliseconds(datetime.now(UTC))
    made = islice(messages(1, lambda: datetime.now(UTC), FLAWLESS), count)
    records = (Record(Source(TopicPartition("bench", 0, 0), offset), 0, message.key, message.value) for offset, message in enumerate(made))
    verdicts = [judge(record, rules, now) for record in records]
    return [each for each in verdicts if isinstance(each, Event)]
