"""A store that unpacks tars as MinIO does, or with errors: moto behind an application that unpacks."""

from __future__ import annotations

import hashlib
import io
import tarfile
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server

from analytics_defs.adapters.object_store.bucket import create_bucket
from analytics_defs.adapters.object_store.client import ObjectStoreConfig, ObjectStoreKeys
from analytics_defs.adapters.object_store.store import S3ObjectStore
from analytics_defs.devstack.moto_patches import App
from analytics_defs.ports import StoredObject
from tests.contracts.object_store_fixtures import ObjectStoreUnderTest, moto_endpoint, read_bucket
from tests.real.proxy import Answer

SNOWBALL_HEADER = "x-amz-meta-snowball-auto-extract"
_RECORD, _METADATA = "minio.metadata.", "x-amz-meta-"


def members(packed: bytes) -> list[StoredObject]:
    """Return the objects in a tar, read with the standard library."""
    objects = []
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        for info in archive:
            file = archive.extractfile(info)
            assert file is not None
            records = {name.removeprefix(_RECORD).lower(): value for name, value in info.pax_headers.items() if name.startswith(_RECORD)}
            metadata = {name.removeprefix(_METADATA): value for name, value in records.items() if name.startswith(_METADATA)}
            objects.append(StoredObject(info.name, file.read(), records.get("content-type", "binary/octet-stream"), metadata))
    return objects


Behaviour = Callable[["Unpacker", bytes], Answer]


@dataclass(slots=True)
class Unpacker:
    """WSGI application in front of a server. `behave` handles tars; other requests are passed on."""

    app: App
    behave: Behaviour
    single: S3ObjectStore | None = None
    """Writes unpacked objects into the same bucket."""
    tars: list[list[StoredObject]] = field(default_factory=list)
    """Members of the received tars."""
    tar_key: str = ""
    """Key of the last tar."""
    puts: list[str] = field(default_factory=list)
    """Keys of received single PUTs."""

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        key = environ["PATH_INFO"].partition("/")[2].partition("/")[2]
        if f"HTTP_{SNOWBALL_HEADER.upper().replace('-', '_')}" not in environ:
            self.puts += [key] if key and environ["REQUEST_METHOD"] == "PUT" else []
            return self.app(environ, start_response)
        packed = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
        self.tars.append(members(packed))
        self.tar_key = key
        answer = self.behave(self, packed)
        start_response(f"{answer.status} scripted", [*answer.headers.items(), ("Content-Length", str(len(answer.body)))])
        return [answer.body]

    def write(self, objects: list[StoredObject]) -> None:
        assert self.single
        self.single.put(objects)


def success(packed: bytes) -> Answer:
    return Answer(200, {"ETag": f'"{hashlib.md5(packed, usedforsecurity=False).hexdigest()}"'})


def unpack_all(store: Unpacker, packed: bytes) -> Answer:
    """Unpack as MinIO does: everything, or an error after the valid members are written."""
    objects = members(packed)
    store.write([object_ for object_ in objects if len(object_.key) <= 1024])
    return success(packed) if all(len(object_.key) <= 1024 for object_ in objects) else refusal(400, "KeyTooLongError")


def refusal(status: int, code: str) -> Answer:
    return Answer(status, {"Content-Type": "application/xml"}, f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode())


@dataclass(frozen=True, slots=True)
class UnpackingStore:
    port: S3ObjectStore
    store: Unpacker
    stored_objects: Callable[[], dict[str, StoredObject]]


@contextmanager
def unpacking_store(behave: Behaviour = unpack_all) -> Iterator[UnpackingStore]:
    """Yield the adapter, with tars enabled, on such a store. The bucket is deleted with the store."""
    with moto_endpoint() as plain, _unpacker_in_front_of(DomainDispatcherApplication(create_backend_app), behave) as (store, endpoint):
        direct = ObjectStoreConfig(f"unpacking-{uuid.uuid4().hex[:12]}", plain, keys=ObjectStoreKeys("fake", "fake"))
        create_bucket(direct)
        store.single = S3ObjectStore(direct)
        archive = S3ObjectStore(replace(direct, endpoint=endpoint, snowball=True))
        try:
            yield UnpackingStore(archive, store, lambda: read_bucket(direct))
        finally:
            archive.close()
            store.single.close()


@contextmanager
def _unpacker_in_front_of(app: App, behave: Behaviour) -> Iterator[tuple[Unpacker, str]]:
    """Yield the application and its endpoint. All moto servers of a process share their data."""
    store = Unpacker(app, behave)
    server = make_server("127.0.0.1", 0, store, threaded=True, request_handler=MotoRequestHandler)
    serving = threading.Thread(target=server.serve_forever, daemon=True)
    serving.start()
    try:
        yield store, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        serving.join()
        server.server_close()


@contextmanager
def unpacking_contract() -> Iterator[ObjectStoreUnderTest]:
    with unpacking_store() as unpacking:
        yield ObjectStoreUnderTest(unpacking.port, unpacking.stored_objects)
