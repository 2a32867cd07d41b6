"""An S3 server with scripted responses, for errors that no real store produces on demand."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def error(cls, status: int, code: str) -> Answer:
        return cls(status, f"<Error><Code>{code}</Code><Message>scripted</Message></Error>".encode())


@dataclass(slots=True)
class ScriptedS3:
    """A running server. `answer` is called for each request in the server's threads. None: no response until the server ends."""

    answer: Callable[[Request], Answer | None]
    requests: list[Request] = field(default_factory=list)
    endpoint: str = ""
    ended: threading.Event = field(default_factory=threading.Event)


@contextmanager
def scripted_s3(answer: Callable[[Request], Answer | None]) -> Iterator[ScriptedS3]:
    script = ScriptedS3(answer)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            request = Request(self.command, self.path, {name.lower(): value for name, value in self.headers.items()}, body)
            script.requests.append(request)
            answer = script.answer(request)
            if answer is None:
                script.ended.wait()
                self.close_connection = True
                return
            self.send_response(answer.status)
            self.send_header("ETag", '"0"')
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Last-Modified", "Mon, 15 Jan 2024 10:30:00 GMT")
            if answer.status != 304:
                self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            self.wfile.write(answer.body)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = serve  # noqa: N815 (the names http.server looks for)

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        script.endpoint = f"http://127.0.0.1:{server.server_port}"
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        serving.start()
        try:
            yield script
        finally:
            script.ended.set()
            server.shutdown()
            serving.join()


@dataclass(slots=True)
class ConcurrencyCounter:
    """Counts concurrent requests."""

    maximum: int = 0
    _current: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, _: Request) -> Answer:
        with self._lock:
            self._current += 1
            self.maximum = max(self.maximum, self._current)
        time.sleep(0.01)  # the duration of a request; no test waits for it
        with self._lock:
            self._current -= 1
        return Answer()
