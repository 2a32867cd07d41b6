"""`analytics worker`: executes Dagster's runs on as many machines as there are."""

from __future__ import annotations

import click

SLOTS_OPTION = 4


@click.command()
@click.option("--slots", type=click.IntRange(min=1), default=SLOTS_OPTION, show_default=True, help="Runs at a time, a process each.")
@click.option("--name", default="worker", show_default=True, help="Before @ and the host's name; no two workers may have the same.")
def worker_command(slots: int, name: str) -> None:
    """Execute runs that Dagster's Celery launcher hands out, until TERM; those under way end first.

    DAGSTER_HOME names the folder of the same dagster.yaml as the daemon's (deploy/celery/dagster.yaml), and the settings are those of the
    other services.

    \b
    Example:
      DAGSTER_HOME=deploy/celery DAGSTER_CELERY_BROKER=redis://redis:6379/0 analytics worker --slots 4
    """
    try:
        from analytics_defs.defs.runtime.celery_worker import run_worker
    except ModuleNotFoundError as missing:
        raise click.UsageError(f"{missing.name} is not installed: pip install 'analytics-defs[celery]'") from missing
    from analytics_defs.config import has_dagster_instance, load_settings

    load_settings()  # wrong ones are reported now, and not by every run
    if not has_dagster_instance():
        raise click.UsageError("DAGSTER_HOME is not set: expected the folder of the dagster.yaml that the daemon reads")
    run_worker(name, slots)
