"""What every archive promises: the memory double, moto, and a real object store."""

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
    with (ARCHIVES | {"moto-unpacking": unpacking_contract})[request.param]() as found:
        yield found


def blob(key: str, body: bytes = b"{}", **metadata: str) -> StoredObject:
    return StoredObject(key, body, "application/json", metadata)


def test_every_object_is_there_as_it_was_put_when_put_returns(archive: ArchiveUnderTest) -> None:
    blobs = [blob(f"events/{number}.json", os.urandom(number * 97), number=str(number)) for number in range(50)]
    archive.port.put(blobs)
    assert archive.scheduler_status() == {each.key: each for each in blobs}
    assert [archive.port.get(each.key) for each in blobs] == [each.body for each in blobs]


def test_size_and_metadata_are_told_without_the_bytes(archive: ArchiveUnderTest) -> None:
    found = blob("events/a.json", b"x" * 1234, eventid="a%2Fb", source="topic@1/3/1042")
    archive.port.put([found])
    assert archive.port.head(found.key) == ObjectInfo(1234, found.metadata)
    assert archive.port.head("events/b.json") is None


def test_content_type_and_metadata_come_back_equal(archive: ArchiveUnderTest) -> None:
    metadata = {"timestamp": "2024-01-15T10:30:00.123+01:00", "eventid": "a%2Fb%20c", "source": "topic@1/3/1042", "long": "x" * 1_800}
    archive.port.put([StoredObject("one", b"1", "application/x-ndjson", metadata)])
    assert archive.scheduler_status()["one"] == StoredObject("one", b"1", "application/x-ndjson", metadata)


def test_objects_of_no_bytes_and_of_many_are_kept_whole(archive: ArchiveUnderTest) -> None:
    large = os.urandom(12 * 1024 * 1024)
    archive.port.put([blob("empty", b""), blob("large", large)])
    assert (archive.port.get("empty"), archive.port.get("large")) == (b"", large)


def test_nothing_to_put_and_nothing_to_delete_is_fine(archive: ArchiveUnderTest) -> None:
    archive.port.put([])
    archive.port.delete([])
    assert archive.scheduler_status() == {}


def test_putting_the_same_again_changes_nothing(archive: ArchiveUnderTest) -> None:
    for _ in range(2):
        archive.port.put([blob("same", b"bytes", who="me")])
    assert archive.scheduler_status() == {"same": blob("same", b"bytes", who="me")}


def test_put_overwrites(archive: ArchiveUnderTest) -> None:
    archive.port.put([blob("key", b"old")])
    archive.port.put([blob("key", b"new")])
    assert archive.port.get("key") == b"new"


def test_put_new_writes_over_nothing_and_tells_what_was_there(archive: ArchiveUnderTest) -> None:
    archive.port.put([blob("held", b"old", Who="me")])
    found = archive.port.put_many_if_absent([blob("new", b"new", who="you"), blob("held", b"other", who="you")])
    assert list(found) == [blob("held", b"old", who="me")]
    assert (archive.port.get("held"), archive.port.get_object("new")) == (b"old", blob("new", b"new", who="you"))
    assert list(archive.port.put_many_if_absent([])) == []


def test_a_key_that_is_not_there_reads_as_none(archive: ArchiveUnderTest) -> None:
    assert archive.port.get("staging/never") is None


def test_keys_and_ids_arrive_literally(archive: ArchiveUnderTest) -> None:
    """No client may encode, decode or normalise a key once more."""
    keys = [event_key(HOUR, each) for each in ODD_IDS] + ["raw/a b+c&d=e;f,g!h'(i)*.json", part_key(HOUR, BATCH), manifest_key(HOUR)]
    archive.port.put([blob(key, key.encode()) for key in keys])
    assert {key: each.body.decode() for key, each in archive.scheduler_status().items()} == {key: key for key in keys}
    assert list(archive.port.list_keys("")) == sorted(keys)
    assert [archive.port.get(key) for key in keys] == [key.encode() for key in keys]
    archive.port.delete(keys)
    assert archive.scheduler_status() == {}


def test_ids_that_differ_only_by_encoding_or_case_stay_different_objects(archive: ArchiveUnderTest) -> None:
    ids = ["a/b", "a%2Fb", "a%2fb", "A/b", "a%252Fb"]
    archive.port.put([blob(event_key(HOUR, each), each.encode()) for each in ids])
    assert [archive.port.get(event_key(HOUR, each)) for each in ids] == [each.encode() for each in ids]
    assert len(archive.scheduler_status()) == len(ids)


def test_the_first_conditional_write_wins_and_says_so_to_everyone_after_it(archive: ArchiveUnderTest) -> None:
    first, second = blob(staging_key("b"), b"first"), blob(staging_key("b"), b"second")
    assert archive.port.put_if_absent(first) == b"first"
    assert archive.port.put_if_absent(second) == b"first"
    assert archive.port.put_if_absent(first) == b"first"
    assert archive.scheduler_status() == {first.key: first}


def test_of_many_conditional_writes_at_once_exactly_one_wins(archive: ArchiveUnderTest) -> None:
    with ThreadPoolExecutor(8) as threads:
        answers = set(threads.map(lambda number: archive.port.put_if_absent(blob("staging/b", b"%d" % number * 5_000)), range(8)))
    assert answers == {archive.port.get("staging/b")}


