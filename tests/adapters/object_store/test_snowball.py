"""Tars are used where the store has proven that it unpacks them, and nowhere else; whatever goes wrong, single PUTs finish it."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import pytest

from analytics_defs.adapters.object_store import snowball, tar
from analytics_defs.adapters.object_store.client import ObjectStoreConfig
from analytics_defs.adapters.object_store.provisioning import BucketProvisioner
from analytics_defs.adapters.object_store.store import S3ObjectStore
from analytics_defs.adapters.object_store.tar import MAX_MEMBER_BYTES, MIN_MEMBERS
from analytics_defs.core.storage.object_keys import TAR_PROBE, event_key, tar_probe_key
from analytics_defs.errors import AccessDenied, Unavailable
from analytics_defs.ports import StoredObject
from tests.adapters.object_store.scripted_s3 import Answer as Scripted
from tests.adapters.object_store.scripted_s3 import scripted_s3
from tests.adapters.object_store.snowball_s3 import (
    MARK,
    Behaviour,
    Unpacker,
    UnpackingArchive,
    members,
    refusal,
    unpacked,
    unpacking_archive,
    whole,
)
from tests.adapters.object_store.test_store import config
from tests.contracts.object_store_fixtures import look, real_unpacking_archive
from tests.contracts.test_object_store_contract import ODD_IDS
from tests.real.proxy import Answer

PROBES = 2
"""Tars of one probe: a good one, and one that cannot be unpacked whole."""


def blobs(count: int, folder: str = "events") -> list[StoredObject]:
    return [StoredObject(f"{folder}/{number}.json", b"%d" % number, "application/json", {"number": str(number)}) for number in range(count)]


def by_key(found: list[StoredObject]) -> dict[str, StoredObject]:
    return {blob.key: blob for blob in found}


def after_the_probe(then: Behaviour) -> Behaviour:
    """A store that unpacks as it should until it is believed."""
    return lambda store, packed: (whole if len(store.tars) <= PROBES else then)(store, packed)


def half(store: Unpacker, packed: bytes) -> list[StoredObject]:
    found = members(packed)
    store.write(found[: len(found) // 2])
    return found


def partly(store: Unpacker, packed: bytes) -> Answer:
    """As MinIO, where a member in the middle fails."""
    half(store, packed)
    return refusal(400, "BadRequest")


def storing(store: Unpacker, packed: bytes) -> Answer:
    """As Amazon S3, which knows nothing of tars."""
    store.write([StoredObject(store.tar_key, packed, "application/octet-stream", {"snowball-auto-extract": "true"})])
    return unpacked(packed)


def only_acknowledging(_: Unpacker, packed: bytes) -> Answer:
    return unpacked(packed)


def swallowing(store: Unpacker, packed: bytes) -> Answer:
    """It leaves out what it cannot write, and says nothing of it."""
    whole(store, packed)
    return unpacked(packed)


def reading_half(store: Unpacker, packed: bytes) -> Answer:
    half(store, packed)
    return unpacked(packed[: len(packed) // 2])


def stopping_half_way(store: Unpacker, packed: bytes) -> Answer:
    half(store, packed)
    return unpacked(packed)


def refusing_all(*_: object) -> Answer:
    return refusal(501, "NotImplemented")


def altering(change: Callable[[StoredObject], StoredObject]) -> Behaviour:
    def behave(store: Unpacker, packed: bytes) -> Answer:
        store.write([change(blob) for blob in members(packed) if len(blob.key) <= 1024])
        return unpacked(packed) if all(len(blob.key) <= 1024 for blob in members(packed)) else refusal(400, "KeyTooLongError")

    return behave


NOT_PROVEN: dict[str, tuple[Behaviour, str]] = {
    "stores it": (storing, "stored the tar as an object"),
    "only says so": (only_acknowledging, "did not become the objects"),
    "swallows errors": (swallowing, "answers 200 although"),
    "reads half of it": (reading_half, "what it read is not what was sent"),
    "unpacks half": (partly, "400 BadRequest"),
    "not implemented": (refusing_all, "501 NotImplemented"),
    "denied": (lambda *_: refusal(403, "AccessDenied"), "403 AccessDenied"),
    "overloaded": (lambda *_: refusal(503, "SlowDown"), "503 SlowDown"),
    "other bytes": (altering(lambda blob: replace(blob, body=blob.body.upper() + b"\n")), "did not become the objects"),
    "no metadata": (altering(lambda blob: replace(blob, metadata={})), "did not become the objects"),
    "other type": (altering(lambda blob: replace(blob, content_type="binary/octet-stream")), "did not become the objects"),
    "decoded keys": (altering(lambda blob: replace(blob, key=blob.key.replace("%2E", "."))), "did not become the objects"),
}


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    caplog.set_level(logging.INFO, "analytics_defs")
    return lambda: [record.getMessage() for record in caplog.records if "small objects" in record.msg or "a tar was" in record.msg]


def assert_stored(found: UnpackingArchive, expected: list[StoredObject]) -> None:
    """Exactly these objects, and nothing left of probes or tars."""
    assert found.scheduler_status() == by_key(expected)


def test_many_small_objects_go_in_tars_where_the_store_unpacks_them(log: Callable[[], list[str]]) -> None:
    with unpacking_archive() as found:
        found.port.put(blobs(300))
        assert_stored(found, blobs(300))
        assert sum(map(len, found.store.tars[PROBES:])) == 300
        assert found.store.puts == []
        assert ["in tars, which the store unpacks" in line for line in log()] == [True]


@pytest.mark.parametrize(("behave", "why"), NOT_PROVEN.values(), ids=NOT_PROVEN)
def test_a_store_that_does_not_prove_it_gets_single_puts_and_keeps_nothing_of_the_probe(
    behave: Behaviour, why: str, log: Callable[[], list[str]]
) -> None:
    with unpacking_archive(behave) as found:
        for _ in range(2):
            found.port.put(blobs(10))
        assert 1 <= len(found.store.tars) <= PROBES, "the probe is the first tars, and the last"
        assert sorted(found.store.puts) == sorted([blob.key for blob in blobs(10)] * 2)
        kept = {key: blob for key, blob in found.scheduler_status().items() if "decoded" not in why and not key.startswith(TAR_PROBE)}
        assert kept == by_key(blobs(10))
        [line] = log()
        assert why in line


LATER_FAULTS: dict[str, Behaviour] = {
    "unpacks half and refuses": partly,
    "refuses": lambda *_: refusal(403, "AccessDenied"),
    "knows nothing of it any more": refusing_all,
    "is overloaded": lambda *_: refusal(503, "SlowDown"),
    "answers with a bad request": lambda *_: refusal(400, "BadRequest"),
    "reads half of it": reading_half,
    "stores it": storing,
    "only says so": only_acknowledging,
    "stops half-way and says nothing": stopping_half_way,
}


@pytest.mark.parametrize("fault", LATER_FAULTS.values(), ids=LATER_FAULTS)
def test_a_tar_that_fails_is_finished_by_single_puts_within_the_same_call(fault: Behaviour, log: Callable[[], list[str]]) -> None:
    with unpacking_archive(after_the_probe(fault)) as found:
        found.port.put(blobs(50))
        assert len(found.store.tars) == PROBES + 1
        assert sorted(found.store.puts) == sorted(blob.key for blob in blobs(50))
        assert_stored(found, blobs(50))
        assert [line for line in log() if "a tar was not unpacked" in line] == log()[1:]
        assert len(log()) == 2


def test_after_one_tar_failed_no_other_is_tried() -> None:
    with unpacking_archive(after_the_probe(partly)) as found:
        for folder in "abc":
            found.port.put(blobs(20, folder))
        assert len(found.store.tars) == PROBES + 1
        assert_stored(found, [blob for folder in "abc" for blob in blobs(20, folder)])


def test_what_a_killed_probe_left_is_removed_by_one_that_comes_an_hour_later(monkeypatch: pytest.MonkeyPatch) -> None:
    left = StoredObject(tar_probe_key("killed/%2E.0.json"), b"", "application/json", {})
    with unpacking_archive() as found:
        found.store.write([left])
        found.port.put(blobs(10))
        assert_stored(found, [left, *blobs(10)])
        monkeypatch.setattr(snowball, "PROBE_OBJECT_TTL", timedelta(minutes=-1))
        later = S3ObjectStore(found.port.config)
        later.put(blobs(10))
        later.close()
        assert_stored(found, blobs(10))


def test_many_callers_at_once_probe_once() -> None:
    with unpacking_archive() as found:
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(found.port.put, [blobs(20, str(number)) for number in range(8)]))
        assert len(found.store.tars) == PROBES + 8
        assert_stored(found, [blob for number in range(8) for blob in blobs(20, str(number))])


def test_a_store_that_takes_neither_tar_nor_single_object_fails_as_always() -> None:
    with scripted_s3(lambda _: Scripted.error(403, "AccessDenied")) as s3:
        archive = S3ObjectStore(replace(config(s3.endpoint), snowball=True))
        with pytest.raises(AccessDenied, match="write failed: 403 AccessDenied"):
            archive.put(blobs(10))
        archive.close()
        assert MARK in s3.requests[0].headers


def test_a_store_that_is_overloaded_costs_one_try_of_a_tar_and_then_the_patience_of_single_puts() -> None:
    with scripted_s3(lambda _: Scripted.error(503, "SlowDown")) as s3:
        archive = S3ObjectStore(replace(config(s3.endpoint, max_in_flight=1), snowball=True))
        with pytest.raises(Unavailable, match="503 SlowDown as the test says after 2 retries"):
            archive.put(blobs(10))
        archive.close()
        assert [request.path for request in s3.requests if MARK in request.headers] == [s3.requests[0].path]


@pytest.mark.parametrize(
    ("behave", "unpacks_tars", "told"),
    [
        (whole, True, "in tars, which the store unpacks"),
        (storing, True, "one by one: it stored the tar as an object"),
        (whole, False, "one by one: MINIO_SNOWBALL=off, or Amazon S3 itself"),
    ],
)
def test_the_check_tells_how_small_objects_go_and_leaves_nothing(behave: Behaviour, unpacks_tars: bool, told: str) -> None:
    with unpacking_archive(behave) as found:
        ground = BucketProvisioner(replace(found.port.config, snowball=unpacks_tars))
        assert dict(ground.checks())["small objects"]() == told
        ground.close()
        assert found.scheduler_status() == {}


READS_AND_SMALL_WRITES: dict[str, Callable[[S3ObjectStore], object]] = {
    "get": lambda archive: archive.get("events/1.json"),
    "fetch": lambda archive: archive.get_object("events/1.json"),
    "keys": lambda archive: list(archive.list_keys("events/")),
    "delete": lambda archive: archive.delete(["events/1.json"]),
    "put a few": lambda archive: archive.put(blobs(MIN_MEMBERS - 1)),
    "put large ones": lambda archive: archive.put([replace(blob, body=bytes(MAX_MEMBER_BYTES + 1)) for blob in blobs(8)]),
    "put_new": lambda archive: archive.put_many_if_absent(blobs(20)),
    "put_if_absent": lambda archive: archive.put_if_absent(blobs(1)[0]),
    "advance": lambda archive: archive.put_if(blobs(1)[0], lambda held: held is None),
}


@pytest.mark.parametrize("use", READS_AND_SMALL_WRITES.values(), ids=READS_AND_SMALL_WRITES)
def test_nothing_is_probed_before_many_small_objects_are_put(use: Callable[[S3ObjectStore], object]) -> None:
    with unpacking_archive() as found:
        use(found.port)
        assert found.store.tars == []
        assert not any(TAR_PROBE in key for key in found.scheduler_status())


def test_a_client_that_is_not_told_to_find_out_never_sends_a_tar() -> None:
    with unpacking_archive() as found:
        archive = S3ObjectStore(replace(found.port.config, snowball=False))
        archive.put(blobs(50))
        archive.close()
        assert found.store.tars == []
        assert_stored(found, blobs(50))


def test_objects_that_must_not_be_written_over_never_go_in_a_tar() -> None:
    """MinIO looks at no condition for what it unpacks."""
    with unpacking_archive() as found:
        found.port.put(blobs(20))
        before = len(found.store.tars)
        held = found.port.put_many_if_absent([replace(blob, body=b"another") for blob in blobs(20)])
        assert (by_key(list(held)), len(found.store.tars)) == (by_key(blobs(20)), before)
        assert_stored(found, blobs(20))


# The real one.


@pytest.fixture
def real() -> Iterator[ObjectStoreConfig]:
    with real_unpacking_archive() as found:
        assert isinstance(found.port, S3ObjectStore)
        yield found.port.config


@pytest.mark.real
def test_minio_makes_the_same_objects_of_a_tar_as_of_single_puts(real: ObjectStoreConfig, log: Callable[[], list[str]]) -> None:
    sizes = [0, 1, 400, 511, 512, 513, 4_095, 4_097, MAX_MEMBER_BYTES, MAX_MEMBER_BYTES + 1, 3 * 2**20]
    metadata = {"eventType": "ProductCreated", "timestamp": "2024-01-15T10:30:00.123+01:00", "eventId": "a%2Fb%20c", "source": "t@1/3/42"}
    put = [
        StoredObject(event_key("2024-01-15T10", each), each.encode(), "application/json", metadata)
        for each in [*ODD_IDS, *map("x".__mul__, range(1, 300))]
    ]
    put += [StoredObject(event_key("2024-01-15T11", str(size)), os.urandom(size), "application/json", metadata) for size in sizes]
    tarred, single = S3ObjectStore(real), S3ObjectStore(replace(real, snowball=False))
    try:
        tarred.put(put)
        assert ["in tars" in line for line in log()] == [True], log()
        by_tar = look(real)
        tarred.delete([blob.key for blob in put])
        assert look(real) == {}
        single.put(put)
        assert by_tar == look(real)
        assert by_tar.keys() == {blob.key for blob in put}
    finally:
        tarred.close()
        single.close()


@pytest.mark.real
def test_minio_refuses_a_tar_with_an_object_that_cannot_be_written_and_single_puts_finish_it(
    real: ObjectStoreConfig, log: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a key would not go in a tar; here it does."""
    monkeypatch.setattr(tar, "fits", lambda _: True)
    archive = S3ObjectStore(real)
    impossible = StoredObject(f"events/{'x' * 256}", b"{}", "application/json", {})
    put = [*blobs(25), impossible, *blobs(25, "later")]
    try:
        with pytest.raises(Unavailable, match="write failed: "):
            archive.put(put)
        assert ["in tars" in line or "a tar was not unpacked" in line for line in log()] == [True, True], log()
        archive.put([blob for blob in put if blob is not impossible])
        assert look(real) == by_key([*blobs(25), *blobs(25, "later")])
    finally:
        archive.close()
