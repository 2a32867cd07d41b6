"""Exit codes of `analytics`, the same for every command."""

from __future__ import annotations

from analytics_defs.errors import (
    AccessDenied,
    AnalyticsError,
    InconsistentState,
    NotFound,
    PartitionHalted,
    ResourceMissing,
    SettingsError,
    StartupFailed,
    Superseded,
)

FINDING = 1
"""Something differs, waits for an operator or was not found; or another run was first."""
WRONG_USAGE = 2
"""Wrong arguments or settings."""
UNAVAILABLE = 3
"""A broker or a store does not answer: try again later."""
REFUSED = 4
"""A permission, topic, table or bucket is missing, or a port is in use."""
INTERRUPTED = 130
CLOSED_PIPE = 141
"""The reader of the output closed the pipe, as `| head` does."""


def exit_code(error: AnalyticsError) -> int:
    """Return the exit code for an error of the package."""
    if isinstance(error, SettingsError):
        return WRONG_USAGE
    if isinstance(error, (NotFound, PartitionHalted, InconsistentState, Superseded)):
        return FINDING
    if isinstance(error, (StartupFailed, AccessDenied, ResourceMissing)):
        return REFUSED
    return UNAVAILABLE if error.retryable else FINDING
