"""Every name that is written anywhere: object keys, their metadata, hours, batch ids. Pure functions of events and batches.

    events/2024/01/15/10/<event id>.json             <event id>~<hash of the source>.json where an older event has that name
    parquet/year=2024/month=01/day=15/hour=10/<batch id>.parquet · archive-<revision>-<digest>-<file>.parquet · _SUCCESS.json
    dead-letters/2024/01/15/10/<batch id>.ndjson     the hour is that of the batch's own time
    duplicates/2024/01/15/10/<batch id>.ndjson          the same
    staging/<batch id>
    unpacking/<name>                                 while a store is asked whether it unpacks tars
    aggregates/<asset>/year=2024/month=01/day=15/hour=10/<asset>.parquet
    platform/id                                    whose archive this is

An hour is `2024-01-15T10`, always UTC. Keys are ASCII; no segment of one is longer than `MAX_SEGMENT_BYTES`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from functools import lru_cache
from urllib.parse import quote, unquote

from analytics_defs.core.events.event import Event
from analytics_defs.core.offsets import Range, Source
from analytics_defs.core.timestamps import hour_of, iso_milliseconds

MAX_SEGMENT_BYTES = 255
"""Of one path segment: MinIO keeps objects in a file system and refuses longer ones (measured)."""
MAX_METADATA_BYTES = 2048
"""Of an object's own metadata, names and values together (Amazon S3, "Working with object metadata")."""

EVENTS, PARQUET, DEAD_LETTERS, DUPLICATES, STAGING = "events/", "parquet/", "dead-letters/", "duplicates/", "staging/"
AGGREGATES, TAR_PROBE = "aggregates/", "unpacking/"
PLATFORM_ID_KEY = "platform/id"
"""Its ledger's id, and who put it."""

RECORD_TIMESTAMP = "recordTimestamp"

_JSON, _PARQUET, _NDJSON = ".json", ".parquet", ".ndjson"
_ARCHIVE = "archive-"
_HASHED = "~"
"""Stands before a hash. The encoding never lets it through, so no id can look like the hash of another."""
_READABLE = 120
"""Characters of a hashed name that stay readable."""
_MAX_METADATA_ID = 1024

_HOUR = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})T([0-9]{2})")
_HOUR_PATH = re.compile(r"(?:^|/)(?:year=)?([0-9]{4})/(?:month=)?([0-9]{2})/(?:day=)?([0-9]{2})/(?:hour=)?([0-9]{2})(?:/|$)")
_ARCHIVE_NAME = re.compile(r"archive-([0-9]{6,})-[0-9a-f]{32}-[0-9]{4}\.parquet")
_BATCH_ID = re.compile(r"([0-9]{8}T[0-9]{6})([0-9]{3})Z-[0-9a-f]{12}")


def batch_id(time: datetime, ranges: Iterable[Range]) -> str:
    """`20240115T103000123Z-` and 12 hex digits of a hash of the ranges, in whichever order they come. Sorts by time.

    `time` is aware; what it has below a millisecond does not count.
    """
    digest = _digest("\n".join(map(_exact, sorted(ranges))))[:12]
    return f"{re.sub('[-:.]', '', iso_milliseconds(time))}-{digest}"


def batch_time(batch_id: str) -> datetime:
    """The time in a batch id, to the millisecond. Raises ValueError where the text is no batch id."""
    match = _BATCH_ID.fullmatch(batch_id)
    if match is None:
        raise ValueError(f"{batch_id!r} is not a batch id: expected for example 20240115T103000123Z-0123456789ab")
    return datetime.fromisoformat(f"{match[1]}.{match[2]}+00:00")


def hour_path(hour: str) -> str:
    """`2024/01/15/10`. Raises ValueError where the text is no hour."""
    return "/".join(_hour_parts(hour))


