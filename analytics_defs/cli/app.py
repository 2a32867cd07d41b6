"""The `analytics` command and its subcommands."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence

import click

from analytics_defs.cli.commands import (
    counters,
    dead_letters,
    dev,
    hours,
    ingest,
    inspect,
    produce,
    repair,
    retention,
    serve,
    setup,
    worker,
)
from analytics_defs.cli.exit_codes import CLOSED_PIPE

SECTIONS: Mapping[str, Sequence[click.Command]] = {
    "Start": (dev.dev_command, setup.setup_command, setup.check_command),
    "Ingest": (ingest.ingest_command, ingest.accept_recreated_topic_command, produce.produce_command),
    "Inspect": (inspect.lag_command, inspect.audit_command, inspect.trace_command, dead_letters.dead_letters_command),
    "Repair": (repair.repair_command, dead_letters.redrive_command, counters.reconcile_counters_command),
    "Hours and retention": (hours.compact_command, hours.stats_command, hours.restore_command, retention.expire_command),
    "Serve": (serve.serve_command, worker.worker_command),
}
"""Commands by the heading under which `analytics --help` lists them."""


class AnalyticsGroup(click.Group):
    """A command group that lists its commands by section and exits without an error message when its output
    pipe is closed.
    """

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's signature
        """Write one block for each section."""
        longest = max(map(len, self.commands))
        for heading, commands in SECTIONS.items():
            with formatter.section(heading):
                summaries = ((command.name or "", command.get_short_help_str(formatter.width - longest - 6)) for command in commands)
                formatter.write_dl([(name.ljust(longest), summary) for name, summary in summaries])

    def invoke(self, ctx: click.Context) -> object:
        """Run the command.

        Replace the exit code of click and rich for a closed pipe: theirs is 1, which means a finding here.
        """
        try:
            return super().invoke(ctx)
        except (BrokenPipeError, SystemExit) as end:
            if not any(isinstance(error, BrokenPipeError) for error in (end, end.__context__)):
                raise
            # Discard what is still buffered: Python's flush at exit would print another error.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(CLOSED_PIPE)


@click.group(cls=AnalyticsGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="analytics-defs")
def analytics() -> None:
    """Ingest product events from Kafka into DynamoDB and S3, and inspect, repair and serve what is stored.

    All settings are environment variables, see docs/settings.md. To use the servers of `make dev`:

        set -a; . .dev/env; set +a

    \b
    Exit codes:
      0    success
      1    a finding (something differs, is halted or was not found), or another run was first
      2    invalid usage or settings
      3    a service is unavailable; a retry may succeed
      4    access was denied, a resource is missing, or a port is in use
      130  interrupted
      141  the output pipe was closed
    """


for _commands in SECTIONS.values():
    for _command in _commands:
        analytics.add_command(_command)
