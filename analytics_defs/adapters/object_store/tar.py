"""Tars of small objects in the format that MinIO unpacks. Pure: the same objects give the same bytes."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Sequence
from functools import lru_cache

from analytics_defs.ports import StoredObject

MAX_MEMBER_BYTES = 128 * 2**10
"""Up to this size MinIO unpacks 16 objects in parallel, larger ones one after the other (`cmd/untar.go`)."""
MAX_TAR_BYTES = 2**20
"""Extra memory while a tar is sent."""
MAX_MEMBERS = 200
MIN_MEMBERS = 4
"""Fewer objects are as fast with single PUTs."""

_BLOCK = tarfile.BLOCKSIZE
_END = bytes(2 * _BLOCK)
"""End of the archive, without padding to a record. MinIO reads up to here, so its checksum covers all bytes."""
MAX_KEY_BYTES = 1024
"""Limit of S3 and MinIO. A longer key is rejected."""
_SEGMENT = re.compile(r"(?!\.{1,2}$)[!-.0-~]{1,255}")
_NAME = re.compile(r"[A-Za-z0-9]+")
_VALUE = re.compile(r"[!-~](?:[ -~]*[!-~])?")


def group_into_tars(objects: Sequence[StoredObject]) -> tuple[list[list[StoredObject]], list[StoredObject]]:
    """Return the objects of each tar, and the objects to put one by one. Every object is in exactly one of them."""
    small: list[StoredObject] = []
    singles: list[StoredObject] = []
    for object_ in objects:
        (small if fits(object_) else singles).append(object_)
    groups: list[list[StoredObject]] = []
    free_bytes = 0
    for object_ in small:
        size = len(object_.body) + sum(map(len, object_.metadata.values())) + 4 * _BLOCK
        if not groups or free_bytes < size or len(groups[-1]) == MAX_MEMBERS:
            groups.append([])
            free_bytes = MAX_TAR_BYTES
        groups[-1].append(object_)
        free_bytes -= size
    in_small_groups = [object_ for group in groups if len(group) < MIN_MEMBERS for object_ in group]
    return [group for group in groups if len(group) >= MIN_MEMBERS], [*singles, *in_small_groups]


def fits(object_: StoredObject) -> bool:
    """Return whether a tar stores the object exactly as a single PUT does.

    MinIO normalizes the names in a tar like paths. PAX drops empty values. HTTP trims values and interprets some names with a hyphen.
    An object that would be changed by any of these does not fit.
    """
    return (
        len(object_.body) <= MAX_MEMBER_BYTES
        and len(object_.key) <= MAX_KEY_BYTES
        and all(map(_SEGMENT.fullmatch, object_.key.split("/")))
        and all(map(_NAME.fullmatch, object_.metadata))
        and all(map(_VALUE.fullmatch, (object_.content_type, *object_.metadata.values())))
    )


def tar(objects: Sequence[StoredObject]) -> bytes:
    """Return a tar with one member per object. Content type and metadata are in PAX records."""
    parts: list[bytes] = []
    for object_ in objects:
        records = _records(object_)
        parts += (_header(tarfile.XHDTYPE, len(records)), records, _padding(records))
        parts += (_header(tarfile.REGTYPE, len(object_.body)), object_.body, _padding(object_.body))
    return b"".join([*parts, _END])


def _records(object_: StoredObject) -> bytes:
    metadata = {f"minio.metadata.X-Amz-Meta-{name}": value for name, value in object_.metadata.items()}
    records = {"path": object_.key, "minio.metadata.Content-Type": object_.content_type, **metadata}
    return "".join([_record(keyword, value) for keyword, value in records.items()]).encode("ascii")


def _record(keyword: str, value: str) -> str:
    """Return a line that starts with its own length (POSIX.1-2001, pax, "Extended Header")."""
    rest = len(keyword) + len(value) + 3
    length = rest + len(str(rest))
    return f"{rest + len(str(length))} {keyword}={value}\n"


@lru_cache(maxsize=4096)
def _header(kind: bytes, size: int) -> bytes:
    """Return a header without name and time. The name is in the records, MinIO sets the time. So headers of one size are equal."""
    info = tarfile.TarInfo("object")
    info.type, info.size = kind, size
    return info.tobuf(tarfile.USTAR_FORMAT)


def _padding(data: bytes) -> bytes:
    return bytes(-len(data) % _BLOCK)
