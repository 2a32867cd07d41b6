"""Names in the bucket: object keys, object metadata, hours and batch ids. Pure functions of events and batches.

    events/2024/01/15/10/<event id>.json             or <event id>~<hash of the source>.json if an older event has that name
    parquet/year=2024/month=01/day=15/hour=10/       <batch id>.parquet, archive-<revision>-<digest>-<file>.parquet, _SUCCESS.json
    dead-letters/2024/01/15/10/<batch id>.ndjson     hour of the batch time
    duplicates/2024/01/15/10/<batch id>.ndjson       hour of the batch time
    staging/<batch id>
    unpacking/<name>                                 while MinIO is tested for its support of tar uploads
    aggregates/<asset>/year=2024/month=01/day=15/hour=10/<asset>.parquet
    platform/id                                      platform id of the bucket

An hour is `2024-01-15T10`, always in UTC. Keys are ASCII. No path segment is longer than `MAX_SEGMENT_BYTES`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from functools import lru_cache
from urllib.parse import quote, unquote

from analytics_defs.core.events.event import Event
from analytics_defs.core.offsets import NO_TIMESTAMP, Range, Source
from analytics_defs.core.sha256 import sha256_hex
from analytics_defs.core.timestamps import hour_of, iso_milliseconds

MAX_SEGMENT_BYTES = 255
"""Maximum length of a path segment. MinIO stores objects in a file system and rejects longer segments (measured)."""
MAX_METADATA_BYTES = 2048
"""Maximum size of an object's metadata, names and values together (Amazon S3, "Working with object metadata")."""

EVENTS, PARQUET, DEAD_LETTERS, DUPLICATES, STAGING = "events/", "parquet/", "dead-letters/", "duplicates/", "staging/"
AGGREGATES, TAR_PROBE = "aggregates/", "unpacking/"
PLATFORM_ID_KEY = "platform/id"
"""Key of the object that holds the platform id."""

RECORD_TIMESTAMP = "recordTimestamp"

_JSON, _PARQUET, _NDJSON = ".json", ".parquet", ".ndjson"
_ARCHIVE = "archive-"
_HASHED = "~"
"""Prefix of a hash. `_name` escapes this character, so no id can look like the hash of another id."""
_READABLE = 120
"""Characters of a long id that are kept in front of its hash."""
_MAX_METADATA_ID = 1024

_HOUR = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})T([0-9]{2})")
_HOUR_PATH = re.compile(r"(?:^|/)(?:year=)?([0-9]{4})/(?:month=)?([0-9]{2})/(?:day=)?([0-9]{2})/(?:hour=)?([0-9]{2})(?:/|$)")
_ARCHIVE_NAME = re.compile(r"archive-([0-9]{6,})-[0-9a-f]{32}-[0-9]{4}\.parquet")
_INT64 = re.compile(r"-?[0-9]{1,19}")
_BATCH_ID = re.compile(r"([0-9]{8}T[0-9]{6})([0-9]{3})Z-[0-9a-f]{12}")


def batch_id(time: datetime, ranges: Iterable[Range]) -> str:
    """Return `20240115T103000123Z-` and 12 hex digits of a hash of the ranges. Ids sort by time.

    The order of the ranges is ignored. `time` is aware and truncated to milliseconds.
    """
    digest = _digest("\n".join(map(_range_text, sorted(ranges))))[:12]
    return f"{re.sub('[-:.]', '', iso_milliseconds(time))}-{digest}"


def batch_time(batch_id: str) -> datetime:
    """Return the time in a batch id. Raises ValueError for any other text."""
    match = _BATCH_ID.fullmatch(batch_id)
    if match is None:
        raise ValueError(f"{batch_id!r} is not a batch id: expected for example 20240115T103000123Z-0123456789ab")
    return datetime.fromisoformat(f"{match[1]}.{match[2]}+00:00")


