"""`analytics lag`, `audit` and `trace`: they only read."""

from __future__ import annotations

import sys
from dataclasses import replace

import click

from analytics_defs import wiring
from analytics_defs.cli import FINDING
from analytics_defs.cli.options import hours_option, json_option
from analytics_defs.cli.output import as_json, progress, step, table
from analytics_defs.config import load_settings
from analytics_defs.core.ingest.planning import Planning
from analytics_defs.core.json_values import plain
from analytics_defs.core.ledger import OUTCOMES
from analytics_defs.errors import NotFound
from analytics_defs.flows.audit import balance as audits
from analytics_defs.flows.audit.balance import Audit
from analytics_defs.flows.audit.hour import HourAudit, audit_hour
from analytics_defs.flows.audit.hour_bytes import compare_bytes
from analytics_defs.flows.ingest.planning import look
from analytics_defs.flows.trace.trace import Fate, Trace
from analytics_defs.flows.trace.trace import trace as trace_what


@click.command()
@click.option("--max", "max_lag", type=click.IntRange(0), help="Exit with 1 where a partition is further behind than this.")
@json_option
def lag(max_lag: int | None, json_wanted: bool) -> None:
    """How far each partition is behind, what stops, and what an operator moved.

    Counted to the high watermark, also behind an open transaction. Exit code 1 where a partition waits for a person, or does not answer.

    \b
    Example:
      analytics lag --max 100000 || page-somebody
    """
    settings = load_settings()
    planning = look(settings.kafka_topics, settings.policy(), wiring.build_ports(settings))
    if json_wanted:
        lags = [plain(each) | {"lag": each.offsets, "held_back": each.held_back} for each in planning.lags]
        as_json({"partitions": lags, "stopped": planning.stopped, "silent": planning.silent, "notes": planning.notes})
    else:
        _show_lag(planning)
    behind = max_lag is not None and any(each.offsets > max_lag for each in planning.lags)
    sys.exit(FINDING if planning.stopped or planning.silent or behind else 0)


def _show_lag(planning: Planning) -> None:
    rows = [
        (
            str(each.topic_partition),
            each.offsets,
            each.held_back,
            each.next,
            each.high,
            "none" if each.committed is None else each.committed,
        )
        for each in planning.lags
    ]
    table("Lag", ("partition", "lag", "behind open transactions", "next", "high watermark", "group offset"), rows)
    for line in (*planning.notes, *planning.stopped.values(), *planning.silent.values()):
        click.echo(line)


@click.command()
@hours_option
@click.option("--bytes", "bytes_wanted", is_flag=True, help="Also read every JSON object of the hours and compare its bytes with Parquet.")
@json_option
def audit(hours: tuple[str, ...], bytes_wanted: bool, json_wanted: bool) -> None:
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
    found, compared = audits.audit(ports), list[HourAudit]()
    if hours:
        with progress("hours compared", len(hours)) as bar:
            told = step(bar)
            for hour in hours:
                found_here = audit_hour(hour, ports, told)
                differing = compare_bytes(hour, ports, wiring.build_bench(settings), told).findings if bytes_wanted else ()
                compared.append(replace(found_here, findings=(*found_here.findings, *differing)))
                bar.advance(bar.task_ids[0])
    if json_wanted:
        heads = [plain(head) | {"unaccounted": head.unaccounted} for head in found.heads]
        said = {
            "unaccounted": found.unaccounted,
            "differences": found.differences,
            "stuck": found.stuck,
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


def _show_audit(found: Audit) -> None:
    rows = [(str(head.topic_partition), head.first, head.next, *head.totals.as_dict().values(), head.unaccounted) for head in found.heads]
    if rows:
        closed = sum(head.next - head.first for head in found.heads)
        rows.append((f"all {len(rows)}: {closed:,} offsets", "", "", *found.totals.as_dict().values(), found.unaccounted))
    table("Equation", ("partition", "from", "to", *(name.replace("_", " ") for name in OUTCOMES), "unaccounted"), rows)
    for line in (*found.differences, *found.stuck, *found.unreadable, *(f"pending: {each}" for each in found.pending)):
        click.echo(line)


def _show_hour(found: HourAudit) -> None:
    rows = [(name.replace("_", " "), value) for name, value in plain(found).items() if isinstance(value, int)]
    table(f"Stores for {found.hour}", ("what", "events"), rows)
    for line in found.findings:
        click.echo(line)


@click.command()
@click.argument("what")
@json_option
def trace(what: str, json_wanted: bool) -> None:
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
    sys.exit(FINDING if found.fate is Fate.UNKNOWN_PARTITION else 0)


def _show_trace(found: Trace, indent: str) -> None:
    for name, value in plain(found).items():
        if value and name not in ("redrive", "before"):
            click.echo(f"{indent}{name.replace('_', ' '):13} {value}")
    for title, other in (("put through again:", found.redrive), ("before it was put through again:", found.before)):
        if other:
            click.echo(f"{indent}{title}")
            _show_trace(other, indent + "  ")
