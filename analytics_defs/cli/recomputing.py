"""`analytics rebuild-aggregates --diff`: it only reads."""

from __future__ import annotations

import sys

import click

from analytics_defs import wiring
from analytics_defs.cli import FINDING
from analytics_defs.cli.options import json_option
from analytics_defs.cli.shown import as_json, progress, table
from analytics_defs.config import load_settings
from analytics_defs.core.plain import plain
from analytics_defs.flows.recompute import Recomputed, compare


@click.command("rebuild-aggregates")
@click.option("--diff", is_flag=True, required=True, expose_value=False, help="Show what differs; nothing is written.")
@json_option
def rebuild_aggregates(json_wanted: bool) -> None:
    """The live counters against the records of all closed batches, and those against the archive. Exit code 1 where anything differs.

    \b
    Example:
      analytics rebuild-aggregates --diff
    """
    settings = load_settings()
    with progress("hours compared", None) as bar:
        found = compare(
            wiring.build_ports(settings),
            wiring.build_bench(settings),
            lambda done, of: bar.update(bar.task_ids[0], completed=done, total=of),
        )
    if json_wanted:
        counters = [plain(each) | {"difference": each.difference} for each in found.counters]
        as_json({"batches": found.batches, "hours": found.hours, "counters": counters, "archive": found.archive})
    else:
        _show(found)
    sys.exit(0 if found.agrees else FINDING)


def _show(found: Recomputed) -> None:
    if found.counters:
        rows = [(each.live, each.recorded, each.difference, each.counter, ", ".join(each.batches)) for each in found.counters]
        table("Counters", ("live", "recorded", "difference", "counter", "batches"), rows)
    if found.archive:
        lines = [(each.archived, each.recorded, each.archived - each.recorded, each.hour, each.batch) for each in found.archive]
        table("Archive", ("archived", "recorded", "difference", "hour", "batch"), lines)
    click.echo(f"{len(found.counters) + len(found.archive)} differences in {found.batches} batches and {len(found.hours)} hours")
