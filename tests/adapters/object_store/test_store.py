"""What the object store's adapter does when the store misbehaves. What it does otherwise is in the archive's contract."""

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
from analytics_defs.errors import AccessDenied, AnalyticsError, InconsistentState, ResourceMissing, Unavailable
from analytics_defs.ports import StoredObject
from tests.adapters.object_store.scripted_s3 import Answer, Crowd, Request, ScriptedS3, scripted_s3

CALLS: dict[str, Callable[[S3ObjectStore], object]] = {
    "put": lambda archive: archive.put([StoredObject("some/key", b"x", "text/plain", {})]),
    "put_if_absent": lambda archive: archive.put_if_absent(StoredObject("some/key", b"x", "text/plain", {})),
    "get": lambda archive: archive.get("some/key"),
    "delete": lambda archive: archive.delete(["some/key"]),
    "keys": lambda archive: list(archive.list_keys("some/")),
}
every_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


def config(endpoint: str, max_retries: int = 2, max_in_flight: int = 4) -> ObjectStoreConfig:
    return ObjectStoreConfig(
        "our-bucket",
        endpoint,
        keys=ObjectStoreKeys("user", "s3cr3t"),
        request_timeout=timedelta(milliseconds=300),
        max_retries=max_retries,
        max_backoff=timedelta(milliseconds=200),
        max_in_flight=max_in_flight,
    )


@contextmanager
def archive_on(
    answer: Callable[[Request], Answer | None], max_retries: int = 2, max_in_flight: int = 4
) -> Iterator[tuple[S3ObjectStore, ScriptedS3]]:
    with scripted_s3(answer) as s3:
        archive = S3ObjectStore(config(s3.endpoint, max_retries, max_in_flight))
        try:
            yield archive, s3
        finally:
            archive.close()


def blobs(count: int) -> list[StoredObject]:
    return [StoredObject(f"some/{number}", b"x", "text/plain", {}) for number in range(count)]


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that is ours and that nobody listens on."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


def test_nothing_connects_before_the_first_call() -> None:
    with archive_on(lambda _: Answer()) as (_, s3):
        assert s3.requests == []


@pytest.mark.parametrize(("cut", "stored"), [(2, True), (3, False)])
def test_a_body_that_the_store_did_not_get_whole_is_put_again_twice(cut: int, stored: bool) -> None:
    """MinIO answers 400 IncompleteBody where it is too busy to read on; the client repeats 5xx only."""
    with archive_on(lambda _: Answer.error(400, "IncompleteBody") if len(s3.requests) <= cut else Answer()) as (archive, s3):
        with nullcontext() if stored else pytest.raises(Unavailable, match="400 IncompleteBody"):
            archive.put(blobs(1))
        assert [request.body for request in s3.requests] == [b"x"] * 3


@every_call
def test_a_store_that_is_down_is_unavailable_and_named(call: Callable[[S3ObjectStore], object], closed_port: int) -> None:
    archive = S3ObjectStore(config(f"http://127.0.0.1:{closed_port}"))
    with pytest.raises(Unavailable) as raised:
        call(archive)
    archive.close()
    for named in (f"http://127.0.0.1:{closed_port}", "our-bucket", "some/", "Connection refused"):
        assert named in str(raised.value)
    assert raised.value.retryable


@every_call
def test_a_store_that_accepts_and_never_answers_is_unavailable_in_bounded_time(call: Callable[[S3ObjectStore], object]) -> None:
    with archive_on(lambda _: None) as (archive, _):
        begun = time.monotonic()
        with pytest.raises(Unavailable, match="no answer in time"):
            call(archive)
        assert time.monotonic() - begun < 10


@every_call
def test_an_overloaded_store_is_asked_again_a_bounded_number_of_times(call: Callable[[S3ObjectStore], object]) -> None:
    with archive_on(lambda _: Answer.error(503, "SlowDown")) as (archive, s3):
        with pytest.raises(Unavailable, match="503 SlowDown as the test says after 2 retries"):
            call(archive)
        assert len(s3.requests) == 3


def test_a_store_that_recovers_is_not_noticed() -> None:
    answers = iter([Answer.error(503, "SlowDown"), Answer.error(500, "InternalError"), Answer()])
    with archive_on(lambda _: next(answers)) as (archive, s3):
        archive.put(blobs(1))
        assert len(s3.requests) == 3


@every_call
@pytest.mark.parametrize(("status", "code"), [(403, "AccessDenied"), (401, "Unauthorized"), (400, "ExpiredToken")])
def test_refused_credentials_are_denied_at_once_and_never_shown(call: Callable[[S3ObjectStore], object], status: int, code: str) -> None:
    with archive_on(lambda _: Answer.error(status, code)) as (archive, s3):
        with pytest.raises(AccessDenied, match=code) as raised:
            call(archive)
        assert len(s3.requests) == 1
        assert not raised.value.retryable
        assert "s3cr3t" not in f"{raised.value}{raised.value.__cause__}{archive.config}"


@every_call
def test_a_missing_bucket_is_missing_and_never_an_absent_object(call: Callable[[S3ObjectStore], object]) -> None:
    with (
        archive_on(lambda _: Answer.error(404, "NoSuchBucket")) as (archive, _),
        pytest.raises(ResourceMissing, match=r"our-bucket.* does not exist"),
    ):
        call(archive)


