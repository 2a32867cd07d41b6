"""Check that ledger, tables and bucket belong to one platform, before a run begins anything.

If a batch were counted in one ledger and stored in another platform's bucket, no step would fail: every store confirms its writes.
So the ledger has a platform id, and the bucket holds an object with the same id:

    ledger: id, tables ──► bucket: proof of conditional writes, object with that id ──► ledger: content of that object, proven bucket

Conditions protect that object and others, so a store that ignores them is refused first. The ledger keeps the address of each proven
bucket: a later run reads the ledger and the object, and writes nothing. Registration can be resumed after a crash. If two processes
register different buckets, the first wins and the second is rejected.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from analytics_defs.core.ledger import PlatformId
from analytics_defs.core.storage.object_keys import PLATFORM_ID_KEY
from analytics_defs.core.timestamps import iso_milliseconds
from analytics_defs.errors import InconsistentState
from analytics_defs.ports import NamedCheck, Ports, StoredObject, prove_conditional_writes

_HINT = "Correct MINIO_ENDPOINT, ARCHIVE_BUCKET_NAME, DYNAMO_ENDPOINT, the region or LEDGER_TABLE_NAME. Nothing was changed."
_FOREIGN_BUCKET = (
    f"The bucket is the archive of another ledger: its object {PLATFORM_ID_KEY} contains {{found!r}}, expected {{expected}}. {_HINT}"
)


def register_stores(run_id: str, ports: Ports) -> PlatformId:
    """Return the platform id of the ledger. Create it, and its object in the bucket, if they do not exist.

    Raises InconsistentState if the stores belong to another platform, and ResourceNotReady if the object store ignores conditions. No
    batch was begun then.
    """
    platform_id = _registered_id(ports) or ports.ledger.register_platform_id(
        PlatformId(f"{iso_milliseconds(ports.clock.now())}/{run_id}", ports.table_names)
    )
    _require_tables(platform_id, ports)
    bucket_id = _bucket_id(ports)
    _require_bucket(platform_id, bucket_id)
    if platform_id.bucket_id and ports.bucket in platform_id.proven_buckets:
        return platform_id
    prove_conditional_writes(ports.object_store, ports.bucket)
    bucket_id = bucket_id or ports.object_store.put_if_absent(_id_object(platform_id, run_id)).decode(errors="replace")
    _require_bucket(platform_id, bucket_id)
    return _note_proof(platform_id, bucket_id, ports)


def verify_stores(ports: Ports) -> PlatformId | None:
    """Return the platform id of the ledger, None if neither ledger nor bucket has one.

    Called by flows that write and begin no batch. In the ledger of another platform every hour looks empty, and its archive and
    statistics must not be overwritten. Raises InconsistentState if the stores belong to another platform, and ResourceNotReady if the
    object store ignores conditions.
    """
    platform_id, bucket_id = _verified_ids(ports)
    if platform_id is None or bucket_id is None or ports.bucket in platform_id.proven_buckets:
        return platform_id
    prove_conditional_writes(ports.object_store, ports.bucket)
    return _note_proof(platform_id, bucket_id, ports)


@dataclass(frozen=True, slots=True)
class StoreIdentityCheck:
    """Check of `analytics check`."""

    ports: Ports
    name: str = "all stores"

    def checks(self) -> list[NamedCheck]:
        return [("belong together", self._verify)]

    def _verify(self) -> str:
        platform_id, _ = _verified_ids(self.ports)
        if platform_id is None:
            return "ledger and bucket have no platform id yet: the first run creates it"
        state = "and the bucket holds the same id" if platform_id.bucket_id else "which the next run writes to the bucket"
        return f"the ledger's platform id is {platform_id.id}, {state}"


def _verified_ids(ports: Ports) -> tuple[PlatformId | None, str | None]:
    """Return the platform id of the ledger and the content of the bucket's object. Read-only.

    Raises InconsistentState if the stores belong to another platform.
    """
    platform_id, bucket_id = _registered_id(ports), _bucket_id(ports)
    if platform_id is None and bucket_id is not None:
        raise InconsistentState(_FOREIGN_BUCKET.format(found=bucket_id, expected="no object, because this ledger has no platform id"))
    if platform_id is not None:
        _require_tables(platform_id, ports)
        _require_bucket(platform_id, bucket_id)
    return platform_id, bucket_id


def _registered_id(ports: Ports) -> PlatformId | None:
    snapshot = ports.ledger.snapshot()
    if reason := snapshot.unreadable_platform_id:
        raise InconsistentState(reason)
    return snapshot.platform_id


def _bucket_id(ports: Ports) -> str | None:
    """Return the content of the bucket's object. None if it does not exist."""
    data = ports.object_store.get(PLATFORM_ID_KEY)
    return None if data is None else data.decode(errors="replace")


def _note_proof(platform_id: PlatformId, bucket_id: str, ports: Ports) -> PlatformId:
    """Register the bucket and the proof in the ledger. Return what it holds. Raise InconsistentState if another bucket was first."""
    proven_buckets = (*platform_id.proven_buckets, ports.bucket)
    registered = ports.ledger.register_platform_id(replace(platform_id, bucket_id=bucket_id, proven_buckets=proven_buckets))
    _require_bucket(registered, bucket_id)
    return registered


def _require_tables(platform_id: PlatformId, ports: Ports) -> None:
    if platform_id.tables != ports.table_names:
        raise InconsistentState(
            f"This ledger belongs to the tables {', '.join(platform_id.tables)}, and the settings name {', '.join(ports.table_names)}. "
            "Correct RECENT_EVENTS_TABLE_NAME, AGGREGATES_TABLE_NAME or LEDGER_TABLE_NAME. Nothing was changed."
        )


def _require_bucket(platform_id: PlatformId, bucket_id: str | None) -> None:
    """Raise InconsistentState if the bucket belongs to another ledger.

    A run that crashed before it registered its object leaves a bucket id that begins with the platform id.
    """
    may_be_registered = platform_id.bucket_id is None and (bucket_id or "").startswith(f"{platform_id.id}\n")
    if bucket_id != platform_id.bucket_id and not may_be_registered:
        raise InconsistentState(_wrong_bucket(platform_id, bucket_id))


def _id_object(platform_id: PlatformId, run_id: str) -> StoredObject:
    return StoredObject(PLATFORM_ID_KEY, f"{platform_id.id}\n{run_id}\n".encode(), "text/plain", {})


def _wrong_bucket(platform_id: PlatformId, bucket_id: str | None) -> str:
    if platform_id.bucket_id is None:
        return _FOREIGN_BUCKET.format(found=bucket_id, expected=repr(platform_id.id))
    content = f"contains {bucket_id!r}" if bucket_id else "does not exist"
    return (
        f"The bucket is not the one that holds what this ledger counts: its object {PLATFORM_ID_KEY} {content}, "
        f"expected {platform_id.bucket_id!r}. If the archive was moved on purpose, put that object into its new bucket, with exactly "
        f"that content. {_HINT}"
    )
