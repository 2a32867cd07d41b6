"""`analytics lag`, `audit` and `trace`: read-only reports."""

from __future__ import annotations

import sys
from dataclasses import replace

import click

from analytics_defs import wiring
from analytics_defs.cli.exit_codes import FINDING
from analytics_defs.cli.options import hours_option, json_option
from analytics_defs.cli.output import print_json, print_table, progress_bar, progress_callback
from analytics_defs.config import load_settings
from analytics_defs.core.events.event import MAX_ID_BYTES
from analytics_defs.core.ingest.planning import PlanningResult
from analytics_defs.core.json_values import to_json_value
from analytics_defs.core.ledger import OUTCOMES
from analytics_defs.errors import NotFound
from analytics_defs.flows.audit.balance import BalanceAudit, audit_offsets
from analytics_defs.flows.audit.hour import HourAudit, audit_hour
from analytics_defs.flows.audit.hour_bytes import compare_bytes
from analytics_defs.flows.audit.ledger_chain import audit_chain
from analytics_defs.flows.ingest.planning import plan_lanes
from analytics_defs.flows.trace.outcome import RecordOutcome, Trace
from analytics_defs.flows.trace.trace import trace_event, trace_record


@click.command()
@click.option("--max", "max_lag", type=click.IntRange(0), help="Exit with 1 if a partition has more lag than this.")
@json_option
def lag_command(max_lag: int | None, json_output: bool) -> None:
    """Show the lag of each partition.

    Also lists halted and unavailable partitions, and group offsets that an operator moved. Lag is counted up to
    the high watermark, including records of open transactions.

    Exit code 1: a partition is halted until an operator acts, or has no leader.

    \b
    Example:
      analytics lag --max 100000 || echo "ingestion is behind"
    """
    settings = load_settings()
    planning = plan_lanes(settings.kafka_topics, settings.planning_policy(), wiring.build_ports(settings))
    if json_output:
        partitions = [to_json_value(lag) | {"lag": lag.offsets, "transaction_lag": lag.transaction_lag} for lag in planning.lags]
        print_json({"partitions": partitions, "halted": planning.halted, "unavailable": planning.unavailable, "notes": planning.notes})
    else:
        _show_lag(planning)
    behind = max_lag is not None and any(lag.offsets > max_lag for lag in planning.lags)
    sys.exit(FINDING if planning.halted or planning.unavailable or behind else 0)


def _show_lag(planning: PlanningResult) -> None:
    rows = [
        (
            str(lag.topic_partition),
            lag.offsets,
            lag.transaction_lag,
            lag.next_offset,
            lag.high_watermark,
            "none" if lag.committed is None else lag.committed,
        )
        for lag in planning.lags
    ]
    print_table("Lag", ("partition", "lag", "transaction lag", "next offset", "high watermark", "group offset"), rows)
    for line in (*planning.notes, *planning.halted.values(), *planning.unavailable.values()):
        click.echo(line)


@click.command()
@hours_option
@click.option("--bytes", "check_bytes", is_flag=True, help="Also read every JSON object of the hours and compare its bytes with Parquet.")
@json_option
def audit_command(hours: tuple[str, ...], check_bytes: bool, json_output: bool) -> None:
    """Check that every closed offset is accounted for. Also compares the event counters and the ledger's own items.

    \b
    closed offsets = stored + duplicates + dead letters + tombstones + explained gaps + lost

    Exit code 1: anything differs, or a batch was abandoned.

    \b
    Example:
      analytics audit --hour 2024-01-15T10 --hour 2024-01-15T11
    """
    if check_bytes and not hours:
        raise click.UsageError("--bytes reads every JSON object: name the hours with --hour")
    settings = load_settings()
    ports = wiring.build_ports(settings)
    audit, hour_audits = audit_offsets(ports), list[HourAudit]()
    with progress_bar("ledgers compared", 1) as bar:
        chain = audit_chain(ports, progress_callback(bar))
    if hours:
        with progress_bar("hours compared", len(hours)) as bar:
            progress = progress_callback(bar)
            for hour in hours:
                hour_audit = audit_hour(hour, ports, progress)
                if check_bytes:
                    differences = compare_bytes(hour, ports, wiring.statistics_engine_factory(settings), progress).findings
                    hour_audit = replace(hour_audit, findings=(*hour_audit.findings, *differences))
                hour_audits.append(hour_audit)
                bar.advance(bar.task_ids[0])
    if json_output:
        print_json(
            {
                "unaccounted": audit.unaccounted,
                "differences": audit.differences,
                "ledger": chain.findings,
                "abandoned": audit.abandoned_batches,
                "unreadable": audit.unreadable,
                "pending": audit.pending,
                "partitions": [to_json_value(checkpoint) | {"unaccounted": checkpoint.unaccounted} for checkpoint in audit.checkpoints],
                "counters": audit.counters,
                "hours": hour_audits,
            }
        )
    else:
        _show_audit(audit)
        for line in chain.findings:
            click.echo(line)
        for hour_audit in hour_audits:
            _show_hour(hour_audit)
        click.echo(f"unaccounted: {audit.unaccounted}")
    agrees = audit.balanced and not chain.findings and all(hour_audit.agrees for hour_audit in hour_audits)
    sys.exit(0 if agrees else FINDING)


