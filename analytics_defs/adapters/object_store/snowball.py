"""Many small objects in one request: MinIO unpacks a tar that is put with `snowball-auto-extract`. An accelerator, never needed.

Read in the source of MinIO of 2026-02-12: `untar` (cmd/untar.go) waits for every member before it answers, and the first error of any of
them makes the answer a refusal, unless the request asks to ignore errors, which ours never does. Members go through the same `PutObject`
as a PUT of their own, so 200 means as much. After a refusal some members may be there, and others may still come: they are written once
more, one by one, with the same bytes. Conditions are not looked at, so nothing that must not be written over may go in a tar.

Nothing of that is believed of a store before it was seen there, once in each process; see `Unpacking`.
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

from analytics_defs.adapters.object_store.errors import BucketLocation, is_access_denied, translate_object_store_error
from analytics_defs.adapters.object_store.tar import MAX_KEY_BYTES, group_into_tars, tar
from analytics_defs.core.storage.content_types import JSON_CONTENT_TYPE
from analytics_defs.core.storage.object_keys import TAR_PROBE, tar_probe_key
from analytics_defs.errors import AnalyticsError
from analytics_defs.ports import ObjectStore, StoredObject

if TYPE_CHECKING:
    from obstore.store import S3Store

_log = logging.getLogger(__name__)

PROBE_OBJECT_TTL = timedelta(hours=1)
"""What a probe wrote that was killed is removed by one that comes so much later."""


class SnowballUpload:
    """What a bucket's store makes of tars. Asks it once, when the first objects are to go in one; a refusal later on ends it for good.

    Tars are tried once each, whatever goes wrong: PUTs of single objects, with the client's whole patience, decide then.
    """

    def __init__(self, archive: ObjectStore, impatient: Callable[[], S3Store], where: BucketLocation) -> None:
        """`impatient`: a client that repeats nothing."""
        self._archive, self._impatient, self._where = archive, impatient, where
        self._once = threading.Lock()
        self._asked = False
        self._fault: str | None = None

    def share_out(self, blobs: Sequence[StoredObject]) -> tuple[list[list[StoredObject]], Sequence[StoredObject]]:
        """Those for a tar each, and those to be put one by one."""
        if self._fault:
            return [], blobs
        packed, others = group_into_tars(blobs)
        return ([], blobs) if packed and self.unavailable_reason() else (packed, others)

    def put(self, blobs: Sequence[StoredObject]) -> Sequence[StoredObject]:
        """In one tar. Answers what is not proven to be there, and has to be put one by one: nothing or everything."""
        fault = self._fault or self._fault_of(tar(blobs)) or self._fault_at(blobs[-1])
        if fault is None:
            return ()
        with self._once:
            if not self._fault:
                _log.warning("%s: a tar was not unpacked: %s. From here on every object is put by itself.", self._where.of(), fault)
            self._fault = self._fault or fault
        return blobs

    def unavailable_reason(self) -> str | None:
        """Why small objects are put one by one. None: they go in tars. The first call finds out; it writes, and removes what it wrote."""
        with self._once:
            if not self._asked:
                self._fault = self._probe()
                self._asked = True
                how = f"one by one: {self._fault}" if self._fault else "in tars, which the store unpacks"
                _log.info("%s: small objects are put %s.", self._where.of(), how)
            return self._fault

    def _probe(self) -> str | None:
        """Why tars are of no use here. Whatever it writes is removed, as far as the store lets us."""
        name = uuid.uuid4().hex
        metadata = {"eventType": "Probe", "source": "topic@1/3/1042", "eventId": "a%2Fb%20c"}
        bodies = (b"", name.encode(), name.encode() * 256)
        blobs = [
            StoredObject(tar_probe_key(f"{name}/%2E.{number}.json"), body, JSON_CONTENT_TYPE, metadata)
            for number, body in enumerate(bodies)
        ]
        try:
            return self._fault_of(tar(blobs)) or self._fault_in(blobs) or self._fault_with(blobs[0])
        except AnalyticsError as error:
            return str(error)
        finally:
            self._remove([blob.key for blob in blobs])
            self._sweep()

    def _fault_of(self, packed: bytes) -> str | None:
        """Why this tar is not known to be unpacked to its last byte. None: every member is there."""
        key = tar_probe_key(f"{uuid.uuid4().hex}.tar")
        try:
            if self._send(key, packed) != hashlib.md5(packed, usedforsecurity=False).hexdigest():
                fault = "what it read is not what was sent"
            elif self._archive.get(key) is not None:
                fault = "it stored the tar as an object"
            else:
                return None
        except AnalyticsError as error:
            fault = str(error)
        self._remove([key])
        return fault

    def _fault_at(self, last: StoredObject) -> str | None:
        """A look at one object of each tar: the store may have changed since it was asked, and one that stops early answers no less."""
        try:
            found = self._archive.head(last.key)
        except AnalyticsError as error:
            return str(error)
        return None if found and found.bytes == len(last.body) else "its last object is not there"

    def _fault_in(self, blobs: Sequence[StoredObject]) -> str | None:
        """The objects read back: bytes, content type, metadata."""
        found = [self._archive.get_object(blob.key) for blob in blobs]
        same = found == [replace(blob, metadata={name.lower(): value for name, value in blob.metadata.items()}) for blob in blobs]
        return None if same else "the objects in it did not become the objects they were"

    def _fault_with(self, blob: StoredObject) -> str | None:
        """A store that answers 200 although a member cannot be written must not be trusted: this one's key is too long.

        It is alone in its tar: after a refusal MinIO may still be writing others, which would come back after they were removed.
        """
        beyond = replace(blob, key=blob.key + "/x" * MAX_KEY_BYTES)
        key = tar_probe_key(f"{uuid.uuid4().hex}.tar")
        try:
            self._send(key, tar([beyond]))
        except AnalyticsError as error:
            return None if is_access_denied(error) else str(error)
        self._remove([key])
        self._remove([beyond.key])
        return "it answers 200 although one of the objects cannot be written"

    def _send(self, key: str, packed: bytes) -> str:
        """Answers the checksum of what the store has read. Under `key` lies nothing, unless the store stores the tar itself."""
        import obstore

        with translate_object_store_error(self._where, "unpacking a tar", key):
            answer = obstore.put(
                self._impatient(), key, packed, attributes={"snowball-auto-extract": "true"}, mode="overwrite", use_multipart=False
            )
        return (answer["e_tag"] or "").strip('"')

    def _sweep(self) -> None:
        import obstore

        with suppress(AnalyticsError), translate_object_store_error(self._where, "list", TAR_PROBE):
            before = datetime.now(UTC) - PROBE_OBJECT_TTL
            for page in obstore.list(self._impatient(), TAR_PROBE):
                self._remove([found["path"] for found in page if found["last_modified"] < before])

    def _remove(self, keys: Sequence[str]) -> None:
        with suppress(AnalyticsError):
            self._archive.delete(keys)
