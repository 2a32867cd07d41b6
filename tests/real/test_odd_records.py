"""Every kind of dead letter and every event that is hard to store, in one batch on the real stores."""

from __future__ import annotations

import base64
import io
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from typing import Any

import pyarrow.parquet as pq
import pytest
from boto3.dynamodb.types import TypeDeserializer

from analytics_defs.adapters.duckdb.statistics import duckdb_statistics
from analytics_defs.core.events.rejection_reasons import RejectionReason
from analytics_defs.core.ledger import BatchRecord
from analytics_defs.flows.hours.compaction import compact_hour
from analytics_defs.flows.hours.restore import restore_hour
from analytics_defs.flows.hours.statistics import compute_hourly_stats
from analytics_defs.flows.trace.trace import trace_record
from tests.real import raw_clients
from tests.real.data import HOUR, event
from tests.real.odd_records import ACCEPTED, IDS, LEGACY, MAX_EVENT_BYTES, POINTER_ONLY, REJECTED, TIMESTAMPS
from tests.real.raw_clients import Object, Written
from tests.real.world import World, new_world

pytestmark = pytest.mark.real

KEY, HEADERS = b"\x00key\xff", (("trace", b"\x00\xff"), ("trace", b"again"), ("none", None))
TOMBSTONES = 3


@dataclass(frozen=True)
class Ingested:
    """The platform after its only batch, and the produced records."""

    world: World
    batch: BatchRecord
    sources: dict[str, str]
    """The source of each record, by its name in `odd_records`."""
    objects: dict[str, Object]
    """The JSON objects, by source."""
    keys: dict[str, str]
    """The keys of the JSON objects, by source."""


@pytest.fixture(scope="module")
def ingested() -> Iterator[Ingested]:
    values = {name: value for name, (_, value) in REJECTED.items()} | ACCEPTED | LEGACY
    with raw_clients.topics(1) as (topic,), new_world([topic], max_event_bytes=MAX_EVENT_BYTES) as world:
        records = [Written(topic, 0, value, KEY, HEADERS) for value in values.values()]
        raw_clients.produce([*records, *[Written(topic, 0, None, key) for key in (None, b"", b"key")]])
        (batch,) = world.settle()
        objects = raw_clients.objects(world.bucket, "events/")
        keys = {stored.metadata["source"]: key for key, stored in objects.items()}
        assert len(keys) == len(objects)
        yield Ingested(
            world,
            batch,
            {name: f"{topic}/0/{offset}" for offset, name in enumerate(values)},
            {source: objects[key] for source, key in keys.items()},
            keys,
        )


def test_every_record_is_accounted_for(ingested: Ingested) -> None:
    outcome_counts = ingested.batch.outcome_counts
    assert (outcome_counts.stored, outcome_counts.dead_letters, outcome_counts.tombstones) == (
        len(ACCEPTED) + len(LEGACY),
        len(REJECTED),
        TOMBSTONES,
    )
    assert (outcome_counts.duplicates, outcome_counts.gaps, outcome_counts.lost, ingested.batch.unaccounted) == (0, 0, 0, ())
    ingested.world.assert_consistent()


def test_the_records_cover_every_rejection_reason() -> None:
    assert {reason for reason, _ in REJECTED.values()} == set(RejectionReason)


def test_a_dead_letter_has_the_reason_and_the_original_record(ingested: Ingested) -> None:
    assert ingested.batch.dead_letters_key is not None
    file = raw_clients.get(ingested.world.bucket, ingested.batch.dead_letters_key)
    assert file.content_type == "application/x-ndjson"
    lines = {line["source"]: line for line in map(json.loads, file.body.splitlines())}
    assert len(lines) == len(REJECTED)
    for name, (reason, value) in REJECTED.items():
        line = lines[ingested.sources[name]]
        assert line["reason"] == reason, name
        assert base64.b64decode(line["value"]) == value, name
        assert base64.b64decode(line["key"]) == KEY
        assert [(header, content and base64.b64decode(content)) for header, content in line["headers"]] == list(HEADERS)
        assert 0 < len(line["detail"]) <= 300, name
        assert line.get("valueText", "").encode() in (value, b""), name
    assert ingested.batch.reasons == dict(Counter(reason for reason, _ in REJECTED.values()))


def test_a_json_object_holds_the_original_bytes(ingested: Ingested) -> None:
    assert len(ingested.objects) == len(ACCEPTED) + len(LEGACY)
    for name, value in (ACCEPTED | LEGACY).items():
        stored = ingested.objects[ingested.sources[name]]
        assert (stored.body, stored.content_type) == (value, "application/json"), name
        assert stored.metadata["batch"] == ingested.batch.batch.id
        assert stored.metadata.keys() == {"eventtype", "timestamp", "eventid", "source", "batch", "recordtimestamp"}


