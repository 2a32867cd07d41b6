"""The contract of the object store, for the memory double, moto, and a real object store."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from analytics_defs.core.storage.object_keys import event_key, manifest_key, part_key, staging_key
from analytics_defs.ports import ObjectInfo, StoredObject
from tests.adapters.object_store.snowball_s3 import unpacking_contract
from tests.contracts.object_store_fixtures import ARCHIVES, ArchiveUnderTest

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
def archive(request: pytest.FixtureRequest) -> Iterator[ArchiveUnderTest]:
    with (ARCHIVES | {"moto-unpacking": unpacking_contract})[request.param]() as under_test:
        yield under_test


def make_object(key: str, body: bytes = b"{}", **metadata: str) -> StoredObject:
    return StoredObject(key, body, "application/json", metadata)


def test_every_object_is_stored_when_put_returns(archive: ArchiveUnderTest) -> None:
    objects = [make_object(f"events/{number}.json", os.urandom(number * 97), number=str(number)) for number in range(50)]
    archive.port.put(objects)
    assert archive.scheduler_status() == {stored.key: stored for stored in objects}
    assert [archive.port.get(stored.key) for stored in objects] == [stored.body for stored in objects]


def test_head_returns_size_and_metadata(archive: ArchiveUnderTest) -> None:
    stored = make_object("events/a.json", b"x" * 1234, eventid="a%2Fb", source="topic@1/3/1042")
    archive.port.put([stored])
    assert archive.port.head(stored.key) == ObjectInfo(1234, stored.metadata)
    assert archive.port.head("events/b.json") is None


def test_content_type_and_metadata_come_back_equal(archive: ArchiveUnderTest) -> None:
    metadata = {"timestamp": "2024-01-15T10:30:00.123+01:00", "eventid": "a%2Fb%20c", "source": "topic@1/3/1042", "long": "x" * 1_800}
    archive.port.put([StoredObject("one", b"1", "application/x-ndjson", metadata)])
    assert archive.scheduler_status()["one"] == StoredObject("one", b"1", "application/x-ndjson", metadata)


def test_empty_and_large_objects_come_back_equal(archive: ArchiveUnderTest) -> None:
    large = os.urandom(12 * 1024 * 1024)
    archive.port.put([make_object("empty", b""), make_object("large", large)])
    assert (archive.port.get("empty"), archive.port.get("large")) == (b"", large)


def test_empty_puts_and_deletes_change_nothing(archive: ArchiveUnderTest) -> None:
    archive.port.put([])
    archive.port.delete([])
    assert archive.scheduler_status() == {}


def test_put_is_idempotent(archive: ArchiveUnderTest) -> None:
    for _ in range(2):
        archive.port.put([make_object("same", b"bytes", writer="first")])
    assert archive.scheduler_status() == {"same": make_object("same", b"bytes", writer="first")}


def test_put_overwrites(archive: ArchiveUnderTest) -> None:
    archive.port.put([make_object("key", b"old")])
    archive.port.put([make_object("key", b"new")])
    assert archive.port.get("key") == b"new"


def test_put_many_if_absent_keeps_and_returns_existing_objects(archive: ArchiveUnderTest) -> None:
    archive.port.put([make_object("current", b"old", Writer="first")])
    existing = archive.port.put_many_if_absent(
        [make_object("new", b"new", writer="second"), make_object("current", b"other", writer="second")]
    )
    assert list(existing) == [make_object("current", b"old", writer="first")]
    assert (archive.port.get("current"), archive.port.get_object("new")) == (b"old", make_object("new", b"new", writer="second"))
    assert list(archive.port.put_many_if_absent([])) == []


def test_a_missing_key_reads_as_none(archive: ArchiveUnderTest) -> None:
    assert archive.port.get("staging/never") is None


def test_keys_and_ids_are_stored_literally(archive: ArchiveUnderTest) -> None:
    """Hold every client to literal keys: none may encode, decode or normalize a key again."""
    keys = [event_key(HOUR, event_id) for event_id in ODD_IDS] + [
        "raw/a b+c&d=e;f,g!h'(i)*.json",
        part_key(HOUR, BATCH),
        manifest_key(HOUR),
    ]
    archive.port.put([make_object(key, key.encode()) for key in keys])
    assert {key: stored.body.decode() for key, stored in archive.scheduler_status().items()} == {key: key for key in keys}
    assert list(archive.port.list_keys("")) == sorted(keys)
    assert [archive.port.get(key) for key in keys] == [key.encode() for key in keys]
    archive.port.delete(keys)
    assert archive.scheduler_status() == {}


def test_ids_that_differ_only_by_encoding_or_case_are_different_objects(archive: ArchiveUnderTest) -> None:
    ids = ["a/b", "a%2Fb", "a%2fb", "A/b", "a%252Fb"]
    archive.port.put([make_object(event_key(HOUR, event_id), event_id.encode()) for event_id in ids])
    assert [archive.port.get(event_key(HOUR, event_id)) for event_id in ids] == [event_id.encode() for event_id in ids]
    assert len(archive.scheduler_status()) == len(ids)


def test_the_first_conditional_write_wins_and_later_ones_return_its_bytes(archive: ArchiveUnderTest) -> None:
    first, second = make_object(staging_key("b"), b"first"), make_object(staging_key("b"), b"second")
    assert archive.port.put_if_absent(first) == b"first"
    assert archive.port.put_if_absent(second) == b"first"
    assert archive.port.put_if_absent(first) == b"first"
    assert archive.scheduler_status() == {first.key: first}


def test_exactly_one_of_concurrent_conditional_writes_wins(archive: ArchiveUnderTest) -> None:
    with ThreadPoolExecutor(8) as threads:
        answers = set(threads.map(lambda number: archive.port.put_if_absent(make_object("staging/b", b"%d" % number * 5_000)), range(8)))
    assert answers == {archive.port.get("staging/b")}


def test_a_deleted_key_can_be_written_again(archive: ArchiveUnderTest) -> None:
    archive.port.put_if_absent(make_object("staging/b", b"old"))
    archive.port.delete(["staging/b"])
    assert archive.port.get("staging/b") is None
    assert archive.port.put_if_absent(make_object("staging/b", b"new")) == b"new"


def test_deleting_a_missing_key_is_no_error(archive: ArchiveUnderTest) -> None:
    archive.port.put([make_object("a"), make_object("b"), make_object("c")])
    for _ in range(2):
        archive.port.delete(["a", "never", "c"])
    assert list(archive.scheduler_status()) == ["b"]


def test_keys_below_a_prefix_are_listed_in_order(archive: ArchiveUnderTest) -> None:
    archive.port.put([make_object(key) for key in ["a/2", "a/10", "a/1/x", "a/1.json", "ab/1", "b", "a/~", "a/Z", "a/%2F"]])
    assert list(archive.port.list_keys("a/")) == sorted(["a/2", "a/10", "a/1/x", "a/1.json", "a/~", "a/Z", "a/%2F"])
    assert list(archive.port.list_keys("a/1/")) == ["a/1/x"]
    assert list(archive.port.list_keys("nothing/")) == []


def test_keys_beyond_one_page_are_listed_and_deleted(archive: ArchiveUnderTest) -> None:
    keys = [f"many/{number:05}" for number in range(1_050)]
    archive.port.put([make_object(key, b"") for key in keys])
    assert list(archive.port.list_keys("many/")) == keys
    archive.port.delete(keys)
    assert list(archive.port.list_keys("many/")) == []


def test_concurrent_puts_store_every_object(archive: ArchiveUnderTest) -> None:
    calls = [[make_object(f"{thread}/{number}", f"{thread}.{number}".encode()) for number in range(20)] for thread in range(8)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(archive.port.put, calls))
    assert archive.scheduler_status() == {stored.key: stored for call in calls for stored in call}


def test_get_object_returns_content_type_and_lower_case_metadata(archive: ArchiveUnderTest) -> None:
    archive.port.put([StoredObject("events/one", b"1", "application/json", {"eventType": "ProductDeleted", "source": "topic@1/3/1042"})])
    assert archive.port.get_object("events/one") == StoredObject(
        "events/one", b"1", "application/json", {"eventtype": "ProductDeleted", "source": "topic@1/3/1042"}
    )
    assert archive.port.get_object("events/never") is None


@pytest.mark.parametrize("size", [0, 1, 8 * 2**20, 20 * 2**20 + 3])
def test_an_uploaded_file_is_downloaded_equal(archive: ArchiveUnderTest, tmp_path: Path, size: int) -> None:
    original, downloaded = tmp_path / "out", tmp_path / "back"
    original.write_bytes(os.urandom(size))
    archive.port.upload("parquet/file", str(original), "application/vnd.apache.parquet")
    assert archive.port.download("parquet/file", str(downloaded))
    assert downloaded.read_bytes() == original.read_bytes() == archive.port.get("parquet/file")
    stored = archive.port.get_object("parquet/file")
    assert stored
    assert stored.content_type == "application/vnd.apache.parquet"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back", "out"]


def test_a_download_of_a_missing_key_creates_no_file(archive: ArchiveUnderTest, tmp_path: Path) -> None:
    assert not archive.port.download("parquet/never", str(tmp_path / "file"))
    assert list(tmp_path.iterdir()) == []


def test_put_if_writes_only_if_the_predicate_allows_it(archive: ArchiveUnderTest) -> None:
    def put_number(number: int) -> bool:
        return archive.port.put_if(make_object("manifest", b"%d" % number), lambda current: current is None or int(current) < number)

    assert [put_number(number) for number in (2, 1, 2, 3)] == [True, False, False, True]
    assert archive.scheduler_status() == {"manifest": make_object("manifest", b"3")}


def test_put_if_checks_again_if_another_writer_changed_the_object(archive: ArchiveUnderTest) -> None:
    calls = []

    def changed_twice(current: bytes | None) -> bool:
        calls.append(current)
        if len(calls) <= 2:
            archive.port.put([make_object("manifest", b"%d" % len(calls))])
        return len(calls) > 2

    def stale_on_first_call(current: bytes | None) -> bool:
        if not calls:
            calls.append(current)
            archive.port.put([make_object("manifest", b"other")])
            return True
        calls.append(current)
        return current != b"other"

    assert not archive.port.put_if(make_object("manifest", b"own"), changed_twice)
    calls.clear()
    archive.port.delete(["manifest"])
    written = archive.port.put_if(make_object("manifest", b"own"), stale_on_first_call)
    if len(calls) > 1:  # false for a double that holds its lock during the predicate
        assert not written
        assert archive.port.get("manifest") == b"other"
        assert calls == [None, b"other"]


def test_the_highest_number_remains_after_concurrent_put_ifs(archive: ArchiveUnderTest) -> None:
    def put_number(number: int) -> bool:
        return archive.port.put_if(make_object("manifest", b"%d" % number), lambda current: current is None or int(current) < number)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(put_number, [3, 1, 4, 2]))
    assert archive.port.get("manifest") == b"4"
