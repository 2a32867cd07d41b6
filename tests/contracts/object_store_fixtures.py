"""The object store's port over each store that implements it, with an independent reader."""

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
class ObjectStoreUnderTest:
    port: ObjectStore
    contents: Callable[[], dict[str, StoredObject]]
    """Returns the objects by key, read without the adapter. Metadata names are in lower case, as S3 keeps them."""


@contextmanager
def memory_object_store() -> Iterator[ObjectStoreUnderTest]:
    store = MemoryObjectStore()
    yield ObjectStoreUnderTest(store, lambda: {key: _with_lower_case_metadata(obj) for key, obj in store.objects.items()})


@contextmanager
def moto_object_store() -> Iterator[ObjectStoreUnderTest]:
    with (
        moto_endpoint() as endpoint,
        _bucket(ObjectStoreConfig(_new_bucket_name(), endpoint, keys=ObjectStoreKeys("fake", "fake"))) as store,
    ):
        yield store


@contextmanager
def real_object_store() -> Iterator[ObjectStoreUnderTest]:
    with _bucket(real_config()) as store:
        yield store


@contextmanager
def real_snowball_store() -> Iterator[ObjectStoreUnderTest]:
    """Yield a store that sends small objects in tar files if it is MinIO."""
    with _bucket(replace(real_config(), snowball=True)) as store:
        yield store


OBJECT_STORES: dict[str, Callable[[], AbstractContextManager[ObjectStoreUnderTest]]] = {
    "memory": memory_object_store,
    "moto": moto_object_store,
    "real": real_object_store,
    "real-unpacking": real_snowball_store,
}


def real_config() -> ObjectStoreConfig:
    """Return a configuration with a new bucket on the real object store. Fail if the environment names none."""
    try:
        keys = ObjectStoreKeys(os.environ["MINIO_ACCESS_KEY"], os.environ["MINIO_SECRET_KEY"])
        return ObjectStoreConfig(_new_bucket_name(), os.environ["MINIO_ENDPOINT"], keys=keys)
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
def _bucket(config: ObjectStoreConfig) -> Iterator[ObjectStoreUnderTest]:
    assert create_bucket(config)
    store = S3ObjectStore(config)
    try:
        yield ObjectStoreUnderTest(store, lambda: read_bucket(config))
    finally:
        store.close()
        _remove(config)


def read_bucket(config: ObjectStoreConfig) -> dict[str, StoredObject]:
    """Return all objects of the bucket, read without the adapter."""
    with s3_client(config) as s3:
        objects = {}
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket=config.bucket):
            for entry in page.get("Contents", []):
                answer = s3.get_object(Bucket=config.bucket, Key=entry["Key"])
                with answer["Body"] as body:
                    objects[entry["Key"]] = _with_lower_case_metadata(
                        StoredObject(entry["Key"], body.read(), answer["ContentType"], answer["Metadata"])
                    )
        return objects


def _remove(config: ObjectStoreConfig) -> None:
    with s3_client(config) as s3:
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket=config.bucket):
            for entry in page.get("Contents", []):
                s3.delete_object(Bucket=config.bucket, Key=entry["Key"])
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


def _with_lower_case_metadata(obj: StoredObject) -> StoredObject:
    return StoredObject(obj.key, obj.body, obj.content_type, {name.lower(): value for name, value in obj.metadata.items()})


def _new_bucket_name() -> str:
    return f"contract-{uuid.uuid4().hex[:12]}"
