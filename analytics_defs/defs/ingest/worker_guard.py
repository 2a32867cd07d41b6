"""Whether the machine that executes a run belongs to the platform that planned it: its code, its settings, its stores."""

from __future__ import annotations

import socket
from collections.abc import Mapping

import dagster as dg

from analytics_defs.defs.resources.platform import Platform, failures
from analytics_defs.errors import Contradiction
from analytics_defs.flows.setup.platform_identity import require_seal
from analytics_defs.wiring import code_digest

CODE = code_digest()
"""Of what is being loaded. Asked for later, it would be of what was installed over that meanwhile."""


def require_same_code(planned_by: str) -> None:
    """Raises Failure, before anything is touched, where the plan is another code's: a worker that was not restarted, or not updated."""
    if planned_by and planned_by != CODE:
        raise dg.Failure(
            description=f"The code that planned this run has the digest {planned_by}, that of the worker on {socket.gethostname()} is "
            f"{CODE}. Nothing was changed. Install one release everywhere, and restart the workers or the code server; the "
            "sensor asks again by itself.",
            allow_retries=False,
        )


def require_same_settings(planned_with: Mapping[str, str], platform: Platform) -> None:
    """Raises Failure, before anything is touched, where this machine would judge or keep records in another way than the others."""
    with failures():
        here = platform.settings().agreed()
    differing = [f"{name}={here[name]}, expected {told}" for name, told in planned_with.items() if here.get(name, told) != told]
    if differing:
        raise dg.Failure(
            description=f"The worker on {socket.gethostname()} has other settings than the code server that planned this run: "
            f"{'; '.join(differing)}. Nothing was changed. Set them alike, and restart what was not restarted since; the sensor asks "
            "again by itself.",
            allow_retries=False,
        )


def require_same_stores(planned_by: str, run_id: str, platform: Platform) -> None:
    """Raises Failure, before anything is taken, where the settings of this machine lead to the stores of another platform."""
    here = f"The worker on {socket.gethostname()} has other stores than the platform"
    with failures():
        try:
            seal = require_seal(run_id, platform.ports())
        except Contradiction as fault:
            raise Contradiction(f"{here}. {fault}") from fault
        if planned_by and planned_by != seal.id:
            raise Contradiction(
                f"{here}. Its ledger is {seal.id}, and this run was planned by {planned_by}. Correct DYNAMO_ENDPOINT, the region or "
                "LEDGER_TABLE_NAME. Nothing was changed; the sensor asks again by itself."
            )