def test_the_parquet_parts_hold_the_original_text_and_the_instant(ingested: Ingested) -> None:
    rows: dict[str, dict[str, Any]] = {}
    for key in ingested.batch.parts.values():
        table = pq.read_table(io.BytesIO(raw_clients.get(ingested.world.bucket, key).body))
        rows |= {f"{row['topic']}/{row['partition']}/{row['offset']}": row for row in table.to_pylist()}
    assert len(rows) == len(ACCEPTED) + len(LEGACY)
    for name, value in (ACCEPTED | LEGACY).items():
        assert rows[ingested.sources[name]]["payload"].encode() == value, name
    for timestamp, instant in TIMESTAMPS.items():
        assert rows[ingested.sources[f"timestamp {timestamp}"]]["timestamp"] == instant, timestamp


def decoded(value: bytes) -> Any:
    """Decode JSON with exact numbers of any length, without the parser of the platform."""
    return json.loads(value, parse_float=Decimal, parse_int=Decimal)


def item(ingested: Ingested, event_id: str) -> dict[str, Any]:
    """Return the item of RecentEvents as boto3 decodes it."""
    wire_item = raw_clients.item(ingested.world.settings.recent_events_table_name, event_id)
    assert wire_item is not None, event_id
    return {name: TypeDeserializer().deserialize(value) for name, value in wire_item.items()}


def test_an_item_equals_its_event_by_value_or_points_to_its_object(ingested: Ingested) -> None:
    for name, value in ACCEPTED.items():
        source, document = ingested.sources[name], decoded(value)
        stored = item(ingested, document["id"])
        assert (stored["source"], stored["eventId"], stored["timestamp"]) == (source, document["id"], document["timestamp"]), name
        if name.removeprefix("pointer only ") in POINTER_ONLY or name == "an empty key at the top":
            assert stored["data"] == {"pointer": ingested.keys[source]}, name
        else:
            assert stored["data"] == document, name


def test_a_legacy_event_keeps_its_fields_and_gets_the_fields_of_the_current_form(ingested: Ingested) -> None:
    for name, value in LEGACY.items():
        document = decoded(value)
        event_id = ingested.objects[ingested.sources[name]].metadata["eventid"]
        stored = item(ingested, event_id)["data"]
        kept = document.keys() - {"product"}
        assert {key: stored[key] for key in kept} == {key: document[key] for key in kept}
        assert (stored["id"], stored["timestamp"]) == (event_id, document["occurredAt"])
        if "product" in document:
            assert stored["product"] == document["product"] | {"stock": document["product"]["quantity"]}
        if "quantity" in document:
            assert stored["currentStock"] == document["quantity"]


def test_every_id_has_a_separate_item_and_object(ingested: Ingested) -> None:
    """Some ids differ only by case, percent-encoding or Unicode normalization."""
    table = ingested.world.settings.recent_events_table_name
    sources = {wire_item["id"]["S"]: wire_item["source"]["S"] for wire_item in raw_clients.items(table)}
    keys = set()
    for number, event_id in enumerate(IDS):
        source = ingested.sources[f"id {number}: {event_id[:40]!a}"]
        assert sources[event_id] == source
        key = ingested.keys[source]
        assert decoded(raw_clients.get(ingested.world.bucket, key).body)["id"] == event_id
        assert key.startswith("events/2024/01/15/10/")
        assert key.isascii()
        assert max(map(len, key.split("/"))) <= 255
        assert len(key.split("/")) == 6
        keys.add(key)
    assert len(keys) == len(IDS)


def test_record_timestamps_that_are_no_dates_stop_no_hourly_job() -> None:
    times = (1_796_084_566_626_462_208, 1_800_000_000_000_000, 2**63 - 1, -(2**63), -62_135_596_800_000, 1_705_314_600_123)
    with raw_clients.topics(1) as (topic,), new_world([topic]) as world:
        raw_clients.produce([Written(topic, 0, event(str(time)), timestamp_ms=time) for time in times])
        world.settle()
        assert world.ports.ledger.counters()["invalid_record_timestamps"] == 5
        engine_factory = partial(duckdb_statistics, 128, 1)
        for _ in ("from the part", "from the archive"):
            assert compute_hourly_stats(HOUR, world.ports, engine_factory).stats.events == len(times)
            assert restore_hour(HOUR, world.ports, engine_factory).already_present == len(times)
            assert compact_hour(HOUR, world.ports, engine_factory).complete is True
        world.assert_consistent()
        for time in times:
            detail = trace_record(str(time), world.ports).detail
            assert (f"its record timestamp {time} is no date" in detail) == (time != 1_705_314_600_123)
