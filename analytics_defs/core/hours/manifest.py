"""The manifest `_SUCCESS.json` of an archived hour. It names the files that count. Values only."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from analytics_defs.core.hours.revision import ArchiveRevision, ExpiredData
from analytics_defs.core.timestamps import iso_milliseconds
from analytics_defs.errors import InconsistentState

_FORMAT = 1


def manifest_bytes(revision: ArchiveRevision, complete: bool | None) -> bytes:
    """Encode the manifest. The same arguments give the same bytes.

    `complete`: every partition was read past the hour. None: Kafka did not answer.
    """
    document = {
        "format": _FORMAT,
        "hour": revision.hour,
        "revision": revision.number,
        "complete": complete,
        "rows": revision.rows,
        "types": dict(sorted(revision.types.items())),
        "digest": revision.digest,
        "first": revision.first.isoformat() if revision.first else None,
        "last": revision.last.isoformat() if revision.last else None,
        "offsets": {name: {"first": first, "last": last} for name, (first, last) in sorted(revision.offsets.items())},
        "files": [
            {"name": file.key.rpartition("/")[2], "rows": file.rows, "bytes": file.bytes, "sha256": file.sha256} for file in revision.files
        ],
        "batches": sorted(revision.known_batches),
        "made_at": iso_milliseconds(revision.time),
        "rows_from_json": revision.rebuilt,
    }
    if revision.expired:
        document["expired"] = _expired_entry(revision.expired)
    return (json.dumps(document, indent=1) + "\n").encode()


def _expired_entry(expired: ExpiredData) -> dict[str, Any]:
    """Return the entry for removed data. The manifest still lists its batches, so that a re-created part of one is not read."""
    return {
        "rows": expired.expired_rows,
        "batches": len(expired.expired_batches),
        "rows_at": iso_milliseconds(expired.rows_expired_at) if expired.rows_expired_at else None,
        "json_objects_through": iso_milliseconds(expired.event_json_expired_through) if expired.event_json_expired_through else None,
        "json_objects_at": iso_milliseconds(expired.event_json_expired_at) if expired.event_json_expired_at else None,
    }


@dataclass(frozen=True, slots=True)
class ManifestState:
    """Revision and completeness that a manifest states."""

    revision: int
    complete: bool | None


def parse_manifest(data: bytes, where: str) -> ManifestState:
    """Decode a manifest. Raise InconsistentState, naming `where`, if the bytes are not a manifest."""
    try:
        document: dict[str, Any] = json.loads(data)
        return ManifestState(int(document["revision"]), document["complete"])
    except (ValueError, KeyError, TypeError) as error:
        raise InconsistentState(
            f"{where} is not a valid manifest ({type(error).__name__}: {error}). Remove it; it is written again."
        ) from error


def may_replace_manifest(current: bytes | None, revision: int, complete: bool | None, where: str) -> bool:
    """Return whether a manifest of this revision may replace the current one.

    Neither revision nor completeness goes back, so a zombie executor cannot name files that are deleted.
    """
    if current is None:
        return True
    state = parse_manifest(current, where)
    return state.revision < revision or (state.revision == revision and state.complete is not complete and state.complete is not True)
