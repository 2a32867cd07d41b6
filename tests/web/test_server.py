"""The socket and what strangers send to it: a proper status or a closed connection, and the next poll works."""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from analytics_defs.errors import StartupFailed
from analytics_defs.web import server
from analytics_defs.web.app import make_app
from tests.devstack.waiting import until
from tests.proof.doors import Call, through
from tests.proof.world import TOPIC, World, event
from tests.web.served import Client, real_time, served, site


@pytest.fixture
def client() -> Iterator[Client]:
    world = World()
    world.create()
    world.produce(event("a"))
    world.settle()
    with served(site(real_time(world))) as found:
        yield found


@contextmanager
def raw(client: Client, data: bytes = b"") -> Iterator[socket.socket]:
    with closing(socket.create_connection((client.host, client.port), timeout=20)) as connection:
        connection.sendall(data)
        yield connection


def everything(connection: socket.socket) -> bytes:
    """Until the other side closes."""
    found = b""
    try:
        while some := connection.recv(65_536):
            found += some
    except ConnectionResetError:
        pass
    return found


@pytest.mark.parametrize(
    "data",
    [
        b"nonsense\r\n\r\n",
        b"GET /health HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
        b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 200_000 + b"\r\n\r\n",
        b"GET /" + b"x" * 200_000,
    ],
    ids=["no HTTP", "header", "length", "two hosts", "TLS", "huge header", "huge path"],
)
def test_what_is_no_request_is_400_and_a_closed_connection(client: Client, data: bytes) -> None:
    with raw(client) as connection:
        try:
            connection.sendall(data)
        except (BrokenPipeError, ConnectionResetError):  # refused before it was all sent
            pass
        else:
            assert re.match(rb"HTTP/1.1 400 |$", everything(connection))
    assert client.get("/health").status == 200


def test_pipelined_requests_are_answered_in_order(client: Client) -> None:
    paths = (b"/health/live", b"/nowhere", b"/health/ready")
    requests = b"".join(b"GET %s HTTP/1.1\r\nHost: a\r\n\r\n" % path for path in paths)
    with raw(client, requests + b"GET /health/live HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n") as connection:
        assert re.findall(rb"HTTP/1.1 (\d+)", everything(connection)) == [b"200", b"404", b"200", b"200"]


def test_a_body_is_not_waited_for(client: Client) -> None:
    with raw(client, b"POST /health HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\nx") as connection:
        assert connection.recv(100).startswith(b"HTTP/1.1 405 ")
    assert client.get("/health").status == 200


