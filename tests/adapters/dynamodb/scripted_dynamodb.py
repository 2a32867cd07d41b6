"""A DynamoDB server that sends scripted answers. DynamoDB Local never reports a conflict and never throttles."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from analytics_defs.adapters.dynamodb.client import DynamoConfig
from analytics_defs.adapters.dynamodb.requests import DynamoClient

SECRET = "do-not-show-this-secret"


@dataclass(frozen=True, slots=True)
class Answer:
    body: Mapping[str, Any] | bytes
    status: int = 200
    genuine: bool = True
    """True if the answer carries a request id, as every answer of DynamoDB does."""

    @classmethod
    def error(cls, code: str, message: str = "scripted", status: int = 400, **more: Any) -> Answer:
        return cls({"__type": f"com.amazonaws.dynamodb.v20120810#{code}", "message": message, **more}, status)

    @classmethod
    def cancelled(cls, *reasons: str | Mapping[str, Any]) -> Answer:
        """Return the answer of a transaction cancelled for these reasons, one for each action. A string is a reason's code."""
        all_reasons = [{"Code": reason} if isinstance(reason, str) else reason for reason in reasons]
        return cls.error("TransactionCanceledException", "Transaction cancelled", CancellationReasons=all_reasons)


DONE = Answer({})


@dataclass(slots=True)
class Scripted:
    dynamo: DynamoClient
    requests: list[tuple[str, dict[str, Any]]]
    """Operation and parameters, in the order of arrival."""
    pauses: list[float] = field(default_factory=list)
    """Seconds of each pause that the adapter requested between its attempts."""

    @property
    def transactions(self) -> list[dict[str, Any]]:
        return [params for operation, params in self.requests if operation == "TransactWriteItems"]


@contextmanager
def scripted(*answers: Answer | None, script: Callable[[dict[str, Any]], Answer | None] | None = None, **config: Any) -> Iterator[Scripted]:
    """Run a server that sends the answers in turn and repeats the last one.

    With `script`, the answer depends on the request's parameters. None: no answer until the server ends.
    """
    script_answers: Sequence[Answer | None] = answers or (DONE,)
    requests: list[tuple[str, dict[str, Any]]] = []
    ended = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # headers and body in one packet: two packets would cost 40 ms (Nagle and delayed ACK)

        def do_POST(self) -> None:
            params = json.loads(self.rfile.read(int(self.headers["content-length"])))
            requests.append((self.headers["X-Amz-Target"].partition(".")[2], params))
            answer = script(params) if script else script_answers[min(len(requests), len(script_answers)) - 1]
            if answer is None:
                ended.wait()
                self.close_connection = True
                return
            body = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
            self.send_response(answer.status)
            self.send_header("Content-Type", "application/x-amz-json-1.0")
            self.send_header("Content-Length", str(len(body)))
            if answer.genuine:
                self.send_header("x-amzn-RequestId", "scripted")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Write no log."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    values: dict[str, Any] = {
        "endpoint": endpoint,
        "access_key": "key",
        "secret_key": SECRET,
        "attempts": 1,
        "read_timeout": timedelta(seconds=5),
    }
    pauses: list[float] = []
    dynamo = DynamoClient(DynamoConfig(**(values | config)), sleep=pauses.append)
    try:
        yield Scripted(dynamo, requests, pauses)
    finally:
        ended.set()
        dynamo.close()
        server.shutdown()
        server.server_close()
        thread.join()
