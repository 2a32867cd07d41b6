"""The embedded DynamoDB and S3 of `make dev`: moto's server, in a separate process, in memory."""

from __future__ import annotations

import logging
import signal
import threading
from pathlib import Path

from werkzeug.serving import make_server

from analytics_defs.devstack import env_file
from analytics_defs.devstack.moto_patches import patch_transactions, serialize_requests
from analytics_defs.devstack.processes import END_SIGNALS
from analytics_defs.devstack.servers import AWS_KEYS, MINIO_KEYS
from analytics_defs.devstack.tcp_ports import LOOPBACK


def serve_stores(publish: Path) -> None:
    """Serve until SIGINT or SIGTERM. Write the address to `publish` as soon as the server is reachable."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app

    signal.pthread_sigmask(signal.SIG_BLOCK, END_SIGNALS)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it logs every request
    patch_transactions()
    app = serialize_requests(DomainDispatcherApplication(create_backend_app))
    server = make_server(LOOPBACK, 0, app, threaded=True, request_handler=MotoRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://{LOOPBACK}:{server.server_port}"
    env_file.write_env_file(publish, {"DYNAMO_ENDPOINT": endpoint} | AWS_KEYS | {"MINIO_ENDPOINT": endpoint} | MINIO_KEYS)
    signal.sigwait(END_SIGNALS)
