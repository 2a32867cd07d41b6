"""The bucket."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object with its bytes. A key is always written with the same bytes (invariant 2)."""

    key: str
    body: bytes
    content_type: str
    metadata: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """An object without its bytes."""

    bytes: int
    metadata: Mapping[str, str]
    """Names in lower case."""


class ObjectStore(Protocol):
    """The bucket. Thread-safe."""

    def put(self, objects: Sequence[StoredObject]) -> None:
        """Write all objects, in any order, replacing existing ones. Return once every write is confirmed; raise if one is not."""
        ...

    def put_many_if_absent(self, objects: Sequence[StoredObject]) -> Sequence[StoredObject]:
        """Write the objects whose keys do not exist. Return the existing objects of the other keys, metadata names in lower case."""
        ...

    def put_if_absent(self, obj: StoredObject) -> bytes:
        """Write the object unless its key exists. Return the bytes that the key holds from now on."""
        ...

    def get(self, key: str) -> bytes | None:
        """Return the bytes of the object, None if it does not exist."""
        ...

    def get_object(self, key: str) -> StoredObject | None:
        """Return the object with content type and metadata (names in lower case), None if it does not exist."""
        ...

    def head(self, key: str) -> ObjectInfo | None:
        """Return size and metadata, None if the object does not exist. One request, no bytes of the object."""
        ...

    def download(self, key: str, path: str) -> bool:
        """Write the object into a local file, in bounded memory. Return False, and create no file, if it does not exist."""
        ...

    def upload(self, key: str, path: str, content_type: str) -> None:
        """Write an object from a local file, in bounded memory, and replace an existing one. Readers see all of it or none."""
        ...

    def put_if(self, obj: StoredObject, may_replace: Callable[[bytes | None], bool]) -> bool:
        """Compare and set: write if `may_replace(current bytes, None if absent)` is true. Return whether it was written.

        If another writer changes the object in between, `may_replace` is called again with the new bytes.
        """
        ...

    def delete(self, keys: Sequence[str]) -> None:
        """Delete the objects. A missing key is not an error."""
        ...

    def list_keys(self, prefix: str) -> Iterator[str]:
        """Yield the keys below the prefix in lexicographic order."""
        ...
