"""The commands behind the Makefile: `python -m analytics_defs.devstack --help`."""

from __future__ import annotations

from pathlib import Path

import click

from analytics_defs.cli.commands.dev import folder_option, port_option, rate_option
from analytics_defs.devstack import server_group
from analytics_defs.errors import StartupFailed

_FOLDER = click.option("--folder", type=click.Path(file_okay=False, path_type=Path), default=Path(".servers"), show_default=True)


@click.group()
def cli() -> None:
    """Start and stop servers for development and tests."""


@cli.command("servers")
@_FOLDER
def start_servers(folder: Path) -> None:
    """Start Apache Kafka, DynamoDB Local and MinIO natively. Write their settings to FOLDER/env."""
    server_group.start(folder.absolute())


@cli.command("servers-stop")
@_FOLDER
def stop_servers(folder: Path) -> None:
    """Stop the servers that were started in FOLDER and delete their data."""
    server_group.stop(folder.absolute())


@cli.command("with-servers")
@_FOLDER
@click.argument("command", nargs=-1, required=True)
def with_servers(folder: Path, command: tuple[str, ...]) -> None:
    """Run COMMAND with real servers: those in the environment, those running in FOLDER, or temporary ones."""
    raise SystemExit(server_group.run_with(folder.absolute(), command))


@cli.command("dev-celery")
@folder_option
@port_option
@rate_option
@click.option("--workers", type=click.IntRange(min=1), default=3, show_default=True, help="Celery workers.")
def run_dev_celery(folder: Path, port: int, rate: float, workers: int) -> None:
    """Run the platform like `dev`, but execute runs on Celery workers with Redis as the broker."""
    from analytics_defs.devstack import dev, dev_celery

    dev.run(folder.absolute(), port=port, rate=rate, launcher=dev_celery.celery_launcher(workers))


@cli.command("broker", hidden=True)
@click.argument("publish", type=click.Path(path_type=Path))
def run_broker(publish: Path) -> None:
    """Serve the embedded Kafka and write its address to the file PUBLISH."""
    from analytics_defs.devstack import embedded_broker

    embedded_broker.serve_broker(publish)


@cli.command("stores", hidden=True)
@click.argument("publish", type=click.Path(path_type=Path))
def run_stores(publish: Path) -> None:
    """Serve the embedded DynamoDB and S3 and write their address to the file PUBLISH."""
    from analytics_defs.devstack import embedded_stores

    embedded_stores.serve_stores(publish)


def devstack_main() -> None:
    """Run the command line. Print a StartupFailed as one message, without a traceback."""
    try:
        cli()
    except StartupFailed as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    devstack_main()
