"""`analytics reconcile-counters`: the live counters against the archive, and their mending."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import click

from analytics_defs import wiring
from analytics_defs.cli.exit_codes import FINDING
from analytics_defs.cli.options import json_option
from analytics_defs.cli.output import as_json, print_table, progress_bar
from analytics_defs.config import load_settings
from analytics_defs.core.counter_adjustments import Adjustment
from analytics_defs.core.json_values import to_json_value
from analytics_defs.flows.audit.counters import CounterComparison, apply_adjustments, compare_counters


@click.command("reconcile-counters")
@click.option("--dry-run", is_flag=True, help="Report what differs, and change nothing.")
@json_option
def reconcile_counters_command(dry_run: bool, json_wanted: bool) -> None:
    """Correct the event counters from the records of all closed batches, while ingestion continues.

    Compares the counters with the batch records, and the batch records with the hour archives. Makes one adjustment for each lane or
    hour whose counters differ. Makes none if an archive differs from the batch records. Running it again finds nothing to do.
    Hours whose rows expired are named and not adjusted.

    Exit code 1: with --dry-run if anything differs, otherwise if the counters of an expired hour differ.

    \b
    Example:
      analytics reconcile-counters --dry-run
    """
    settings = load_settings()
    ports, bench = wiring.build_ports(settings), wiring.workspace_factory(settings)
    with progress_bar("hours compared", None) as bar:
        found = compare_counters(ports, bench, lambda done, of: bar.update(bar.task_ids[0], completed=done, total=of))
    if not json_wanted:
        _show(found)
    made = [] if dry_run else apply_adjustments(found, ports)
    if json_wanted:
        as_json(
            {
                "batches": found.batches,
                "hours": found.hours,
                "counters": _rows(found),
                "archive": found.archive,
                "expired": found.expired_hours,
                "adjustments": made,
            }
        )
    elif not dry_run:
        _show_adjustments(made)
    frozen = [each for each in found.counters if each.target.hour in found.expired_hours]
    sys.exit(FINDING if frozen or (dry_run and not found.agrees) else 0)


def _rows(found: CounterComparison) -> list[dict[str, Any]]:
    return [
        to_json_value(each.target)
        | {"counter": name, "live": live, "recorded": each.recorded[name], "difference": difference, "batches": each.batches}
        for each in found.counters
        for (name, live), difference in zip(each.live.items(), each.difference.values(), strict=True)
    ]


def _show(found: CounterComparison) -> None:
    if rows := _rows(found):
        names = ("live", "recorded", "difference", "counter", "lane", "hour", "batches")
        print_table("Counters", names, [(*(row[name] for name in names[:-1]), _few(row["batches"])) for row in rows])
    if found.archive:
        lines = [(each.archived, each.recorded, each.archived - each.recorded, each.hour, each.batch) for each in found.archive]
        print_table("Archive", ("archived", "recorded", "difference", "hour", "batch"), lines)
    if found.expired_hours:
        click.echo(f"frozen, since retention took rows of them; not compared with the archive, never mended: {_few(found.expired_hours)}")
    click.echo(f"{len(rows) + len(found.archive)} differences in {found.batches} batches and {len(found.hours)} hours")


def _few(batches: Sequence[str]) -> str:
    return ", ".join(batches[:3]) + (f" and {len(batches) - 3} more" if batches[3:] else "")


def _show_adjustments(made: list[Adjustment]) -> None:
    for each in made:
        click.echo(f"{each.target}: adjustment {each.number} over {each.batches} batches: {_signed(each)}")
    click.echo(f"{len(made)} adjustments made")


def _signed(adjustment: Adjustment) -> str:
    return ", ".join(f"{name} {count:+}" for name, count in adjustment.counts.items())
