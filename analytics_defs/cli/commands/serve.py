"""`analytics serve`: the health endpoint as a process."""

from __future__ import annotations

import logging
import os
import socket

import click

from analytics_defs import wiring
from analytics_defs.config import has_dagster_instance, load_settings


@click.command()
def serve_command() -> None:
    """Serve the health endpoint and the status page.

    Answers /health, /metrics and /trace on HEALTH_HOST and HEALTH_PORT until SIGTERM or SIGINT. Reads only.
    Starts and answers even while Kafka, the stores and Dagster are down.

    \b
    Example:
      HEALTH_HOST=0.0.0.0 HEALTH_PORT=8080 analytics serve
    """
    from analytics_defs.web import server

    settings = load_settings()
    with server.bind_socket(settings.health_host, settings.health_port) as listener:
        from analytics_defs.defs.observability.instance_probe import DagsterInstanceProbe
        from analytics_defs.web.app import make_app

        logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        context = wiring.web_context(
            settings, f"{socket.gethostname()}-{os.getpid()}", DagsterInstanceProbe() if has_dagster_instance() else None
        )
        click.echo(f"listening on {server.format_address(listener)}", err=True)
        context.monitor.refresh()  # the first request then finds results
        server.HealthServer(make_app(context)).serve_on(listener)
    click.echo("stopped", err=True)
