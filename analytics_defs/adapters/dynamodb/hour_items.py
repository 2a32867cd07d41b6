"""Revisions of archived hours, and what retention took, as ledger items, and back. Pure."""

from __future__ import annotations

from datetime import datetime

from analytics_defs.adapters.dynamodb import ledger_keys as keys
from analytics_defs.adapters.dynamodb.attribute_values import Item
from analytics_defs.adapters.dynamodb.ledger_items import Fields, to_item
from analytics_defs.adapters.dynamodb.packed_lists import compress, decompress
from analytics_defs.core.hours.retention import DeadLetterExpiry
from analytics_defs.core.hours.revision import ArchiveFile, ArchiveRevision, ExpiredData
from analytics_defs.core.timestamps import iso_milliseconds


def revision_item(revision: ArchiveRevision) -> Item:
    """Batches are packed: their ids take about 11 bytes each, so that an item holds more than 30,000."""
    return to_item(
        keys.revision_key(revision.hour, revision.number),
        {
            "files": compress([[each.key, each.rows, each.bytes, each.sha256] for each in revision.files]),
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
            **_taken_fields(revision.expired),
        },
    )


def _taken_fields(taken: ExpiredData) -> Fields:
    """Nothing where retention touched nothing."""
    if not taken:
        return {}
    times = {
        "rows_expired_at": taken.rows_expired_at,
        "event_json_expired_through": taken.event_json_expired_through,
        "event_json_expired_at": taken.event_json_expired_at,
    }
    return {
        "expired_batches": compress(list(taken.expired_batches)),
        "expired_rows": taken.expired_rows,
        **{name: time and iso_milliseconds(time) for name, time in times.items()},
    }


def _taken(fields: Fields) -> ExpiredData:
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
        files=tuple(ArchiveFile(*each) for each in decompress(fields.get("files"))),
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
        expired=_taken(fields),
    )


def dead_letter_expiry_item(taken: DeadLetterExpiry) -> Item:
    return to_item(
        keys.dead_letter_expiry_key(), {"through": iso_milliseconds(taken.expired_through), "at": iso_milliseconds(taken.expired_at)}
    )


def parse_dead_letter_expiry(fields: Fields) -> DeadLetterExpiry:
    return DeadLetterExpiry(datetime.fromisoformat(fields["through"]), datetime.fromisoformat(fields["at"]))
