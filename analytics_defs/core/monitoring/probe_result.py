"""The state of a probe: the value, error and age of its newest attempt."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Generic, Never, TypeVar

_T_co = TypeVar("_T_co", covariant=True)


@dataclass(frozen=True, slots=True)
class ProbeResult(Generic[_T_co]):
    """Knowledge from a probe at one moment, while attempts continue in the background."""

    value: _T_co | None = None
    """From the newest successful attempt. None: no attempt has succeeded."""
    error: str | None = None
    """Why the newest attempt failed, or that it has not returned. None: it succeeded."""
    latency_ms: int | None = None
    """Duration of the newest attempt that returned."""
    age_ms: int | None = None
    """Time since the newest attempt returned. None: none has returned yet."""
    succeeded_at: datetime | None = None
    """When `value` was read."""

    @property
    def ok(self) -> bool:
        return self.error is None and self.succeeded_at is not None


NO_RESULT: ProbeResult[Never] = ProbeResult()
"""The result before any attempt has returned."""
