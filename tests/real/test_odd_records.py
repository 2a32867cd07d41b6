"""Every record that is no event, and every event that is hard to hold, in one batch on the real stores: all accounted for, none altered."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pyarrow.parquet as pq
import pytest
from boto3.dynamodb.types import TypeDeserializer

from analytics_defs.core.events.rejection_reasons import RejectionReason
from analytics_defs.core.ledger import BatchRecord
from tests.real import plain
from tests.real.odd_records import ACCEPTED, IDS, LEGACY, MAX_EVENT_BYTES, POINTED, REJECTED, TIMESTAMPS
from tests.real.plain import Object, Written
from tests.real.world import World, new_world

pytestmark = pytest.mark.real

KEY, HEADERS = b"\x00key\xff", (("trace", b"\x00\xff"), ("trace", b"again"), ("none", None))
TOMBSTONES = 3


@dataclass(frozen=True)
class Ingested:
    """The world after its one batch, and what was produced, by source."""

    world: World
    batch: BatchRecord
    sources: dict[str, str]
    """By the name of the record."""
    objects: dict[str, Object]
    """The JSON objects, by their source."""
    keys: dict[str, str]
    """Their keys, likewise."""


@pytest.fixture(scope="module")
def ingested() -> Iterator[Ingested]:
    values = {name: value for name, (_, value) in REJECTED.items()} | ACCEPTED | LEGACY
    with plain.topics(1) as (topic,), new_world([topic], max_event_bytes=MAX_EVENT_BYTES) as world:
        records = [Written(topic, 0, value, KEY, HEADERS) for value in values.values()]
        plain.produce([*records, *[Written(topic, 0, None, key) for key in (None, b"", b"key")]])
        (batch,) = world.settle()
        objects = plain.objects(world.bucket, "events/")
        by_source = {each.metadata["source"]: (key, each) for key, each in objects.items()}
        assert len(by_source) == len(objects)
        yield Ingested(
            world,
            batch,
            {name: f"{topic}/0/{offset}" for offset, name in enumerate(values)},
            {source: each for source, (_, each) in by_source.items()},
            {source: key for source, (key, _) in by_source.items()},
        )


def test_the_batch_goes_on_and_every_record_is_accounted_for(ingested: Ingested) -> None:
    tally = ingested.batch.tally
    assert (tally.stored, tally.dead_letters, tally.tombstones) == (len(ACCEPTED) + len(LEGACY), len(REJECTED), TOMBSTONES)
    assert (tally.duplicates, tally.gaps, tally.lost, ingested.batch.unaccounted) == (0, 0, 0, ())
    ingested.world.assert_sound()


def test_every_reason_there_is_was_tried() -> None:
    assert {reason for reason, _ in REJECTED.values()} == set(RejectionReason)


def test_a_dead_letter_names_the_reason_and_keeps_the_record_byte_for_byte(ingested: Ingested) -> None:
    assert ingested.batch.dead_letters_key is not None
    file = plain.get(ingested.world.bucket, ingested.batch.dead_letters_key)
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
    assert ingested.batch.reasons == {reason: sum(each is reason for each, _ in REJECTED.values()) for reason in RejectionReason}


def test_an_object_holds_the_original_bytes(ingested: Ingested) -> None:
    assert len(ingested.objects) == len(ACCEPTED) + len(LEGACY)
    for name, value in (ACCEPTED | LEGACY).items():
        found = ingested.objects[ingested.sources[name]]
        assert (found.body, found.content_type) == (value, "application/json"), name
        assert found.metadata["batch"] == ingested.batch.batch.id
        assert found.metadata.keys() == {"eventtype", "timestamp", "eventid", "source", "batch", "recordtimestamp"}


def test_the_parquet_parts_hold_the_original_text_and_the_instant(ingested: Ingested) -> None:
    rows: dict[str, dict[str, Any]] = {}
    for key in ingested.batch.parts.values():
        table = pq.read_table(io.BytesIO(plain.get(ingested.world.bucket, key).body))
        rows |= {f"{row['topic']}/{row['partition']}/{row['offset']}": row for row in table.to_pylist()}
    assert len(rows) == len(ACCEPTED) + len(LEGACY)
    for name, value in (ACCEPTED | LEGACY).items():
        assert rows[ingested.sources[name]]["payload"].encode() == value, name
    for timestamp, instant in TIMESTAMPS.items():
        assert rows[ingested.sources[f"timestamp {timestamp}"]]["timestamp"] == instant, timestamp


def decoded(value: bytes) -> Any:
    """Independent of the platform's own reader: numbers exact, whatever their length."""
    return json.loads(value, parse_float=Decimal, parse_int=Decimal)


def item(ingested: Ingested, event_id: str) -> dict[str, Any]:
    """As any client of DynamoDB reads it."""
    found = plain.item(ingested.world.settings.recent_events_table_name, event_id)
    assert found is not None, event_id
    return {name: TypeDeserializer().deserialize(value) for name, value in found.items()}


def test_an_item_equals_its_event_by_value_or_points_to_its_object(ingested: Ingested) -> None:
    for name, value in ACCEPTED.items():
        source, document = ingested.sources[name], decoded(value)
        found = item(ingested, document["id"])
        assert (found["source"], found["eventId"], found["timestamp"]) == (source, document["id"], document["timestamp"]), name
        if name.removeprefix("pointed ") in POINTED or name == "an empty key at the top":
            assert found["data"] == {"pointer": ingested.keys[source]}, name
        else:
            assert found["data"] == document, name


def test_a_legacy_event_keeps_its_fields_and_gets_those_of_the_current_form(ingested: Ingested) -> None:
    for name, value in LEGACY.items():
        document = decoded(value)
        (event_id,) = (each.metadata["eventid"] for source, each in ingested.objects.items() if source == ingested.sources[name])
        found = item(ingested, event_id)["data"]
        assert {key: found[key] for key in document.keys() - {"product"}} == {key: document[key] for key in document.keys() - {"product"}}
        assert (found["id"], found["timestamp"]) == (event_id, document["occurredAt"])
        if "product" in document:
            assert found["product"] == document["product"] | {"stock": document["product"]["quantity"]}
        if "quantity" in document:
            assert found["currentStock"] == document["quantity"]


def test_every_id_has_an_item_and_an_object_of_its_own(ingested: Ingested) -> None:
    """Ids that differ only by case, by percent-encoding or by Unicode normalisation, too."""
    table = ingested.world.settings.recent_events_table_name
    named = {each["id"]["S"]: each["source"]["S"] for each in plain.items(table)}
    keys = set()
    for number, event_id in enumerate(IDS):
        source = ingested.sources[f"id {number}: {event_id[:40]!a}"]
        assert named[event_id] == source
        key = ingested.keys[source]
        assert decoded(plain.get(ingested.world.bucket, key).body)["id"] == event_id
        assert key.startswith("events/2024/01/15/10/")
        assert key.isascii()
        assert max(map(len, key.split("/"))) <= 255
        assert len(key.split("/")) == 6
        keys.add(key)
    assert len(keys) == len(IDS)
