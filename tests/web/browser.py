"""A real headless Chromium, spoken to in its own protocol."""

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
    """One tab. Remembers every request and everything that the page's console was told."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._number = 0
        self.requested: list[str] = []
        self.complaints: list[str] = []
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        self._connection.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            said = json.loads(self._connection.recv(timeout=20))
            self._note(said)
            if said.get("id") == self._number:
                assert "error" not in said, said
                found: dict[str, Any] = said["result"]
                return found

    def _note(self, said: dict[str, Any]) -> None:
        match said.get("method"):
            case "Network.requestWillBeSent":
                self.requested.append(said["params"]["request"]["url"])
            case "Log.entryAdded":
                self.complaints.append(said["params"]["entry"]["text"])
            case "Runtime.exceptionThrown":
                self.complaints.append(str(said["params"]["exceptionDetails"]))

    def go(self, url: str) -> None:
        self.ask("Page.navigate", url=url)
        until(lambda: self.says("document.readyState + ' ' + location.href") == f"complete {url}")

    def says(self, expression: str) -> Any:
        """The value of a JavaScript expression, also where the page itself may run none."""
        return self.ask("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def resize(self, width: int, height: int, *, phone: bool = False) -> None:
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)

    def prefer(self, scheme: str) -> None:
        self.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def picture(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.ask("Page.captureScreenshot", format="png")["data"]))


@contextmanager
def chromium() -> Iterator[Page]:
    """In a folder of its own with a short path: a socket's may have 107 characters at most."""
    with tempfile.TemporaryDirectory(prefix="page-", ignore_cleanup_errors=True) as folder, _started(Path(folder)) as page:
        yield page


@contextmanager
def _started(folder: Path) -> Iterator[Page]:
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
            [tab] = [each for each in json.load(response) if each["type"] == "page"]
        with connect(tab["webSocketDebuggerUrl"], max_size=None) as connection:
            yield Page(connection)
    finally:
        running.kill()
