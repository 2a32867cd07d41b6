"""The object store adapter on a misbehaving store. Its normal behaviour is tested by the contract of the port."""

from __future__ import annotations

import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import timedelta

import pytest

from analytics_defs.adapters.object_store.client import ObjectStoreConfig, ObjectStoreKeys
from analytics_defs.adapters.object_store.store import S3ObjectStore
from analytics_defs.errors import AccessDenied, AnalyticsError, InconsistentState, ResourceNotReady, SettingsError, Unavailable
from analytics_defs.ports import StoredObject
from tests.adapters.object_store.scripted_s3 import Answer, ConcurrencyCounter, Request, ScriptedS3, scripted_s3

CALLS: dict[str, Callable[[S3ObjectStore], object]] = {
    "put": lambda store: store.put([StoredObject("some/key", b"x", "text/plain", {})]),
    "put_if_absent": lambda store: store.put_if_absent(StoredObject("some/key", b"x", "text/plain", {})),
    "get": lambda store: store.get("some/key"),
    "delete": lambda store: store.delete(["some/key"]),
    "keys": lambda store: list(store.list_keys("some/")),
}
every_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


def config(endpoint: str, max_retries: int = 2, max_in_flight: int = 4) -> ObjectStoreConfig:
    return ObjectStoreConfig(
        "test-bucket",
        endpoint,
        keys=ObjectStoreKeys("user", "s3cr3t"),
        request_timeout=timedelta(milliseconds=300),
        max_retries=max_retries,
        max_backoff=timedelta(milliseconds=200),
        max_in_flight=max_in_flight,
    )


@contextmanager
def store_on(
    answer: Callable[[Request], Answer | None], max_retries: int = 2, max_in_flight: int = 4
) -> Iterator[tuple[S3ObjectStore, ScriptedS3]]:
    with scripted_s3(answer) as s3:
        store = S3ObjectStore(config(s3.endpoint, max_retries, max_in_flight))
        try:
            yield store, s3
        finally:
            store.close()


def objects(count: int) -> list[StoredObject]:
    return [StoredObject(f"some/{number}", b"x", "text/plain", {}) for number in range(count)]


