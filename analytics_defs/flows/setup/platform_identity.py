"""Whether ledger, tables and bucket belong together. Asked before anything is taken.

A batch that one ledger counts and another's bucket holds is lost, and none of its own steps would notice: every store confirms it. So the
ledger has a seal, of which the bucket carries the mark:

    ledger: id, tables ──► bucket: object with that id, if absent ──► ledger: what the object holds, if no mark is noted yet

Whoever dies in between leaves the rest to the next one. Two who begin with different buckets note one of them; the other is refused.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from analytics_defs.adapters.dynamodb.ledger_keys import THE_SEAL
from analytics_defs.core.ledger import Seal
from analytics_defs.core.storage.object_keys import SEAL
from analytics_defs.core.timestamps import iso_milliseconds
from analytics_defs.errors import Contradiction
from analytics_defs.flows.setup.preflight import Question
from analytics_defs.ports import Blob, Ports

_SAFE = "Correct MINIO_ENDPOINT, ARCHIVE_BUCKET_NAME, DYNAMO_ENDPOINT, the region or LEDGER_TABLE_NAME. Nothing was changed."
_NOT_OURS = f"The bucket is the archive of another ledger: its object {SEAL} says {{held!r}}, expected {{expected}}. "


def require_seal(run_id: str, ports: Ports) -> Seal:
    """The ledger's seal, put where there was none. Raises Contradiction where these stores do not belong to it; nothing was taken then."""
    seal = _seal_of(ports) or ports.ledger.put_seal(Seal(f"{iso_milliseconds(ports.clock.now())}/{run_id}", ports.tables))
    _require_tables(seal, ports)
    found = ports.archive.get(SEAL) if seal.mark else ports.archive.put_if_absent(_object(seal, run_id))
    held = found.decode(errors="replace") if found else None
    if held and _may_be_noted(seal, held):
        seal = ports.ledger.put_seal(replace(seal, mark=held))
    if held != seal.mark:
        raise Contradiction(_another_bucket(seal, held))
    return seal


def require_together(ports: Ports) -> Seal | None:
    """For whoever takes nothing: the ledger's seal, None where it has none yet. Reads only. Raises Contradiction as above.

    A ledger of another platform shows every hour as empty: its archive and its statistics must not become so.
    """
    seal, found = _seal_of(ports), ports.archive.get(SEAL)
    held = found.decode(errors="replace") if found else None
    if seal is None and held is None:
        return None
    if seal is None:
        raise Contradiction(_NOT_OURS.format(held=held, expected="none, as this ledger has none") + _SAFE)
    _require_tables(seal, ports)
    if held != seal.mark and not (held and _may_be_noted(seal, held)):
        raise Contradiction(_another_bucket(seal, held))
    return seal


@dataclass(frozen=True, slots=True)
class Belonging:
    """For `analytics check`."""

    ports: Ports
    name: str = "all stores"

    def questions(self) -> list[Question]:
        return [("belong together", self._together)]

    def _together(self) -> str:
        seal = require_together(self.ports)
        if seal is None:
            return "ledger and bucket have no seal yet: the first run seals them"
        return f"the ledger's seal is {seal.id}, {'and the bucket carries it' if seal.mark else 'which the next run puts into the bucket'}"


def _seal_of(ports: Ports) -> Seal | None:
    snapshot = ports.ledger.snapshot()
    if why := snapshot.unreadable.get(THE_SEAL):
        raise Contradiction(why)
    return snapshot.seal


def _require_tables(seal: Seal, ports: Ports) -> None:
    if seal.tables != ports.tables:
        raise Contradiction(
            f"This ledger belongs with the tables {', '.join(seal.tables)}, and here are {', '.join(ports.tables)}. Correct "
            "RECENT_EVENTS_TABLE_NAME, AGGREGATES_TABLE_NAME or LEDGER_TABLE_NAME. Nothing was changed."
        )


def _may_be_noted(seal: Seal, held: str) -> bool:
    """Whether somebody died between writing the object and noting it."""
    return seal.mark is None and held.startswith(f"{seal.id}\n")


def _object(seal: Seal, run_id: str) -> Blob:
    return Blob(SEAL, f"{seal.id}\n{run_id}\n".encode(), "text/plain", {})


def _another_bucket(seal: Seal, held: str | None) -> str:
    if seal.mark is None:
        return _NOT_OURS.format(held=held, expected=repr(seal.id)) + _SAFE
    return (
        f"The bucket is not the one that holds what this ledger counts: its object {SEAL} {f'says {held!r}' if held else 'is not there'}, "
        f"expected {seal.mark!r}. Where the archive was moved on purpose, put that object into its new bucket, with exactly that content. "
        f"{_SAFE}"
    )
