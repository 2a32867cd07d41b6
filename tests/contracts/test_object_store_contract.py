"""The contract of the object store, for the memory double, moto, and a real object store."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from analytics_defs.core.storage.object_keys import event_key, manifest_key, part_key, staging_key
from analytics_defs.ports import ObjectInfo, StoredObject, prove_conditional_writes
from tests.adapters.object_store.snowball_s3 import unpacking_contract
from tests.contracts.object_store_fixtures import OBJECT_STORES, ObjectStoreUnderTest

HOUR = "2024-01-15T10"
BATCH = "20240115T103000123Z-0123456789ab"
ODD_IDS = [
    "a/b",
    "a%2Fb",
    "..",
    "../../etc/passwd",
    ".hidden",
    "_hidden",
    "two words",
    "two+words",
    "two%20words",
    "100%",
    "%2F",
    "%",
    "Ü-ber",
    "日本語",
    "a\nb\x00c",
    "q?x=1&y=2#z",
    "it's (a) [test] {of} <many> !@$*;:,=\\|^`~\"",
    "case",
    "CASE",
    "long/" * 600,
]


@pytest.fixture(
    params=["memory", "moto", "moto-unpacking", *(pytest.param(name, marks=pytest.mark.real) for name in ("real", "real-unpacking"))]
)
def store(request: pytest.FixtureRequest) -> Iterator[ObjectStoreUnderTest]:
    with (OBJECT_STORES | {"moto-unpacking": unpacking_contract})[request.param]() as under_test:
        yield under_test


def make_object(key: str, body: bytes = b"{}", **metadata: str) -> StoredObject:
    return StoredObject(key, body, "application/json", metadata)


def test_every_object_is_stored_when_put_returns(store: ObjectStoreUnderTest) -> None:
    objects = [make_object(f"events/{number}.json", os.urandom(number * 97), number=str(number)) for number in range(50)]
    store.port.put(objects)
    assert store.contents() == {stored.key: stored for stored in objects}
    assert [store.port.get(stored.key) for stored in objects] == [stored.body for stored in objects]


def test_head_returns_size_and_metadata(store: ObjectStoreUnderTest) -> None:
    stored = make_object("events/a.json", b"x" * 1234, eventid="a%2Fb", source="topic@1/3/1042")
    store.port.put([stored])
    assert store.port.head(stored.key) == ObjectInfo(1234, stored.metadata)
    assert store.port.head("events/b.json") is None


def test_content_type_and_metadata_come_back_equal(store: ObjectStoreUnderTest) -> None:
    metadata = {"timestamp": "2024-01-15T10:30:00.123+01:00", "eventid": "a%2Fb%20c", "source": "topic@1/3/1042", "long": "x" * 1_800}
    store.port.put([StoredObject("one", b"1", "application/x-ndjson", metadata)])
    assert store.contents()["one"] == StoredObject("one", b"1", "application/x-ndjson", metadata)


def test_empty_and_large_objects_come_back_equal(store: ObjectStoreUnderTest) -> None:
    large = os.urandom(12 * 1024 * 1024)
    store.port.put([make_object("empty", b""), make_object("large", large)])
    assert (store.port.get("empty"), store.port.get("large")) == (b"", large)


def test_empty_puts_and_deletes_change_nothing(store: ObjectStoreUnderTest) -> None:
    store.port.put([])
    store.port.delete([])
    assert store.contents() == {}


def test_put_is_idempotent(store: ObjectStoreUnderTest) -> None:
    for _ in range(2):
        store.port.put([make_object("same", b"bytes", writer="first")])
    assert store.contents() == {"same": make_object("same", b"bytes", writer="first")}


def test_put_overwrites(store: ObjectStoreUnderTest) -> None:
    store.port.put([make_object("key", b"old")])
    store.port.put([make_object("key", b"new")])
    assert store.port.get("key") == b"new"


def test_put_many_if_absent_keeps_and_returns_existing_objects(store: ObjectStoreUnderTest) -> None:
    store.port.put([make_object("current", b"old", Writer="first")])
    existing = store.port.put_many_if_absent(
        [make_object("new", b"new", writer="second"), make_object("current", b"other", writer="second")]
    )
    assert list(existing) == [make_object("current", b"old", writer="first")]
    assert (store.port.get("current"), store.port.get_object("new")) == (b"old", make_object("new", b"new", writer="second"))
    assert list(store.port.put_many_if_absent([])) == []


def test_a_missing_key_reads_as_none(store: ObjectStoreUnderTest) -> None:
    assert store.port.get("staging/never") is None


def test_keys_and_ids_are_stored_literally(store: ObjectStoreUnderTest) -> None:
    """Hold every client to literal keys: none may encode, decode or normalize a key again."""
    keys = [event_key(HOUR, event_id) for event_id in ODD_IDS] + [
        "raw/a b+c&d=e;f,g!h'(i)*.json",
        part_key(HOUR, BATCH),
        manifest_key(HOUR),
    ]
    store.port.put([make_object(key, key.encode()) for key in keys])
    assert {key: stored.body.decode() for key, stored in store.contents().items()} == {key: key for key in keys}
    assert list(store.port.list_keys("")) == sorted(keys)
    assert [store.port.get(key) for key in keys] == [key.encode() for key in keys]
    store.port.delete(keys)
    assert store.contents() == {}


def test_ids_that_differ_only_by_encoding_or_case_are_different_objects(store: ObjectStoreUnderTest) -> None:
    ids = ["a/b", "a%2Fb", "a%2fb", "A/b", "a%252Fb"]
    store.port.put([make_object(event_key(HOUR, event_id), event_id.encode()) for event_id in ids])
    assert [store.port.get(event_key(HOUR, event_id)) for event_id in ids] == [event_id.encode() for event_id in ids]
    assert len(store.contents()) == len(ids)


def test_the_first_conditional_write_wins_and_later_ones_return_its_bytes(store: ObjectStoreUnderTest) -> None:
    first, second = make_object(staging_key("b"), b"first"), make_object(staging_key("b"), b"second")
    assert store.port.put_if_absent(first) == b"first"
    assert store.port.put_if_absent(second) == b"first"
    assert store.port.put_if_absent(first) == b"first"
    assert store.contents() == {first.key: first}


def test_exactly_one_of_concurrent_conditional_writes_wins(store: ObjectStoreUnderTest) -> None:
    with ThreadPoolExecutor(8) as threads:
        answers = set(threads.map(lambda number: store.port.put_if_absent(make_object("staging/b", b"%d" % number * 5_000)), range(8)))
    assert answers == {store.port.get("staging/b")}


def test_a_deleted_key_can_be_written_again(store: ObjectStoreUnderTest) -> None:
    store.port.put_if_absent(make_object("staging/b", b"old"))
    store.port.delete(["staging/b"])
    assert store.port.get("staging/b") is None
    assert store.port.put_if_absent(make_object("staging/b", b"new")) == b"new"


def test_deleting_a_missing_key_is_no_error(store: ObjectStoreUnderTest) -> None:
    store.port.put([make_object("a"), make_object("b"), make_object("c")])
    for _ in range(2):
        store.port.delete(["a", "never", "c"])
    assert list(store.contents()) == ["b"]


def test_keys_below_a_prefix_are_listed_in_order(store: ObjectStoreUnderTest) -> None:
    store.port.put([make_object(key) for key in ["a/2", "a/10", "a/1/x", "a/1.json", "ab/1", "b", "a/~", "a/Z", "a/%2F"]])
    assert list(store.port.list_keys("a/")) == sorted(["a/2", "a/10", "a/1/x", "a/1.json", "a/~", "a/Z", "a/%2F"])
    assert list(store.port.list_keys("a/1/")) == ["a/1/x"]
    assert list(store.port.list_keys("nothing/")) == []


def test_keys_beyond_one_page_are_listed_and_deleted(store: ObjectStoreUnderTest) -> None:
    keys = [f"many/{number:05}" for number in range(1_050)]
    store.port.put([make_object(key, b"") for key in keys])
    assert list(store.port.list_keys("many/")) == keys
    store.port.delete(keys)
    assert list(store.port.list_keys("many/")) == []


def test_concurrent_puts_store_every_object(store: ObjectStoreUnderTest) -> None:
    calls = [[make_object(f"{thread}/{number}", f"{thread}.{number}".encode()) for number in range(20)] for thread in range(8)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(store.port.put, calls))
    assert store.contents() == {stored.key: stored for call in calls for stored in call}


def test_get_object_returns_content_type_and_lower_case_metadata(store: ObjectStoreUnderTest) -> None:
    store.port.put([StoredObject("events/one", b"1", "application/json", {"eventType": "ProductDeleted", "source": "topic@1/3/1042"})])
    assert store.port.get_object("events/one") == StoredObject(
        "events/one", b"1", "application/json", {"eventtype": "ProductDeleted", "source": "topic@1/3/1042"}
    )
    assert store.port.get_object("events/never") is None


@pytest.mark.parametrize("size", [0, 1, 8 * 2**20, 20 * 2**20 + 3])
def test_an_uploaded_file_is_downloaded_equal(store: ObjectStoreUnderTest, tmp_path: Path, size: int) -> None:
    original, downloaded = tmp_path / "out", tmp_path / "back"
    original.write_bytes(os.urandom(size))
    store.port.upload("parquet/file", str(original), "application/vnd.apache.parquet")
    assert store.port.download("parquet/file", str(downloaded))
    assert downloaded.read_bytes() == original.read_bytes() == store.port.get("parquet/file")
    stored = store.port.get_object("parquet/file")
    assert stored
    assert stored.content_type == "application/vnd.apache.parquet"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back", "out"]


def test_a_download_of_a_missing_key_creates_no_file(store: ObjectStoreUnderTest, tmp_path: Path) -> None:
    assert not store.port.download("parquet/never", str(tmp_path / "file"))
    assert list(tmp_path.iterdir()) == []


def test_put_if_writes_only_if_the_predicate_allows_it(store: ObjectStoreUnderTest) -> None:
    def put_number(number: int) -> bool:
        return store.port.put_if(make_object("manifest", b"%d" % number), lambda current: current is None or int(current) < number)

    assert [put_number(number) for number in (2, 1, 2, 3)] == [True, False, False, True]
    assert store.contents() == {"manifest": make_object("manifest", b"3")}


def test_put_if_checks_again_if_another_writer_changed_the_object(store: ObjectStoreUnderTest) -> None:
    calls = []

    def changed_twice(current: bytes | None) -> bool:
        calls.append(current)
        if len(calls) <= 2:
            store.port.put([make_object("manifest", b"%d" % len(calls))])
        return len(calls) > 2

    def stale_on_first_call(current: bytes | None) -> bool:
        if not calls:
            calls.append(current)
            store.port.put([make_object("manifest", b"other")])
            return True
        calls.append(current)
        return current != b"other"

    assert not store.port.put_if(make_object("manifest", b"own"), changed_twice)
    calls.clear()
    store.port.delete(["manifest"])
    assert not store.port.put_if(make_object("manifest", b"own"), stale_on_first_call)
    assert store.port.get("manifest") == b"other"
    assert calls == [None, b"other"]


def test_the_store_honors_conditions_and_keeps_nothing_of_the_proof(store: ObjectStoreUnderTest) -> None:
    prove_conditional_writes(store.port, "bucket")
    assert store.contents() == {}


def test_the_highest_number_remains_after_concurrent_put_ifs(store: ObjectStoreUnderTest) -> None:
    def put_number(number: int) -> bool:
        return store.port.put_if(make_object("manifest", b"%d" % number), lambda current: current is None or int(current) < number)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(put_number, [3, 1, 4, 2]))
    assert store.port.get("manifest") == b"4"
