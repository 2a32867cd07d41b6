"""A memory object store that ignores conditions, as some servers with the S3 API do."""

from __future__ import annotations

from collections.abc import Callable

from analytics_defs.adapters.memory import MemoryObjectStore
from analytics_defs.ports import StoredObject


class UnconditionalObjectStore(MemoryObjectStore):
    """A store that confirms every conditional write with one of the two conditions."""

    def __init__(self, ignored: str) -> None:
        super().__init__()
        self.ignored = ignored

    def put_if_absent(self, obj: StoredObject) -> bytes:
        if self.ignored == "If-Match":
            return super().put_if_absent(obj)
        self.put([obj])
        return obj.body

    def put_if(self, obj: StoredObject, may_replace: Callable[[bytes | None], bool]) -> bool:
        if self.ignored != "If-Match":
            return super().put_if(obj, may_replace)
        if not may_replace(self.get(obj.key)):
            return False
        self.put([obj])
        return True
