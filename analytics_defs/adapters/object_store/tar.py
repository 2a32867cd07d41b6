"""Tars of small objects, as MinIO unpacks them. Pure: the same objects give the same bytes."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Sequence
from functools import lru_cache

from analytics_defs.ports import StoredObject

MAX_MEMBER_BYTES = 128 * 2**10
"""MinIO unpacks up to 16 objects of at most this size side by side, and larger ones one after the other (`cmd/untar.go`)."""
MAX_TAR_BYTES = 2**20
"""What is in memory once more while a tar is under way."""
MAX_MEMBERS = 200
MIN_MEMBERS = 4
"""Fewer are as fast one by one."""

_BLOCK = tarfile.BLOCKSIZE
_END = bytes(2 * _BLOCK)
"""And no filling up to a record: MinIO reads to here, so the checksum it answers is that of all bytes."""
MAX_KEY_BYTES = 1024
"""Of S3 and of MinIO: a longer key is refused."""
_SEGMENT = re.compile(r"(?!\.{1,2}$)[!-.0-~]{1,255}")
_NAME = re.compile(r"[A-Za-z0-9]+")
_VALUE = re.compile(r"[!-~](?:[ -~]*[!-~])?")


def group_into_tars(blobs: Sequence[StoredObject]) -> tuple[list[list[StoredObject]], list[StoredObject]]:
    """Objects to be put in one tar each, and those to be put one by one. Nothing is left out."""
    small: list[StoredObject] = []
    others: list[StoredObject] = []
    for blob in blobs:
        (small if fits(blob) else others).append(blob)
    found: list[list[StoredObject]] = []
    room = 0
    for blob in small:
        size = len(blob.body) + sum(map(len, blob.metadata.values())) + 4 * _BLOCK
        if not found or room < size or len(found[-1]) == MAX_MEMBERS:
            found.append([])
            room = MAX_TAR_BYTES
        found[-1].append(blob)
        room -= size
    alone = [blob for lot in found if len(lot) < MIN_MEMBERS for blob in lot]
    return [lot for lot in found if len(lot) >= MIN_MEMBERS], [*others, *alone]


def fits(blob: StoredObject) -> bool:
    """Whether the object would come out of a tar exactly as it comes from a PUT of its own.

    MinIO cleans the names in a tar as if they were paths; PAX forgets empty values; HTTP trims values, and gives names with a hyphen other
    meanings. Where any of that makes a difference, the object does not fit.
    """
    return (
        len(blob.body) <= MAX_MEMBER_BYTES
        and len(blob.key) <= MAX_KEY_BYTES
        and all(map(_SEGMENT.fullmatch, blob.key.split("/")))
        and all(map(_NAME.fullmatch, blob.metadata))
        and all(map(_VALUE.fullmatch, (blob.content_type, *blob.metadata.values())))
    )


def tar(blobs: Sequence[StoredObject]) -> bytes:
    """One member for each, with its content type and its metadata in PAX records."""
    parts: list[bytes] = []
    for blob in blobs:
        records = _records(blob)
        parts += (_header(tarfile.XHDTYPE, len(records)), records, _filling(records))
        parts += (_header(tarfile.REGTYPE, len(blob.body)), blob.body, _filling(blob.body))
    return b"".join([*parts, _END])


def _records(blob: StoredObject) -> bytes:
    named = {f"minio.metadata.X-Amz-Meta-{name}": value for name, value in blob.metadata.items()}
    found = {"path": blob.key, "minio.metadata.Content-Type": blob.content_type, **named}
    return "".join([_record(keyword, value) for keyword, value in found.items()]).encode("ascii")


def _record(keyword: str, value: str) -> str:
    """A line that begins with its own length (POSIX.1-2001, pax, "Extended Header")."""
    rest = len(keyword) + len(value) + 3
    length = rest + len(str(rest))
    return f"{rest + len(str(length))} {keyword}={value}\n"


@lru_cache(maxsize=4096)
def _header(kind: bytes, size: int) -> bytes:
    """Names are in the records, so headers of one size are all alike. No time: MinIO takes its own."""
    info = tarfile.TarInfo("object")
    info.type, info.size = kind, size
    return info.tobuf(tarfile.USTAR_FORMAT)


def _filling(data: bytes) -> bytes:
    return bytes(-len(data) % _BLOCK)
