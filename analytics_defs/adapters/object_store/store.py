"""The object store in an S3 bucket, with obstore: Amazon S3, MinIO or any other server with the S3 API."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from analytics_defs.adapters.object_store.client import ObjectStoreConfig, connect_object_store
from analytics_defs.adapters.object_store.errors import (
    BucketLocation,
    first_sentence,
    is_expired_token,
    is_truncated_upload,
    translate_object_store_error,
)
from analytics_defs.adapters.object_store.requests import download_file, get_with_etag, put_object, upload_file
from analytics_defs.adapters.object_store.snowball import SnowballUpload
from analytics_defs.adapters.runtime.system import ThreadTaskPool
from analytics_defs.errors import AccessDenied, AnalyticsError, SettingsError, Unavailable
from analytics_defs.ports import ObjectInfo, StoredObject

if TYPE_CHECKING:
    from obstore import PutMode
    from obstore.store import S3Store

_T = TypeVar("_T")
_LIST_PAGE_KEYS = 1_000
"""Keys in one page of a list request (the limit of S3)."""
_MAX_CONFLICTS = 5
"""Conflicts with other writers after which a conditional write gives up."""


class S3ObjectStore:
    """Object store of one bucket: see `ports.ObjectStore`. Connects on first use."""

    def __init__(self, config: ObjectStoreConfig) -> None:
        self.config = config
        self._location = BucketLocation(config.endpoint or "Amazon S3", config.bucket)
        self._task_pool = ThreadTaskPool(config.max_in_flight, "archive")
        self._lock = threading.Lock()
        self._snowball = SnowballUpload(self, self._client_without_retries, self._location) if config.snowball else None

    def close(self) -> None:
        """Wait for writes in flight. The object cannot be used afterwards. Completed writes do not need this call."""
        self._task_pool.close()

    def put(self, objects: Sequence[StoredObject]) -> None:
        """Write the objects with one PUT each, or in tars. After the first error no further write starts.

        Threads, not an event loop: measured, they take two thirds of the CPU per PUT, also next to threads that compute.
        """
        if self._snowball:
            tars, objects = self._snowball.partition(objects)
            remaining = self._task_pool.run_all([partial(self._snowball.put, members) for members in tars])
            objects = [*objects, *(object_ for members in remaining for object_ in members)]
        self._task_pool.run_all([partial(self._put, object_) for object_ in objects])

    def _put(self, object_: StoredObject) -> None:
        for is_last_attempt in (False, False, True):
            try:
                self._request("write", (object_.key,), lambda client: put_object(client, object_, "overwrite"))
            except Unavailable as error:
                if is_last_attempt or not is_truncated_upload(error):
                    raise
            else:
                return

    def snowball_unavailable_reason(self) -> str | None:
        """Return why `put` does not use tars, None if it does. The first call may write and delete probe objects."""
        return self._snowball.unavailable_reason() if self._snowball else "MINIO_SNOWBALL=off, or the store is Amazon S3"

    def put_many_if_absent(self, objects: Sequence[StoredObject]) -> Sequence[StoredObject]:
        return list(filter(None, self._task_pool.run_all([partial(self._put_new, object_) for object_ in objects])))

    def put_if_absent(self, object_: StoredObject) -> bytes:
        existing = self._put_new(object_)
        return existing.body if existing else object_.body

    def _put_new(self, object_: StoredObject) -> StoredObject | None:
        """Write the object unless its key exists. Return the existing object, None if it was written."""
        from obstore.exceptions import AlreadyExistsError

        for _ in range(_MAX_CONFLICTS):
            try:
                self._request(
                    "write if absent", (object_.key,), lambda client: put_object(client, object_, "create"), passed=(AlreadyExistsError,)
                )
            except AlreadyExistsError:
                if (existing := self.get_object(object_.key)) is not None:
                    return existing
            else:
                return None
        raise Unavailable(
            f"{self._location.describe(object_.key)}: {_MAX_CONFLICTS} conditional writes were refused because the object exists, "
            "but each read found no object"
        )

    def get(self, key: str) -> bytes | None:
        import obstore

        try:
            return self._request("read", (key,), lambda client: obstore.get(client, key).bytes().to_bytes(), passed=(FileNotFoundError,))
        except FileNotFoundError:
            return None

    def get_object(self, key: str) -> StoredObject | None:
        result = self._get_with_etag(key)
        return result and result[0]

    def head(self, key: str) -> ObjectInfo | None:
        import obstore

        try:
            answer = self._request(
                "head", (key,), lambda client: obstore.get(client, key, options={"head": True}), passed=(FileNotFoundError,)
            )
        except FileNotFoundError:
            return None
        metadata = {name.lower(): value for name, value in answer.attributes.items()}
        metadata.pop("content-type", None)
        return ObjectInfo(answer.meta["size"], metadata)

    def download(self, key: str, path: str) -> bool:
        """Download in one request per chunk, so that the request timeout applies to a chunk. A file at `path` is always complete."""
        partial_path = Path(f"{path}.partial")
        try:
            self._request("read", (key,), lambda client: download_file(client, key, partial_path), passed=(FileNotFoundError,))
        except FileNotFoundError:
            return False
        partial_path.replace(path)
        return True

    def upload(self, key: str, path: str, content_type: str) -> None:
        self._request("write", (key,), lambda client: upload_file(client, key, Path(path), content_type))

    def put_if(self, object_: StoredObject, over: Callable[[bytes | None], bool]) -> bool:
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        refusals = (AlreadyExistsError, PreconditionError, FileNotFoundError)
        for _ in range(_MAX_CONFLICTS):
            existing = self._get_with_etag(object_.key)
            if not over(existing[0].body if existing else None):
                return False
            mode: PutMode = {"e_tag": existing[1]} if existing else "create"
            try:
                self._request("conditional write", (object_.key,), partial(put_object, object_=object_, mode=mode), passed=refusals)
            except refusals:
                continue
            return True
        raise Unavailable(
            f"{self._location.describe(object_.key)}: {_MAX_CONFLICTS} conditional writes were refused, "
            "each because another writer had just changed the object"
        )

    def _get_with_etag(self, key: str) -> tuple[StoredObject, str | None] | None:
        """Return the object and its ETag, None if it does not exist."""
        try:
            return self._request("read", (key,), partial(get_with_etag, key=key), passed=(FileNotFoundError,))
        except FileNotFoundError:
            return None

    def delete(self, keys: Sequence[str]) -> None:
        import obstore

        if keys:
            self._request("delete", keys, lambda client: obstore.delete(client, list(keys)))

    def list_keys(self, prefix: str) -> Iterator[str]:
        """Yield the keys. `prefix` must be empty or end with a slash, because obstore lists folders."""
        import obstore

        if prefix and not prefix.endswith("/"):
            raise ValueError(f"{prefix!r}: expected an empty prefix or a folder that ends with a slash")
        client, last = self._client(), ""
        for is_last_attempt in (False, True):
            try:
                with translate_object_store_error(self._location, "list", prefix):
                    for page in obstore.list(client, prefix, offset=last or None, chunk_size=_LIST_PAGE_KEYS):
                        for meta in page:
                            last = meta["path"]
                            yield last
            except AccessDenied as error:
                if is_last_attempt or self.config.keys or not is_expired_token(error):
                    raise
                client = self._renewed_client(client)
            else:
                return

    def _request(self, action: str, keys: Sequence[str], request: Callable[[S3Store], _T], passed: tuple[type[Exception], ...] = ()) -> _T:
        """Send one idempotent request. If its credentials have expired, send it once more with credentials that are fetched again."""
        client = self._client()
        try:
            with translate_object_store_error(self._location, action, *keys, passed=passed):
                return request(client)
        except AnalyticsError as error:
            if self.config.keys or not is_expired_token(error):
                raise
        client = self._renewed_client(client)
        with translate_object_store_error(self._location, action, *keys, passed=passed):
            return request(client)

    def _client(self) -> S3Store:
        with self._lock:
            return self._retrying_store

    def _renewed_client(self, expired: S3Store) -> S3Store:
        """Return a client other than `expired`. Threads whose requests expired together share the new one."""
        with self._lock:
            if self._retrying_store is expired:
                del self._retrying_store
            return self._retrying_store

    def _client_without_retries(self) -> S3Store:
        with self._lock:
            return self._unretried_store

    @cached_property
    def _retrying_store(self) -> S3Store:
        return self._connect(self.config)

    @cached_property
    def _unretried_store(self) -> S3Store:
        return self._connect(replace(self.config, max_retries=0))

    def _connect(self, config: ObjectStoreConfig) -> S3Store:
        from obstore.exceptions import BaseError

        try:
            return connect_object_store(config)
        except BaseError as error:
            raise SettingsError(
                f"{self._location.describe()}: the client cannot be created: {first_sentence(error)}. "
                "It reads the AWS_* variables of the environment: correct the one with this value, or remove it."
            ) from error
