"""Setup and checks of the bucket, for `analytics setup` and `analytics check`.

Permissions are checked with a temporary object under `staging/`, which is deleted again. Nothing that exists is changed.
"""

from __future__ import annotations

import uuid

from analytics_defs.adapters.object_store.bucket import bucket_exists, create_bucket
from analytics_defs.adapters.object_store.client import ObjectStoreConfig
from analytics_defs.adapters.object_store.store import S3ObjectStore
from analytics_defs.core.storage.object_keys import staging_key
from analytics_defs.errors import InconsistentState, ResourceNotReady
from analytics_defs.ports import NamedCheck, StoredObject, prove_conditional_writes


class BucketProvisioner:
    """Provisioner of the bucket."""

    name = "object store"

    def __init__(self, config: ObjectStoreConfig) -> None:
        self._config = config
        self._store = S3ObjectStore(config)
        self._probe = StoredObject(staging_key(f"check-{uuid.uuid4().hex}"), b"probe", "text/plain", {"by": "analytics check"})

    def close(self) -> None:
        self._store.close()

    def provision(self) -> list[str]:
        return [f"bucket {self._config.bucket}: created"] if create_bucket(self._config) else []

    def checks(self) -> list[NamedCheck]:
        return [
            ("bucket", self._check_bucket),
            ("writing, reading, listing and deleting objects", self._check_round_trip),
            ("conditional writes", self._check_conditional_writes),
            ("small objects", self._describe_small_objects),
        ]

    def _describe_small_objects(self) -> str:
        reason = self._store.snowball_unavailable_reason()
        return f"one by one: {reason}" if reason else "in tars, which the store unpacks"

    def _check_bucket(self) -> str:
        if not bucket_exists(self._config):
            raise ResourceNotReady(
                f"{self._config.endpoint or 'Amazon S3'}: no bucket {self._config.bucket}. `analytics setup` creates it."
            )
        return self._config.bucket

    def _check_round_trip(self) -> str:
        self._store.put([self._probe])
        try:
            if self._store.get(self._probe.key) != self._probe.body or self._probe.key not in self._store.list_keys(staging_key("")):
                raise InconsistentState(
                    f"bucket {self._config.bucket}: {self._probe.key} was written, but reading or listing does not return it"
                )
        finally:
            self._store.delete([self._probe.key])
        return f"{self._probe.key} was written, read, listed and deleted"

    def _check_conditional_writes(self) -> str:
        prove_conditional_writes(self._store, self._config.address)
        return "`If-None-Match` and `If-Match` prevent an overwrite"
