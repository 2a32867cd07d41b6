"""Uploads in tars: used only on a store that proved to unpack them. After any error single PUTs complete the write."""

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
    SNOWBALL_HEADER,
    Behaviour,
    Unpacker,
    UnpackingStore,
    members,
    refusal,
    success,
    unpack_all,
    unpacking_store,
)
from tests.adapters.object_store.test_store import config
from tests.contracts.object_store_fixtures import read_bucket, real_snowball_store
from tests.contracts.test_object_store_contract import ODD_IDS
from tests.real.proxy import Answer

PROBES = 2
"""Tars of one probe: a valid one, and one that cannot be unpacked completely."""


def objects(count: int, folder: str = "events") -> list[StoredObject]:
    return [StoredObject(f"{folder}/{number}.json", b"%d" % number, "application/json", {"number": str(number)}) for number in range(count)]


def by_key(objects: list[StoredObject]) -> dict[str, StoredObject]:
    return {object_.key: object_ for object_ in objects}


def after_the_probe(then: Behaviour) -> Behaviour:
    """Return a behaviour that unpacks correctly during the probe."""
    return lambda store, packed: (unpack_all if len(store.tars) <= PROBES else then)(store, packed)


def unpack_half(store: Unpacker, packed: bytes) -> list[StoredObject]:
    objects = members(packed)
    store.write(objects[: len(objects) // 2])
    return objects


def fail_half_way(store: Unpacker, packed: bytes) -> Answer:
    """Fail as MinIO does if a member in the middle cannot be written."""
    unpack_half(store, packed)
    return refusal(400, "BadRequest")


def store_the_tar(store: Unpacker, packed: bytes) -> Answer:
    """Store the tar as an object, as Amazon S3 does."""
    store.write([StoredObject(store.tar_key, packed, "application/octet-stream", {"snowball-auto-extract": "true"})])
    return success(packed)


def acknowledge_only(_: Unpacker, packed: bytes) -> Answer:
    return success(packed)


def hide_errors(store: Unpacker, packed: bytes) -> Answer:
    """Leave out members that cannot be written, and answer 200."""
    unpack_all(store, packed)
    return success(packed)


def read_half(store: Unpacker, packed: bytes) -> Answer:
    unpack_half(store, packed)
    return success(packed[: len(packed) // 2])


def stop_half_way(store: Unpacker, packed: bytes) -> Answer:
    unpack_half(store, packed)
    return success(packed)


def refuse_all(*_: object) -> Answer:
    return refusal(501, "NotImplemented")


def alter(change: Callable[[StoredObject], StoredObject]) -> Behaviour:
    def behave(store: Unpacker, packed: bytes) -> Answer:
        store.write([change(object_) for object_ in members(packed) if len(object_.key) <= 1024])
        return success(packed) if all(len(object_.key) <= 1024 for object_ in members(packed)) else refusal(400, "KeyTooLongError")

    return behave


PROBE_FAILURES: dict[str, tuple[Behaviour, str]] = {
    "stores the tar": (store_the_tar, "stored the tar as an object"),
    "only acknowledges": (acknowledge_only, "differ from those in the tar"),
    "hides errors": (hide_errors, "answers 200 although"),
    "reads half": (read_half, "the checksum of what it read is wrong"),
    "unpacks half": (fail_half_way, "400 BadRequest"),
    "not implemented": (refuse_all, "501 NotImplemented"),
    "denied": (lambda *_: refusal(403, "AccessDenied"), "403 AccessDenied"),
    "overloaded": (lambda *_: refusal(503, "SlowDown"), "503 SlowDown"),
    "other bytes": (alter(lambda object_: replace(object_, body=object_.body.upper() + b"\n")), "differ from those in the tar"),
    "no metadata": (alter(lambda object_: replace(object_, metadata={})), "differ from those in the tar"),
    "other type": (alter(lambda object_: replace(object_, content_type="binary/octet-stream")), "differ from those in the tar"),
    "decoded keys": (alter(lambda object_: replace(object_, key=object_.key.replace("%2E", "."))), "differ from those in the tar"),
}


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    caplog.set_level(logging.INFO, "analytics_defs")
    return lambda: [record.getMessage() for record in caplog.records if "small objects" in record.msg or "a tar was" in record.msg]


def assert_stored(unpacking: UnpackingStore, expected: list[StoredObject]) -> None:
    """Assert that the bucket holds exactly these objects, and none of a probe or a tar."""
    assert unpacking.stored_objects() == by_key(expected)


def test_many_small_objects_are_put_in_tars_if_the_store_unpacks_them(log: Callable[[], list[str]]) -> None:
    with unpacking_store() as unpacking:
        unpacking.port.put(objects(300))
        assert_stored(unpacking, objects(300))
        assert sum(map(len, unpacking.store.tars[PROBES:])) == 300
        assert unpacking.store.puts == []
        assert ["in tars, which the store unpacks" in line for line in log()] == [True]


@pytest.mark.parametrize(("behave", "reason"), PROBE_FAILURES.values(), ids=PROBE_FAILURES)
def test_after_a_failed_probe_single_puts_are_used_and_probe_objects_deleted(
    behave: Behaviour, reason: str, log: Callable[[], list[str]]
) -> None:
    with unpacking_store(behave) as unpacking:
        for _ in range(2):
            unpacking.port.put(objects(10))
        assert 1 <= len(unpacking.store.tars) <= PROBES, "no tar after the probe"
        assert sorted(unpacking.store.puts) == sorted([object_.key for object_ in objects(10)] * 2)
        remaining = {
            key: object_ for key, object_ in unpacking.stored_objects().items() if "decoded" not in reason and not key.startswith(TAR_PROBE)
        }
        assert remaining == by_key(objects(10))
        [line] = log()
        assert reason in line


LATER_FAILURES: dict[str, Behaviour] = {
    "fails half-way": fail_half_way,
    "denies": lambda *_: refusal(403, "AccessDenied"),
    "no longer supports tars": refuse_all,
    "is overloaded": lambda *_: refusal(503, "SlowDown"),
    "answers with a bad request": lambda *_: refusal(400, "BadRequest"),
    "reads half": read_half,
    "stores the tar": store_the_tar,
    "only acknowledges": acknowledge_only,
    "stops half-way without an error": stop_half_way,
}


@pytest.mark.parametrize("failure", LATER_FAILURES.values(), ids=LATER_FAILURES)
def test_a_failed_tar_is_completed_with_single_puts_in_the_same_call(failure: Behaviour, log: Callable[[], list[str]]) -> None:
    with unpacking_store(after_the_probe(failure)) as unpacking:
        unpacking.port.put(objects(50))
        assert len(unpacking.store.tars) == PROBES + 1
        assert sorted(unpacking.store.puts) == sorted(object_.key for object_ in objects(50))
        assert_stored(unpacking, objects(50))
        assert [line for line in log() if "a tar was not unpacked" in line] == log()[1:]
        assert len(log()) == 2


def test_after_a_failed_tar_no_other_is_sent() -> None:
    with unpacking_store(after_the_probe(fail_half_way)) as unpacking:
        for folder in "abc":
            unpacking.port.put(objects(20, folder))
        assert len(unpacking.store.tars) == PROBES + 1
        assert_stored(unpacking, [object_ for folder in "abc" for object_ in objects(20, folder)])


def test_objects_of_a_killed_probe_are_deleted_by_a_probe_an_hour_later(monkeypatch: pytest.MonkeyPatch) -> None:
    leftover = StoredObject(tar_probe_key("killed/%2E.0.json"), b"", "application/json", {})
    with unpacking_store() as unpacking:
        unpacking.store.write([leftover])
        unpacking.port.put(objects(10))
        assert_stored(unpacking, [leftover, *objects(10)])
        monkeypatch.setattr(snowball, "PROBE_OBJECT_TTL", timedelta(minutes=-1))
        later = S3ObjectStore(unpacking.port.config)
        later.put(objects(10))
        later.close()
        assert_stored(unpacking, objects(10))


def test_many_callers_at_once_probe_once() -> None:
    with unpacking_store() as unpacking:
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(unpacking.port.put, [objects(20, str(number)) for number in range(8)]))
        assert len(unpacking.store.tars) == PROBES + 8
        assert_stored(unpacking, [object_ for number in range(8) for object_ in objects(20, str(number))])


def test_a_store_that_denies_tars_and_single_puts_raises_the_error_of_the_put() -> None:
    with scripted_s3(lambda _: Scripted.error(403, "AccessDenied")) as s3:
        store = S3ObjectStore(replace(config(s3.endpoint), snowball=True))
        with pytest.raises(AccessDenied, match="write failed: 403 AccessDenied"):
            store.put(objects(10))
        store.close()
        assert SNOWBALL_HEADER in s3.requests[0].headers


def test_on_an_overloaded_store_a_tar_is_sent_once_and_single_puts_are_retried() -> None:
    with scripted_s3(lambda _: Scripted.error(503, "SlowDown")) as s3:
        store = S3ObjectStore(replace(config(s3.endpoint, max_in_flight=1), snowball=True))
        with pytest.raises(Unavailable, match="503 SlowDown scripted after 2 retries"):
            store.put(objects(10))
        store.close()
        assert [request.path for request in s3.requests if SNOWBALL_HEADER in request.headers] == [s3.requests[0].path]


@pytest.mark.parametrize(
    ("behave", "snowball", "expected"),
    [
        (unpack_all, True, "in tars, which the store unpacks"),
        (store_the_tar, True, "one by one: it stored the tar as an object"),
        (unpack_all, False, "one by one: MINIO_SNOWBALL=off, or the store is Amazon S3"),
    ],
)
def test_the_check_reports_how_small_objects_are_put_and_leaves_no_object(behave: Behaviour, snowball: bool, expected: str) -> None:
    with unpacking_store(behave) as unpacking:
        provisioner = BucketProvisioner(replace(unpacking.port.config, snowball=snowball))
        assert dict(provisioner.checks())["small objects"]() == expected
        provisioner.close()
        assert unpacking.stored_objects() == {}


READS_AND_SMALL_WRITES: dict[str, Callable[[S3ObjectStore], object]] = {
    "get": lambda store: store.get("events/1.json"),
    "get_object": lambda store: store.get_object("events/1.json"),
    "list_keys": lambda store: list(store.list_keys("events/")),
    "delete": lambda store: store.delete(["events/1.json"]),
    "put few": lambda store: store.put(objects(MIN_MEMBERS - 1)),
    "put large objects": lambda store: store.put([replace(object_, body=bytes(MAX_MEMBER_BYTES + 1)) for object_ in objects(8)]),
    "put_many_if_absent": lambda store: store.put_many_if_absent(objects(20)),
    "put_if_absent": lambda store: store.put_if_absent(objects(1)[0]),
    "put_if": lambda store: store.put_if(objects(1)[0], lambda existing: existing is None),
}


@pytest.mark.parametrize("use", READS_AND_SMALL_WRITES.values(), ids=READS_AND_SMALL_WRITES)
def test_the_store_is_not_probed_before_many_small_objects_are_put(use: Callable[[S3ObjectStore], object]) -> None:
    with unpacking_store() as unpacking:
        use(unpacking.port)
        assert unpacking.store.tars == []
        assert not any(TAR_PROBE in key for key in unpacking.stored_objects())


def test_a_client_without_snowball_never_sends_a_tar() -> None:
    with unpacking_store() as unpacking:
        store = S3ObjectStore(replace(unpacking.port.config, snowball=False))
        store.put(objects(50))
        store.close()
        assert unpacking.store.tars == []
        assert_stored(unpacking, objects(50))


def test_objects_that_must_not_be_overwritten_never_go_in_a_tar() -> None:
    """MinIO ignores conditions for unpacked objects."""
    with unpacking_store() as unpacking:
        unpacking.port.put(objects(20))
        tars_before = len(unpacking.store.tars)
        existing = unpacking.port.put_many_if_absent([replace(object_, body=b"another") for object_ in objects(20)])
        assert (by_key(list(existing)), len(unpacking.store.tars)) == (by_key(objects(20)), tars_before)
        assert_stored(unpacking, objects(20))


# A real MinIO.


@pytest.fixture
def real() -> Iterator[ObjectStoreConfig]:
    with real_snowball_store() as unpacking:
        assert isinstance(unpacking.port, S3ObjectStore)
        yield unpacking.port.config


@pytest.mark.real
def test_minio_stores_the_same_objects_from_a_tar_as_from_single_puts(real: ObjectStoreConfig, log: Callable[[], list[str]]) -> None:
    sizes = [0, 1, 400, 511, 512, 513, 4_095, 4_097, MAX_MEMBER_BYTES, MAX_MEMBER_BYTES + 1, 3 * 2**20]
    metadata = {"eventType": "ProductCreated", "timestamp": "2024-01-15T10:30:00.123+01:00", "eventId": "a%2Fb%20c", "source": "t@1/3/42"}
    put = [
        StoredObject(event_key("2024-01-15T10", event_id), event_id.encode(), "application/json", metadata)
        for event_id in [*ODD_IDS, *map("x".__mul__, range(1, 300))]
    ]
    put += [StoredObject(event_key("2024-01-15T11", str(size)), os.urandom(size), "application/json", metadata) for size in sizes]
    tarred, single = S3ObjectStore(real), S3ObjectStore(replace(real, snowball=False))
    try:
        tarred.put(put)
        assert ["in tars" in line for line in log()] == [True], log()
        by_tar = read_bucket(real)
        tarred.delete([object_.key for object_ in put])
        assert read_bucket(real) == {}
        single.put(put)
        assert by_tar == read_bucket(real)
        assert by_tar.keys() == {object_.key for object_ in put}
    finally:
        tarred.close()
        single.close()


@pytest.mark.real
def test_minio_rejects_a_tar_with_an_invalid_object_and_single_puts_complete_it(
    real: ObjectStoreConfig, log: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test puts a key into a tar that normally does not fit."""
    monkeypatch.setattr(tar, "fits", lambda _: True)
    store = S3ObjectStore(real)
    impossible = StoredObject(f"events/{'x' * 256}", b"{}", "application/json", {})
    put = [*objects(25), impossible, *objects(25, "later")]
    try:
        with pytest.raises(Unavailable, match="write failed: "):
            store.put(put)
        assert ["in tars" in line or "a tar was not unpacked" in line for line in log()] == [True, True], log()
        store.put([object_ for object_ in put if object_ is not impossible])
        assert read_bucket(real) == by_key([*objects(25), *objects(25, "later")])
    finally:
        store.close()
