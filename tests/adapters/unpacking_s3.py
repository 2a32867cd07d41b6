"""A store that unpacks tars as MinIO does, or does it badly: moto's, behind a proxy that unpacks on the way."""

from __future__ import annotations

import hashlib
import io
import tarfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from analytics_defs.adapters.bucket import create_bucket
from analytics_defs.adapters.object_store import ObjectStoreArchive, ObjectStoreConfig, ObjectStoreKeys
from analytics_defs.ports import Blob
from tests.contracts.archive_fixtures import ArchiveUnderTest, look, moto_endpoint
from tests.real.proxy import Answer, Exchange, http_proxy, passing

MARK = "x-amz-meta-snowball-auto-extract"
_RECORD, _METADATA = "minio.metadata.", "x-amz-meta-"


def members(packed: bytes) -> list[Blob]:
    """What a tar holds, read with the standard library."""
    found = []
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        for info in archive:
            file = archive.extractfile(info)
            assert file is not None
            records = {name.removeprefix(_RECORD).lower(): value for name, value in info.pax_headers.items() if name.startswith(_RECORD)}
            metadata = {name.removeprefix(_METADATA): value for name, value in records.items() if name.startswith(_METADATA)}
            found.append(Blob(info.name, file.read(), records.get("content-type", "binary/octet-stream"), metadata))
    return found


Behaviour = Callable[["Unpacker", bytes], Answer]


@dataclass(slots=True)
class Unpacker:
    """A proxy's rule. `behave` decides what becomes of a tar; whatever is no tar passes."""

    bucket: str
    behave: Behaviour
    single: ObjectStoreArchive | None = None
    """Puts what was unpacked, past the proxy."""
    tars: list[list[Blob]] = field(default_factory=list)
    """Those that came."""
    tar_key: str = ""
    """Where the last of them was put."""
    puts: list[str] = field(default_factory=list)
    """Keys of single PUTs that came."""

    def __call__(self, exchange: Exchange) -> None:
        key = exchange.path.removeprefix(f"/{self.bucket}/")
        if MARK not in exchange.headers:
            self.puts += [key] if exchange.method == "PUT" else []
            passing(exchange)
            return
        self.tars.append(members(exchange.body))
        self.tar_key = key
        exchange.answer(self.behave(self, exchange.body))

    def write(self, blobs: list[Blob]) -> None:
        assert self.single
        self.single.put(blobs)


def unpacked(packed: bytes) -> Answer:
    return Answer(200, {"ETag": f'"{hashlib.md5(packed, usedforsecurity=False).hexdigest()}"'})


def whole(store: Unpacker, packed: bytes) -> Answer:
    """As MinIO: everything, or a refusal after what went well."""
    found = members(packed)
    store.write([blob for blob in found if len(blob.key) <= 1024])
    return unpacked(packed) if all(len(blob.key) <= 1024 for blob in found) else refusal(400, "KeyTooLongError")


def refusal(status: int, code: str) -> Answer:
    return Answer(status, {"Content-Type": "application/xml"}, f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode())


@dataclass(frozen=True, slots=True)
class UnpackingArchive:
    port: ObjectStoreArchive
    store: Unpacker
    look: Callable[[], dict[str, Blob]]


@contextmanager
def unpacking_archive(behave: Behaviour = whole) -> Iterator[UnpackingArchive]:
    """The adapter, told to find out about tars, before such a store. The bucket is gone with the store."""
    with moto_endpoint() as endpoint, http_proxy(endpoint) as proxy:
        direct = ObjectStoreConfig(f"unpacking-{uuid.uuid4().hex[:12]}", endpoint, keys=ObjectStoreKeys("fake", "fake"))
        create_bucket(direct)
        store = Unpacker(direct.bucket, behave, ObjectStoreArchive(direct))
        proxy.rule = store
        archive = ObjectStoreArchive(replace(direct, endpoint=proxy.url, unpacks_tars=True))
        try:
            yield UnpackingArchive(archive, store, lambda: look(direct))
        finally:
            archive.close()
            assert store.single
            store.single.close()


@contextmanager
def unpacking_contract() -> Iterator[ArchiveUnderTest]:
    with unpacking_archive() as found:
        yield ArchiveUnderTest(found.port, found.look)