def test_a_deleted_key_is_free_again(archive: ArchiveUnderTest) -> None:
    archive.port.put_if_absent(blob("staging/b", b"old"))
    archive.port.delete(["staging/b"])
    assert archive.port.get("staging/b") is None
    assert archive.port.put_if_absent(blob("staging/b", b"new")) == b"new"


def test_deleting_what_is_not_there_is_no_error(archive: ArchiveUnderTest) -> None:
    archive.port.put([blob("a"), blob("b"), blob("c")])
    for _ in range(2):
        archive.port.delete(["a", "never", "c"])
    assert list(archive.scheduler_status()) == ["b"]


def test_keys_come_in_order_and_only_from_below_the_folder(archive: ArchiveUnderTest) -> None:
    archive.port.put([blob(key) for key in ["a/2", "a/10", "a/1/x", "a/1.json", "ab/1", "b", "a/~", "a/Z", "a/%2F"]])
    assert list(archive.port.list_keys("a/")) == sorted(["a/2", "a/10", "a/1/x", "a/1.json", "a/~", "a/Z", "a/%2F"])
    assert list(archive.port.list_keys("a/1/")) == ["a/1/x"]
    assert list(archive.port.list_keys("nothing/")) == []


def test_more_keys_than_one_page_are_listed_and_deleted(archive: ArchiveUnderTest) -> None:
    keys = [f"many/{number:05}" for number in range(1_050)]
    archive.port.put([blob(key, b"") for key in keys])
    assert list(archive.port.list_keys("many/")) == keys
    archive.port.delete(keys)
    assert list(archive.port.list_keys("many/")) == []


def test_many_threads_put_at_the_same_time(archive: ArchiveUnderTest) -> None:
    calls = [[blob(f"{thread}/{number}", f"{thread}.{number}".encode()) for number in range(20)] for thread in range(8)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(archive.port.put, calls))
    assert archive.scheduler_status() == {each.key: each for call in calls for each in call}


def test_an_object_is_fetched_with_content_type_and_metadata_in_lower_case(archive: ArchiveUnderTest) -> None:
    archive.port.put([StoredObject("events/one", b"1", "application/json", {"eventType": "ProductDeleted", "source": "topic@1/3/1042"})])
    assert archive.port.get_object("events/one") == StoredObject(
        "events/one", b"1", "application/json", {"eventtype": "ProductDeleted", "source": "topic@1/3/1042"}
    )
    assert archive.port.get_object("events/never") is None


@pytest.mark.parametrize("size", [0, 1, 8 * 2**20, 20 * 2**20 + 3])
def test_a_file_goes_out_and_comes_back_whole(archive: ArchiveUnderTest, tmp_path: Path, size: int) -> None:
    out, back = tmp_path / "out", tmp_path / "back"
    out.write_bytes(os.urandom(size))
    archive.port.upload("parquet/file", str(out), "application/vnd.apache.parquet")
    assert archive.port.download("parquet/file", str(back))
    assert back.read_bytes() == out.read_bytes() == archive.port.get("parquet/file")
    found = archive.port.get_object("parquet/file")
    assert found
    assert found.content_type == "application/vnd.apache.parquet"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["back", "out"]


def test_a_download_of_what_is_not_there_leaves_no_file(archive: ArchiveUnderTest, tmp_path: Path) -> None:
    assert not archive.port.download("parquet/never", str(tmp_path / "file"))
    assert list(tmp_path.iterdir()) == []


def test_advance_writes_only_over_what_it_may(archive: ArchiveUnderTest) -> None:
    def later(number: int) -> bool:
        return archive.port.put_if(blob("marker", b"%d" % number), lambda held: held is None or int(held) < number)

    assert [later(number) for number in (2, 1, 2, 3)] == [True, False, False, True]
    assert archive.scheduler_status() == {"marker": blob("marker", b"3")}


def test_advance_loses_nobody_who_wrote_between_its_look_and_its_write(archive: ArchiveUnderTest) -> None:
    seen = []

    def over(held: bytes | None) -> bool:
        seen.append(held)
        if len(seen) <= 2:
            archive.port.put([blob("marker", b"%d" % len(seen))])
        return len(seen) > 2

    def first_look_is_stale(held: bytes | None) -> bool:
        if not seen:
            seen.append(held)
            archive.port.put([blob("marker", b"somebody's")])
            return True
        seen.append(held)
        return held != b"somebody's"

    assert not archive.port.put_if(blob("marker", b"mine"), over)
    seen.clear()
    archive.port.delete(["marker"])
    written = archive.port.put_if(blob("marker", b"mine"), first_look_is_stale)
    if len(seen) > 1:  # not on a double that is locked meanwhile
        assert not written
        assert archive.port.get("marker") == b"somebody's"
        assert seen == [None, b"somebody's"]


def test_of_many_who_advance_at_once_the_highest_stays(archive: ArchiveUnderTest) -> None:
    def advance(number: int) -> bool:
        return archive.port.put_if(blob("marker", b"%d" % number), lambda held: held is None or int(held) < number)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(advance, [3, 1, 4, 2]))
    assert archive.port.get("marker") == b"4"
