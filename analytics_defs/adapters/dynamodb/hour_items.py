"""Archive revisions and retention entries as ledger items, and back. Pure."""

from __future__ import annotations

from datetime import datetime

from analytics_defs.adapters.dynamodb import ledger_keys as keys
from analytics_defs.adapters.dynamodb.attribute_values import Item
from analytics_defs.adapters.dynamodb.compression import compress, decompress
from analytics_defs.adapters.dynamodb.ledger_items import Fields, to_item
from analytics_defs.core.hours.retention import DeadLetterExpiry
from analytics_defs.core.hours.revision import ArchiveFile, ArchiveRevision, ExpiredData
from analytics_defs.core.timestamps import iso_milliseconds


def revision_item(revision: ArchiveRevision) -> Item:
    """Return the item of a revision. Batch ids are packed to about 11 bytes each, so an item holds more than 30,000."""
    return to_item(
        keys.revision_key(revision.hour, revision.number),
        {
            "files": compress([[file.key, file.rows, file.bytes, file.sha256] for file in revision.files]),
            "batches": compress(list(revision.batches)),
            "rows": revision.rows,
            "digest": revision.digest,
            "types": dict(revision.types),
            "offsets": compress([[name, first, last] for name, (first, last) in sorted(revision.offsets.items())]),
            "first": revision.first and revision.first.isoformat(),
            "last": revision.last and revision.last.isoformat(),
            "time": iso_milliseconds(revision.time),
            "added": revision.added,
            "rebuilt": revision.rebuilt,
            **_expired_fields(revision.expired),
        },
    )


def _expired_fields(expired: ExpiredData) -> Fields:
    """Return the fields of the expired data. Empty if nothing expired."""
    if not expired:
        return {}
    times = {
        "rows_expired_at": expired.rows_expired_at,
        "event_json_expired_through": expired.event_json_expired_through,
        "event_json_expired_at": expired.event_json_expired_at,
    }
    return {
        "expired_batches": compress(list(expired.expired_batches)),
        "expired_rows": expired.expired_rows,
        **{name: time and iso_milliseconds(time) for name, time in times.items()},
    }


def _parse_expired(fields: Fields) -> ExpiredData:
    def time(name: str) -> datetime | None:
        return datetime.fromisoformat(fields[name]) if name in fields else None

    batches = tuple(decompress(fields.get("expired_batches")))
    return ExpiredData(
        batches, fields.get("expired_rows", 0), time("rows_expired_at"), time("event_json_expired_through"), time("event_json_expired_at")
    )


def parse_revision(fields: Fields) -> ArchiveRevision:
    return ArchiveRevision(
        hour=fields["pk"].removeprefix(keys.REVISION_PREFIX),
        number=int(fields["sk"]),
        files=tuple(ArchiveFile(*file) for file in decompress(fields.get("files"))),
        batches=tuple(decompress(fields.get("batches"))),
        rows=fields["rows"],
        digest=fields["digest"],
        types=fields.get("types", {}),
        offsets={name: (first, last) for name, first, last in decompress(fields.get("offsets"))},
        first=datetime.fromisoformat(fields["first"]) if "first" in fields else None,
        last=datetime.fromisoformat(fields["last"]) if "last" in fields else None,
        time=datetime.fromisoformat(fields["time"]),
        added=fields["added"],
        rebuilt=fields["rebuilt"],
        expired=_parse_expired(fields),
    )


def dead_letter_expiry_item(expiry: DeadLetterExpiry) -> Item:
    return to_item(
        keys.dead_letter_expiry_key(),
        {"expired_through": iso_milliseconds(expiry.expired_through), "expired_at": iso_milliseconds(expiry.expired_at)},
    )


def parse_dead_letter_expiry(fields: Fields) -> DeadLetterExpiry:
    return DeadLetterExpiry(datetime.fromisoformat(fields["expired_through"]), datetime.fromisoformat(fields["expired_at"]))
