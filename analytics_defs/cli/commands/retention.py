"""`analytics forget`: what is older than its age leaves the archive."""

from __future__ import annotations

import sys

import click

from analytics_defs import wiring
from analytics_defs.cli import FINDING
from analytics_defs.cli.options import json_option
from analytics_defs.cli.output import as_json, progress, table
from analytics_defs.config import load_settings
from analytics_defs.flows.retention.apply import Means, Retention, retain


@click.command()
@click.option("--dry-run", is_flag=True, help="Say what would go, and change nothing.")
@json_option
def forget(dry_run: bool, json_wanted: bool) -> None:
    """Remove from the archive what is older than EVENT_OBJECTS_KEPT_FOR, PARQUET_KEPT_FOR and DEAD_LETTERS_KEPT_FOR say.

    Ages count from batch time, an hour's from its newest batch. An hour is frozen in the ledger first; then what the ledger knows as
    old is deleted, by name. The ledger and the counters stay. What is gone does not come back: look with --dry-run first. Exit code 1
    where an hour is old enough and stays; it is named, with the reason.

    \b
    Example:
      EVENT_OBJECTS_KEPT_FOR=90d analytics forget --dry-run
    """
    settings, found = load_settings(), Retention()
    means = Means(wiring.sealed_ports(settings), wiring.build_bench(settings), settings.ages(), write=not dry_run)
    try:
        with progress("objects", None) as bar:
            retain(means, found, lambda objects: bar.advance(bar.task_ids[0], objects))
    finally:
        if json_wanted:
            as_json({"dry_run": dry_run, "objects": found.objects, "bytes": found.bytes, "found": found})
        else:
            _show(found, dry_run, bool(means.ages))
    sys.exit(FINDING if found.waiting else 0)


def _show(found: Retention, dry_run: bool, anything_goes: bool) -> None:
    if not anything_goes:
        click.echo("everything is kept: none of EVENT_OBJECTS_KEPT_FOR, PARQUET_KEPT_FOR and DEAD_LETTERS_KEPT_FOR is set")
        return
    title = "Would go" if dry_run else "Gone"
    if found.gone:
        table(title, ("objects", "bytes", "tree", "hour"), [(each.objects, each.bytes, each.tree, each.hour) for each in found.gone])
    for line in found.waiting:
        click.echo(line, err=True)
    for key in found.foreign:
        click.echo(f"{key}: nobody here wrote it; it is left alone", err=True)
    if found.foreigners > len(found.foreign):
        click.echo(f"{found.foreigners - len(found.foreign)} more foreign objects are counted, and not named", err=True)
    click.echo(f"{title.lower()}: {found.objects:,} objects, {found.bytes:,} bytes")
