"""Stands before a real server and misbehaves on request: refuses, hangs, answers 503, loses an answer.

with http_proxy(endpoint) as proxy:
    proxy.url                   # to be used instead of `endpoint`
    proxy.rule = unavailable    # from the next request on
    proxy.refuse()              # nothing listens any more; `proxy.listen()` ends that
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
from tests.real import plain

Serve = Callable[[socket.socket, "Listener"], None]


class Listener:
    """A loopback port, and a thread for each connection. The port stays this one's own, also while nobody listens there."""

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
        """Connections are ended, new ones are refused."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        self._socket.close()
        self._socket = self._bound()
        self.drop()

    def drop(self) -> None:
        """End the connections there are, those that hang too."""
        with self._changed:
            for each in self._connections:
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.refuse()
        self._socket.close()
        for each in self._threads:
            each.join(plain.PATIENCE_SECONDS)
            assert not each.is_alive(), "a connection did not end"

    @contextmanager
    def kept(self, connection: socket.socket) -> Iterator[None]:
        """The connection is one of those that `drop` ends."""
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
        with self.kept(connection), suppress(OSError, http.client.HTTPException):
            self._serve(connection, self)

    def _start(self, target: Callable[[socket.socket], None], argument: socket.socket) -> None:
        thread = threading.Thread(target=target, args=(argument,), daemon=True)
        self._threads.append(thread)
        thread.start()


# HTTP: DynamoDB and the object store.


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    def encoded(self, method: str) -> bytes:
        kept = {
            name: value for name, value in self.headers.items() if name.lower() not in ("content-length", "transfer-encoding", "connection")
        }
        length = self.headers.get("Content-Length", "0") if method == "HEAD" else str(len(self.body))
        lines = [f"HTTP/1.1 {self.status} {http.client.responses.get(self.status, '')}"]
        lines += [f"{name}: {value}" for name, value in (kept | {"Content-Length": length}).items()]
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + self.body


class HungUp(OSError):
    """The connection ends here, without an answer."""


@dataclass(slots=True)
class Exchange:
    """One request, not passed on yet, and what a rule may do with it."""

    method: str
    path: str
    headers: Mapping[str, str]
    """Names in lower case."""
    raw: bytes
    """Head and body, as they came."""
    client: socket.socket
    upstream: socket.socket

    @property
    def operation(self) -> str:
        """What DynamoDB is asked, for example `TransactWriteItems`; empty elsewhere."""
        return self.headers.get("x-amz-target", "").rpartition(".")[2]

    @property
    def body(self) -> bytes:
        return self.raw.partition(b"\r\n\r\n")[2]

    def forward(self) -> Answer:
        """Pass it on whole and wait for the server's answer, which nobody else has seen yet."""
        self.upstream.sendall(self.raw)
        response = http.client.HTTPResponse(self.upstream, method=self.method)
        response.begin()
        with closing(response):
            return Answer(response.status, dict(response.getheaders()), response.read())

    def forward_half(self) -> None:
        """The server gets the first half of it, and then sees the connection end."""
        self.upstream.sendall(self.raw[: len(self.raw) // 2])
        self.upstream.shutdown(socket.SHUT_RDWR)

    def answer(self, answer: Answer) -> None:
        self.client.sendall(answer.encoded(self.method))

    def answer_half(self, answer: Answer) -> None:
        """The client gets the first half of it, and then nothing."""
        encoded = answer.encoded(self.method)
        self.client.sendall(encoded[: len(encoded) // 2])
        self.hang()

    def hang(self) -> None:
        """Nothing happens until the client gives up, or the proxy drops its connections."""
        while self.client.recv(65536):
            pass
        raise HungUp

    def hang_up(self) -> None:
        raise HungUp


class Rule(Protocol):
    def __call__(self, exchange: Exchange, /) -> None: ...


def passing(exchange: Exchange) -> None:
    exchange.answer(exchange.forward())


def hanging(exchange: Exchange) -> None:
    exchange.hang()


def stopping_midway(exchange: Exchange) -> None:
    """It is done, and half of the answer arrives."""
    exchange.answer_half(exchange.forward())


def unavailable(exchange: Exchange) -> None:
    exchange.answer(Answer(503, {"Content-Type": "text/plain"}, b"try later"))


def throttling_dynamo(exchange: Exchange) -> None:
    exchange.answer(dynamo_fault("ThrottlingException", message="Rate of requests exceeds the allowed throughput."))


def slow_down(exchange: Exchange) -> None:
    """S3's word for throttling."""
    body = b'<?xml version="1.0"?><Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>'
    exchange.answer(Answer(503, {"Content-Type": "application/xml"}, body))


def losing_answers() -> Rule:
    """Every request is done, and the answer to it is lost the first time."""
    seen: set[bytes] = set()

    def rule(exchange: Exchange) -> None:
        answer, told = exchange.forward(), exchange.body or exchange.raw
        if told in seen or not told:
            exchange.answer(answer)
            return
        seen.add(told)
        exchange.hang_up()

    return rule


def dynamo_fault(code: str, **fields: object) -> Answer:
    body = json.dumps({"__type": f"com.amazonaws.dynamodb.v20120810#{code}"} | fields).encode()
    return Answer(400, {"Content-Type": "application/x-amz-json-1.0", "x-amzn-RequestId": "0" * 32}, body)


class HttpProxy:
    """Every request goes by `rule`, from any number of threads."""

    def __init__(self, endpoint: str) -> None:
        address = urlsplit(endpoint)
        assert address.scheme == "http", f"{endpoint}: only a server that speaks plain HTTP can be disturbed"
        self._upstream = (address.hostname or LOOPBACK, address.port or 80)
        self._rule: Rule = passing
        self._listener = Listener(self._serve)
        self.url = f"http://{LOOPBACK}:{self._listener.port}"
        self.listen, self.refuse, self.close = self._listener.listen, self._listener.refuse, self._listener.close

    @property
    def rule(self) -> Rule:
        return self._rule

    @rule.setter
    def rule(self, rule: Rule) -> None:
        """For requests from now on; those that hang are dropped."""
        self._rule = rule
        self._listener.drop()

    def _serve(self, client: socket.socket, listener: Listener) -> None:
        upstream = socket.create_connection(self._upstream)
        with listener.kept(upstream), client.makefile("rb") as reader:
            while head := _head(reader.readline):
                method, path, _ = head.partition(b"\r\n")[0].decode("latin-1").split(" ", 2)
                lines = [line.partition(b":") for line in head.split(b"\r\n")[1:] if line]
                headers = {name.decode().lower(): value.decode("latin-1").strip() for name, _, value in lines}
                if "100-continue" in headers.get("expect", ""):
                    client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
                raw = head + reader.read(int(headers.get("content-length", 0)))
                self._rule(Exchange(method, path, headers, raw, client, upstream))


def _head(read_line: Callable[[], bytes]) -> bytes:
    """Empty where the client has no more to say."""
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
    """One broker behind another port. The broker tells its clients where it is reached: those answers are changed on their way."""

    def __init__(self) -> None:
        brokers = list(plain.admin().list_topics(timeout=plain.PATIENCE_SECONDS).brokers.values())
        assert len(brokers) == 1, f"{len(brokers)} brokers: only a single one can be disturbed"
        host, port = str(brokers[0].host), brokers[0].port
        self._upstream = (host, port)
        self._listener = Listener(self._serve)
        self._told = host.encode() + struct.pack(">i", port)
        self._telling = host.encode() + struct.pack(">i", self._listener.port)
        self.brokers = f"{LOOPBACK}:{self._listener.port}"
        self.silent = False
        """Whether connections are accepted, and nothing is ever answered."""
        self.largest_answer: int | None = None
        """Of an answer with more bytes than this the first half is passed on, and then nothing more."""
        self.listen, self.refuse, self.close = self._listener.listen, self._listener.refuse, self._listener.close

    def behave(self) -> None:
        self.silent, self.largest_answer = False, None
        self._listener.drop()

    def _serve(self, client: socket.socket, listener: Listener) -> None:
        upstream = socket.create_connection(self._upstream)
        with listener.kept(upstream):
            back = threading.Thread(target=self._answers, args=(upstream, client), daemon=True)
            back.start()
            try:
                while data := client.recv(65536):
                    if not self.silent:
                        upstream.sendall(data)
            finally:
                with suppress(OSError):
                    upstream.shutdown(socket.SHUT_RDWR)
                back.join()

    def _answers(self, upstream: socket.socket, client: socket.socket) -> None:
        """Whole answers: a length of four bytes, and so many more."""
        with suppress(OSError), upstream.makefile("rb") as reader:
            while len(length := reader.read(4)) == 4:
                answer = length + reader.read(struct.unpack(">i", length)[0]).replace(self._told, self._telling)
                if self.silent:
                    continue
                if self.largest_answer is not None and len(answer) > self.largest_answer:
                    self.silent, answer = True, answer[: len(answer) // 2]
                client.sendall(answer)


@contextmanager
def kafka_proxy() -> Iterator[KafkaProxy]:
    proxy = KafkaProxy()
    proxy.listen()
    try:
        yield proxy
    finally:
        proxy.close()
