"""Single requests to a bucket with obstore, which is imported on use."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from analytics_defs.ports import StoredObject

if TYPE_CHECKING:
    from obstore import Attributes, PutMode
    from obstore.store import S3Store

_CHUNK_BYTES = 8 * 2**20
"""Bytes of a file in memory at once, during an upload or a download."""


def put_object(client: S3Store, object_: StoredObject, mode: PutMode) -> None:
    """Write the object with one PUT."""
    import obstore

    obstore.put(client, object_.key, object_.body, attributes=_attributes(object_), mode=mode, use_multipart=False)


def get_with_etag(client: S3Store, key: str) -> tuple[StoredObject, str | None]:
    """Return the object and its ETag."""
    import obstore

    answer = obstore.get(client, key)
    attributes = {name.lower(): value for name, value in answer.attributes.items()}
    content_type = attributes.pop("content-type", "")
    return StoredObject(key, answer.bytes().to_bytes(), content_type, attributes), answer.meta["e_tag"]


def download_file(client: S3Store, key: str, path: Path) -> None:
    """Write the object to `path`, in one request per chunk."""
    import obstore

    size = obstore.head(client, key)["size"]
    with path.open("wb") as file:
        for start in range(0, size, _CHUNK_BYTES):
            file.write(obstore.get_range(client, key, start=start, end=min(size, start + _CHUNK_BYTES)))


def _attributes(object_: StoredObject) -> Attributes:
    return {"Content-Type": object_.content_type, **object_.metadata}


def upload_file(client: S3Store, key: str, path: Path, content_type: str) -> None:
    """Write the file as an object, in parts if it is large."""
    import obstore

    obstore.put(client, key, path, attributes={"Content-Type": content_type}, chunk_size=_CHUNK_BYTES, max_concurrency=2)
