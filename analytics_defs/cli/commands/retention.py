"""`analytics expire`: what is older than its age leaves the archive."""

from __future__ import annotations

import sys

import click

from analytics_defs import wiring
from analytics_defs.cli.exit_codes import FINDING
from analytics_defs.cli.options import json_option
from analytics_defs.cli.output import as_json, print_table, progress_bar
from analytics_defs.config import load_settings
from analytics_defs.flows.retention.apply import apply_retention
from analytics_defs.flows.retention.sweep import RetentionContext, RetentionReport


@click.command()
@click.option("--dry-run", is_flag=True, help="Say what would go, and change nothing.")
@json_option
def expire_command(dry_run: bool, json_wanted: bool) -> None:
    """Remove from the archive what is older than EVENT_JSON_RETENTION, PARQUET_RETENTION and DEAD_LETTER_RETENTION say.

    Ages count from batch time, an hour's from its newest batch. An hour is frozen in the ledger first; then what the ledger knows as
    old is deleted, by name. The ledger and the counters stay. What is gone does not come back: look with --dry-run first. Exit code 1
    where an hour is old enough and stays; it is named, with the reason.

    \b
    Example:
      EVENT_JSON_RETENTION=90d analytics expire --dry-run
    """
    settings, found = load_settings(), RetentionReport()
    means = RetentionContext(
        wiring.verified_ports(settings), wiring.workspace_factory(settings), settings.retention_policy(), write=not dry_run
    )
    try:
        with progress_bar("objects", None) as bar:
            apply_retention(means, found, lambda objects: bar.advance(bar.task_ids[0], objects))
    finally:
        if json_wanted:
            as_json({"dry_run": dry_run, "objects": found.objects, "bytes": found.bytes, "found": found})
        else:
            _show(found, dry_run, bool(means.policy))
    sys.exit(FINDING if found.skipped_hours else 0)


def _show(found: RetentionReport, dry_run: bool, anything_goes: bool) -> None:
    if not anything_goes:
        click.echo("everything is kept: none of EVENT_JSON_RETENTION, PARQUET_RETENTION and DEAD_LETTER_RETENTION is set")
        return
    title = "Would go" if dry_run else "Gone"
    if found.deleted:
        print_table(
            title, ("objects", "bytes", "tree", "hour"), [(each.objects, each.bytes, each.tree, each.hour) for each in found.deleted]
        )
    for line in found.skipped_hours:
        click.echo(line, err=True)
    for key in found.foreign_keys:
        click.echo(f"{key}: nobody here wrote it; it is left alone", err=True)
    if found.foreign_count > len(found.foreign_keys):
        click.echo(f"{found.foreign_count - len(found.foreign_keys)} more foreign objects are counted, and not named", err=True)
    click.echo(f"{title.lower()}: {found.objects:,} objects, {found.bytes:,} bytes")
