"""`analytics dead-letters` and `redrive`: list rejected records and process them again."""

from __future__ import annotations

import uuid
from itertools import islice
from typing import Any

import click

from analytics_defs import wiring
from analytics_defs.cli.options import batch_hour_option, batch_option, json_option, reason_option
from analytics_defs.cli.output import print_json, print_table, progress_bar
from analytics_defs.config import load_settings
from analytics_defs.core.ledger import REDRIVE_LANE
from analytics_defs.core.storage.dead_letter_files import dead_letter_fields
from analytics_defs.flows.ingest.close_batch import delete_stale_staging_files
from analytics_defs.flows.redrive import DeadLetterFilter, StoredDeadLetter, list_dead_letters, redrive_dead_letters
from analytics_defs.flows.setup.platform_identity import register_stores


@click.command("dead-letters")
@reason_option
@batch_hour_option
@batch_option
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="Maximum number of records.")
@json_option
def dead_letters_command(reason: str | None, batch_hour: str | None, batch_id: str | None, limit: int, json_output: bool) -> None:
    """List dead letters: records that are not valid events.

    Shows the rejection reason. Redriven records are included. --json prints one object per line with the field
    names of the dead-letter file. Key, value and headers are base64 and complete.

    \b
    Examples:
      analytics dead-letters --reason schema
      analytics dead-letters --batch-hour 2024-01-15T10 --json --limit 1000000 | jq -r .value | base64 -d
    """
    dead_letters = islice(list_dead_letters(DeadLetterFilter(reason, batch_hour, batch_id), wiring.build_ports(load_settings())), limit)
    if json_output:
        for stored in dead_letters:
            print_json(_json_object(stored))
        return
    with progress_bar("dead letters", None) as bar:
        rows = []
        for stored in dead_letters:
            letter = stored.letter
            rows.append((str(letter.record.source), letter.reason, letter.detail, letter.record.size, stored.batch_id))
            bar.advance(bar.task_ids[0])
    print_table(f"Dead letters (limit {limit})", ("source", "reason", "detail", "bytes", "batch"), rows)


def _json_object(stored: StoredDeadLetter) -> dict[str, Any]:
    return dead_letter_fields(stored.letter) | {"batch": stored.batch_id, "file": stored.key}


@click.command()
@reason_option
@batch_hour_option
@batch_option
@click.option("--all", "everything", is_flag=True, help="Select all dead letters.")
@json_option
def redrive_command(reason: str | None, batch_hour: str | None, batch_id: str | None, everything: bool, json_output: bool) -> None:
    """Process dead letters again. Uses the current rules and settings. Idempotent.

    A record that is still rejected stays a dead letter. A record that was accepted is not redriven again.

    \b
    Example:
      MAX_EVENT_BYTES=8388608 analytics redrive --reason too_large
    """
    if not (reason or batch_hour or batch_id or everything):
        raise click.UsageError("select the dead letters to redrive with --reason, --batch-hour, --batch, or --all")
    from analytics_defs.adapters.runtime.lease_heartbeat import LeaseHeartbeat

    settings, run_id = load_settings(), f"redrive-{uuid.uuid4()}"
    ports = wiring.build_ports(settings)
    register_stores(run_id, ports)
    delete_stale_staging_files(ports)
    with LeaseHeartbeat(ports.ledger, run_id, REDRIVE_LANE, ports.clock), progress_bar("redriven", None) as bar:
        result = redrive_dead_letters(
            DeadLetterFilter(reason, batch_hour, batch_id),
            ports,
            wiring.ingest_options(settings, run_id),
            lambda record: bar.advance(bar.task_ids[0], len(record.redriven)),
        )
    counts = {
        "stored": result.stored,
        "duplicates": result.duplicates,
        "still_rejected": len(result.still_rejected),
        "redriven_before": result.already_redriven,
    }
    if json_output:
        print_json(counts | {"batches": [record.batch.id for record in result.closed]})
    else:
        click.echo(", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items()))
