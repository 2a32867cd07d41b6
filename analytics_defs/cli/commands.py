"""All commands of `analytics`."""

from __future__ import annotations

import click

from analytics_defs.cli import hours, looking, moving, preparing, rejected, serving


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="analytics-defs")
def analytics() -> None:
    """Product events: what was moved, what waits, and where each one went.

    Settings come from the environment (see the README's table). With the servers of `make dev` or `make servers`:

        set -a; . .dev/env; set +a

    Exit codes: 0 well, 1 a finding, 2 wrong usage or settings, 3 something does not answer, 4 refused or missing.
    """


for _command in (
    *(preparing.setup, preparing.check),
    *(looking.lag, looking.audit, looking.trace),
    *(rejected.dead_letters, rejected.redrive),
    serving.serve,
    *(hours.compact, hours.stats, hours.restore),
    *(moving.ingest, moving.accept, moving.produce),
):
    analytics.add_command(_command)
