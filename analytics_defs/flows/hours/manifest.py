"""Write and read the manifest of an archived hour."""

from __future__ import annotations

from analytics_defs.core.hours.manifest import ManifestState, manifest_bytes, may_replace_manifest, parse_manifest
from analytics_defs.core.hours.revision import ArchiveRevision
from analytics_defs.core.storage.content_types import JSON_CONTENT_TYPE
from analytics_defs.core.storage.object_keys import manifest_key
from analytics_defs.errors import InconsistentState
from analytics_defs.ports import Ports, StoredObject


def write_manifest(revision: ArchiveRevision, complete: bool | None, ports: Ports) -> bool:
    """Write `_SUCCESS.json` by a conditional put. Return False if a later revision has written its manifest."""
    key = manifest_key(revision.hour)
    manifest = StoredObject(key, manifest_bytes(revision, complete), JSON_CONTENT_TYPE, {})
    return ports.object_store.put_if(manifest, lambda current: may_replace_manifest(current, revision.number, complete, key))


def was_complete(revision: ArchiveRevision, ports: Ports) -> bool:
    """Return whether the manifest states that this revision is complete.

    A complete revision stays complete: batches that close later make another revision.
    """
    state = _stored_state(revision.hour, ports)
    return state is not None and state.revision == revision.number and state.complete is True


def is_current(revision: ArchiveRevision, ports: Ports) -> bool:
    """Return whether the manifest is that of this revision. False if it is missing or damaged."""
    try:
        state = _stored_state(revision.hour, ports)
    except InconsistentState:
        return False
    return state is not None and state.revision == revision.number


def _stored_state(hour: str, ports: Ports) -> ManifestState | None:
    key = manifest_key(hour)
    current = ports.object_store.get(key)
    return parse_manifest(current, key) if current is not None else None


def is_manifest_of(data: bytes | None, revision: ArchiveRevision | None) -> bool:
    """Return whether these bytes are the manifest of the revision. None for both: there is neither."""
    if data is None or revision is None:
        return data is None and revision is None
    try:
        return data == manifest_bytes(revision, parse_manifest(data, manifest_key(revision.hour)).complete)
    except InconsistentState:
        return False
