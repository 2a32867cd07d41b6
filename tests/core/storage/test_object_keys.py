"""Object keys and metadata are distinct, reversible and valid in every store."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from urllib.parse import unquote

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from analytics_defs.core.offsets import Range, Record, Source, TopicPartition
from analytics_defs.core.storage import object_keys
from tests.core.events.made_events import CREATED, NOW, event, reproducibly

HOUR = "2024-01-15T10"
RANGES = (Range(TopicPartition("ProductCreated", 0, 0), 5, 9), Range(TopicPartition("ProductCreated", 0, 1), 0, 3))
BATCH = object_keys.batch_id(datetime(2024, 1, 15, 10, 30, 0, 123_999, UTC), RANGES)

ids = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=300) | st.text("aA%./~_2Ff \x00é", min_size=1, max_size=12)


def test_keys_are_the_documented_ones() -> None:
    assert BATCH == "20240115T103000123Z-57602f8d3f97"
    assert object_keys.event_key(HOUR, "event-1") == "events/2024/01/15/10/event-1.json"
    assert object_keys.part_key(HOUR, BATCH) == f"parquet/year=2024/month=01/day=15/hour=10/{BATCH}.parquet"
    assert object_keys.manifest_key(HOUR) == "parquet/year=2024/month=01/day=15/hour=10/_SUCCESS.json"
    assert object_keys.archive_key(HOUR, 3, ["b", "a"]).startswith("parquet/year=2024/month=01/day=15/hour=10/archive-000003-")
    assert object_keys.aggregate_key("hourly", HOUR) == "aggregates/hourly/year=2024/month=01/day=15/hour=10/hourly.parquet"
    assert object_keys.aggregate_key("daily", "2024-01-15") == "aggregates/daily/year=2024/month=01/day=15/daily.parquet"
    assert object_keys.dead_letters_key(BATCH) == f"dead-letters/2024/01/15/10/{BATCH}.ndjson"
    assert object_keys.duplicates_key(BATCH) == f"duplicates/2024/01/15/10/{BATCH}.ndjson"
    assert object_keys.staging_key(BATCH) == f"staging/{BATCH}"


UNUSUAL_IDS = [
    *(
        "a/b",
        "a%2Fb",
        "a%2fb",
        "a%252Fb",
        ".",
        "..",
        "../..",
        "...",
        "a",
        "A",
        "a ",
        " a",
        " ",
        "a+b",
        "a b",
        "a%20b",
        "~",
        "%7E",
        "_a",
        ".a",
        "%5Fa",
    ),
    *(
        "é",
        "e\u0301",
        "É",
        "\x00",
        "\n",
        "\x7f",
        "a\\b",
        "*",
        "a:b",
        "a.json",
        ".json",
        "😀",
        "日本",
        "con",
        "x" * 250,
        "x" * 251,
        "X" * 251,
        "x" * 3_000,
    ),
    *("x" * 3_001, "é" * 1_024, "x" * 120 + "~" + "0" * 64),
]


def test_unusual_ids_never_share_a_key() -> None:
    keys = {object_keys.event_key(HOUR, event_id) for event_id in UNUSUAL_IDS}
    assert len(keys) == len(UNUSUAL_IDS)


@pytest.mark.parametrize("event_id", UNUSUAL_IDS, ids=lambda event_id: repr(event_id[:12]))
def test_a_key_is_valid_in_every_store_and_holds_the_id_or_its_hash(event_id: str) -> None:
    key = object_keys.event_key(HOUR, event_id)
    directory, _, segment = key.rpartition("/")
    assert directory == "events/2024/01/15/10"
    assert re.fullmatch(r"[A-Za-z0-9%-][A-Za-z0-9%._~-]*\.json", segment)
    assert len(segment) <= object_keys.MAX_SEGMENT_BYTES
    assert object_keys.event_id_of_key(key) == (None if "~" in segment else event_id)


def test_the_key_for_a_reused_id_is_unique_for_its_source_and_valid_in_every_store() -> None:
    first, second = (Source(TopicPartition("ProductDeleted", 0, 0), number) for number in (1, 2))
    keys = {object_keys.reused_id_event_key(HOUR, event_id, source) for event_id in UNUSUAL_IDS for source in (first, second)}
    assert len(keys) == 2 * len(UNUSUAL_IDS)
    assert not keys & {object_keys.event_key(HOUR, event_id) for event_id in UNUSUAL_IDS}
    assert all(len(key.rpartition("/")[2]) <= object_keys.MAX_SEGMENT_BYTES and object_keys.event_id_of_key(key) is None for key in keys)


@reproducibly
@given(ids, ids)
def test_two_ids_have_two_keys_even_after_unescaping(left: str, right: str) -> None:
    assume(left != right)
    left_key, right_key = object_keys.event_key(HOUR, left), object_keys.event_key(HOUR, right)
    assert left_key != right_key
    assert unquote(left_key) != unquote(right_key)


@reproducibly
@given(ids)
def test_the_id_can_be_read_back_from_key_and_metadata(event_id: str) -> None:
    changed = replace(event(CREATED), id=event_id)
    assert object_keys.event_id_of_key(object_keys.event_key(HOUR, event_id)) in {event_id, None}
    assert object_keys.metadata_event_id(object_keys.event_metadata(changed, BATCH)["eventId"]) in {event_id, None}


@pytest.mark.parametrize("event_id", UNUSUAL_IDS, ids=lambda event_id: repr(event_id[:12]))
def test_metadata_is_ascii_and_bounded_for_the_longest_values(event_id: str) -> None:
    source = Source(TopicPartition("t" * 249, 2**31, 2**31), 2**63)
    longest = replace(
        event(CREATED), id=event_id, timestamp="2024-01-15T10:30:00." + "0" * 38 + "+00:00", record=Record(source, 2**63 - 1, None, b"{}")
    )
    metadata = object_keys.event_metadata(longest, BATCH)
    assert metadata.keys() == {"eventType", "timestamp", "eventId", "source", "batch", "recordTimestamp"}
    assert all(value.isascii() and value.isprintable() for value in metadata.values())
    assert sum(len(name) + len(value) for name, value in metadata.items()) <= object_keys.MAX_METADATA_BYTES


@reproducibly
@given(ids)
def test_candidate_keys_are_derived_from_metadata(event_id: str) -> None:
    changed = replace(event(CREATED), id=event_id)
    metadata = {name.lower(): value for name, value in object_keys.event_metadata(changed, BATCH).items()}
    reused_id_key = object_keys.reused_id_event_key(HOUR, event_id, changed.record.source)
    assert object_keys.candidate_event_keys(HOUR, metadata) == (object_keys.event_key(HOUR, event_id), reused_id_key)
    assert object_keys.candidate_event_keys(HOUR, metadata | {"source": "nothing"}) == object_keys.candidate_event_keys(HOUR, {}) == ()


@pytest.mark.parametrize(
    ("text", "expected"), [("1705314600123", 1705314600123), ("soon", -1), ("-5", -5), (str(2**63), -1), ("²", -1), (None, -1)]
)
def test_a_missing_or_invalid_record_timestamp_is_minus_1(text: str | None, expected: int) -> None:
    assert object_keys.metadata_record_timestamp({} if text is None else {"recordtimestamp": text}) == expected


def test_metadata_holds_type_time_id_source_and_batch() -> None:
    unstamped = event(CREATED)
    unstamped = replace(unstamped, record=replace(unstamped.record, timestamp_ms=-1))
    assert "recordTimestamp" not in object_keys.event_metadata(unstamped, BATCH)
    assert object_keys.event_metadata(event(CREATED | {"id": "a/b"}), BATCH) == {
        "eventType": "ProductCreated",
        "timestamp": "2024-01-15T10:30:00.123Z",
        "eventId": "a%2Fb",
        "source": "ProductCreated/3/1042",
        "batch": BATCH,
        "recordTimestamp": "1705314600123",
    }


@pytest.mark.parametrize("hour", ["2024-01-15T10", "0001-01-01T00", "9999-12-31T23"])
def test_the_hour_is_read_back_from_every_key(hour: str) -> None:
    assert object_keys.hour_of_key(object_keys.event_key(hour, "1999/01/01/01")) == hour
    assert object_keys.hour_of_key(object_keys.part_key(hour, BATCH)) == hour
    assert object_keys.hour_of_key(object_keys.event_json_dir(hour)) == object_keys.hour_of_key(object_keys.parquet_dir(hour)) == hour
    assert object_keys.hour_of_key(object_keys.staging_key(BATCH)) is None


INVALID_HOURS = ["2024-01-15T24", "2024-01-15T25", "2024-02-31T10", "2023-02-29T10", "2024-99-99T99", "0000-01-01T00"]


@pytest.mark.parametrize("hour", ["", "2024-01-15", "2024-01-15T10:00", "2024-01-15 10", "../../../../x", *INVALID_HOURS])
def test_an_invalid_hour_is_rejected(hour: str) -> None:
    for path in (object_keys.hour_path, object_keys.hive_path):
        with pytest.raises(ValueError, match="is not an hour"):
            path(hour)


def test_a_batch_id_depends_only_on_its_millisecond_and_its_ranges() -> None:
    assert object_keys.batch_id(datetime(2024, 1, 15, 10, 30, 0, 123_000, UTC), reversed(RANGES)) == BATCH
    assert object_keys.batch_id(datetime(2024, 1, 15, 12, 30, 0, 123_456, timezone(timedelta(hours=2))), RANGES) == BATCH
    others = [
        RANGES[:1],
        (RANGES[0], replace(RANGES[1], end=4)),
        (RANGES[0], replace(RANGES[1], start=1)),
        (RANGES[0], replace(RANGES[1], topic_partition=TopicPartition("ProductCreated", 1, 1))),
        (RANGES[0], replace(RANGES[1], topic_partition=TopicPartition("ProductCreated", 0, 2))),
    ]
    assert len({object_keys.batch_id(NOW, ranges) for ranges in [RANGES, *others]}) == 6


def test_a_batch_id_contains_its_time_and_sorts_by_it() -> None:
    times = [datetime(2024, 1, 15, 10, 30, second, 999_000, UTC) for second in range(60)]
    batch_ids = [object_keys.batch_id(time, RANGES) for time in times]
    assert [object_keys.batch_time(batch_id) for batch_id in batch_ids] == times
    assert sorted(batch_ids) == batch_ids


@pytest.mark.parametrize(
    "text",
    ["", "20240115T103000123Z", "20240115T103000123Z-0123", "../20240115T103000123Z-0123456789ab", "20249915T103000123Z-0123456789ab"],
)
def test_an_invalid_batch_id_is_rejected(text: str) -> None:
    with pytest.raises(ValueError, match=r"batch id|month"):
        object_keys.batch_time(text)


def test_a_dead_letters_key_contains_the_hour_and_id_of_its_batch() -> None:
    key = object_keys.dead_letters_key(BATCH)
    assert key.startswith(object_keys.dead_letters_dir(HOUR))
    assert object_keys.dead_letters_dir(HOUR).startswith(object_keys.dead_letters_dir())
    assert object_keys.batch_id_of_ndjson_key(key) == BATCH
    assert object_keys.batch_id_of_ndjson_key(object_keys.part_key(HOUR, BATCH)) is None


def test_only_a_part_key_contains_a_batch_id() -> None:
    assert object_keys.batch_id_of_part_key(object_keys.part_key(HOUR, BATCH)) == BATCH
    assert object_keys.batch_id_of_part_key(object_keys.archive_key(HOUR, 1, [])) is None
    assert object_keys.batch_id_of_part_key(object_keys.manifest_key(HOUR)) is None
    assert object_keys.batch_id_of_part_key(f"parquet/{BATCH}") is None


def test_an_archive_key_depends_on_inputs_in_any_order_revision_and_file_number() -> None:
    assert object_keys.archive_key(HOUR, 1, ["a", "b"]) == object_keys.archive_key(HOUR, 1, ["b", "a"])
    assert len({object_keys.archive_key(HOUR, 1, inputs) for inputs in (["a", "b"], ["a"], ["b"], [])}) == 4
    assert len({object_keys.archive_key(HOUR, revision, ["a"], file) for revision in (1, 2) for file in (0, 1)}) == 4


def test_only_an_archive_key_contains_a_revision() -> None:
    assert object_keys.revision_of_archive_key(object_keys.archive_key(HOUR, 12, ["a"], 3)) == 12
    assert object_keys.revision_of_archive_key(object_keys.archive_key(HOUR, 1_234_567, [])) == 1_234_567
    for key in (
        object_keys.part_key(HOUR, BATCH),
        object_keys.manifest_key(HOUR),
        "parquet/archive-notes.parquet",
        "parquet/archive-000001.parquet",
    ):
        assert object_keys.revision_of_archive_key(key) is None