def hive_path(hour: str) -> str:
    """`year=2024/month=01/day=15/hour=10`, as Hive, Spark, DuckDB and Athena read it. Raises ValueError where the text is no hour."""
    return "year={}/month={}/day={}/hour={}".format(*_hour_parts(hour))


def hour_of_key(path: str) -> str | None:
    """The hour that a key or prefix of any of the trees lies under, None where it lies under none."""
    match = _HOUR_PATH.search(path)
    return None if match is None else "{}-{}-{}T{}".format(*match.groups())


def event_json_dir(hour: str) -> str:
    return f"{EVENTS}{hour_path(hour)}/"


def event_key(hour: str, event_id: str) -> str:
    """One event's JSON object. Two ids never share a key, also not on a store that unescapes, or hides names such as `.x` and `_x`."""
    return f"{event_json_dir(hour)}{_name(event_id, MAX_SEGMENT_BYTES - len(_JSON))}{_JSON}"


def reused_id_event_key(hour: str, event_id: str, source: Source) -> str:
    """Where the object of an event lies whose `event_key` is held by another one of the same id, from before that id was free again."""
    suffix = f"{_HASHED}{_digest(str(source))[:32]}{_JSON}"
    return f"{event_json_dir(hour)}{_name(event_id, MAX_SEGMENT_BYTES - len(suffix))}{suffix}"


def event_id_of_key(key: str) -> str | None:
    """The id in an `event_key`, None where the key holds a hash: then the object's content or the table tells it."""
    return _id_of(key.rpartition("/")[2].removesuffix(_JSON))


def event_metadata(event: Event, batch_id: str) -> dict[str, str]:
    """Metadata of an event's object: ASCII, below `MAX_METADATA_BYTES`. `eventId` is percent-encoded, read it with `metadata_event_id`.

    `recordTimestamp` (milliseconds, Kafka's) is left out where the record has none; objects of older versions are without it.
    """
    timestamp_ms = event.record.timestamp_ms
    return {
        "eventType": event.type,
        "timestamp": event.timestamp,
        "eventId": _name(event.id, _MAX_METADATA_ID),
        "source": str(event.record.source),
        "batch": batch_id,
        **({RECORD_TIMESTAMP: str(timestamp_ms)} if timestamp_ms >= 0 else {}),
    }


def metadata_record_timestamp(metadata: Mapping[str, str]) -> int:
    """Of metadata whose names are in lower case; -1 where it is not known."""
    try:
        return max(-1, int(metadata.get(RECORD_TIMESTAMP.lower(), "-1")))
    except ValueError:
        return -1


def metadata_event_id(value: str) -> str | None:
    """The id in `event_metadata`'s `eventId`, None where it was so long that only its hash is there."""
    return _id_of(value)


def candidate_event_keys(hour: str, metadata: Mapping[str, str]) -> tuple[str, ...]:
    """Where the object with this metadata (names in lower case) may lie in the hour; nowhere where it is none of ours."""
    try:
        name, source = metadata["eventid"], Source.parse(metadata["source"])
    except (KeyError, ValueError):
        return ()
    event_id = _id_of(name)
    if event_id is None:  # so long that key and metadata hold the same hash of it
        return f"{event_json_dir(hour)}{name}{_JSON}", f"{event_json_dir(hour)}{name}{_HASHED}{_digest(str(source))[:32]}{_JSON}"
    return event_key(hour, event_id), reused_id_event_key(hour, event_id, source)


def parquet_dir(hour: str) -> str:
    return f"{PARQUET}{hive_path(hour)}/"


def part_key(hour: str, batch_id: str) -> str:
    return f"{parquet_dir(hour)}{batch_id}{_PARQUET}"


def batch_id_of_part_key(key: str) -> str | None:
    """The batch that wrote this part, None where the key is no part's: an archive file, `_SUCCESS.json`, a stranger."""
    return _batch_of(key, _PARQUET)