@every_call
def test_an_answer_that_makes_no_sense_is_unavailable(call: Callable[[S3ObjectStore], object]) -> None:
    with archive_on(lambda _: Answer.error(418, "Teapot")) as (archive, _), pytest.raises(Unavailable, match="418 Teapot"):
        call(archive)


@pytest.mark.parametrize("refusal", [Answer.error(412, "PreconditionFailed"), Answer(304), Answer.error(409, "ConditionalRequestConflict")])
def test_each_way_of_refusing_a_conditional_write_gives_the_bytes_of_who_was_first(refusal: Answer) -> None:
    with archive_on(lambda request: refusal if request.method == "PUT" else Answer(200, b"first")) as (archive, s3):
        assert archive.put_if_absent(StoredObject("some/key", b"second", "text/plain", {})) == b"first"
        assert s3.requests[0].headers["if-none-match"] == "*"


def test_a_conditional_write_is_tried_again_when_the_object_in_its_way_is_gone() -> None:
    answers = iter([Answer.error(412, "PreconditionFailed"), Answer.error(404, "NoSuchKey"), Answer()])
    with archive_on(lambda _: next(answers)) as (archive, _):
        assert archive.put_if_absent(StoredObject("some/key", b"mine", "text/plain", {})) == b"mine"


def test_a_conditional_write_gives_up_on_a_store_that_contradicts_itself() -> None:
    def answer(request: Request) -> Answer:
        return Answer.error(412, "PreconditionFailed") if request.method == "PUT" else Answer.error(404, "NoSuchKey")

    with archive_on(answer) as (archive, _), pytest.raises(Unavailable, match="appears and vanishes"):
        archive.put_if_absent(StoredObject("some/key", b"mine", "text/plain", {}))


def test_a_failure_is_raised_with_the_others_as_notes() -> None:
    together = threading.Barrier(3)

    def answer(_: Request) -> Answer:
        together.wait()
        return Answer.error(403, "AccessDenied")

    with archive_on(answer) as (archive, _):
        with pytest.raises(AccessDenied) as raised:
            archive.put(blobs(3))
        named = [str(raised.value), *raised.value.__notes__]
        assert sorted(key for text in named for key in ("some/0", "some/1", "some/2") if key in text) == ["some/0", "some/1", "some/2"]


def test_after_a_failure_nothing_more_is_begun() -> None:
    with archive_on(lambda _: Answer.error(403, "AccessDenied")) as (archive, s3):
        with pytest.raises(AccessDenied):
            archive.put(blobs(500))
        assert len(s3.requests) <= archive.config.max_in_flight


def test_put_returns_only_after_every_object_is_confirmed() -> None:
    count = itertools.count(1)
    with archive_on(lambda _: Answer.error(400, "TheLast") if next(count) == 100 else Answer()) as (archive, _), pytest.raises(Unavailable):
        archive.put(blobs(100))


def test_all_callers_together_keep_to_the_bound_in_flight() -> None:
    crowd = Crowd()
    with archive_on(crowd, max_in_flight=5) as (archive, s3):
        callers = [threading.Thread(target=archive.put, args=(blobs(20),)) for _ in range(4)]
        for each in callers:
            each.start()
        for each in callers:
            each.join()
        assert (crowd.largest, len(s3.requests)) == (5, 80)


def test_a_delete_that_the_store_refuses_for_one_key_fails() -> None:
    refused = b"<DeleteResult><Error><Key>b</Key><Code>AccessDenied</Code><Message>no</Message></Error></DeleteResult>"
    with archive_on(lambda _: Answer(200, refused)) as (archive, _), pytest.raises(AnalyticsError, match="key a and 1 more"):
        archive.delete(["a", "b"])


@pytest.mark.parametrize("alien", ["events/2024/01/15/10//a.json", "events/./a", "events/../a", "events/a\x7f"])
def test_a_key_that_the_client_cannot_list_is_named_and_is_no_outage(alien: str) -> None:
    """Amazon S3 lets everybody write such keys."""
    found = f"<Contents><Key>{alien}</Key><Size>1</Size><ETag>0</ETag><LastModified>2024-01-15T10:30:00.000Z</LastModified></Contents>"
    listed = f"<ListBucketResult><IsTruncated>false</IsTruncated>{found}</ListBucketResult>".encode()
    with archive_on(lambda _: Answer(200, listed)) as (archive, script):
        with pytest.raises(InconsistentState, match=r"nobody here wrote .*Move it elsewhere") as raised:
            list(archive.list_keys("events/"))
        assert repr(alien) in str(raised.value)
        assert len(script.requests) == 1


def test_credentials_of_another_service_in_the_environment_are_not_mixed_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "of-another-service")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "of-another-service")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")
    with archive_on(lambda _: Answer()) as (archive, s3):
        archive.put(blobs(1))
        assert not any("of-another-service" in value for value in s3.requests[0].headers.values())


def test_a_prefix_that_is_no_folder_is_refused() -> None:
    with archive_on(lambda _: Answer()) as (archive, _), pytest.raises(ValueError, match="slash"):
        list(archive.list_keys("events/2024/01/1"))


def test_without_endpoint_and_credentials_the_error_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    with pytest.raises(AccessDenied, match="the SDK found no credentials"):
        S3ObjectStore(ObjectStoreConfig("our-bucket")).get("some/key")