def _show_audit(audit: BalanceAudit) -> None:
    rows = [
        (
            str(checkpoint.topic_partition),
            checkpoint.first_offset,
            checkpoint.next_offset,
            *checkpoint.totals.as_dict().values(),
            checkpoint.unaccounted,
        )
        for checkpoint in audit.checkpoints
    ]
    if rows:
        closed = sum(checkpoint.next_offset - checkpoint.first_offset for checkpoint in audit.checkpoints)
        rows.append((f"all {len(rows)}: {closed:,} offsets", "", "", *audit.totals.as_dict().values(), audit.unaccounted))
    print_table("Closed offsets", ("partition", "from", "to", *(name.replace("_", " ") for name in OUTCOMES), "unaccounted"), rows)
    pending = (f"pending: {batch}" for batch in audit.pending)
    for line in (*audit.differences, *audit.abandoned_batches, *audit.unreadable, *pending):
        click.echo(line)


def _show_hour(audit: HourAudit) -> None:
    rows = [(name.replace("_", " "), value) for name, value in to_json_value(audit).items() if isinstance(value, int)]
    print_table(f"Stores for {audit.hour}", ("count of", "events"), rows)
    for line in audit.findings:
        click.echo(line)


def _validated_target(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    if not 1 <= len(value.encode(errors="surrogatepass")) <= MAX_ID_BYTES:
        raise click.BadParameter(f"expected topic/partition/offset or an event id of 1 to {MAX_ID_BYTES} bytes")
    return value


@click.command()
@click.argument("target", metavar="SOURCE|ID", callback=_validated_target)
@click.option("--id", "is_id", is_flag=True, help="Read the argument as an event id, although it looks like a source.")
@json_option
def trace_command(target: str, is_id: bool, json_output: bool) -> None:
    """Show what happened to a record or event.

    A record is named by its source (topic/partition/offset), an event of the last 30 days by its id. Prints
    locations and reasons, never payloads.

    Exit code 1: the record or event is not known.

    \b
    Examples:
      analytics trace ProductCreated/3/1042
      analytics trace 0b1f6bd5-9a7e-4a52-8a5e-6f1c8f2f2f11
    """
    settings = load_settings()
    try:
        ports = wiring.build_ports(settings)
        trace = trace_event(target, ports) if is_id else trace_record(target, ports)
    except NotFound as error:
        if target.rpartition("/")[0] in settings.kafka_topics and target.rpartition("/")[2].isdecimal():
            error.add_note(f"{target} looks like a partition. A record has an offset too: topic/partition/offset, for example {target}/0.")
        raise
    if json_output:
        print_json(trace)
    else:
        _show_trace(trace, "")
    sys.exit(FINDING if trace.outcome is RecordOutcome.UNKNOWN_PARTITION else 0)


def _show_trace(trace: Trace, indent: str) -> None:
    for name, value in to_json_value(trace).items():
        if value and name not in ("redrive", "before"):
            click.echo(f"{indent}{name.replace('_', ' '):13} {value}")
    for title, related in (("after redrive:", trace.redrive), ("before redrive:", trace.before)):
        if related:
            click.echo(f"{indent}{title}")
            _show_trace(related, indent + "  ")
