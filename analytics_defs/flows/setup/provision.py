"""Make what the platform stands on: topics, tables, bucket. Twice is once; what exists is validated and left as it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from analytics_defs.errors import AnalyticsError


class Ground(Protocol):
    """One broker or store, as far as it has to be prepared."""

    @property
    def name(self) -> str:
        """What it is and where, for people."""
        ...

    def prepare(self) -> Sequence[str]:
        """Create what is missing; answers what was done, a line each, nothing where all was there.

        Raises Missing where something exists in another shape.
        """
        ...


@dataclass(frozen=True, slots=True)
class Prepared:
    """What became of one ground."""

    ground: str
    done: tuple[str, ...] = ()
    fault: AnalyticsError | None = None


def setup(grounds: Sequence[Ground], on_prepared: Callable[[Prepared], None] = lambda _: None) -> list[Prepared]:
    """Every ground is tried, so that all faults are heard at once."""
    found = []
    for ground in grounds:
        found.append(_prepared(ground))
        on_prepared(found[-1])
    return found


def _prepared(ground: Ground) -> Prepared:
    try:
        return Prepared(ground.name, tuple(ground.prepare()))
    except AnalyticsError as fault:
        return Prepared(ground.name, fault=fault)
