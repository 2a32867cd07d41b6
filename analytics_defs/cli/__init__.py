"""The command line: one command = one flow.

Exit codes: 0 done and well · 1 a finding: something differs, waits for a person, was not found, or another run was first ·
2 wrong usage or settings · 3 a broker or store does not answer: try again later · 4 refused or missing: permissions, topics, tables,
bucket, a port that is taken · 130 interrupted · 141 who read the output went away, as `| head` does.
"""

from __future__ import annotations

import logging
import sys

import click

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

FINDING, WRONG_USAGE, UNAVAILABLE, REFUSED, INTERRUPTED, CLOSED_PIPE = 1, 2, 3, 4, 130, 141


def exit_code(error: AnalyticsError) -> int:
    if isinstance(error, SettingsError):
        return WRONG_USAGE
    if isinstance(error, (NotFound, PartitionHalted, InconsistentState, Superseded)):
        return FINDING
    if isinstance(error, (StartupFailed, AccessDenied, ResourceMissing)):
        return REFUSED
    return UNAVAILABLE if error.retryable else FINDING


def main() -> None:
    """The entry point `analytics`. Errors of ours are one message on stderr, never a traceback."""
    from analytics_defs.cli.app import analytics

    # What a broker that is down makes its client log, the message of the error says once.
    logging.getLogger("analytics.kafka").addHandler(logging.NullHandler())
    logging.getLogger("analytics.kafka").propagate = False
    try:
        analytics.main(standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(INTERRUPTED)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except AnalyticsError as error:
        for line in (f"error: {error}", *getattr(error, "__notes__", ())):
            click.echo(line, err=True)
        sys.exit(exit_code(error))
