"""Whether ledger, tables and bucket belong together. Asked before anything is taken.

A batch that one ledger counts and another's bucket holds is lost, and none of its own steps would notice: every store confirms it. So the
ledger has a seal, of which the bucket carries the mark:

    ledger: id, tables ──► bucket: object with that id, if absent ──► ledger: what the object holds, if no mark is noted yet

Whoever dies in between leaves the rest to the next one. Two who begin with different buckets note one of them; the other is refused.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from analytics_defs.core.ledger import PlatformId
from analytics_defs.core.storage.object_keys import PLATFORM_ID_KEY
from analytics_defs.core.timestamps import iso_milliseconds
from analytics_defs.errors import InconsistentState
from analytics_defs.flows.setup.preflight import NamedCheck
from analytics_defs.ports import Ports, StoredObject

_SAFE = "Correct MINIO_ENDPOINT, ARCHIVE_BUCKET_NAME, DYNAMO_ENDPOINT, the region or LEDGER_TABLE_NAME. Nothing was changed."
_NOT_OURS = f"The bucket is the archive of another ledger: its object {PLATFORM_ID_KEY} says {{held!r}}, expected {{expected}}. "


def register_stores(run_id: str, ports: Ports) -> PlatformId:
    """The ledger's seal, put where there was none. Raises InconsistentState where these stores do not belong to it; nothing was taken then."""
    seal = _seal_of(ports) or ports.ledger.register_platform_id(
        PlatformId(f"{iso_milliseconds(ports.clock.now())}/{run_id}", ports.table_names)
    )
    _require_tables(seal, ports)
    found = ports.object_store.get(PLATFORM_ID_KEY) if seal.bucket_id else ports.object_store.put_if_absent(_object(seal, run_id))
    held = found.decode(errors="replace") if found else None
    if held and _may_be_noted(seal, held):
        seal = ports.ledger.register_platform_id(replace(seal, bucket_id=held))
    if held != seal.bucket_id:
        raise InconsistentState(_another_bucket(seal, held))
    return seal


def verify_stores(ports: Ports) -> PlatformId | None:
    """For whoever takes nothing: the ledger's seal, None where it has none yet. Reads only. Raises InconsistentState as above.

    A ledger of another platform shows every hour as empty: its archive and its statistics must not become so.
    """
    seal, found = _seal_of(ports), ports.object_store.get(PLATFORM_ID_KEY)
    held = found.decode(errors="replace") if found else None
    if seal is None and held is None:
        return None
    if seal is None:
        raise InconsistentState(_NOT_OURS.format(held=held, expected="none, as this ledger has none") + _SAFE)
    _require_tables(seal, ports)
    if held != seal.bucket_id and not (held and _may_be_noted(seal, held)):
        raise InconsistentState(_another_bucket(seal, held))
    return seal


@dataclass(frozen=True, slots=True)
class StoreIdentityCheck:
    """For `analytics check`."""

    ports: Ports
    name: str = "all stores"

    def checks(self) -> list[NamedCheck]:
        return [("belong together", self._together)]

    def _together(self) -> str:
        seal = verify_stores(self.ports)
        if seal is None:
            return "ledger and bucket have no seal yet: the first run seals them"
        return f"the ledger's seal is {seal.id}, {'and the bucket carries it' if seal.bucket_id else 'which the next run puts into the bucket'}"


def _seal_of(ports: Ports) -> PlatformId | None:
    snapshot = ports.ledger.snapshot()
    if why := snapshot.unreadable_platform_id:
        raise InconsistentState(why)
    return snapshot.platform_id


def _require_tables(seal: PlatformId, ports: Ports) -> None:
    if seal.tables != ports.table_names:
        raise InconsistentState(
            f"This ledger belongs with the tables {', '.join(seal.tables)}, and here are {', '.join(ports.table_names)}. Correct "
            "RECENT_EVENTS_TABLE_NAME, AGGREGATES_TABLE_NAME or LEDGER_TABLE_NAME. Nothing was changed."
        )


def _may_be_noted(seal: PlatformId, held: str) -> bool:
    """Whether somebody died between writing the object and noting it."""
    return seal.bucket_id is None and held.startswith(f"{seal.id}\n")


def _object(seal: PlatformId, run_id: str) -> StoredObject:
    return StoredObject(PLATFORM_ID_KEY, f"{seal.id}\n{run_id}\n".encode(), "text/plain", {})


def _another_bucket(seal: PlatformId, held: str | None) -> str:
    if seal.bucket_id is None:
        return _NOT_OURS.format(held=held, expected=repr(seal.id)) + _SAFE
    return (
        f"The bucket is not the one that holds what this ledger counts: its object {PLATFORM_ID_KEY} {f'says {held!r}' if held else 'is not there'}, "
        f"expected {seal.bucket_id!r}. Where the archive was moved on purpose, put that object into its new bucket, with exactly that content. "
        f"{_SAFE}"
    )
