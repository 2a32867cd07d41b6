"""Creates and checks what the platform needs in the bucket: `analytics setup` and `analytics check`.

Write permissions are checked by requests that the store refuses, or by a temporary object that is deleted again. Nothing that exists is changed.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable

from analytics_defs.adapters.object_store.bucket import bucket_exists, create_bucket
from analytics_defs.adapters.object_store.client import ObjectStoreConfig
from analytics_defs.adapters.object_store.store import S3ObjectStore
from analytics_defs.core.storage.object_keys import staging_key
from analytics_defs.errors import InconsistentState, ResourceMissing
from analytics_defs.ports import StoredObject

NamedCheck = tuple[str, Callable[[], str]]


class BucketProvisioner:
    """The archive's bucket."""

    name = "object store"

    def __init__(self, config: ObjectStoreConfig) -> None:
        self._config = config
        self._archive = S3ObjectStore(config)
        self._probe = StoredObject(staging_key(f"check-{uuid.uuid4().hex}"), b"probe", "text/plain", {"by": "analytics check"})

    def close(self) -> None:
        self._archive.close()

    def provision(self) -> list[str]:
        return [f"bucket {self._config.bucket}: created"] if create_bucket(self._config) else []

    def checks(self) -> list[NamedCheck]:
        return [
            ("bucket", self._bucket),
            ("writing, reading, listing and deleting objects", self._round),
            ("conditional writes", self._conditional),
            ("small objects", self._tars),
        ]

    def _tars(self) -> str:
        fault = self._archive.snowball_unavailable_reason()
        return f"one by one: {fault}" if fault else "in tars, which the store unpacks"

    def _bucket(self) -> str:
        if not bucket_exists(self._config):
            raise ResourceMissing(f"{self._config.endpoint or 'Amazon S3'}: no bucket {self._config.bucket}. `analytics setup` creates it.")
        return self._config.bucket

    def _round(self) -> str:
        self._archive.put([self._probe])
        try:
            if self._archive.get(self._probe.key) != self._probe.body or self._probe.key not in self._archive.list_keys(staging_key("")):
                raise InconsistentState(f"bucket {self._config.bucket}: {self._probe.key} was written, and is not there as it was written")
        finally:
            self._archive.delete([self._probe.key])
        return f"{self._probe.key} was there, and is gone"

    def _conditional(self) -> str:
        """The batch's staging file decides by it: a store that ignores `If-None-Match` must not be used."""
        first, second = self._probe, StoredObject(self._probe.key, b"another", "text/plain", {})
        held = self._archive.put_if_absent(first)
        try:
            if (held, self._archive.put_if_absent(second)) != (first.body, first.body):
                raise InconsistentState(
                    f"{self._config.endpoint or 'Amazon S3'}, bucket {self._config.bucket}: the store writes over an object although "
                    "`If-None-Match: *` forbids it. Use a newer version of it, or another store."
                )
        finally:
            self._archive.delete([first.key])
        return "`If-None-Match` is kept to"
