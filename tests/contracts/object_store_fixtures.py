"""The archive's port over each store that implements it, with an independent reader beside it."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import boto3
from moto.server import ThreadedMotoServer

from analytics_defs.adapters.memory import MemoryObjectStore
from analytics_defs.adapters.object_store.bucket import create_bucket
from analytics_defs.adapters.object_store.client import ObjectStoreConfig, ObjectStoreKeys
from analytics_defs.adapters.object_store.store import S3ObjectStore
from analytics_defs.ports import ObjectStore, StoredObject

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


@dataclass(frozen=True, slots=True)
class ArchiveUnderTest:
    port: ObjectStore
    scheduler_status: Callable[[], dict[str, StoredObject]]
    """What the store holds, by key, read without the adapter. Names of metadata in lower case, as S3 keeps them."""


@contextmanager
def memory_archive() -> Iterator[ArchiveUnderTest]:
    archive = MemoryObjectStore()
    yield ArchiveUnderTest(archive, lambda: {key: _lowered(blob) for key, blob in archive.objects.items()})


@contextmanager
def moto_archive() -> Iterator[ArchiveUnderTest]:
    with moto_endpoint() as endpoint, _bucket(ObjectStoreConfig(_name(), endpoint, keys=ObjectStoreKeys("fake", "fake"))) as archive:
        yield archive


@contextmanager
def real_archive() -> Iterator[ArchiveUnderTest]:
    with _bucket(real_config()) as archive:
        yield archive


@contextmanager
def real_unpacking_archive() -> Iterator[ArchiveUnderTest]:
    """Where the store is MinIO, small objects go in tars."""
    with _bucket(replace(real_config(), snowball=True)) as archive:
        yield archive


ARCHIVES: dict[str, Callable[[], AbstractContextManager[ArchiveUnderTest]]] = {
    "memory": memory_archive,
    "moto": moto_archive,
    "real": real_archive,
    "real-unpacking": real_unpacking_archive,
}


def real_config() -> ObjectStoreConfig:
    """A bucket of its own, not created yet, on the object store that the environment names. Fails where it names none."""
    try:
        keys = ObjectStoreKeys(os.environ["MINIO_ACCESS_KEY"], os.environ["MINIO_SECRET_KEY"])
        return ObjectStoreConfig(_name(), os.environ["MINIO_ENDPOINT"], keys=keys)
    except KeyError as missing:
        raise AssertionError(f"{missing} is not set: tests marked `real` need an object store. Run `make test-real`.") from None


@contextmanager
def moto_endpoint() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


@contextmanager
def _bucket(config: ObjectStoreConfig) -> Iterator[ArchiveUnderTest]:
    assert create_bucket(config)
    archive = S3ObjectStore(config)
    try:
        yield ArchiveUnderTest(archive, lambda: look(config))
    finally:
        archive.close()
        _remove(config)


def look(config: ObjectStoreConfig) -> dict[str, StoredObject]:
    """Everything in the bucket, read without the adapter."""
    with s3_client(config) as s3:
        found = {}
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket=config.bucket):
            for each in page.get("Contents", []):
                answer = s3.get_object(Bucket=config.bucket, Key=each["Key"])
                with answer["Body"] as body:
                    found[each["Key"]] = _lowered(StoredObject(each["Key"], body.read(), answer["ContentType"], answer["Metadata"]))
        return found


def _remove(config: ObjectStoreConfig) -> None:
    with s3_client(config) as s3:
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket=config.bucket):
            for each in page.get("Contents", []):
                s3.delete_object(Bucket=config.bucket, Key=each["Key"])
        s3.delete_bucket(Bucket=config.bucket)


@contextmanager
def s3_client(config: ObjectStoreConfig) -> Iterator[S3Client]:
    keys = config.keys
    assert keys is not None
    client = boto3.client(
        "s3",
        endpoint_url=config.endpoint,
        region_name="us-east-1",
        aws_access_key_id=keys.access_key_id,
        aws_secret_access_key=keys.secret_access_key,
    )
    try:
        yield client
    finally:
        client.close()


def _lowered(blob: StoredObject) -> StoredObject:
    return StoredObject(blob.key, blob.body, blob.content_type, {name.lower(): value for name, value in blob.metadata.items()})


def _name() -> str:
    return f"contract-{uuid.uuid4().hex[:12]}"
