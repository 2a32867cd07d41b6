"""`analytics repair`: restore a past range to what its batches recorded."""

from __future__ import annotations

import sys
import uuid

import click

from analytics_defs import wiring
from analytics_defs.cli.exit_codes import FINDING
from analytics_defs.cli.options import json_option
from analytics_defs.cli.output import print_json, print_table, progress_bar, progress_callback
from analytics_defs.config import load_settings
from analytics_defs.core.repair import parse_repair_range
from analytics_defs.flows.repair.repair_range import RepairContext, RepairResult, repair_range


@click.command()
@click.option("--from", "first", required=True, metavar="SOURCE|HOUR", help="Start: a source (topic/partition/offset) or a UTC hour.")
@click.option("--to", "end", required=True, metavar="SOURCE|HOUR", help="End, exclusive: a source or a UTC hour.")
@click.option("--dry-run", is_flag=True, help="Report what would change, and change nothing.")
@json_option
def repair_command(first: str, end: str, dry_run: bool, json_output: bool) -> None:
    """Restore a past range to what its batches recorded. Idempotent.

    The range is two sources of one partition, or two hours (YYYY-MM-DDTHH). Hours select the batches with
    events of these hours and the batches that began in them. Batches are repaired as a whole. Records are read
    from Kafka if it still has them, otherwise from the stores.

    Claims no new event ids. Moves no checkpoint, counter or group offset. Batches that are not closed are
    listed and skipped.

    Exit code 1: a dry run found differences, records contradict the ledger, or data is in no store any more.

    \b
    Examples:
      analytics repair --from 2024-01-15T10 --to 2024-01-15T12 --dry-run
      analytics repair --from ProductCreated/3/1000 --to ProductCreated/3/2000
    """
    try:
        range_ = parse_repair_range(first, end)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    settings = load_settings()
    rules = wiring.ingest_options(settings, f"repair-{uuid.uuid4()}").validation_rules
    ports, engine_factory, result = wiring.verified_ports(settings), wiring.statistics_engine_factory(settings), RepairResult()
    try:
        with progress_bar("batches", None) as bar:
            context = RepairContext(ports, engine_factory, rules, dry_run=dry_run, progress=progress_callback(bar))
            [batches, _] = bar.task_ids
            repair_range(range_, context, result, lambda _: bar.advance(batches), lambda count: bar.update(batches, total=count))
    finally:
        _show_json(result, dry_run) if json_output else _show(result, dry_run)
    sys.exit(FINDING if result.conflicts or result.lost or (dry_run and result.changed) else 0)


def _show_json(result: RepairResult, dry_run: bool) -> None:
    counts: dict[str, dict[str, int]] = {str(store): {} for store, _ in sorted(result.counts)}
    for (store, state), count in sorted(result.counts.items()):
        counts[store][str(state)] = count
    print_json(
        {
            "batches": result.batches,
            "dry_run": dry_run,
            "counts": counts,
            "changes": result.changes,
            "conflicts": result.conflicts,
            "lost": result.lost,
            "skipped_batches": result.skipped_batches,
            "interrupted_batch": result.interrupted_batch,
        }
    )


def _show(result: RepairResult, dry_run: bool) -> None:
    title = "Would change" if dry_run else "Changed"
    if result.changes:
        rows = [(change.store, change.state, change.key, change.batch) for change in result.changes]
        print_table(title, ("store", "was", "key", "batch"), rows)
    print_table(
        f"{result.batches} batches", ("objects", "store", "state"), [(count, *name) for name, count in sorted(result.counts.items())]
    )
    if result.changed > len(result.changes):
        click.echo(f"{result.changed - len(result.changes)} more changes are counted but not listed")
    for message in (*result.conflicts, *result.lost, *result.skipped_batches):
        click.echo(message, err=True)
    if result.interrupted_batch:
        click.echo(f"interrupted while {result.interrupted_batch} was repaired: run the same command again", err=True)
