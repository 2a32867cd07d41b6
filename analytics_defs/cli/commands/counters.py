"""`analytics rebuild-aggregates`: the live counters against the archive, and their mending."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import click

from analytics_defs import wiring
from analytics_defs.cli import FINDING
from analytics_defs.cli.options import json_option
from analytics_defs.cli.output import as_json, progress, table
from analytics_defs.config import load_settings
from analytics_defs.core.counter_adjustments import Adjustment
from analytics_defs.core.json_values import plain
from analytics_defs.flows.audit.counters import Recomputed, compare, mend


@click.command("rebuild-aggregates")
@click.option("--diff/--apply", "only_look", default=None, help="Show what differs; or also mend it.")
@json_option
def rebuild_aggregates(only_look: bool | None, json_wanted: bool) -> None:
    """The live counters against the records of all closed batches, and those against the archive, while ingest goes on.

    --diff writes nothing; exit code 1 where anything differs. --apply makes one adjustment for each lane or hour that differs, and none
    where the archive differs from the records. A second one finds nothing to do. Hours whose rows retention took are frozen: they are
    named, and left as they are; exit code 1 where counters of one differ.

    \b
    Example:
      analytics rebuild-aggregates --diff
    """
    if only_look is None:
        raise click.UsageError("expected --diff or --apply")
    settings = load_settings()
    ports, bench = wiring.build_ports(settings), wiring.build_bench(settings)
    with progress("hours compared", None) as bar:
        found = compare(ports, bench, lambda done, of: bar.update(bar.task_ids[0], completed=done, total=of))
    if not json_wanted:
        _show(found)
    made = [] if only_look else mend(found, ports)
    if json_wanted:
        as_json(
            {
                "batches": found.batches,
                "hours": found.hours,
                "counters": _rows(found),
                "archive": found.archive,
                "frozen": found.frozen,
                "adjustments": made,
            }
        )
    elif not only_look:
        _show_adjustments(made)
    frozen = [each for each in found.counters if each.of.hour in found.frozen]
    sys.exit(FINDING if frozen or (only_look and not found.agrees) else 0)


def _rows(found: Recomputed) -> list[dict[str, Any]]:
    return [
        plain(each.of) | {"counter": name, "live": live, "recorded": each.recorded[name], "difference": difference, "batches": each.batches}
        for each in found.counters
        for (name, live), difference in zip(each.live.items(), each.difference.values(), strict=True)
    ]


def _show(found: Recomputed) -> None:
    if rows := _rows(found):
        names = ("live", "recorded", "difference", "counter", "lane", "hour", "batches")
        table("Counters", names, [(*(row[name] for name in names[:-1]), _few(row["batches"])) for row in rows])
    if found.archive:
        lines = [(each.archived, each.recorded, each.archived - each.recorded, each.hour, each.batch) for each in found.archive]
        table("Archive", ("archived", "recorded", "difference", "hour", "batch"), lines)
    if found.frozen:
        click.echo(f"frozen, since retention took rows of them; not compared with the archive, never mended: {_few(found.frozen)}")
    click.echo(f"{len(rows) + len(found.archive)} differences in {found.batches} batches and {len(found.hours)} hours")


def _few(batches: Sequence[str]) -> str:
    return ", ".join(batches[:3]) + (f" and {len(batches) - 3} more" if batches[3:] else "")


def _show_adjustments(made: list[Adjustment]) -> None:
    for each in made:
        click.echo(f"{each.of}: adjustment {each.number} over {each.batches} batches: {_signed(each)}")
    click.echo(f"{len(made)} adjustments made")


def _signed(adjustment: Adjustment) -> str:
    return ", ".join(f"{name} {count:+}" for name, count in adjustment.counts.items())
