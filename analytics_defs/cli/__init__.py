"""The command line: one command = one flow.

Exit codes: 0 done and well · 1 a finding: something differs, waits for a person, or was not found · 2 wrong usage or settings ·
3 a broker or store does not answer, or another executor was first: try again later · 4 refused or missing: permissions, topics, tables,
bucket · 130 interrupted.
"""

from __future__ import annotations

import logging
import sys

import click

from analytics_defs.errors import AnalyticsError, Contradiction, Denied, Missing, NotFound, SettingsError, Stopped

FINDING, WRONG_USAGE, UNAVAILABLE, REFUSED, INTERRUPTED = 1, 2, 3, 4, 130


def exit_code(error: AnalyticsError) -> int:
    if isinstance(error, SettingsError):
        return WRONG_USAGE
    if isinstance(error, (NotFound, Stopped, Contradiction)):
        return FINDING
    if isinstance(error, (Denied, Missing)):
        return REFUSED
    return UNAVAILABLE if error.retryable else FINDING


def main() -> None:
    """The entry point `analytics`. Errors of ours are one message on stderr, never a traceback."""
    from analytics_defs.cli.commands import analytics

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
