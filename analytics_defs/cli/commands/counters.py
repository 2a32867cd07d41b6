"""`analytics reconcile-counters`: compare the event counters with the batch records and correct them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import click

from analytics_defs import wiring
from analytics_defs.cli.exit_codes import FINDING
from analytics_defs.cli.options import json_option
from analytics_defs.cli.output import print_json, print_table, progress_bar
from analytics_defs.config import load_settings
from analytics_defs.core.counter_adjustments import Adjustment
from analytics_defs.core.json_values import to_json_value
from analytics_defs.flows.audit.counters import CounterComparison, apply_adjustments, compare_counters


@click.command("reconcile-counters")
@click.option("--dry-run", is_flag=True, help="Report what differs, and change nothing.")
@json_option
def reconcile_counters_command(dry_run: bool, json_output: bool) -> None:
    """Correct the event counters from the batch records. Idempotent.

    Ingestion may continue. Compares the counters with the batch records, and the batch records with the hour
    archives. Writes one adjustment for each lane or hour whose counters differ. Writes none if an archive
    differs from the batch records. Expired hours are listed and not adjusted.

    Exit code 1: with --dry-run if anything differs, otherwise if the counters of an expired hour differ.

    \b
    Example:
      analytics reconcile-counters --dry-run
    """
    settings = load_settings()
    ports, engine_factory = wiring.verified_ports(settings), wiring.statistics_engine_factory(settings)
    with progress_bar("hours compared", None) as bar:
        task = bar.task_ids[0]
        comparison = compare_counters(ports, engine_factory, lambda done, total: bar.update(task, completed=done, total=total))
    if not json_output:
        _show(comparison)
    adjustments = [] if dry_run else apply_adjustments(comparison, ports)
    if json_output:
        print_json(
            {
                "batches": comparison.batches,
                "hours": comparison.hours,
                "counters": _rows(comparison),
                "archive": comparison.archive,
                "expired": comparison.expired_hours,
                "adjustments": adjustments,
            }
        )
    elif not dry_run:
        _show_adjustments(adjustments)
    not_adjusted = [counter for counter in comparison.counters if counter.target.hour in comparison.expired_hours]
    sys.exit(FINDING if not_adjusted or (dry_run and not comparison.agrees) else 0)


def _rows(comparison: CounterComparison) -> list[dict[str, Any]]:
    return [
        to_json_value(item.target)
        | {"counter": name, "live": live, "recorded": item.recorded[name], "difference": difference, "batches": item.batches}
        for item in comparison.counters
        for (name, live), difference in zip(item.live.items(), item.difference.values(), strict=True)
    ]


def _show(comparison: CounterComparison) -> None:
    if rows := _rows(comparison):
        names = ("live", "recorded", "difference", "counter", "lane", "hour", "batches")
        print_table("Counters", names, [(*(row[name] for name in names[:-1]), _first_three(row["batches"])) for row in rows])
    if comparison.archive:
        lines = [(item.archived, item.recorded, item.archived - item.recorded, item.hour, item.batch) for item in comparison.archive]
        print_table("Archive", ("archived", "recorded", "difference", "hour", "batch"), lines)
    if comparison.expired_hours:
        click.echo(f"expired hours, not compared with the archive and never adjusted: {_first_three(comparison.expired_hours)}")
    count = len(rows) + len(comparison.archive)
    click.echo(f"{count} differences in {comparison.batches} batches and {len(comparison.hours)} hours")


def _first_three(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if names[3:] else "")


def _show_adjustments(adjustments: list[Adjustment]) -> None:
    for adjustment in adjustments:
        counts = ", ".join(f"{name} {count:+}" for name, count in adjustment.counts.items())
        click.echo(f"{adjustment.target}: adjustment {adjustment.number} over {adjustment.batches} batches: {counts}")
    click.echo(f"{len(adjustments)} adjustments made")
