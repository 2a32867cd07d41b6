"""Make what the platform stands on: topics, tables, bucket. Twice is once; what exists is validated and left as it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from analytics_defs.errors import AnalyticsError


class Provisioner(Protocol):
    """One broker or store, as far as it has to be prepared."""

    @property
    def name(self) -> str:
        """What it is and where, for people."""
        ...

    def provision(self) -> Sequence[str]:
        """Create what is missing; answers what was done, a line each, nothing where all was there.

        Raises ResourceMissing where something exists in another shape.
        """
        ...


@dataclass(frozen=True, slots=True)
class ProvisionResult:
    """What became of one ground."""

    provisioner: str
    done: tuple[str, ...] = ()
    fault: AnalyticsError | None = None


def provision(grounds: Sequence[Provisioner], on_prepared: Callable[[ProvisionResult], None] = lambda _: None) -> list[ProvisionResult]:
    """Every ground is tried, so that all faults are heard at once."""
    found = []
    for ground in grounds:
        found.append(_prepared(ground))
        on_prepared(found[-1])
    return found


def _prepared(ground: Provisioner) -> ProvisionResult:
    try:
        return ProvisionResult(ground.name, tuple(ground.provision()))
    except AnalyticsError as fault:
        return ProvisionResult(ground.name, fault=fault)
