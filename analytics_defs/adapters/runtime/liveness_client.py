"""A request for the instance of the observability endpoint that listens at an address."""

from __future__ import annotations

import json
import urllib.request
from ipaddress import ip_address

TIMEOUT_SECONDS = 1.0
MAX_BYTES = 4096


def url_of(host: str, port: int) -> str:
    """Return the URL of a server on this machine that listens on `host`."""
    try:
        address = ip_address(host)
    except ValueError:
        return f"http://{host}:{port}"
    if address.is_unspecified:
        address = ip_address("::1" if address.version == 6 else "127.0.0.1")
    return f"http://[{address}]:{port}" if address.version == 6 else f"http://{address}:{port}"


def running_instance(url: str) -> str | None:
    """Return the id of the instance that answers at the URL, None if no server or another service answers."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{url}/health/live", timeout=TIMEOUT_SECONDS) as response:
            body = json.loads(response.read(MAX_BYTES))
    except (OSError, ValueError):
        return None
    return str(body.get("instance")) if isinstance(body, dict) and body.get("service") == "analytics" else None
