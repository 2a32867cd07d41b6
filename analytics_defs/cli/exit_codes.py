"""Exit codes of `analytics`. Every command uses the same codes."""

from __future__ import annotations

from analytics_defs.errors import (
    AccessDenied,
    AnalyticsError,
    InconsistentState,
    NotFound,
    PartitionHalted,
    ResourceNotReady,
    SettingsError,
    StartupFailed,
    Superseded,
)

FINDING = 1
"""Something differs, waits for an operator or was not found, or another run was first."""
WRONG_USAGE = 2
"""Arguments or settings are invalid."""
UNAVAILABLE = 3
"""A broker or store does not answer. A retry may succeed."""
REFUSED = 4
"""A permission, topic, table or bucket is missing, or a port is in use."""
INTERRUPTED = 130
CLOSED_PIPE = 141
"""The output pipe was closed, for example by `| head`."""


def exit_code(error: AnalyticsError) -> int:
    """Return the exit code for an error of this package."""
    if isinstance(error, SettingsError):
        return WRONG_USAGE
    if isinstance(error, (NotFound, PartitionHalted, InconsistentState, Superseded)):
        return FINDING
    if isinstance(error, (StartupFailed, AccessDenied, ResourceNotReady)):
        return REFUSED
    return UNAVAILABLE if error.retryable else FINDING
