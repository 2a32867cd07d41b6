"""`analytics setup` and `analytics check`: prepare and verify Kafka and the stores before the first record is
read.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable

import click

from analytics_defs import wiring
from analytics_defs.cli.exit_codes import REFUSED, UNAVAILABLE
from analytics_defs.cli.options import json_option
from analytics_defs.cli.output import print_json, print_table, progress_bar
from analytics_defs.config import load_settings
from analytics_defs.errors import AnalyticsError
from analytics_defs.flows.setup.platform_identity import StoreIdentityCheck
from analytics_defs.flows.setup.preflight import run_preflight
from analytics_defs.flows.setup.provision import provision
from analytics_defs.ports import Checkable


@click.command()
@click.option("--topics/--no-topics", default=True, show_default=True, help="Create missing topics.")
@click.option("--partitions", type=click.IntRange(1), default=4, show_default=True, help="Number of partitions of a new topic.")
@click.option(
    "--replication", type=int, default=-1, show_default=True, help="Replication factor of a new topic. -1 uses the broker's default."
)
@json_option
def setup_command(topics: bool, partitions: int, replication: int, json_output: bool) -> None:
    """Create missing topics, tables and the bucket. Validate those that exist. Idempotent.

    If this client may not create topics, the missing topics are listed. That is not an error: ingestion reads
    them once they exist.

    Exit code 3: a service is unavailable. Exit code 4: a permission is missing, or a table or bucket has
    another shape.

    \b
    Example:
      analytics setup --partitions 12 --replication 3
    """
    with (
        wiring.provisioners(load_settings(), wiring.NewTopicOptions(topics, partitions, replication)) as provisioners,
        progress_bar("prepared", 3) as bar,
    ):
        results = provision(provisioners, lambda _: bar.advance(bar.task_ids[0]))
    if json_output:
        print_json(
            [{"provisioner": result.provisioner, "done": result.done, "error": result.error and str(result.error)} for result in results]
        )
    else:
        for result in results:
            outcome = result.error or "; ".join(result.done) or "nothing to create"
            click.echo(f"{result.provisioner}: {outcome}", err=bool(result.error))
    _exit_for(result.error for result in results)


@click.command()
@json_option
def check_command(json_output: bool) -> None:
    """Verify connections, permissions and settings. Changes nothing.

    Use it before the first record is read. Write permissions are verified with requests that the store must
    reject, and with one object under staging/ that is deleted again.

    Exit code 3: a service is unavailable. Exit code 4: a permission is missing, or a topic, table or bucket is
    missing.

    \b
    Example:
      analytics check --json
    """
    settings = load_settings()
    with wiring.provisioners(settings) as provisioners, progress_bar("checks passed", None) as bar:
        subjects: list[Checkable] = [*provisioners, StoreIdentityCheck(wiring.build_ports(settings))]
        results = run_preflight(subjects, lambda _: bar.advance(bar.task_ids[0]))
    if json_output:
        print_json(
            [
                {
                    "subject": result.subject,
                    "check": result.check,
                    "result": str(result.error or result.finding),
                    "ok": result.passed,
                }
                for result in results
            ]
        )
    else:
        rows = [("ok" if result.passed else "FAILED", result.subject, result.check, result.error or result.finding) for result in results]
        print_table("Check", ("", "subject", "check", "result"), rows)
    _exit_for(result.error for result in results)


def _exit_for(outcomes: Iterable[AnalyticsError | None]) -> None:
    """Exit with 3 if a retry may help, and with 4 if an operator has to change something."""
    errors = [error for error in outcomes if error is not None]
    if errors:
        sys.exit(UNAVAILABLE if all(error.retryable for error in errors) else REFUSED)