def require_hour(text: str) -> None:
    """Raise ValueError if the text is not an hour such as `2024-01-15T10`."""
    _hour_parts(text)


def hour_path(hour: str) -> str:
    """Return `2024/01/15/10`. Raises ValueError if the text is not an hour."""
    return "/".join(_hour_parts(hour))


def hive_path(hour: str) -> str:
    """Return `year=2024/month=01/day=15/hour=10`, the layout of Hive, Spark, DuckDB and Athena.

    Raises ValueError if the text is not an hour.
    """
    return "year={}/month={}/day={}/hour={}".format(*_hour_parts(hour))


def hour_of_key(path: str) -> str | None:
    """Return the hour in a key or prefix, None if it has none."""
    match = _HOUR_PATH.search(path)
    return None if match is None else "{}-{}-{}T{}".format(*match.groups())


def event_json_dir(hour: str) -> str:
    return f"{EVENTS}{hour_path(hour)}/"


def event_key(hour: str, event_id: str) -> str:
    """Return the key of an event's JSON object. Ids never share a key.

    This holds even if a store unescapes keys. Names never begin with `.` or `_`, because some tools hide those.
    """
    return f"{event_json_dir(hour)}{_name(event_id, MAX_SEGMENT_BYTES - len(_JSON))}{_JSON}"


def reused_id_event_key(hour: str, event_id: str, source: Source) -> str:
    """Return the key for an event whose `event_key` belongs to an older event.

    That happens if an id is used again after the deduplication window.
    """
    suffix = f"{_HASHED}{_digest(str(source))[:32]}{_JSON}"
    return f"{event_json_dir(hour)}{_name(event_id, MAX_SEGMENT_BYTES - len(suffix))}{suffix}"


def event_id_of_key(key: str) -> str | None:
    """Return the id in an `event_key`. None if the key holds a hash: then read the id from the object or from RecentEvents."""
    return _id_of(key.rpartition("/")[2].removesuffix(_JSON))


def event_metadata(event: Event, batch_id: str) -> dict[str, str]:
    """Return the metadata of an event's object: ASCII, at most `MAX_METADATA_BYTES`.

    `eventId` is percent-encoded; decode it with `metadata_event_id`. `recordTimestamp` (Kafka's, unchanged, in
    milliseconds if it is a date) is omitted if the record has none. Objects of older versions do not have it either.
    """
    timestamp_ms = event.record.timestamp_ms
    return {
        "eventType": event.type,
        "timestamp": event.timestamp,
        "eventId": _name(event.id, _MAX_METADATA_ID),
        "source": str(event.record.source),
        "batch": batch_id,
        **({RECORD_TIMESTAMP: str(timestamp_ms)} if timestamp_ms != NO_TIMESTAMP else {}),
    }


def metadata_record_timestamp(metadata: Mapping[str, str]) -> int:
    """Return `recordTimestamp` from metadata with lower-case names. `NO_TIMESTAMP` if it is missing or not a 64-bit number."""
    text = metadata.get(RECORD_TIMESTAMP.lower(), "")
    timestamp_ms = int(text) if _INT64.fullmatch(text) else NO_TIMESTAMP
    return timestamp_ms if -(2**63) <= timestamp_ms < 2**63 else NO_TIMESTAMP


def metadata_event_id(value: str) -> str | None:
    """Return the id in the metadata value `eventId`. None if the id was so long that only its hash is stored."""
    return _id_of(value)


def candidate_event_keys(hour: str, metadata: Mapping[str, str]) -> tuple[str, ...]:
    """Return the keys that an object with this metadata (lower-case names) may have. Empty for a foreign object."""
    try:
        name, source = metadata["eventid"], Source.parse(metadata["source"])
    except (KeyError, ValueError):
        return ()
    event_id = _id_of(name)
    if event_id is None:  # a long id: key and metadata hold the same hash
        return f"{event_json_dir(hour)}{name}{_JSON}", f"{event_json_dir(hour)}{name}{_HASHED}{_digest(str(source))[:32]}{_JSON}"
    return event_key(hour, event_id), reused_id_event_key(hour, event_id, source)