def archive_key(hour: str, revision: int, inputs: Iterable[str], file: int = 0) -> str:
    """A file of a compacted hour, named by what went into it, in whichever order: the same inputs write the same key again.

    The revision it is made for stands in the name: whoever sees a later one knows that this file will never count again.
    """
    digest = _digest("\n".join(sorted(inputs)))[:32]
    return f"{parquet_dir(hour)}{_ARCHIVE}{revision:06d}-{digest}-{file:04d}{_PARQUET}"


def revision_of_archive_key(key: str) -> int | None:
    """The revision that this archive file was made for, None where the key is a part's, a marker's or a stranger's."""
    match = _ARCHIVE_NAME.fullmatch(key.rpartition("/")[2])
    return int(match[1]) if match else None


def aggregate_key(asset: str, period: str) -> str:
    """A file of statistics: `aggregates/<asset>/year=…/month=…/day=…[/hour=…]/<asset>.parquet`. `period` is an hour or a day."""
    day, _, hour = period.partition("T")
    path = hive_path(f"{day}T{hour or '00'}")
    return f"{AGGREGATES}{asset}/{path if hour else path.rpartition('/')[0]}/{asset}{_PARQUET}"


def manifest_key(hour: str) -> str:
    return f"{parquet_dir(hour)}_SUCCESS.json"


def dead_letters_key(batch_id: str) -> str:
    return f"{DEAD_LETTERS}{_hour_of_batch(batch_id)}/{batch_id}{_NDJSON}"


def dead_letters_dir(hour: str | None = None) -> str:
    """Where the dead letters of batches of this hour lie; of all hours without one."""
    return DEAD_LETTERS if hour is None else f"{DEAD_LETTERS}{hour_path(hour)}/"


def batch_id_of_ndjson_key(key: str) -> str | None:
    """The batch that wrote this file, None where the key is a stranger's."""
    return _batch_of(key, _NDJSON)


def duplicates_key(batch_id: str) -> str:
    return f"{DUPLICATES}{_hour_of_batch(batch_id)}/{batch_id}{_NDJSON}"


def staging_key(batch_id: str) -> str:
    return f"{STAGING}{batch_id}"


def tar_probe_key(name: str) -> str:
    return f"{TAR_PROBE}{name}"


def _exact(each: Range) -> str:
    partition = each.topic_partition
    return f"{partition.topic}@{partition.incarnation}/{partition.partition}:{each.start}-{each.end}"


def _hour_of_batch(batch_id: str) -> str:
    return hour_path(hour_of(batch_time(batch_id)))


def _batch_of(key: str, suffix: str) -> str | None:
    name = key.rpartition("/")[2]
    batch_id = name.removesuffix(suffix)
    return batch_id if batch_id != name and _BATCH_ID.fullmatch(batch_id) else None


def _hour_parts(hour: str) -> tuple[str, ...]:
    match = _HOUR.fullmatch(hour)
    if match is None or not _exists(*map(int, match.groups())):
        raise ValueError(f"{hour!r} is not an hour: expected for example 2024-01-15T10")
    return match.groups()


@lru_cache(maxsize=256)
def _exists(year: int, month: int, day: int, hour: int) -> bool:
    try:
        datetime(year, month, day, hour)  # noqa: DTZ001 - the hour is UTC by definition
    except ValueError:
        return False
    return True


def _name(event_id: str, limit: int) -> str:
    """The id percent-encoded, at most `limit` characters. Letters, digits, `-`, `_` and `.` stay, the last two not in front."""
    encoded = quote(event_id, safe="").replace(_HASHED, "%7E")
    if encoded.startswith((".", "_")):
        encoded = f"%{ord(encoded[0]):02X}{encoded[1:]}"
    if len(encoded) <= limit:
        return encoded
    return re.sub("%.?$", "", encoded[:_READABLE]) + _HASHED + _digest(event_id)


def _id_of(name: str) -> str | None:
    return None if _HASHED in name else unquote(name)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
