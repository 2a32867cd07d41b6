"""The archive in an S3 bucket: Amazon S3, MinIO, or anything else that speaks the S3 API, through obstore."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from analytics_defs.adapters.object_store.client import ObjectStoreConfig, connect_object_store
from analytics_defs.adapters.object_store.errors import BucketLocation, is_truncated_upload, translate_object_store_error
from analytics_defs.adapters.object_store.snowball import SnowballUpload
from analytics_defs.adapters.runtime.system import ThreadTaskPool
from analytics_defs.errors import Unavailable
from analytics_defs.ports import ObjectInfo, StoredObject

if TYPE_CHECKING:
    from obstore import Attributes, PutMode
    from obstore.store import S3Store

_LISTED_AT_ONCE = 1_000
"""Keys in one answer to a list request (S3's own limit)."""
_PIECE = 8 * 2**20
"""Bytes of a file in memory at once, on its way in or out."""
_RACES = 5
"""How often a conditional write may lose against an object that is gone when it is read."""


class S3ObjectStore:
    """`ports.Archive` on one bucket. Nothing connects before the first call."""

    def __init__(self, config: ObjectStoreConfig) -> None:
        self.config = config
        self._where = BucketLocation(config.endpoint or "Amazon S3", config.bucket)
        self._writers = ThreadTaskPool(config.max_in_flight, "archive")
        self._once = threading.Lock()
        self._unpacking = SnowballUpload(self, self._impatient, self._where) if config.snowball else None

    def close(self) -> None:
        """Waits for the writes under way. Not to be used afterwards; never needed for what was written."""
        self._writers.close()

    def put(self, blobs: Sequence[StoredObject]) -> None:
        """One PUT an object, or one tar many. Objects not begun when one fails are left out.

        Threads measured better than one event loop here: two thirds of the CPU for a PUT, also beside threads that compute.
        """
        if self._unpacking:
            packed, blobs = self._unpacking.share_out(blobs)
            unproven = self._writers.run_all([partial(self._unpacking.put, each) for each in packed])
            blobs = [*blobs, *(blob for each in unproven for blob in each)]
        self._writers.run_all([partial(self._put, blob) for blob in blobs])

    def _put(self, blob: StoredObject) -> None:
        import obstore

        for last in (False, False, True):
            try:
                with translate_object_store_error(self._where, "write", blob.key):
                    obstore.put(self._store(), blob.key, blob.body, attributes=_attributes(blob), mode="overwrite", use_multipart=False)
            except Unavailable as fault:
                if last or not is_truncated_upload(fault):
                    raise
            else:
                return

    def snowball_unavailable_reason(self) -> str | None:
        """Why `put` never puts small objects in tars. None: it does. The first call may write, and removes what it wrote."""
        return self._unpacking.unavailable_reason() if self._unpacking else "MINIO_SNOWBALL=off, or Amazon S3 itself"

    def put_many_if_absent(self, blobs: Sequence[StoredObject]) -> Sequence[StoredObject]:
        return list(filter(None, self._writers.run_all([partial(self._put_new, blob) for blob in blobs])))

    def put_if_absent(self, blob: StoredObject) -> bytes:
        held = self._put_new(blob)
        return held.body if held else blob.body

    def _put_new(self, blob: StoredObject) -> StoredObject | None:
        """What was there, None where it was written."""
        import obstore
        from obstore.exceptions import AlreadyExistsError

        for _ in range(_RACES):
            try:
                with translate_object_store_error(self._where, "write if absent", blob.key, but=(AlreadyExistsError,)):
                    obstore.put(self._store(), blob.key, blob.body, attributes=_attributes(blob), mode="create", use_multipart=False)
            except AlreadyExistsError:
                if (held := self.get_object(blob.key)) is not None:
                    return held
            else:
                return None
        raise Unavailable(
            f"{self._where.of(blob.key)} appears and vanishes: {_RACES} conditional writes were refused, and no object was there"
        )

    def get(self, key: str) -> bytes | None:
        import obstore

        try:
            with translate_object_store_error(self._where, "read", key, but=(FileNotFoundError,)):
                return obstore.get(self._store(), key).bytes().to_bytes()
        except FileNotFoundError:
            return None

    def get_object(self, key: str) -> StoredObject | None:
        found = self._found(key)
        return found and found[0]

    def head(self, key: str) -> ObjectInfo | None:
        import obstore

        try:
            with translate_object_store_error(self._where, "look at", key, but=(FileNotFoundError,)):
                answer = obstore.get(self._store(), key, options={"head": True})
        except FileNotFoundError:
            return None
        metadata = {name.lower(): value for name, value in answer.attributes.items()}
        metadata.pop("content-type", None)
        return ObjectInfo(answer.meta["size"], metadata)

    def download(self, key: str, path: str) -> bool:
        """One request a piece, each with the client's own limit of time. Into a file beside it first: what lies under `path` is whole."""
        import obstore

        partial_path = Path(f"{path}.partial")
        try:
            with translate_object_store_error(self._where, "read", key, but=(FileNotFoundError,)):
                size = obstore.head(self._store(), key)["size"]
                with partial_path.open("wb") as file:
                    for start in range(0, size, _PIECE):
                        file.write(obstore.get_range(self._store(), key, start=start, end=min(size, start + _PIECE)))
        except FileNotFoundError:
            return False
        partial_path.replace(path)
        return True

    def upload(self, key: str, path: str, content_type: str) -> None:
        import obstore

        with translate_object_store_error(self._where, "write", key):
            obstore.put(self._store(), key, Path(path), attributes={"Content-Type": content_type}, chunk_size=_PIECE, max_concurrency=2)

    def put_if(self, blob: StoredObject, over: Callable[[bytes | None], bool]) -> bool:
        import obstore
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        for _ in range(_RACES):
            held = self._found(blob.key)
            if not over(held[0].body if held else None):
                return False
            mode: PutMode = {"e_tag": held[1]} if held else "create"
            try:
                with translate_object_store_error(
                    self._where, "conditional write", blob.key, but=(AlreadyExistsError, PreconditionError, FileNotFoundError)
                ):
                    obstore.put(self._store(), blob.key, blob.body, attributes=_attributes(blob), mode=mode, use_multipart=False)
            except (AlreadyExistsError, PreconditionError, FileNotFoundError):
                continue
            return True
        raise Unavailable(f"{self._where.of(blob.key)}: {_RACES} conditional writes were refused, each time because it had just changed")

    def _found(self, key: str) -> tuple[StoredObject, str | None] | None:
        """The object, and its ETag."""
        import obstore

        try:
            with translate_object_store_error(self._where, "read", key, but=(FileNotFoundError,)):
                answer = obstore.get(self._store(), key)
                attributes = {name.lower(): value for name, value in answer.attributes.items()}
                content_type = attributes.pop("content-type", "")
                return StoredObject(key, answer.bytes().to_bytes(), content_type, attributes), answer.meta["e_tag"]
        except FileNotFoundError:
            return None

    def delete(self, keys: Sequence[str]) -> None:
        import obstore

        if keys:
            with translate_object_store_error(self._where, "delete", *keys):
                obstore.delete(self._store(), list(keys))

    def list_keys(self, prefix: str) -> Iterator[str]:
        """`prefix` is empty or ends in a slash: object stores list folders."""
        import obstore

        if prefix and not prefix.endswith("/"):
            raise ValueError(f"{prefix!r}: expected a folder that ends in a slash, or nothing")
        with translate_object_store_error(self._where, "list", prefix):
            for page in obstore.list(self._store(), prefix, chunk_size=_LISTED_AT_ONCE):
                yield from (found["path"] for found in page)

    def _store(self) -> S3Store:
        with self._once:
            return self._connected

    def _impatient(self) -> S3Store:
        with self._once:
            return self._connected_once

    @cached_property
    def _connected(self) -> S3Store:
        return self._connect(self.config)

    @cached_property
    def _connected_once(self) -> S3Store:
        return self._connect(replace(self.config, max_retries=0))

    def _connect(self, config: ObjectStoreConfig) -> S3Store:
        with translate_object_store_error(self._where, "use"):
            return connect_object_store(config)


def _attributes(blob: StoredObject) -> Attributes:
    return {"Content-Type": blob.content_type, **blob.metadata}
