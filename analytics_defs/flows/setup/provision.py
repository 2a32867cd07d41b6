"""Create the topics, tables and bucket of the platform. Idempotent: existing ones are validated and not changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from analytics_defs.errors import AnalyticsError
from analytics_defs.ports import Provisioner


@dataclass(frozen=True, slots=True)
class ProvisionResult:
    """Result of one provisioner."""

    provisioner: str
    done: tuple[str, ...] = ()
    error: AnalyticsError | None = None


def provision(provisioners: Sequence[Provisioner], on_result: Callable[[ProvisionResult], None] = lambda _: None) -> list[ProvisionResult]:
    """Run every provisioner, so that one call reports all errors."""
    results = []
    for provisioner in provisioners:
        results.append(_provision(provisioner))
        on_result(results[-1])
    return results


def _provision(provisioner: Provisioner) -> ProvisionResult:
    try:
        return ProvisionResult(provisioner.name, tuple(provisioner.provision()))
    except AnalyticsError as error:
        return ProvisionResult(provisioner.name, error=error)
