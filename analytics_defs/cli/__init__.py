"""The command line. Each command runs one flow."""

from __future__ import annotations

import logging
import sys

import click

from analytics_defs.cli.exit_codes import INTERRUPTED, exit_code
from analytics_defs.errors import AnalyticsError


def main() -> None:
    """Run `analytics`. Print an error of this package as one message on stderr, without a traceback."""
    from analytics_defs.cli.app import analytics

    # The Kafka client logs an unreachable broker many times. The error message says it once.
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
