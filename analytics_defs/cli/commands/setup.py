"""`analytics setup` and `analytics check`: before the first record."""

from __future__ import annotations

import sys
from collections.abc import Iterable

import click

from analytics_defs import wiring
from analytics_defs.cli.exit_codes import REFUSED, UNAVAILABLE
from analytics_defs.cli.options import json_option
from analytics_defs.cli.output import as_json, print_table, progress_bar
from analytics_defs.config import load_settings
from analytics_defs.errors import AnalyticsError
from analytics_defs.flows.setup import preflight as checks
from analytics_defs.flows.setup import provision as setups
from analytics_defs.flows.setup.platform_identity import StoreIdentityCheck


@click.command()
@click.option("--topics/--no-topics", default=True, show_default=True, help="Create missing topics.")
@click.option("--partitions", type=click.IntRange(1), default=4, show_default=True, help="Of a topic that is created.")
@click.option("--replication", type=int, default=-1, show_default=True, help="Of a topic that is created; -1: the broker's default.")
@json_option
def setup_command(topics: bool, partitions: int, replication: int, json_wanted: bool) -> None:
    """Create what is missing (topics, tables with TTL, bucket) and validate what exists. Twice is once.

    Topics that may not be created from here are named, and no failure: they are read once somebody made them.
    """
    with (
        wiring.provisioners(load_settings(), wiring.NewTopicOptions(topics, partitions, replication)) as grounds,
        progress_bar("prepared", 3) as bar,
    ):
        found = setups.provision(grounds, lambda _: bar.advance(bar.task_ids[0]))
    if json_wanted:
        as_json([{"ground": each.provisioner, "done": each.done, "fault": each.fault and str(each.fault)} for each in found])
    else:
        for each in found:
            click.echo(f"{each.provisioner}: {each.fault or '; '.join(each.done) or 'all was there'}", err=bool(each.fault))
    _exit_for(each.fault for each in found)


@click.command()
@json_option
def check_command(json_wanted: bool) -> None:
    """Prove every connection, permission and setting before the first record is read.

    Changes nothing: writes are proven by requests that the store refuses, and by an object under staging/ that is removed again.
    """
    settings = load_settings()
    with wiring.provisioners(settings) as grounds, progress_bar("proven", None) as bar:
        proofs = checks.run_preflight([*grounds, StoreIdentityCheck(wiring.build_ports(settings))], lambda _: bar.advance(bar.task_ids[0]))
    if json_wanted:
        as_json(
            [
                {"ground": each.subject, "question": each.check, "found": str(each.fault or each.finding), "ok": each.passed}
                for each in proofs
            ]
        )
    else:
        rows = [("ok" if each.passed else "FAILS", each.subject, each.check, each.fault or each.finding) for each in proofs]
        print_table("Check", ("", "where", "what", "found"), rows)
    _exit_for(each.fault for each in proofs)


def _exit_for(faults: Iterable[AnalyticsError | None]) -> None:
    """3 where trying again may help, 4 where somebody has to change something."""
    found = [fault for fault in faults if fault is not None]
    if found:
        sys.exit(UNAVAILABLE if all(fault.retryable for fault in found) else REFUSED)
