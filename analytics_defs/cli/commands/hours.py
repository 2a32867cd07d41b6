"""`analytics compact`, `stats` and `restore`: the work of the hourly assets, for any hour, without Dagster."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from analytics_defs import wiring
from analytics_defs.cli.options import hour_arguments, json_option
from analytics_defs.cli.output import print_json, print_table, progress_bar
from analytics_defs.config import load_settings
from analytics_defs.flows.hours.compaction import compact_hour
from analytics_defs.flows.hours.restore import restore_hour
from analytics_defs.flows.hours.statistics import StatisticsEngineFactory, compute_hourly_stats
from analytics_defs.ports import Ports


def _for_each_hour(hours: tuple[str, ...], work: Callable[[str, Ports, StatisticsEngineFactory], Any]) -> list[Any]:
    settings = load_settings()
    ports, engine_factory, results = wiring.verified_ports(settings), wiring.statistics_engine_factory(settings), list[Any]()
    with progress_bar("hours", len(hours)) as bar:
        for hour in hours:
            results.append(work(hour, ports, engine_factory))
            bar.advance(bar.task_ids[0])
    return results


@click.command()
@hour_arguments
@json_option
def compact_command(hours: tuple[str, ...], json_output: bool) -> None:
    """Merge the Parquet parts of hours into archives. Idempotent.

    Writes one sorted archive for each HOUR (YYYY-MM-DDTHH, UTC). Also accepts hours outside the partitions of
    the assets. Missing or damaged files are rebuilt from the JSON objects and listed.

    An hour is complete when every partition has been read past its end. Events that arrive later create another
    revision.

    \b
    Example:
      analytics compact 2024-01-15T10 2024-01-15T11
    """
    results = _for_each_hour(hours, compact_hour)
    if json_output:
        print_json(results)
        return
    rows = [
        (
            result.revision.number if result.revision else 0,
            result.hour,
            result.revision.rows if result.revision else 0,
            "none" if result.revision is None else "created" if result.created else "up to date",
            "no events" if result.revision is None else {True: "yes", False: "not yet", None: "unknown"}[result.complete],
            ", ".join(result.rebuilt) or "none",
            ", ".join(result.foreign_objects) or "none",
        )
        for result in results
    ]
    print_table("Archive", ("revision", "hour", "events", "archive", "complete", "rebuilt", "foreign objects"), rows)


@click.command()
@hour_arguments
@json_option
def stats_command(hours: tuple[str, ...], json_output: bool) -> None:
    """Compute exact statistics of hours.

    Writes them under aggregates/ for each HOUR (YYYY-MM-DDTHH, UTC).

    Exit code 1: the stores disagree about an hour.

    \b
    Example:
      analytics stats 2024-01-15T10
    """
    results = _for_each_hour(hours, compute_hourly_stats)
    if json_output:
        print_json([result.stats for result in results])
        return
    names = ("events", "created", "updated", "deleted", "low_stock", "products", "sellers", "duplicates")
    rows = [(*(getattr(result.stats, name) for name in names), result.stats.period) for result in results]
    print_table("Statistics", (*(name.replace("_", " ") for name in names), "hour"), rows)


@click.command()
@hour_arguments
@json_option
def restore_command(hours: tuple[str, ...], json_output: bool) -> None:
    """Write archived events back into RecentEvents. Idempotent.

    Restores the events of each HOUR (YYYY-MM-DDTHH, UTC). Overwrites an item only
    if it belongs to a reuse of the id after the deduplication window.

    \b
    Example:
      analytics restore 2024-01-15T10
    """
    results = _for_each_hour(hours, restore_hour)
    if json_output:
        print_json(results)
        return
    rows = [
        (result.restored, result.already_present, result.owned_by_other_sources, result.past_ttl, result.expired_rows, result.hour)
        for result in results
    ]
    columns = ("restored", "already present", "owned by other sources", "older than the TTL", "removed by retention", "hour")
    print_table("Restored", columns, rows)
