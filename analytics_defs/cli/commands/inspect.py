"""`analytics lag`, `audit` and `trace`: they only read."""

from __future__ import annotations

import sys
from dataclasses import replace

import click

from analytics_defs import wiring
from analytics_defs.cli.exit_codes import FINDING
from analytics_defs.cli.options import hours_option, json_option
from analytics_defs.cli.output import as_json, print_table, progress_bar, progress_callback
from analytics_defs.config import load_settings
from analytics_defs.core.ingest.planning import PlanningResult
from analytics_defs.core.json_values import to_json_value
from analytics_defs.core.ledger import OUTCOMES
from analytics_defs.errors import NotFound
from analytics_defs.flows.audit import balance as audits
from analytics_defs.flows.audit.balance import BalanceAudit
from analytics_defs.flows.audit.hour import HourAudit, audit_hour
from analytics_defs.flows.audit.hour_bytes import compare_bytes
from analytics_defs.flows.ingest.planning import plan_lanes
from analytics_defs.flows.trace.outcome import RecordOutcome, Trace
from analytics_defs.flows.trace.trace import trace_record as trace_what


@click.command()
@click.option("--max", "max_lag", type=click.IntRange(0), help="Exit with 1 where a partition is further behind than this.")
@json_option
def lag_command(max_lag: int | None, json_wanted: bool) -> None:
    """How far each partition is behind, what stops, and what an operator moved.

    Counted to the high watermark, also behind an open transaction. Exit code 1 where a partition waits for a person, or does not answer.

    \b
    Example:
      analytics lag --max 100000 || page-somebody
    """
    settings = load_settings()
    planning = plan_lanes(settings.kafka_topics, settings.planning_policy(), wiring.build_ports(settings))
    if json_wanted:
        lags = [to_json_value(each) | {"lag": each.offsets, "held_back": each.transaction_lag} for each in planning.lags]
        as_json({"partitions": lags, "stopped": planning.halted, "silent": planning.unavailable, "notes": planning.notes})
    else:
        _show_lag(planning)
    behind = max_lag is not None and any(each.offsets > max_lag for each in planning.lags)
    sys.exit(FINDING if planning.halted or planning.unavailable or behind else 0)


def _show_lag(planning: PlanningResult) -> None:
    rows = [
        (
            str(each.topic_partition),
            each.offsets,
            each.transaction_lag,
            each.next_offset,
            each.high_watermark,
            "none" if each.committed is None else each.committed,
        )
        for each in planning.lags
    ]
    print_table("Lag", ("partition", "lag", "behind open transactions", "next", "high watermark", "group offset"), rows)
    for line in (*planning.notes, *planning.halted.values(), *planning.unavailable.values()):
        click.echo(line)


@click.command()
@hours_option
@click.option("--bytes", "bytes_wanted", is_flag=True, help="Also read every JSON object of the hours and compare its bytes with Parquet.")
@json_option
def audit_command(hours: tuple[str, ...], bytes_wanted: bool, json_wanted: bool) -> None:
    """The equation of every partition, and whether the counters say the same. Exit code 1 where anything differs, or a batch is stuck.

    \b
    closed offsets = stored + repeats + dead letters + tombstones + explained gaps + lost

    \b
    Example:
      analytics audit --hour 2024-01-15T10 --hour 2024-01-15T11
    """
    if bytes_wanted and not hours:
        raise click.UsageError("--bytes reads every JSON object: name the hours with --hour")
    settings = load_settings()
    ports = wiring.build_ports(settings)
    found, compared = audits.audit_offsets(ports), list[HourAudit]()
    if hours:
        with progress_bar("hours compared", len(hours)) as bar:
            told = progress_callback(bar)
            for hour in hours:
                found_here = audit_hour(hour, ports, told)
                differing = compare_bytes(hour, ports, wiring.workspace_factory(settings), told).findings if bytes_wanted else ()
                compared.append(replace(found_here, findings=(*found_here.findings, *differing)))
                bar.advance(bar.task_ids[0])
    if json_wanted:
        heads = [to_json_value(head) | {"unaccounted": head.unaccounted} for head in found.checkpoints]
        said = {
            "unaccounted": found.unaccounted,
            "differences": found.differences,
            "stuck": found.abandoned_batches,
            "unreadable": found.unreadable,
            "pending": found.pending,
        }
        as_json({**said, "partitions": heads, "counters": found.counters, "hours": compared})
    else:
        _show_audit(found)
        for each in compared:
            _show_hour(each)
        click.echo(f"unaccounted: {found.unaccounted}")
    sys.exit(0 if found.balanced and all(each.agrees for each in compared) else FINDING)


def _show_audit(found: BalanceAudit) -> None:
    rows = [
        (str(head.topic_partition), head.first_offset, head.next_offset, *head.totals.as_dict().values(), head.unaccounted)
        for head in found.checkpoints
    ]
    if rows:
        closed = sum(head.next_offset - head.first_offset for head in found.checkpoints)
        rows.append((f"all {len(rows)}: {closed:,} offsets", "", "", *found.totals.as_dict().values(), found.unaccounted))
    print_table("Equation", ("partition", "from", "to", *(name.replace("_", " ") for name in OUTCOMES), "unaccounted"), rows)
    for line in (*found.differences, *found.abandoned_batches, *found.unreadable, *(f"pending: {each}" for each in found.pending)):
        click.echo(line)


def _show_hour(found: HourAudit) -> None:
    rows = [(name.replace("_", " "), value) for name, value in to_json_value(found).items() if isinstance(value, int)]
    print_table(f"Stores for {found.hour}", ("what", "events"), rows)
    for line in found.findings:
        click.echo(line)


@click.command()
@click.argument("what")
@json_option
def trace_command(what: str, json_wanted: bool) -> None:
    """Where did my event go? WHAT is topic/partition/offset, or an event id of the last 30 days.

    Coordinates and reasons, never payloads. Exit code 1 where nothing is known of it.

    \b
    Examples:
      analytics trace ProductCreated/3/1042
      analytics trace 0b1f6bd5-9a7e-4a52-8a5e-6f1c8f2f2f11
    """
    settings = load_settings()
    try:
        found = trace_what(what, wiring.build_ports(settings))
    except NotFound as fault:
        if what.rpartition("/")[0] in settings.kafka_topics and what.rpartition("/")[2].isdecimal():
            fault.add_note(f"{what} looks like a partition. A record has an offset too: topic/partition/offset, for example {what}/0.")
        raise
    if json_wanted:
        as_json(found)
    else:
        _show_trace(found, "")
    sys.exit(FINDING if found.outcome is RecordOutcome.UNKNOWN_PARTITION else 0)


def _show_trace(found: Trace, indent: str) -> None:
    for name, value in to_json_value(found).items():
        if value and name not in ("redrive", "before"):
            click.echo(f"{indent}{name.replace('_', ' '):13} {value}")
    for title, other in (("put through again:", found.redrive), ("before it was put through again:", found.before)):
        if other:
            click.echo(f"{indent}{title}")
            _show_trace(other, indent + "  ")
