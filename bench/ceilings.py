"""What the stores give at most: the same requests as the pipeline's, prepared before the clock starts, and nothing else done meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
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
TARS_IN_FLIGHT = (2, 4, 8)
PROBE_SHARE = 25
"""One in so many requests is made with each of these, to see which is best."""

Action = Mapping[str, Mapping[str, Any]]


def claims_per_second(count: int) -> float:
    """Events a second, claimed by transactions of 100 conditional puts, into an empty table, with the best of several numbers of threads.

    `count` is that of the drains beside it: a table of 100,000 items takes longer for one more than a table of 10,000.
    """
    return _claims(count, max(CLAIM_THREADS, key=partial(_claims, count // PROBE_SHARE)))


def puts_per_second(count: int) -> float:
    """Objects a second by single PUTs, into an empty bucket, with the best of several numbers in flight. `count` as above."""
    return _puts(count, max(PUTS_IN_FLIGHT, key=partial(_puts, count // PROBE_SHARE)))


def tarred_per_second(count: int) -> float:
    """The same objects in tars of one claim's events each, with the best of several numbers in flight."""
    return _tarred(count, max(TARS_IN_FLIGHT, key=partial(_tarred, count // PROBE_SHARE)))


class _Recorder(Dynamo):
    """Keeps what would be sent."""

    def __init__(self) -> None:
        super().__init__(DynamoConfig())
        self.transactions: list[Sequence[Action]] = []

    def transact(self, actions: Sequence[Action]) -> dict[int, Item]:
        self.transactions.append(actions)
        return {}


def _claims(count: int, threads: int) -> float:
    settings = new_world(store_threads=str(threads)).settings
    events = _events(count, settings.rules())
    recorder, now = _Recorder(), whole_milliseconds(datetime.now(UTC))
    recent = DynamoRecentEvents(recorder, settings.recent_events_table_name)
    for start in range(0, count, CHUNK):
        recent.claim(events[start : start + CHUNK], now)
    dynamo = Dynamo(wiring.dynamo_config(settings))
    return _rate(count, threads, [partial(dynamo.transact, each) for each in recorder.transactions])


def _puts(count: int, in_flight: int) -> float:
    settings = new_world(tar_unpacking="off").settings
    archive = ObjectStoreArchive(replace(wiring.object_store_config(settings), max_in_flight=in_flight))
    try:
        return _rate(count, 1, [partial(archive.put, _blobs(count, settings.rules()))])
    finally:
        archive.close()


def _tarred(count: int, in_flight: int) -> float:
    """As runs put them: from so many threads, each with the objects of one claim."""
    settings = new_world(tar_unpacking="auto").settings
    blobs = _blobs(count, settings.rules())
    archive = ObjectStoreArchive(wiring.object_store_config(settings))
    try:
        assert (why := archive.why_no_tars()) is None, f"nothing to measure: objects go one by one: {why}"
        return _rate(count, in_flight, [partial(archive.put, blobs[start : start + CHUNK]) for start in range(0, count, CHUNK)])
    finally:
        archive.close()


def _blobs(count: int, rules: Rules) -> list[Blob]:
    batch = batch_id(datetime.now(UTC), [Range(TopicPartition("bench", 0, 0), 0, count)])
    return [
        Blob(event_key(each.hour, each.id), each.record.value or b"", "application/json", event_metadata(each, batch))
        for each in _events(count, rules)
    ]


def _rate(count: int, threads: int, jobs: Sequence[Callable[[], object]]) -> float:
    workers = ThreadWorkers(threads)
    begun = time.monotonic()
    workers.run(jobs)
    seconds = time.monotonic() - begun
    workers.close()
    return count / seconds


def _events(count: int, rules: Rules) -> list[Event]:
    now = whole_milliseconds(datetime.now(UTC))
    made = islice(messages(1, lambda: datetime.now(UTC), FLAWLESS), count)
    records = (Record(Source(TopicPartition("bench", 0, 0), offset), 0, message.key, message.value) for offset, message in enumerate(made))
    verdicts = [judge(record, rules, now) for record in records]
    return [each for each in verdicts if isinstance(each, Event)]
