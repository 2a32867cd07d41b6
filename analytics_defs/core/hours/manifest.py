"""The manifest `_SUCCESS.json` of an archived hour. Values only."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from analytics_defs.core.hours.revision import ArchiveRevision, ExpiredData
from analytics_defs.core.timestamps import iso_milliseconds
from analytics_defs.errors import InconsistentState

_FORMAT = 1


def manifest_bytes(revision: ArchiveRevision, complete: bool | None) -> bytes:
    """`_SUCCESS.json`. The same arguments give the same bytes.

    `complete`: every partition's head had passed the hour. None where Kafka could not be asked.
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
            {"name": each.key.rpartition("/")[2], "rows": each.rows, "bytes": each.bytes, "sha256": each.sha256} for each in revision.files
        ],
        "batches": sorted(revision.known_batches),
        "made_at": iso_milliseconds(revision.time),
        "rows_from_json": revision.rebuilt,
    }
    if revision.expired:
        document["expired"] = _frozen(revision.expired)
    return (json.dumps(document, indent=1) + "\n").encode()


def _frozen(taken: ExpiredData) -> dict[str, Any]:
    """What is no longer there. Its batches are among the marker's: a part of one that comes back is not to be read."""
    return {
        "rows": taken.expired_rows,
        "batches": len(taken.expired_batches),
        "rows_at": iso_milliseconds(taken.rows_expired_at) if taken.rows_expired_at else None,
        "json_objects_through": iso_milliseconds(taken.event_json_expired_through) if taken.event_json_expired_through else None,
        "json_objects_at": iso_milliseconds(taken.event_json_expired_at) if taken.event_json_expired_at else None,
    }


@dataclass(frozen=True, slots=True)
class ManifestState:
    """What a marker says of itself."""

    revision: int
    complete: bool | None


def parse_manifest(data: bytes, where: str) -> ManifestState:
    """Raises InconsistentState, naming `where`, where the bytes are no marker of ours."""
    try:
        document: dict[str, Any] = json.loads(data)
        return ManifestState(int(document["revision"]), document["complete"])
    except (ValueError, KeyError, TypeError) as error:
        raise InconsistentState(
            f"{where} is no marker of ours ({type(error).__name__}: {error}). Remove it; it is written again."
        ) from error


def may_replace_manifest(held: bytes | None, revision: int, complete: bool | None, where: str) -> bool:
    """Whether a marker of this revision may replace what is there. It never goes back, so no late riser names files that are gone."""
    if held is None:
        return True
    there = parse_manifest(held, where)
    return there.revision < revision or (there.revision == revision and there.complete is not complete and there.complete is not True)
