"""Checks that a worker runs the code, settings and stores of the platform that planned its run."""

from __future__ import annotations

import socket
from collections.abc import Mapping

import dagster as dg

from analytics_defs.defs.resources.platform import Platform, as_dagster_failures
from analytics_defs.errors import InconsistentState
from analytics_defs.flows.setup.platform_identity import register_stores
from analytics_defs.wiring import code_digest

CODE_DIGEST = code_digest()
"""Digest of the loaded code. Computed at import, because a later call would read code that was installed since."""


def require_same_code(planned_by: str) -> None:
    """Raise Failure if other code made the plan, because the worker was not restarted or not updated. Nothing is changed before."""
    if planned_by and planned_by != CODE_DIGEST:
        raise dg.Failure(
            description=f"The code that planned this run has the digest {planned_by}, that of the worker on {socket.gethostname()} is "
            f"{CODE_DIGEST}. Nothing was changed. Install one release everywhere, and restart the workers or the code server. The "
            "sensor then requests a new run.",
            allow_retries=False,
        )


def require_same_settings(planned_with: Mapping[str, str], platform: Platform) -> None:
    """Raise Failure if this worker would classify or store records differently. Nothing is changed before."""
    with as_dagster_failures():
        worker_settings = platform.settings().shared_settings()
    differences = [
        f"{name}={worker_settings[name]}, expected {value}"
        for name, value in planned_with.items()
        if worker_settings.get(name, value) != value
    ]
    if differences:
        raise dg.Failure(
            description=f"The worker on {socket.gethostname()} has other settings than the code server that planned this run: "
            f"{'; '.join(differences)}. Nothing was changed. Set the same values, and restart each process that was not restarted "
            "since. The sensor then requests a new run.",
            allow_retries=False,
        )


def require_same_platform(planned_by: str, run_id: str, platform: Platform) -> None:
    """Raise Failure if the settings of this worker name the stores of another platform. No batch is begun before."""
    problem = f"The worker on {socket.gethostname()} has other stores than the platform"
    with as_dagster_failures():
        try:
            platform_id = register_stores(run_id, platform.ports())
        except InconsistentState as error:
            raise InconsistentState(f"{problem}. {error}") from error
        if planned_by and planned_by != platform_id.id:
            raise InconsistentState(
                f"{problem}. Its ledger is {platform_id.id}, and this run was planned by {planned_by}. Correct DYNAMO_ENDPOINT, the "
                "region or LEDGER_TABLE_NAME. Nothing was changed. The sensor then requests a new run."
            )
