"""Uploads of many small objects in one request: MinIO unpacks a tar that is put with `snowball-auto-extract`. Optional, for speed only.

From the source of MinIO of 2026-02-12: `untar` (cmd/untar.go) waits for every member before it answers. An error of any member makes
the answer an error, unless the request asks to ignore errors, which is never done here. Members are written by the same `PutObject` as
single PUTs, so status 200 guarantees as much. After an error some members may exist, and others may still be written. They are then
written again one by one, with the same bytes. Conditions are ignored, so an object that must not overwrite another never goes in a tar.

A store is trusted only after a probe in this process, see `SnowballUpload`.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from analytics_defs.adapters.object_store.errors import BucketLocation, is_rejected, translate_object_store_error
from analytics_defs.adapters.object_store.tar import MAX_KEY_BYTES, group_into_tars, tar
from analytics_defs.core.storage.content_types import JSON_CONTENT_TYPE
from analytics_defs.core.storage.object_keys import TAR_PROBE, tar_probe_key
from analytics_defs.errors import AnalyticsError
from analytics_defs.ports import ObjectStore, StoredObject

if TYPE_CHECKING:
    from obstore.store import S3Store

_log = logging.getLogger(__name__)

PROBE_OBJECT_TTL = timedelta(hours=1)
"""Age from which a probe deletes the objects of an interrupted probe."""


class SnowballUpload:
    """Writes objects in tars if the bucket's store unpacks them. Probes the store once; a later error disables tars for good.

    A tar is sent once, without retries. If that fails, single PUTs with all of the client's retries write its objects.
    """

    def __init__(self, store: ObjectStore, client_without_retries: Callable[[], S3Store], location: BucketLocation) -> None:
        self._store, self._client, self._location = store, client_without_retries, location
        self._lock = threading.Lock()
        self._probed = False
        self._failure: str | None = None

    def partition(self, objects: Sequence[StoredObject]) -> tuple[list[list[StoredObject]], Sequence[StoredObject]]:
        """Return the objects of each tar, and the objects to put one by one. Probe the store if it is not probed yet."""
        if self._failure:
            return [], objects
        tars, singles = group_into_tars(objects)
        return ([], objects) if tars and self.unavailable_reason() else (tars, singles)

    def put(self, objects: Sequence[StoredObject]) -> Sequence[StoredObject]:
        """Write the objects in one tar. Return those that must be put one by one: none of them, or all if success is not proven."""
        failure = self._failure or self._tar_failure(tar(objects)) or self._last_member_failure(objects[-1])
        if failure is None:
            return ()
        with self._lock:
            if not self._failure:
                _log.warning(
                    "%s: a tar was not unpacked: %s. From now on every object is put by itself.", self._location.describe(), failure
                )
            self._failure = self._failure or failure
        return objects

    def unavailable_reason(self) -> str | None:
        """Return why small objects are put one by one, None if they go in tars. The first call writes and deletes probe objects."""
        with self._lock:
            if not self._probed:
                self._failure = self._probe()
                self._probed = True
                mode = f"one by one: {self._failure}" if self._failure else "in tars, which the store unpacks"
                _log.info("%s: small objects are put %s.", self._location.describe(), mode)
            return self._failure

    def _probe(self) -> str | None:
        """Return why tars cannot be used, None if they can. Delete everything it wrote, if the store allows that."""
        name = uuid.uuid4().hex
        metadata = {"eventType": "Probe", "source": "topic@1/3/1042", "eventId": "a%2Fb%20c"}
        bodies = (b"", name.encode(), name.encode() * 256)
        objects = [
            StoredObject(tar_probe_key(f"{name}/%2E.{number}.json"), body, JSON_CONTENT_TYPE, metadata)
            for number, body in enumerate(bodies)
        ]
        try:
            return self._tar_failure(tar(objects)) or self._content_failure(objects) or self._error_reporting_failure(objects[0])
        except AnalyticsError as error:
            return str(error)
        finally:
            self._delete([object_.key for object_ in objects])
            self._delete_old_probes()

    def _tar_failure(self, packed: bytes) -> str | None:
        """Send the tar. Return why it is not known to be unpacked to its last byte, None if every member exists."""
        key = tar_probe_key(f"{uuid.uuid4().hex}.tar")
        try:
            if self._send(key, packed) != hashlib.md5(packed, usedforsecurity=False).hexdigest():
                failure = "the checksum of what it read is wrong"
            elif self._store.get(key) is not None:
                failure = "it stored the tar as an object"
            else:
                return None
        except AnalyticsError as error:
            failure = str(error)
        self._delete([key])
        return failure

    def _last_member_failure(self, last: StoredObject) -> str | None:
        """Return why the last member of a tar is not stored, None if it is.

        The store may have been replaced since the probe, and one that stops early may still answer 200.
        """
        try:
            info = self._store.head(last.key)
        except AnalyticsError as error:
            return str(error)
        return None if info and info.bytes == len(last.body) else "the last object of the tar does not exist"

    def _content_failure(self, objects: Sequence[StoredObject]) -> str | None:
        """Return a failure if bytes, content type or metadata of the stored objects differ."""
        stored = [self._store.get_object(object_.key) for object_ in objects]
        expected = [replace(object_, metadata={name.lower(): value for name, value in object_.metadata.items()}) for object_ in objects]
        return None if stored == expected else "the unpacked objects differ from those in the tar"

    def _error_reporting_failure(self, object_: StoredObject) -> str | None:
        """Return a failure if the store answers 200 although a member cannot be written: here its key is too long.

        The member is alone in its tar. After an error MinIO may still write other members, also after their deletion.
        """
        oversized = replace(object_, key=object_.key + "/x" * MAX_KEY_BYTES)
        key = tar_probe_key(f"{uuid.uuid4().hex}.tar")
        try:
            self._send(key, tar([oversized]))
        except AnalyticsError as error:
            return None if is_rejected(error) else str(error)
        self._delete([key])
        self._delete([oversized.key])
        return "it answers 200 although one of the objects cannot be written"

    def _send(self, key: str, packed: bytes) -> str:
        """Put the tar. Return the checksum of the bytes that the store read. No object is stored under `key` if the tar is unpacked."""
        import obstore

        with translate_object_store_error(self._location, "unpacking a tar", key):
            answer = obstore.put(
                self._client(), key, packed, attributes={"snowball-auto-extract": "true"}, mode="overwrite", use_multipart=False
            )
        return (answer["e_tag"] or "").strip('"')

    def _delete_old_probes(self) -> None:
        import obstore

        with suppress(AnalyticsError), translate_object_store_error(self._location, "list", TAR_PROBE):
            limit = datetime.now(UTC) - PROBE_OBJECT_TTL
            for page in obstore.list(self._client(), TAR_PROBE):
                self._delete([meta["path"] for meta in page if meta["last_modified"] < limit])

    def _delete(self, keys: Sequence[str]) -> None:
        with suppress(AnalyticsError):
            self._store.delete(keys)