def parquet_dir(hour: str) -> str:
    return f"{PARQUET}{hive_path(hour)}/"


def part_key(hour: str, batch_id: str) -> str:
    return f"{parquet_dir(hour)}{batch_id}{_PARQUET}"


def batch_id_of_part_key(key: str) -> str | None:
    """Return the batch that wrote this part. None for an archive file, the manifest or a foreign object."""
    return _batch_of(key, _PARQUET)


def archive_key(hour: str, revision: int, inputs: Iterable[str], file: int = 0) -> str:
    """Return the key of a file of an hour archive: the same inputs in any order give the same key.

    The name contains the revision. Once a later revision exists, this file never becomes current again.
    """
    digest = _digest("\n".join(sorted(inputs)))[:32]
    return f"{parquet_dir(hour)}{_ARCHIVE}{revision:06d}-{digest}-{file:04d}{_PARQUET}"


def revision_of_archive_key(key: str) -> int | None:
    """Return the revision of this archive file. None for a part, a manifest or a foreign object."""
    match = _ARCHIVE_NAME.fullmatch(key.rpartition("/")[2])
    return int(match[1]) if match else None


def aggregate_key(asset: str, period: str) -> str:
    """Return the key of a statistics file: `aggregates/<asset>/year=…/month=…/day=…[/hour=…]/<asset>.parquet`.

    `period` is an hour or a day.
    """
    day, _, hour = period.partition("T")
    path = hive_path(f"{day}T{hour or '00'}")
    return f"{AGGREGATES}{asset}/{path if hour else path.rpartition('/')[0]}/{asset}{_PARQUET}"


def manifest_key(hour: str) -> str:
    return f"{parquet_dir(hour)}_SUCCESS.json"


def dead_letters_key(batch_id: str) -> str:
    return f"{DEAD_LETTERS}{_hour_of_batch(batch_id)}/{batch_id}{_NDJSON}"


def dead_letters_dir(hour: str | None = None) -> str:
    """Return the prefix of the dead-letter files of batches of this hour, or of all hours."""
    return DEAD_LETTERS if hour is None else f"{DEAD_LETTERS}{hour_path(hour)}/"


def batch_id_of_ndjson_key(key: str) -> str | None:
    """Return the batch that wrote this file. None for a foreign object."""
    return _batch_of(key, _NDJSON)


def duplicates_key(batch_id: str) -> str:
    return f"{DUPLICATES}{_hour_of_batch(batch_id)}/{batch_id}{_NDJSON}"


def duplicates_dir(hour: str) -> str:
    """Return the prefix of the duplicates files of batches of this hour."""
    return f"{DUPLICATES}{hour_path(hour)}/"


def staging_key(batch_id: str) -> str:
    return f"{STAGING}{batch_id}"


def tar_probe_key(name: str) -> str:
    return f"{TAR_PROBE}{name}"


def _range_text(range_: Range) -> str:
    partition = range_.topic_partition
    return f"{partition.topic}@{partition.incarnation}/{partition.partition}:{range_.start}-{range_.end}"


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
    """Percent-encode the id. An id longer than `limit` becomes its first characters and a hash.

    Letters, digits and `-` are kept; `_` and `.` are escaped only at the start.
    """
    encoded = quote(event_id, safe="").replace(_HASHED, "%7E")
    if encoded.startswith((".", "_")):
        encoded = f"%{ord(encoded[0]):02X}{encoded[1:]}"
    if len(encoded) <= limit:
        return encoded
    return re.sub("%.?$", "", encoded[:_READABLE]) + _HASHED + _digest(event_id)


def _id_of(name: str) -> str | None:
    return None if _HASHED in name else unquote(name)


def _digest(text: str) -> str:
    return sha256_hex(text.encode())
