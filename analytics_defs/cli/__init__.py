"""The command line: one command runs one flow."""

from __future__ import annotations

import logging
import sys

import click

from analytics_defs.cli.exit_codes import INTERRUPTED, exit_code
from analytics_defs.errors import AnalyticsError


def main() -> None:
    """Run `analytics`. An error of the package becomes one message on stderr, never a traceback."""
    from analytics_defs.cli.app import analytics

    # The message of the error says once what the client of an unreachable broker logs many times.
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
