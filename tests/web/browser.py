"""A headless Chromium, controlled by the DevTools protocol."""

from __future__ import annotations

import base64
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from websockets.sync.client import ClientConnection, connect

from tests.deploy.programs import Program, surroundings
from tests.devstack.waiting import until

NAMES = ("chromium", "chromium-browser", "google-chrome")


class Page:
    """One tab, with its requests and its console messages."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._number = 0
        self.requested: list[str] = []
        self.console_errors: list[str] = []
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        self._connection.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._connection.recv(timeout=20))
            self._record(message)
            if message.get("id") == self._number:
                assert "error" not in message, message
                result: dict[str, Any] = message["result"]
                return result

    def _record(self, message: dict[str, Any]) -> None:
        match message.get("method"):
            case "Network.requestWillBeSent":
                self.requested.append(message["params"]["request"]["url"])
            case "Log.entryAdded":
                self.console_errors.append(message["params"]["entry"]["text"])
            case "Runtime.exceptionThrown":
                self.console_errors.append(str(message["params"]["exceptionDetails"]))

    def navigate(self, url: str) -> None:
        self.call("Page.navigate", url=url)
        until(lambda: self.evaluate("document.readyState + ' ' + location.href") == f"complete {url}")

    def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression. This works even if scripts are disabled for the page."""
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def resize(self, width: int, height: int, *, phone: bool = False) -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)

    def set_color_scheme(self, scheme: str) -> None:
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))


@contextmanager
def chromium() -> Iterator[Page]:
    """Start Chromium with a profile in a short path: the path of its socket is limited to 107 characters."""
    with tempfile.TemporaryDirectory(prefix="page-", ignore_cleanup_errors=True) as folder, _start(Path(folder)) as page:
        yield page


@contextmanager
def _start(folder: Path) -> Iterator[Page]:
    program = next(filter(None, map(shutil.which, NAMES)), None)
    assert program, "Chromium is not installed (Debian and Ubuntu: apt install chromium)"
    profile = folder / "profile"
    options = ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run", "--disable-dev-shm-usage")
    command = (program, *options, f"--user-data-dir={profile}", "--remote-debugging-port=0", "about:blank")
    running = Program(command, surroundings(folder), folder / "chromium.log")
    try:
        port = profile / "DevToolsActivePort"
        until(lambda: port.exists() and len(port.read_text().splitlines()) == 2, seconds=40)
        with urlopen(f"http://127.0.0.1:{port.read_text().splitlines()[0]}/json", timeout=10) as response:
            [tab] = [target for target in json.load(response) if target["type"] == "page"]
        with connect(tab["webSocketDebuggerUrl"], max_size=None) as connection:
            yield Page(connection)
    finally:
        running.kill()
