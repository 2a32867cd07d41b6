"""Proxies for real servers with faults on request: they refuse, hang, answer 503, or drop a response.

with http_proxy(endpoint) as proxy:
    proxy.url                   # use this instead of `endpoint`
    proxy.rule = answer_503     # from the next request on
    proxy.refuse()              # connections are refused until `proxy.listen()`
"""

from __future__ import annotations

import http.client
import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import urlsplit

from analytics_defs.devstack.tcp_ports import LOOPBACK, free_port
from tests.real import raw_clients

Serve = Callable[[socket.socket, "Listener"], None]


class Listener:
    """A loopback port with a thread for each connection. The port stays bound while connections are refused."""

    def __init__(self, serve: Serve) -> None:
        self.port = free_port()
        self._serve = serve
        self._socket = self._bound()
        self._connections: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._changed = threading.Condition()

    def listen(self) -> None:
        self._socket.listen(64)
        self._start(self._accept, self._socket)

    def refuse(self) -> None:
        """Close all connections and refuse new ones."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        self._socket.close()
        self._socket = self._bound()
        self.drop()

    def drop(self) -> None:
        """Close all open connections, including those that hang."""
        with self._changed:
            for connection in self._connections:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.refuse()
        self._socket.close()
        for thread in self._threads:
            thread.join(raw_clients.TIMEOUT_SECONDS)
            assert not thread.is_alive(), "a connection did not end"

    @contextmanager
    def tracked(self, connection: socket.socket) -> Iterator[None]:
        """Let `drop` close the connection while the block runs, and close it after the block."""
        with self._changed:
            self._connections.add(connection)
        try:
            with closing(connection):
                yield
        finally:
            with self._changed:
                self._connections.discard(connection)

    def _bound(self) -> socket.socket:
        bound = socket.socket()
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((LOOPBACK, self.port))
        return bound

    def _accept(self, listening: socket.socket) -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            self._start(self._handle, connection)

    def _handle(self, connection: socket.socket) -> None:
        with self.tracked(connection), suppress(OSError, http.client.HTTPException):
            self._serve(connection, self)

    def _start(self, target: Callable[[socket.socket], None], argument: socket.socket) -> None:
        thread = threading.Thread(target=target, args=(argument,), daemon=True)
        self._threads.append(thread)
        thread.start()


# HTTP: DynamoDB and the object store.


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP response."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    def encoded(self, method: str) -> bytes:
        replaced = ("content-length", "transfer-encoding", "connection")
        headers = {name: value for name, value in self.headers.items() if name.lower() not in replaced}
        length = self.headers.get("Content-Length", "0") if method == "HEAD" else str(len(self.body))
        lines = [f"HTTP/1.1 {self.status} {http.client.responses.get(self.status, '')}"]
        lines += [f"{name}: {value}" for name, value in (headers | {"Content-Length": length}).items()]
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + self.body


class HungUp(OSError):
    """Raised to close the connection without a response."""


@dataclass(slots=True)
class Exchange:
    """A request that was not forwarded yet, and the actions that a rule can choose from."""

    method: str
    path: str
    headers: Mapping[str, str]
    """Names in lower case."""
    raw: bytes
    """Head and body as received."""
    client: socket.socket
    upstream: socket.socket

    @property
    def operation(self) -> str:
        """Return the operation of DynamoDB, for example `TransactWriteItems`. Empty for other services."""
        return self.headers.get("x-amz-target", "").rpartition(".")[2]

    @property
    def body(self) -> bytes:
        return self.raw.partition(b"\r\n\r\n")[2]

    def forward(self) -> Answer:
        """Forward the whole request and return the server's response. Nothing is sent to the client."""
        self.upstream.sendall(self.raw)
        response = http.client.HTTPResponse(self.upstream, method=self.method)
        response.begin()
        with closing(response):
            return Answer(response.status, dict(response.getheaders()), response.read())

    def forward_half(self) -> None:
        """Forward the first half of the request, then close the connection to the server."""
        self.upstream.sendall(self.raw[: len(self.raw) // 2])
        self.upstream.shutdown(socket.SHUT_RDWR)

    def answer(self, answer: Answer) -> None:
        self.client.sendall(answer.encoded(self.method))

    def answer_half(self, answer: Answer) -> None:
        """Send the first half of the response, then nothing more."""
        encoded = answer.encoded(self.method)
        self.client.sendall(encoded[: len(encoded) // 2])
        self.hang()

    def hang(self) -> None:
        """Wait until the client or the proxy closes the connection, without a response."""
        while self.client.recv(65536):
            pass
        raise HungUp

    def hang_up(self) -> None:
        raise HungUp


class Rule(Protocol):
    def __call__(self, exchange: Exchange, /) -> None: ...


def pass_through(exchange: Exchange) -> None:
    exchange.answer(exchange.forward())


def never_answer(exchange: Exchange) -> None:
    exchange.hang()


def stop_within_response(exchange: Exchange) -> None:
    """Forward the request, and send only half of the response."""
    exchange.answer_half(exchange.forward())


def answer_503(exchange: Exchange) -> None:
    exchange.answer(Answer(503, {"Content-Type": "text/plain"}, b"try later"))


def throttle_dynamodb(exchange: Exchange) -> None:
    exchange.answer(dynamo_fault("ThrottlingException", message="Rate of requests exceeds the allowed throughput."))


def answer_slow_down(exchange: Exchange) -> None:
    """Answer with S3's error for throttling."""
    body = b'<?xml version="1.0"?><Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>'
    exchange.answer(Answer(503, {"Content-Type": "application/xml"}, body))


def lose_first_responses() -> Rule:
    """Return a rule that forwards every request and drops the first response to it."""
    seen: set[bytes] = set()

    def rule(exchange: Exchange) -> None:
        answer, request = exchange.forward(), exchange.body or exchange.raw
        if request in seen or not request:
            exchange.answer(answer)
            return
        seen.add(request)
        exchange.hang_up()

    return rule


def dynamo_fault(code: str, **fields: object) -> Answer:
    body = json.dumps({"__type": f"com.amazonaws.dynamodb.v20120810#{code}"} | fields).encode()
    return Answer(400, {"Content-Type": "application/x-amz-json-1.0", "x-amzn-RequestId": "0" * 32}, body)


class HttpProxy:
    """A proxy that handles every request by `rule`. Thread-safe."""

    def __init__(self, endpoint: str) -> None:
        address = urlsplit(endpoint)
        assert address.scheme == "http", f"{endpoint}: only a server that speaks plain HTTP can be disturbed"
        self._upstream = (address.hostname or LOOPBACK, address.port or 80)
        self._rule: Rule = pass_through
        self._listener = Listener(self._serve)
        self.url = f"http://{LOOPBACK}:{self._listener.port}"
        self.listen, self.refuse, self.close = self._listener.listen, self._listener.refuse, self._listener.close

    @property
    def rule(self) -> Rule:
        return self._rule

    @rule.setter
    def rule(self, rule: Rule) -> None:
        """Set the rule for new requests, and close open connections."""
        self._rule = rule
        self._listener.drop()

    def _serve(self, client: socket.socket, listener: Listener) -> None:
        upstream = socket.create_connection(self._upstream)
        with listener.tracked(upstream), client.makefile("rb") as reader:
            while head := _read_head(reader.readline):
                method, path, _ = head.partition(b"\r\n")[0].decode("latin-1").split(" ", 2)
                lines = [line.partition(b":") for line in head.split(b"\r\n")[1:] if line]
                headers = {name.decode().lower(): value.decode("latin-1").strip() for name, _, value in lines}
                if "100-continue" in headers.get("expect", ""):
                    client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
                raw = head + reader.read(int(headers.get("content-length", 0)))
                self._rule(Exchange(method, path, headers, raw, client, upstream))


def _read_head(read_line: Callable[[], bytes]) -> bytes:
    """Return request line and headers. Empty if the client closed the connection."""
    head = b""
    while line := read_line():
        head += line
        if line == b"\r\n":
            return head
    return b""


@contextmanager
def http_proxy(endpoint: object) -> Iterator[HttpProxy]:
    proxy = HttpProxy(str(endpoint))
    proxy.listen()
    try:
        yield proxy
    finally:
        proxy.close()


# Kafka.


class KafkaProxy:
    """A proxy for a single broker. It replaces the advertised address of the broker in responses with its own."""

    def __init__(self) -> None:
        brokers = list(raw_clients.admin().list_topics(timeout=raw_clients.TIMEOUT_SECONDS).brokers.values())
        assert len(brokers) == 1, f"{len(brokers)} brokers: only a single one can be disturbed"
        host, port = str(brokers[0].host), brokers[0].port
        self._upstream = (host, port)
        self._listener = Listener(self._serve)
        self._advertised_address = host.encode() + struct.pack(">i", port)
        self._proxy_address = host.encode() + struct.pack(">i", self._listener.port)
        self.brokers = f"{LOOPBACK}:{self._listener.port}"
        self.unresponsive = False
        """True: connections are accepted, and no request is answered."""
        self.max_response_bytes: int | None = None
        """Size above which the first response is forwarded by half, and nothing after it."""
        self.listen, self.refuse, self.close = self._listener.listen, self._listener.refuse, self._listener.close

    def restore(self) -> None:
        """Remove all faults and close open connections."""
        self.unresponsive, self.max_response_bytes = False, None
        self._listener.drop()

    def _serve(self, client: socket.socket, listener: Listener) -> None:
        upstream = socket.create_connection(self._upstream)
        with listener.tracked(upstream):
            responses = threading.Thread(target=self._forward_responses, args=(upstream, client), daemon=True)
            responses.start()
            try:
                while data := client.recv(65536):
                    if not self.unresponsive:
                        upstream.sendall(data)
            finally:
                with suppress(OSError):
                    upstream.shutdown(socket.SHUT_RDWR)
                responses.join()

    def _forward_responses(self, upstream: socket.socket, client: socket.socket) -> None:
        """Forward whole responses: a length of four bytes, and as many bytes."""
        with suppress(OSError), upstream.makefile("rb") as reader:
            while len(length := reader.read(4)) == 4:
                body = reader.read(struct.unpack(">i", length)[0])
                response = length + body.replace(self._advertised_address, self._proxy_address)
                if self.unresponsive:
                    continue
                if self.max_response_bytes is not None and len(response) > self.max_response_bytes:
                    self.unresponsive, response = True, response[: len(response) // 2]
                client.sendall(response)


@contextmanager
def kafka_proxy() -> Iterator[KafkaProxy]:
    proxy = KafkaProxy()
    proxy.listen()
    try:
        yield proxy
    finally:
        proxy.close()
