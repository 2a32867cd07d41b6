"""`analytics compact`, `stats` and `restore`: what the hourly assets do, for any hour, without Dagster."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from analytics_defs import wiring
from analytics_defs.cli.options import hour_arguments, json_option
from analytics_defs.cli.output import as_json, print_table, progress_bar
from analytics_defs.config import load_settings
from analytics_defs.flows.hours import compaction, statistics
from analytics_defs.flows.hours import restore as restoring
from analytics_defs.flows.hours.statistics import StatisticsEngineFactory
from analytics_defs.ports import Ports


def _each(hours: tuple[str, ...], work: Callable[[str, Ports, StatisticsEngineFactory], Any]) -> list[Any]:
    settings = load_settings()
    ports, bench, done = wiring.verified_ports(settings), wiring.workspace_factory(settings), list[Any]()
    with progress_bar("hours", len(hours)) as bar:
        for hour in hours:
            done.append(work(hour, ports, bench))
            bar.advance(bar.task_ids[0])
    return done


@click.command()
@hour_arguments
@json_option
def compact_command(hours: tuple[str, ...], json_wanted: bool) -> None:
    """One sorted archive for each HOUR (YYYY-MM-DDTHH, UTC), also for hours outside the asset's partitions.

    Twice is once. What is missing or damaged is rebuilt from the JSON tree, and named. Complete is an hour that every partition's head
    had passed when this revision was looked at, now or before; late events make another revision.
    """
    done = _each(hours, compaction.compact_hour)
    if json_wanted:
        as_json(done)
        return
    rows = [
        (
            each.revision.number if each.revision else 0,
            each.hour,
            each.revision.rows if each.revision else 0,
            "none" if each.revision is None else "made now" if each.created else "was there",
            "no events" if each.revision is None else {True: "yes", False: "not yet", None: "unknown"}[each.complete],
            ", ".join(each.rebuilt) or "none",
            ", ".join(each.foreign_objects) or "none",
        )
        for each in done
    ]
    print_table("Archive", ("revision", "hour", "events", "archive", "complete", "mended", "foreign files"), rows)


@click.command()
@hour_arguments
@json_option
def stats_command(hours: tuple[str, ...], json_wanted: bool) -> None:
    """Exact statistics of each HOUR (YYYY-MM-DDTHH, UTC), written under aggregates/. Exit code 1 where the stores disagree."""
    done = _each(hours, statistics.compute_hourly_stats)
    if json_wanted:
        as_json([each.stats for each in done])
        return
    names = ("events", "created", "updated", "deleted", "low_stock", "products", "sellers", "duplicates")
    rows = [(*(getattr(each.stats, name) for name in names), each.stats.hour) for each in done]
    print_table("Statistics", (*(name.replace("_", " ") for name in names), "hour"), rows)


@click.command()
@hour_arguments
@json_option
def restore_command(hours: tuple[str, ...], json_wanted: bool) -> None:
    """Put the events of each HOUR (YYYY-MM-DDTHH, UTC) back into RecentEvents, over nothing that is there. Twice is once."""
    done = _each(hours, restoring.restore_hour)
    if json_wanted:
        as_json(done)
        return
    rows = [(each.restored, each.already_present, each.owned_by_other_sources, each.expired, each.expired_rows, each.hour) for each in done]
    print_table("Restored", ("restored", "there already", "held by others", "expired", "taken by retention", "hour"), rows)
