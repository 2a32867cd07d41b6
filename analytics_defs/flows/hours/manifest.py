"""Write and read the manifest of an archived hour."""

from __future__ import annotations

from analytics_defs.core.hours.manifest import manifest_bytes, may_replace_manifest, parse_manifest
from analytics_defs.core.hours.revision import ArchiveRevision
from analytics_defs.core.storage.object_keys import manifest_key
from analytics_defs.ports import Ports, StoredObject


def write_manifest(revision: ArchiveRevision, complete: bool | None, ports: Ports) -> bool:
    """Write `_SUCCESS.json`, unless a later revision has written its own."""
    key = manifest_key(revision.hour)
    blob = StoredObject(key, manifest_bytes(revision, complete), "application/json", {})
    return ports.object_store.put_if(blob, lambda held: may_replace_manifest(held, revision.number, complete, key))


def was_complete(revision: ArchiveRevision, ports: Ports) -> bool:
    """Whether its marker says so: a marker does not go back, and what is read meanwhile makes another revision."""
    held = ports.object_store.get(manifest_key(revision.hour))
    there = parse_manifest(held, manifest_key(revision.hour)) if held is not None else None
    return there is not None and there.revision == revision.number and there.complete is True
