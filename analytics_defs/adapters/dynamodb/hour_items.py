"""Revisions of archived hours, and what retention took, as ledger items, and back. Pure."""

from __future__ import annotations

from datetime import datetime

from analytics_defs.adapters.dynamodb import ledger_keys as keys
from analytics_defs.adapters.dynamodb.attribute_values import Item
from analytics_defs.adapters.dynamodb.ledger_items import Fields, item_of
from analytics_defs.adapters.dynamodb.packed_lists import packed, unpacked
from analytics_defs.core.hours.retention import LettersTaken
from analytics_defs.core.hours.revision import ArchiveFile, Revision, Taken
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
            "first": revision.first and revision.first.isoformat(),
            "last": revision.last and revision.last.isoformat(),
            "time": iso_milliseconds(revision.time),
            "added": revision.added,
            "rebuilt": revision.rebuilt,
            **_taken_fields(revision.taken),
        },
    )


def _taken_fields(taken: Taken) -> Fields:
    """Nothing where retention touched nothing."""
    if not taken:
        return {}
    times = {"taken_at": taken.rows_at, "objects_through": taken.objects_through, "objects_at": taken.objects_at}
    return {
        "taken": packed(list(taken.batches)),
        "taken_rows": taken.rows,
        **{name: time and iso_milliseconds(time) for name, time in times.items()},
    }


def _taken(fields: Fields) -> Taken:
    def time(name: str) -> datetime | None:
        return datetime.fromisoformat(fields[name]) if name in fields else None

    batches = tuple(unpacked(fields.get("taken")))
    return Taken(batches, fields.get("taken_rows", 0), time("taken_at"), time("objects_through"), time("objects_at"))


def revision_of(fields: Fields) -> Revision:
    return Revision(
        hour=fields["pk"].removeprefix(keys.ARCHIVE),
        number=int(fields["sk"]),
        files=tuple(ArchiveFile(*each) for each in unpacked(fields.get("files"))),
        batches=tuple(unpacked(fields.get("batches"))),
        rows=fields["rows"],
        digest=fields["digest"],
        types=fields.get("types", {}),
        offsets={name: (first, last) for name, first, last in unpacked(fields.get("offsets"))},
        first=datetime.fromisoformat(fields["first"]) if "first" in fields else None,
        last=datetime.fromisoformat(fields["last"]) if "last" in fields else None,
        time=datetime.fromisoformat(fields["time"]),
        added=fields["added"],
        rebuilt=fields["rebuilt"],
        taken=_taken(fields),
    )


def letters_taken_item(taken: LettersTaken) -> Item:
    return item_of(keys.letters_taken_key(), {"through": iso_milliseconds(taken.through), "at": iso_milliseconds(taken.at)})


def letters_taken_of(fields: Fields) -> LettersTaken:
    return LettersTaken(datetime.fromisoformat(fields["through"]), datetime.fromisoformat(fields["at"]))
