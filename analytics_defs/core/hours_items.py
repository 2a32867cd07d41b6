"""Revisions of archived hours as ledger items, and back. Pure."""

from __future__ import annotations

from datetime import datetime

from analytics_defs.core import ledger_keys as keys
from analytics_defs.core.attribute_values import Item
from analytics_defs.core.hours import ArchiveFile, Revision
from analytics_defs.core.ledger_items import Fields, item_of
from analytics_defs.core.packed import packed, unpacked
from analytics_defs.core.timestamps import iso_milliseconds


def revision_item(revision: Revision) -> Item:
    """Batches are packed: their ids take about 11 bytes each, so that an item holds more than 30,000."""
    return item_of(
        keys.revision_key(revision.hour, revision.number),
        {
            "files": packed([[each.key, each.rows, each.bytes, each.sha256] for each in revision.files]),
            "batches": packed(list(revision.batches)),
            "rows": revision.rows,
            "digest": revision.digest,
            "types": dict(revision.types),
            "offsets": packed([[name, first, last] for name, (first, last) in sorted(revision.offsets.items())]),
            "first": revision.first.isoformat(),
            "last": revision.last.isoformat(),
            "time": iso_milliseconds(revision.time),
            "added": revision.added,
            "rebuilt": revision.rebuilt,
        },
    )


def revision_of(fields: Fields) -> Revision:
    return Revision(
        hour=fields["pk"].removeprefix(keys.ARCHIVE),
        number=int(fields["sk"]),
        files=tuple(ArchiveFile(*each) for each in unpacked(fields["files"])),
        batches=tuple(unpacked(fields["batches"])),
        rows=fields["rows"],
        digest=fields["digest"],
        types=fields.get("types", {}),
        offsets={name: (first, last) for name, first, last in unpacked(fields.get("offsets"))},
        first=datetime.fromisoformat(fields["first"]),
        last=datetime.fromisoformat(fields["last"]),
        time=datetime.fromisoformat(fields["time"]),
        added=fields["added"],
        rebuilt=fields["rebuilt"],
    )
