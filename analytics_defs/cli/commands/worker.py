"""`analytics worker`: a Celery worker that executes Dagster runs."""

from __future__ import annotations

import click

DEFAULT_SLOTS = 4


@click.command()
@click.option("--slots", type=click.IntRange(min=1), default=DEFAULT_SLOTS, show_default=True, help="Concurrent runs, one process each.")
@click.option("--name", default="worker", show_default=True, help="Name before @hostname. Must be unique among all workers.")
def worker_command(slots: int, name: str) -> None:
    """Execute Dagster runs from the Celery queue.

    Stops on SIGTERM, after the runs in progress have ended. DAGSTER_HOME is the folder of the dagster.yaml that
    the daemon uses (deploy/celery/dagster.yaml). All other settings are those of the other services.

    \b
    Example:
      DAGSTER_HOME=deploy/celery DAGSTER_CELERY_BROKER=redis://redis:6379/0 analytics worker --slots 4
    """
    try:
        from analytics_defs.defs.runtime.celery_worker import run_worker
    except ModuleNotFoundError as missing:
        raise click.UsageError(f"{missing.name} is not installed: pip install 'analytics-defs[celery]'") from missing
    from analytics_defs.config import has_dagster_instance, load_settings

    load_settings()  # report invalid settings now, once, instead of in every run
    if not has_dagster_instance():
        raise click.UsageError("DAGSTER_HOME is not set: expected the folder of the dagster.yaml that the daemon reads")
    run_worker(name, slots)
