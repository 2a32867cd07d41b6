"""`analytics dev`: the whole platform on one machine, with embedded servers and a simulated shop."""

from __future__ import annotations

from pathlib import Path

import click

folder_option = click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(".dev"),
    show_default=True,
    help="Folder for settings, logs and Dagster's home.",
)
port_option = click.option("--port", type=click.IntRange(1, 65535), default=3000, show_default=True, help="Port of the Dagster UI.")
rate_option = click.option(
    "--rate", type=click.FloatRange(min=0, min_open=True), default=20.0, show_default=True, help="Events per second."
)


@click.command("dev")
@folder_option
@port_option
@rate_option
def dev_command(folder: Path, port: int, rate: float) -> None:
    """Run the whole platform locally until Ctrl-C.

    Starts an embedded Kafka, DynamoDB and S3, a simulated shop, and Dagster with its UI. All data is in memory. Needs
    the packages of the extra `stack`: pip install 'analytics-defs[stack]'

    \b
    Example:
      analytics dev --port 3001 --rate 50
    """
    try:
        from analytics_defs.devstack import dev
    except ModuleNotFoundError as error:
        raise click.UsageError(f"the package {error.name} is not installed: pip install 'analytics-defs[stack]'") from error

    dev.run(folder.absolute(), port=port, rate=rate)
