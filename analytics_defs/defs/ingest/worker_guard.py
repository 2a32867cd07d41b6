"""Whether the machine that executes a run belongs to the platform that planned it: its code, its settings, its stores."""

from __future__ import annotations

import socket
from collections.abc import Mapping

import dagster as dg

from analytics_defs.defs.resources.platform import Platform, as_dagster_failures
from analytics_defs.errors import InconsistentState
from analytics_defs.flows.setup.platform_identity import register_stores
from analytics_defs.wiring import code_digest

CODE_DIGEST = code_digest()
"""Of what is being loaded. Asked for later, it would be of what was installed over that meanwhile."""


def require_same_code(planned_by: str) -> None:
    """Raises Failure, before anything is touched, where the plan is another code's: a worker that was not restarted, or not updated."""
    if planned_by and planned_by != CODE_DIGEST:
        raise dg.Failure(
            description=f"The code that planned this run has the digest {planned_by}, that of the worker on {socket.gethostname()} is "
            f"{CODE_DIGEST}. Nothing was changed. Install one release everywhere, and restart the workers or the code server; the "
            "sensor asks again by itself.",
            allow_retries=False,
        )


def require_same_settings(planned_with: Mapping[str, str], platform: Platform) -> None:
    """Raises Failure, before anything is touched, where this machine would judge or keep records in another way than the others."""
    with as_dagster_failures():
        here = platform.settings().shared_settings()
    differing = [f"{name}={here[name]}, expected {told}" for name, told in planned_with.items() if here.get(name, told) != told]
    if differing:
        raise dg.Failure(
            description=f"The worker on {socket.gethostname()} has other settings than the code server that planned this run: "
            f"{'; '.join(differing)}. Nothing was changed. Set them alike, and restart what was not restarted since; the sensor asks "
            "again by itself.",
            allow_retries=False,
        )


def require_same_platform(planned_by: str, run_id: str, platform: Platform) -> None:
    """Raises Failure, before anything is taken, where the settings of this machine lead to the stores of another platform."""
    here = f"The worker on {socket.gethostname()} has other stores than the platform"
    with as_dagster_failures():
        try:
            seal = register_stores(run_id, platform.ports())
        except InconsistentState as fault:
            raise InconsistentState(f"{here}. {fault}") from fault
        if planned_by and planned_by != seal.id:
            raise InconsistentState(
                f"{here}. Its ledger is {seal.id}, and this run was planned by {planned_by}. Correct DYNAMO_ENDPOINT, the region or "
                "LEDGER_TABLE_NAME. Nothing was changed; the sensor asks again by itself."
            )
