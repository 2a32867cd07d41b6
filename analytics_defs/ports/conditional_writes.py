"""Proof that a store honors conditional writes. Some servers with the S3 API ignore the conditions and confirm every write.

The staging file of a batch, the platform id, manifests and statistics depend on them.
"""

from __future__ import annotations

import uuid

from analytics_defs.core.storage.object_keys import staging_key
from analytics_defs.errors import ResourceNotReady
from analytics_defs.ports.object_store import ObjectStore, StoredObject


def prove_conditional_writes(store: ObjectStore, bucket: str) -> None:
    """Raise ResourceNotReady if the store ignores `If-None-Match` or `If-Match`. `bucket` is for the message.

    Writes, overwrites, reads and deletes one object under `staging/`. Its key is new, so concurrent proofs are independent.
    """
    key = staging_key(f"check-{uuid.uuid4().hex}")
    first, second, third = (StoredObject(key, body, "text/plain", {}) for body in (b"first", b"second", b"third"))

    def overwritten_after_read(current: bytes | None) -> bool:
        """Let another writer change the object between the read and the conditional write, once."""
        if current == second.body:
            return False
        store.put([second])
        return True

    answer = store.put_if_absent(first)
    try:
        if (answer, store.put_if_absent(second), store.get(key)) != (first.body,) * 3:
            raise ResourceNotReady(_ignored("If-None-Match: *", bucket))
        if store.put_if(third, overwritten_after_read) or store.get(key) != second.body:
            raise ResourceNotReady(_ignored("If-Match", bucket))
    finally:
        store.delete([key])


def _ignored(condition: str, bucket: str) -> str:
    return (
        f"{bucket}: the store overwrites an object although `{condition}` forbids it. Two runs or two platforms would overwrite each "
        "other's objects. Use a newer version of the store, or another one. No batch was begun."
    )