@pytest.fixture
def closed_port() -> Iterator[int]:
    """Yield a reserved port without a listener."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


def test_nothing_connects_before_the_first_call() -> None:
    with store_on(lambda _: Answer()) as (_, s3):
        assert s3.requests == []


@pytest.mark.parametrize(("failures", "stored"), [(2, True), (3, False)])
def test_a_truncated_upload_is_retried_twice(failures: int, stored: bool) -> None:
    """An overloaded MinIO answers 400 IncompleteBody, and obstore retries 5xx only."""
    with store_on(lambda _: Answer.error(400, "IncompleteBody") if len(s3.requests) <= failures else Answer()) as (store, s3):
        with nullcontext() if stored else pytest.raises(Unavailable, match="400 IncompleteBody"):
            store.put(objects(1))
        assert [request.body for request in s3.requests] == [b"x"] * 3


@every_call
def test_a_store_that_is_down_is_unavailable_and_named(call: Callable[[S3ObjectStore], object], closed_port: int) -> None:
    store = S3ObjectStore(config(f"http://127.0.0.1:{closed_port}"))
    with pytest.raises(Unavailable) as raised:
        call(store)
    store.close()
    for named in (f"http://127.0.0.1:{closed_port}", "test-bucket", "some/", "Connection refused"):
        assert named in str(raised.value)
    assert raised.value.retryable


@every_call
def test_a_store_that_never_answers_is_unavailable_in_bounded_time(call: Callable[[S3ObjectStore], object]) -> None:
    with store_on(lambda _: None) as (store, _):
        started = time.monotonic()
        with pytest.raises(Unavailable, match="no answer in time"):
            call(store)
        assert time.monotonic() - started < 10


@every_call
def test_a_request_to_an_overloaded_store_has_bounded_retries(call: Callable[[S3ObjectStore], object]) -> None:
    with store_on(lambda _: Answer.error(503, "SlowDown")) as (store, s3):
        with pytest.raises(Unavailable, match="503 SlowDown scripted after 2 retries"):
            call(store)
        assert len(s3.requests) == 3


def test_a_store_that_recovers_within_the_retries_causes_no_error() -> None:
    answers = iter([Answer.error(503, "SlowDown"), Answer.error(500, "InternalError"), Answer()])
    with store_on(lambda _: next(answers)) as (store, s3):
        store.put(objects(1))
        assert len(s3.requests) == 3


@every_call
@pytest.mark.parametrize(("status", "code"), [(403, "AccessDenied"), (401, "Unauthorized"), (400, "ExpiredToken")])
def test_refused_credentials_are_denied_at_once_and_never_shown(call: Callable[[S3ObjectStore], object], status: int, code: str) -> None:
    with store_on(lambda _: Answer.error(status, code)) as (store, s3):
        with pytest.raises(AccessDenied, match=code) as raised:
            call(store)
        assert len(s3.requests) == 1
        assert not raised.value.retryable
        assert "s3cr3t" not in f"{raised.value}{raised.value.__cause__}{store.config}"


@every_call
def test_a_bucket_in_another_region_is_a_wrong_setting(call: Callable[[S3ObjectStore], object]) -> None:
    """Amazon S3 answers 301 without a location."""
    with store_on(lambda _: Answer(301, headers={"x-amz-bucket-region": "eu-west-1"})) as (store, _):
        with pytest.raises(SettingsError, match="Set AWS_DEFAULT_REGION to its region") as raised:
            call(store)
        assert not raised.value.retryable


@every_call
def test_a_missing_bucket_is_never_mistaken_for_a_missing_object(call: Callable[[S3ObjectStore], object]) -> None:
    with (
        store_on(lambda _: Answer.error(404, "NoSuchBucket")) as (store, _),
        pytest.raises(ResourceNotReady, match=r"test-bucket.* does not exist"),
    ):
        call(store)


@every_call
def test_an_unexpected_response_is_unavailable(call: Callable[[S3ObjectStore], object]) -> None:
    with store_on(lambda _: Answer.error(418, "Teapot")) as (store, _), pytest.raises(Unavailable, match="418 Teapot"):
        call(store)


@pytest.mark.parametrize("refusal", [Answer.error(412, "PreconditionFailed"), Answer(304), Answer.error(409, "ConditionalRequestConflict")])
def test_a_refused_conditional_write_returns_the_bytes_of_the_first_writer(refusal: Answer) -> None:
    with store_on(lambda request: refusal if request.method == "PUT" else Answer(200, b"first")) as (store, s3):
        assert store.put_if_absent(StoredObject("some/key", b"second", "text/plain", {})) == b"first"
        assert s3.requests[0].headers["if-none-match"] == "*"


def test_a_conditional_write_is_retried_if_the_existing_object_is_deleted() -> None:
    answers = iter([Answer.error(412, "PreconditionFailed"), Answer.error(404, "NoSuchKey"), Answer()])
    with store_on(lambda _: next(answers)) as (store, _):
        assert store.put_if_absent(StoredObject("some/key", b"new", "text/plain", {})) == b"new"


def test_a_conditional_write_gives_up_on_an_inconsistent_store() -> None:
    def answer(request: Request) -> Answer:
        return Answer.error(412, "PreconditionFailed") if request.method == "PUT" else Answer.error(404, "NoSuchKey")

    with store_on(answer) as (store, _), pytest.raises(Unavailable, match="each read found no object"):
        store.put_if_absent(StoredObject("some/key", b"new", "text/plain", {}))


def test_the_first_error_is_raised_with_the_others_as_notes() -> None:
    together = threading.Barrier(3)

    def answer(_: Request) -> Answer:
        together.wait()
        return Answer.error(403, "AccessDenied")

    with store_on(answer) as (store, _):
        with pytest.raises(AccessDenied) as raised:
            store.put(objects(3))
        messages = [str(raised.value), *raised.value.__notes__]
        assert sorted(key for text in messages for key in ("some/0", "some/1", "some/2") if key in text) == ["some/0", "some/1", "some/2"]


def test_after_an_error_no_further_write_starts() -> None:
    with store_on(lambda _: Answer.error(403, "AccessDenied")) as (store, s3):
        with pytest.raises(AccessDenied):
            store.put(objects(500))
        assert len(s3.requests) <= store.config.max_in_flight


def test_put_returns_only_after_every_object_is_confirmed() -> None:
    count = itertools.count(1)
    with store_on(lambda _: Answer.error(400, "TheLast") if next(count) == 100 else Answer()) as (store, _), pytest.raises(Unavailable):
        store.put(objects(100))


def test_all_callers_together_respect_the_concurrency_limit() -> None:
    counter = ConcurrencyCounter()
    with store_on(counter, max_in_flight=5) as (store, s3):
        callers = [threading.Thread(target=store.put, args=(objects(20),)) for _ in range(4)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
        assert (counter.maximum, len(s3.requests)) == (5, 80)


def test_a_delete_that_is_refused_for_one_key_fails() -> None:
    refused = b"<DeleteResult><Error><Key>b</Key><Code>AccessDenied</Code><Message>no</Message></Error></DeleteResult>"
    with store_on(lambda _: Answer(200, refused)) as (store, _), pytest.raises(AnalyticsError, match="key a and 1 more"):
        store.delete(["a", "b"])


@pytest.mark.parametrize("key", ["events/2024/01/15/10//a.json", "events/./a", "events/../a", "events/a\x7f"])
def test_a_key_that_cannot_be_listed_is_named_and_is_no_outage(key: str) -> None:
    """Amazon S3 accepts such keys."""
    contents = f"<Contents><Key>{key}</Key><Size>1</Size><ETag>0</ETag><LastModified>2024-01-15T10:30:00.000Z</LastModified></Contents>"
    response = f"<ListBucketResult><IsTruncated>false</IsTruncated>{contents}</ListBucketResult>".encode()
    with store_on(lambda _: Answer(200, response)) as (store, script):
        with pytest.raises(InconsistentState, match=r"the foreign object .*Move it elsewhere") as raised:
            list(store.list_keys("events/"))
        assert repr(key) in str(raised.value)
        assert len(script.requests) == 1


def test_credentials_in_the_environment_do_not_override_the_configured_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "of-another-service")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "of-another-service")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")
    with store_on(lambda _: Answer()) as (store, s3):
        store.put(objects(1))
        assert not any("of-another-service" in value for value in s3.requests[0].headers.values())


def test_a_prefix_without_a_slash_at_its_end_is_rejected() -> None:
    with store_on(lambda _: Answer()) as (store, _), pytest.raises(ValueError, match="slash"):
        list(store.list_keys("events/2024/01/1"))


def test_missing_credentials_of_amazon_s3_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    with pytest.raises(AccessDenied, match="the SDK found no credentials"):
        S3ObjectStore(ObjectStoreConfig("test-bucket")).get("some/key")
