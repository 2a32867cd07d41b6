"""All commands of `analytics`."""

from __future__ import annotations

import os
import sys

import click

from analytics_defs.cli.commands import counters, dead_letters, hours, ingest, inspect, repair, retention, serve, setup, worker
from analytics_defs.cli.exit_codes import CLOSED_PIPE


class PipeSafeGroup(click.Group):
    """Ends quietly where the reader of its output went away: click and rich answer with 1, which is a finding here."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except (BrokenPipeError, SystemExit) as end:
            if not any(isinstance(each, BrokenPipeError) for each in (end, end.__context__)):
                raise
            # What is still buffered goes nowhere: Python's own flush at the end would complain of it.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(CLOSED_PIPE)


@click.group(cls=PipeSafeGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="analytics-defs")
def analytics() -> None:
    """Product events: what was moved, what waits, and where each one went.

    Settings come from the environment (see the README's table). With the servers of `make dev` or `make servers`:

        set -a; . .dev/env; set +a

    Exit codes: 0 well, 1 a finding or another run was first, 2 wrong usage or settings, 3 something does not answer, 4 refused
    or missing, or a port that is taken, 130 interrupted, 141 who read the output went away.
    """


for _command in (
    *(setup.setup_command, setup.check_command),
    *(inspect.lag_command, inspect.audit_command, inspect.trace_command),
    *(dead_letters.dead_letters_command, dead_letters.redrive_command),
    *(repair.repair_command, counters.reconcile_counters_command, retention.expire_command),
    *(serve.serve_command, worker.worker_command),
    *(hours.compact_command, hours.stats_command, hours.restore_command),
    *(ingest.ingest_command, ingest.accept_recreated_topic_command, ingest.produce_command),
):
    analytics.add_command(_command)
