"""`analytics expire`: delete archived data that is older than its retention setting."""

from __future__ import annotations

import sys

import click

from analytics_defs import wiring
from analytics_defs.cli.exit_codes import FINDING
from analytics_defs.cli.options import json_option
from analytics_defs.cli.output import print_json, print_table, progress_bar
from analytics_defs.config import load_settings
from analytics_defs.flows.retention.apply import apply_retention
from analytics_defs.flows.retention.expiry_sweep import RetentionContext, RetentionReport


@click.command()
@click.option("--dry-run", is_flag=True, help="Report what would be deleted, and change nothing.")
@json_option
def expire_command(dry_run: bool, json_output: bool) -> None:
    """Delete archived data older than its retention.

    The settings are EVENT_JSON_RETENTION, PARQUET_RETENTION and DEAD_LETTER_RETENTION. The age of data is the
    age of its batch, and the age of an hour is that of its newest batch. An hour is first marked as expired in
    the ledger. Then files of expired batches are deleted, recognized by key and metadata.
    The ledger and the counters are kept. Deleted
    data cannot be recovered: use --dry-run first.

    Exit code 1: an hour is old enough but cannot be expired yet. The hour and the reason are printed.

    \b
    Example:
      EVENT_JSON_RETENTION=90d analytics expire --dry-run
    """
    settings, report = load_settings(), RetentionReport()
    context = RetentionContext(
        wiring.verified_ports(settings), wiring.statistics_engine_factory(settings), settings.retention_policy(), dry_run=dry_run
    )
    try:
        with progress_bar("objects", None) as bar:
            apply_retention(context, report, lambda objects: bar.advance(bar.task_ids[0], objects))
    finally:
        if json_output:
            print_json({"dry_run": dry_run, "objects": report.objects, "bytes": report.bytes, "report": report})
        else:
            _show(report, dry_run, bool(context.policy))
    sys.exit(FINDING if report.skipped_hours else 0)


def _show(report: RetentionReport, dry_run: bool, is_enabled: bool) -> None:
    if not is_enabled:
        click.echo("nothing expires: none of EVENT_JSON_RETENTION, PARQUET_RETENTION and DEAD_LETTER_RETENTION is set")
        return
    title = "Would be deleted" if dry_run else "Deleted"
    if report.deleted:
        rows = [(deleted.objects, deleted.bytes, deleted.tree, deleted.hour) for deleted in report.deleted]
        print_table(title, ("objects", "bytes", "tree", "hour"), rows)
    for message in report.skipped_hours:
        click.echo(message, err=True)
    for key in report.foreign_keys:
        click.echo(f"{key}: foreign object, not written by this platform; it is kept", err=True)
    if report.foreign_count > len(report.foreign_keys):
        click.echo(f"{report.foreign_count - len(report.foreign_keys)} more foreign objects are counted but not listed", err=True)
    click.echo(f"{title.lower()}: {report.objects:,} objects, {report.bytes:,} bytes")