def test_an_upgrade_that_is_not_offered_is_an_ordinary_request(client: Client) -> None:
    with raw(client, b"GET /health/live HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n") as connection:
        assert connection.recv(100).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("part", [b"", b"GET /health HTTP/1.1\r\nHost:", b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n"])
def test_a_connection_that_only_sits_there_is_closed(client: Client, monkeypatch: pytest.MonkeyPatch, part: bytes) -> None:
    monkeypatch.setattr(server, "REQUEST_READ_TIMEOUT_SECONDS", 0.2)
    with raw(client, part) as connection:
        everything(connection)


def test_one_that_sends_a_header_byte_by_byte_is_closed(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "REQUEST_READ_TIMEOUT_SECONDS", 0.3)
    with raw(client, b"GET /health HTTP/1.1\r\nX: ") as connection:

        def refused() -> bool:
            try:
                connection.sendall(b"x")
            except OSError:
                return True
            return False

        until(refused, seconds=5)


def test_a_client_that_takes_no_answer_is_dropped(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "RESPONSE_TIMEOUT_SECONDS", 0.3)
    request = b"GET /openapi.json HTTP/1.1\r\nHost: a\r\n\r\n"
    with raw(client) as connection:
        connection.settimeout(5)

        def refused() -> bool:
            try:
                connection.sendall(request * 100)
            except TimeoutError:
                return False
            except OSError:
                return True
            return False

        until(refused)
    assert client.get("/health").status == 200


def test_more_idle_connections_than_it_holds_keep_no_poll_out(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 20)
    with ExitStack() as held:
        for _ in range(100):
            held.enter_context(raw(client))
        for _ in range(5):
            assert client.get("/health").status == 200
        sockets = [each for each in psutil.Process().net_connections("tcp") if each.laddr.port == client.port and each.raddr]
        ours = [each for each in sockets if each.status == "ESTABLISHED"]
        assert 18 <= len(ours) <= 22  # as many as it holds, and no more are put out than need be


@pytest.mark.parametrize("host", ["::1", "::", "0.0.0.0"])  # noqa: S104 - what is tested
def test_it_listens_where_it_is_told_also_on_ipv6(host: str) -> None:
    world = World()
    world.create()
    with served(site(real_time(world)), host) as client:
        reached = {"::1": ["::1"], "::": ["::1", "127.0.0.1"], "0.0.0.0": ["127.0.0.1"]}[host]  # noqa: S104
        assert [Client(client.port, each).get("/health/live").status for each in reached] == [200] * len(reached)


def test_a_taken_port_and_an_address_of_nobody_are_errors_that_name_them() -> None:
    with server.bind_socket("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with (
            pytest.raises(StartupFailed, match=rf"^cannot listen on port {port} of 127\.0\.0\.1: Address already in use\."),
            server.bind_socket("127.0.0.1", port),
        ):
            pass
    for host in ("nowhere.invalid", "a..b", "x" * 70, "[::1]"):
        with pytest.raises(StartupFailed, match=rf"HEALTH_HOST={re.escape(host)}: "), server.bind_socket(host, 0):
            pass


NOWHERE = {
    "KAFKA_BROKERS": "127.0.0.1:1",
    "DYNAMO_ENDPOINT": "http://127.0.0.1:1",
    "MINIO_ENDPOINT": "http://127.0.0.1:1",
    "AWS_SECRET_ACCESS_KEY": "sesame-one",
    "MINIO_SECRET_KEY": "sesame-two",
    "HEALTH_HOST": "127.0.0.1",
}


@contextmanager
def process(tmp_path: Path, **settings: str) -> Iterator[tuple[subprocess.Popen[bytes], Client, Path]]:
    """`analytics serve`, with nothing behind it."""
    log = tmp_path / "log"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DAGSTER")} | NOWHERE | settings
    program = str(Path(sys.executable).with_name("analytics"))
    with log.open("wb") as out, server.bind_socket("127.0.0.1", 0) as free:
        port = free.getsockname()[1]
        free.close()
        with subprocess.Popen([program, "serve"], env=environment | {"HEALTH_PORT": str(port)}, stdout=out, stderr=out) as running:
            try:
                until(lambda: b"listening on" in log.read_bytes(), seconds=60)
                yield running, Client(port), log
            finally:
                running.kill()


def test_serve_answers_with_everything_down_tells_no_secret_and_ends_with_0(tmp_path: Path) -> None:
    with process(tmp_path, TZ="Asia/Kathmandu", LC_ALL="tr_TR.UTF-8") as (running, client, log):
        until(lambda: client.get("/health/live").status == 200)
        until(lambda: all(each["error"] != "no answer yet" for each in client.health()["services"].values()))
        found = client.health()
        answers = "".join(client.get(path).text for path in ("/health", "/health/ready", "/metrics?format=prometheus", "/"))
        assert client.get("/health").status == client.get("/health/ready").status == client.get("/metrics").status == 503
        assert {each["status"] for each in found["services"].values()} == {"unhealthy"}
        assert (found["metrics"], len(found["reasons"])) == (None, 3)
        assert found["timestamp"].endswith("Z")
        with raw(client, b"GET /health HTTP/1.1\r\nHost: a\r\n"):
            running.send_signal(signal.SIGTERM)
            assert running.wait(20) == 0
        told = log.read_text()
        assert told.endswith("stopped\n")
        assert "sesame" not in told + answers
        assert "Traceback" not in told + answers


def test_told_to_stop_under_load_it_leaves_no_answer_half_given_and_ends_with_0(tmp_path: Path) -> None:
    answered, cut_off, over = [0] * 4, [0] * 4, threading.Event()

    def poll(place: int, endpoint: Client) -> None:
        while not over.is_set():
            try:
                assert endpoint.get("/health").status == 503
                answered[place] += 1
            except http.client.IncompleteRead:
                cut_off[place] += 1
            except OSError:  # refused, or closed before a word was said: nobody listens any more
                pass

    with process(tmp_path) as (running, endpoint, _):
        threads = [threading.Thread(target=poll, args=(place, endpoint)) for place in range(4)]
        for each in threads:
            each.start()
        try:
            until(lambda: min(answered) > 20, seconds=30)
            running.send_signal(signal.SIGTERM)
            assert running.wait(20) == 0
        finally:
            over.set()
            for each in threads:
                each.join(20)
    assert sum(cut_off) == 0


def test_what_is_under_way_when_it_is_told_to_stop_is_still_answered() -> None:
    world, entered, free = World(), threading.Event(), threading.Event()
    world.create()
    world.produce(event("a"))
    world.settle()

    def door(call: Call, perform: Callable[[], Any]) -> Any:
        if str(call) == "ledger.closed_range_at":
            entered.set()
            assert free.wait(20)
        return perform()

    answers: list[int] = []
    with server.bind_socket("127.0.0.1", 0) as listener:
        running = server.ObservabilityServer(make_app(site(through(real_time(world), door))))
        thread = threading.Thread(target=running.serve_on, args=(listener,))
        thread.start()
        client = Client(listener.getsockname()[1])
        asking = threading.Thread(target=lambda: answers.append(client.get(f"/trace/{TOPIC}/0/0").status))
        asking.start()
        assert entered.wait(20)
        running.stop()
        until(lambda: not running.servers[0].is_serving())
        assert thread.is_alive()
        free.set()
        thread.join(20)
        asking.join(20)
    assert answers == [200]


def test_generated_requests_get_what_the_published_document_says(client: Client, tmp_path: Path) -> None:
    """Good and bad ones, by schemathesis: no answer is a server error, each is of a described status, content type and shape."""
    url = f"http://{client.host}:{client.port}"
    options = ("--max-examples", "15", "--seed", "1", "--phases", "examples,coverage,fuzzing", "--no-color", "--continue-on-failure")
    program = str(Path(sys.executable).with_name("schemathesis"))
    command = (program, "run", f"{url}/openapi.json", "--url", url, *options)
    found = subprocess.run(command, capture_output=True, text=True, timeout=100, cwd=tmp_path, check=False)
    assert found.returncode == 0, found.stdout[-6000:] + found.stderr[-2000:]
    operations = len(client.get("/openapi.json").json["paths"]) - 1  # it leaves out the path that the document came from
    assert re.search(rf"Tested: *{operations}\b", found.stdout), found.stdout[-3000:]
