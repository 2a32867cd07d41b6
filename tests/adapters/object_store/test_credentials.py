"""Credentials of a role, which a container endpoint hands out for a limited time."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from operator import eq
from pathlib import Path

import pytest
from botocore.credentials import RefreshableCredentials

from analytics_defs.adapters.object_store.client import CREDENTIAL_TTL, ObjectStoreConfig, ObjectStoreKeys
from analytics_defs.adapters.object_store.store import S3ObjectStore
from analytics_defs.errors import AccessDenied
from analytics_defs.ports import StoredObject
from tests.adapters.object_store.scripted_s3 import Answer, Request, ScriptedS3, scripted_s3

OBSTORE_RENEWS_BEFORE = timedelta(minutes=5)
OBJECT = StoredObject("a/b", b"body", "text/plain", {})
LISTING = b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>"
CALLS: dict[str, Callable[[S3ObjectStore, Path], object]] = {
    "put": lambda store, _: store.put([OBJECT]),
    "put_if_absent": lambda store, _: store.put_if_absent(OBJECT),
    "put_many_if_absent": lambda store, _: store.put_many_if_absent([OBJECT]),
    "put_if": lambda store, _: store.put_if(OBJECT, partial(eq, b"")),
    "get": lambda store, _: store.get("a/b"),
    "get_object": lambda store, _: store.get_object("a/b"),
    "head": lambda store, _: store.head("a/b"),
    "download": lambda store, folder: store.download("a/b", str(folder / "copy")),
    "upload": lambda store, folder: store.upload("a/b", str(folder / "file"), "text/plain"),
    "delete": lambda store, _: store.delete(["a/b"]),
    "list_keys": lambda store, _: list(store.list_keys("a/")),
}


class Role:
    """A role whose newest key alone is valid. Each fetch of the credentials returns the newest key."""

    def __init__(self) -> None:
        self.number = 0
        self.refused = 0

    def credentials(self, _: Request) -> Answer:
        end = datetime.now(UTC) + timedelta(hours=1)
        keys = {
            "AccessKeyId": f"key{self.number}",
            "SecretAccessKey": "secret",
            "Token": "token",
            "Expiration": f"{end:%Y-%m-%dT%H:%M:%SZ}",
        }
        return Answer(200, json.dumps(keys).encode())

    def serve(self, request: Request) -> Answer:
        used = re.search(r"Credential=(\w+)/", request.headers["authorization"])
        if used is None or used[1] != f"key{self.number}":
            self.refused += 1
            return Answer.error(400, "ExpiredToken")
        if request.method == "GET" and "list-type" in request.path:
            return Answer(200, LISTING)
        return Answer(200, b"<DeleteResult><Deleted><Key>a/b</Key></Deleted></DeleteResult>" if request.method == "POST" else b"")


@contextmanager
def store_with_role(role: Role, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[S3ObjectStore, ScriptedS3]]:
    for name in (
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AWS_PROFILE",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    ):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, "/nonexistent")
    with scripted_s3(role.credentials) as container, scripted_s3(role.serve) as s3:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", container.endpoint)
        store = S3ObjectStore(ObjectStoreConfig("bucket", s3.endpoint, max_retries=0))
        yield store, s3
        store.close()


@pytest.mark.parametrize("name", CALLS)
def test_a_request_with_an_expired_key_is_sent_again_with_a_fresh_one(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"body")
    role = Role()
    with store_with_role(role, monkeypatch) as (store, _):
        CALLS[name](store, tmp_path)
        assert role.refused == 0
        role.number += 1
        CALLS[name](store, tmp_path)
        assert role.refused == 1


def test_a_key_that_stays_expired_is_denied_after_one_more_request(monkeypatch: pytest.MonkeyPatch) -> None:
    role = Role()
    with store_with_role(role, monkeypatch) as (store, s3):
        store.get("a/b")
        monkeypatch.setattr(role, "serve", None)
        s3.answer = lambda _: Answer.error(400, "ExpiredToken")
        before = len(s3.requests)
        with pytest.raises(AccessDenied, match="ExpiredToken"):
            store.get("a/b")
        assert len(s3.requests) - before == 2


def test_configured_keys_are_not_asked_for_again() -> None:
    with scripted_s3(lambda _: Answer.error(400, "ExpiredToken")) as s3:
        store = S3ObjectStore(ObjectStoreConfig("bucket", s3.endpoint, keys=ObjectStoreKeys("key", "secret"), max_retries=0))
        with pytest.raises(AccessDenied):
            store.get("a/b")
        assert len(s3.requests) == 1
        store.close()


def test_a_key_is_held_no_longer_than_botocore_promises() -> None:
    """Botocore renews a key at the latest this long before its end, so a key that it returns lives at least as long."""
    promised = timedelta(seconds=RefreshableCredentials._mandatory_refresh_timeout)  # type: ignore[attr-defined]
    held = CREDENTIAL_TTL - OBSTORE_RENEWS_BEFORE
    assert held <= promised - timedelta(minutes=5)
