"""`analytics dead-letters` and `redrive`: records that are not events."""

from __future__ import annotations

import base64
import uuid
from itertools import islice
from typing import Any

import click

from analytics_defs import wiring
from analytics_defs.cli.options import batch_option, hour_option, json_option, reason_option
from analytics_defs.cli.output import as_json, print_table, progress_bar
from analytics_defs.config import load_settings
from analytics_defs.core.ledger import REDRIVE_LANE
from analytics_defs.flows import redrive as redrives
from analytics_defs.flows.redrive import DeadLetterFilter, StoredDeadLetter
from analytics_defs.flows.setup.platform_identity import register_stores


@click.command("dead-letters")
@reason_option
@hour_option
@batch_option
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="How many at most.")
@json_option
def dead_letters_command(reason: str | None, hour: str | None, batch_id: str | None, limit: int, json_wanted: bool) -> None:
    """Records that are not events, with the reason. Those put through again stay among them.

    With --json one object a line, in the names of the dead-letter file: key, value and headers are base64, whole.

    \b
    Examples:
      analytics dead-letters --reason schema
      analytics dead-letters --hour 2024-01-15T10 --json --limit 1000000 | jq -r .value | base64 -d
    """
    letters = islice(redrives.list_dead_letters(DeadLetterFilter(reason, hour, batch_id), wiring.build_ports(load_settings())), limit)
    if json_wanted:
        for each in letters:
            as_json(_line(each))
        return
    with progress_bar("dead letters", None) as bar:
        rows = []
        for each in letters:
            letter = each.letter
            rows.append((str(letter.record.source), letter.reason, letter.detail, letter.record.size, each.batch_id))
            bar.advance(bar.task_ids[0])
    print_table(f"Dead letters, {limit} at most", ("source", "reason", "detail", "bytes", "batch"), rows)


def _line(kept: StoredDeadLetter) -> dict[str, Any]:
    letter, record = kept.letter, kept.letter.record
    return {
        "source": record.source,
        "reason": letter.reason,
        "detail": letter.detail,
        "timestampMs": record.timestamp_ms,
        "key": _base64(record.key),
        "value": _base64(record.value),
        "headers": [[name, _base64(value)] for name, value in record.headers],
        "batch": kept.batch_id,
        "file": kept.key,
    }


def _base64(value: bytes | None) -> str | None:
    return None if value is None else base64.b64encode(value).decode()


@click.command()
@reason_option
@hour_option
@batch_option
@click.option("--all", "everything", is_flag=True, help="All dead letters there are.")
@json_option
def redrive_command(reason: str | None, hour: str | None, batch_id: str | None, everything: bool, json_wanted: bool) -> None:
    """Put dead letters through again, by today's rules and settings. What is still no event stays as it is; twice is once.

    \b
    Example:
      MAX_EVENT_BYTES=8388608 analytics redrive --reason too_large
    """
    if not (reason or hour or batch_id or everything):
        raise click.UsageError("name what to put through again: --reason, --hour, --batch, or --all")
    from analytics_defs.adapters.runtime.lease_heartbeat import LeaseHeartbeat

    settings, run_id = load_settings(), f"redrive-{uuid.uuid4()}"
    ports = wiring.build_ports(settings)
    register_stores(run_id, ports)
    with LeaseHeartbeat(ports.ledger, run_id, REDRIVE_LANE, ports.clock), progress_bar("redriven", None) as bar:
        found = redrives.redrive_dead_letters(
            DeadLetterFilter(reason, hour, batch_id),
            ports,
            wiring.ingest_options(settings, run_id),
            lambda record: bar.advance(bar.task_ids[0], len(record.redriven)),
        )
    counts = {
        "stored": found.stored,
        "duplicates": found.duplicates,
        "still_rejected": len(found.still_rejected),
        "redriven_before": found.already_redriven,
    }
    if json_wanted:
        as_json(counts | {"batches": [record.batch.id for record in found.closed]})
    else:
        click.echo(", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items()))
