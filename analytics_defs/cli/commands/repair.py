"""`analytics repair`: a past range back to what its batches recorded."""

from __future__ import annotations

import sys
import uuid

import click

from analytics_defs import wiring
from analytics_defs.cli.exit_codes import FINDING
from analytics_defs.cli.options import json_option
from analytics_defs.cli.output import as_json, print_table, progress_bar, progress_callback
from analytics_defs.config import load_settings
from analytics_defs.core.repair import parse_repair_range
from analytics_defs.flows.repair import repair_range as replays


@click.command()
@click.option("--from", "first", required=True, metavar="SOURCE|HOUR", help="First source (topic/partition/offset), or hour (UTC).")
@click.option("--to", "end", required=True, metavar="SOURCE|HOUR", help="The one after the last: it is not included.")
@click.option("--dry-run", is_flag=True, help="Say what would change, and change nothing.")
@json_option
def repair_command(first: str, end: str, dry_run: bool, json_wanted: bool) -> None:
    """Bring a past range back to what its batches recorded, whole batches at a time: from Kafka where it still is, else from the stores.

    Two sources of one partition, or two hours (YYYY-MM-DDTHH): then batches with events of these hours, and batches whose own time lies
    in them. Nothing is claimed anew; no head, counter or offset moves. Twice is once. Exit code 1 where a dry run finds a difference,
    where records contradict the ledger, or where something is in no store any more. A batch that is not closed is named and passed
    over.

    \b
    Examples:
      analytics repair --from 2024-01-15T10 --to 2024-01-15T12 --dry-run
      analytics repair --from ProductCreated/3/1000 --to ProductCreated/3/2000
    """
    try:
        wanted = parse_repair_range(first, end)
    except ValueError as fault:
        raise click.UsageError(str(fault)) from fault
    settings = load_settings()
    rules = wiring.ingest_options(settings, f"replay-{uuid.uuid4()}").validation_rules
    ports, bench, found = wiring.verified_ports(settings), wiring.workspace_factory(settings), replays.RepairResult()
    try:
        with progress_bar("batches", None) as bar:
            means = replays.RepairContext(ports, bench, rules, write=not dry_run, progress=progress_callback(bar))
            [whole, _] = bar.task_ids
            replays.repair_range(wanted, means, found, lambda _: bar.advance(whole), lambda count: bar.update(whole, total=count))
    finally:
        _show_json(found, dry_run) if json_wanted else _show(found, dry_run)
    sys.exit(FINDING if found.conflicts or found.lost or (dry_run and found.changed) else 0)


def _show_json(found: replays.RepairResult, dry_run: bool) -> None:
    counts: dict[str, dict[str, int]] = {str(store): {} for store, _ in sorted(found.counts)}
    for (store, state), count in sorted(found.counts.items()):
        counts[store][str(state)] = count
    as_json(
        {
            "batches": found.batches,
            "dry_run": dry_run,
            "counts": counts,
            "changes": found.changes,
            "contradictions": found.conflicts,
            "lost": found.lost,
            "passed_over": found.skipped_batches,
            "unfinished": found.interrupted_batch,
        }
    )


def _show(found: replays.RepairResult, dry_run: bool) -> None:
    title = "Would change" if dry_run else "Changed"
    if found.changes:
        print_table(title, ("store", "was", "key", "batch"), [(each.store, each.state, each.key, each.batch) for each in found.changes])
    print_table(f"{found.batches} batches", ("objects", "store", "found"), [(n, *name) for name, n in sorted(found.counts.items())])
    if found.changed > len(found.changes):
        click.echo(f"{found.changed - len(found.changes)} more changes are counted, and not named")
    for line in (*found.conflicts, *found.lost, *found.skipped_batches):
        click.echo(line, err=True)
    if found.interrupted_batch:
        click.echo(f"broken off while {found.interrupted_batch} was put back: replay again", err=True)
