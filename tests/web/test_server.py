"""The socket and arbitrary input: a proper status or a closed connection, and the next request works."""

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
from tests.proof.interceptors import Call, intercept
from tests.proof.world import TOPIC, World, event
from tests.web.served import Client, real_time, served, site


@pytest.fixture
def client() -> Iterator[Client]:
    world = World()
    world.create()
    world.produce(event("a"))
    world.settle()
    with served(site(real_time(world))) as client:
        yield client


@contextmanager
def raw_connection(client: Client, data: bytes = b"") -> Iterator[socket.socket]:
    with closing(socket.create_connection((client.host, client.port), timeout=20)) as connection:
        connection.sendall(data)
        yield connection


def read_to_end(connection: socket.socket) -> bytes:
    """Read until the server closes the connection."""
    received = b""
    try:
        while data := connection.recv(65_536):
            received += data
    except ConnectionResetError:
        pass
    return received


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
    ids=["not HTTP", "header", "length", "two hosts", "TLS", "huge header", "huge path"],
)
def test_a_malformed_request_is_400_and_a_closed_connection(client: Client, data: bytes) -> None:
    with raw_connection(client) as connection:
        try:
            connection.sendall(data)
        except (BrokenPipeError, ConnectionResetError):  # refused before all of it was sent
            pass
        else:
            assert re.match(rb"HTTP/1.1 400 |$", read_to_end(connection))
    assert client.get("/health").status == 200


def test_pipelined_requests_are_answered_in_order(client: Client) -> None:
    paths = (b"/health/live", b"/nowhere", b"/health/ready")
    requests = b"".join(b"GET %s HTTP/1.1\r\nHost: a\r\n\r\n" % path for path in paths)
    with raw_connection(client, requests + b"GET /health/live HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n") as connection:
        assert re.findall(rb"HTTP/1.1 (\d+)", read_to_end(connection)) == [b"200", b"404", b"200", b"200"]


def test_a_body_is_not_waited_for(client: Client) -> None:
    with raw_connection(client, b"POST /health HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\nx") as connection:
        assert connection.recv(100).startswith(b"HTTP/1.1 405 ")
    assert client.get("/health").status == 200


def test_an_unsupported_upgrade_is_an_ordinary_request(client: Client) -> None:
    with raw_connection(client, b"GET /health/live HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n") as connection:
        assert connection.recv(100).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "data",
    [b"", b"GET /health HTTP/1.1\r\nHost:", b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n"],
    ids=["no data", "half a header", "one request"],
)
def test_an_idle_connection_is_closed(client: Client, monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(server, "REQUEST_READ_TIMEOUT_SECONDS", 0.2)
    with raw_connection(client, data) as connection:
        read_to_end(connection)


def test_a_header_sent_byte_by_byte_is_cut_off(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "REQUEST_READ_TIMEOUT_SECONDS", 0.3)
    with raw_connection(client, b"GET /health HTTP/1.1\r\nX: ") as connection:

        def refused() -> bool:
            try:
                connection.sendall(b"x")
            except OSError:
                return True
            return False

        until(refused, seconds=5)


def test_a_client_that_does_not_read_its_response_is_disconnected(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "RESPONSE_TIMEOUT_SECONDS", 0.3)
    request = b"GET /openapi.json HTTP/1.1\r\nHost: a\r\n\r\n"
    with raw_connection(client) as connection:
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


def test_excess_idle_connections_do_not_block_health_checks(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 20)
    with ExitStack() as connections:
        for _ in range(100):
            connections.enter_context(raw_connection(client))
        for _ in range(5):
            assert client.get("/health").status == 200
        sockets = psutil.Process().net_connections("tcp")
        accepted = [entry for entry in sockets if entry.laddr.port == client.port and entry.raddr]
        accepted = [entry for entry in accepted if entry.status == "ESTABLISHED"]
        assert 18 <= len(accepted) <= 22  # the limit is used, and no more than the excess is closed


@pytest.mark.parametrize("host", ["::1", "::", "0.0.0.0"])  # noqa: S104 - the subject of the test
def test_the_server_listens_on_the_given_address_also_on_ipv6(host: str) -> None:
    world = World()
    world.create()
    with served(site(real_time(world)), host) as client:
        addresses = {"::1": ["::1"], "::": ["::1", "127.0.0.1"], "0.0.0.0": ["127.0.0.1"]}[host]  # noqa: S104
        assert [Client(client.port, address).get("/health/live").status for address in addresses] == [200] * len(addresses)


def test_a_used_port_and_an_unknown_host_are_errors_that_name_them() -> None:
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


UNREACHABLE = {
    "KAFKA_BROKERS": "127.0.0.1:1",
    "DYNAMO_ENDPOINT": "http://127.0.0.1:1",
    "MINIO_ENDPOINT": "http://127.0.0.1:1",
    "AWS_SECRET_ACCESS_KEY": "sesame-one",
    "MINIO_SECRET_KEY": "sesame-two",
    "HEALTH_HOST": "127.0.0.1",
}


@contextmanager
def process(tmp_path: Path, **settings: str) -> Iterator[tuple[subprocess.Popen[bytes], Client, Path]]:
    """Run `analytics serve` without Kafka, DynamoDB and S3."""
    log = tmp_path / "log"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DAGSTER")} | UNREACHABLE | settings
    program = str(Path(sys.executable).with_name("analytics"))
    with log.open("wb") as out, server.bind_socket("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        listener.close()
        with subprocess.Popen([program, "serve"], env=environment | {"HEALTH_PORT": str(port)}, stdout=out, stderr=out) as running:
            try:
                until(lambda: b"listening on" in log.read_bytes(), seconds=60)
                yield running, Client(port), log
            finally:
                running.kill()


def test_serve_answers_with_everything_down_without_secrets_and_exits_with_0(tmp_path: Path) -> None:
    with process(tmp_path, TZ="Asia/Kathmandu", LC_ALL="tr_TR.UTF-8") as (running, client, log):
        until(lambda: client.get("/health/live").status == 200)
        until(lambda: all(service["error"] != "no answer yet" for service in client.health()["services"].values()))
        health = client.health()
        answers = "".join(client.get(path).text for path in ("/health", "/health/ready", "/metrics?format=prometheus", "/"))
        assert client.get("/health").status == client.get("/health/ready").status == client.get("/metrics").status == 503
        assert {service["status"] for service in health["services"].values()} == {"unhealthy"}
        assert (health["metrics"], len(health["reasons"])) == (None, 3)
        assert health["timestamp"].endswith("Z")
        with raw_connection(client, b"GET /health HTTP/1.1\r\nHost: a\r\n"):
            running.send_signal(signal.SIGTERM)
            assert running.wait(20) == 0
        output = log.read_text()
        assert output.endswith("stopped\n")
        assert "sesame" not in output + answers
        assert "Traceback" not in output + answers


def test_a_stop_under_load_cuts_off_no_answer_and_exits_with_0(tmp_path: Path) -> None:
    answered, cut_off, over = [0] * 4, [0] * 4, threading.Event()

    def poll(number: int, endpoint: Client) -> None:
        while not over.is_set():
            try:
                assert endpoint.get("/health").status == 503
                answered[number] += 1
            except http.client.IncompleteRead:
                cut_off[number] += 1
            except OSError:  # refused, or closed before the response began: the server no longer listens
                pass

    with process(tmp_path) as (running, endpoint, _):
        threads = [threading.Thread(target=poll, args=(number, endpoint)) for number in range(4)]
        for thread in threads:
            thread.start()
        try:
            until(lambda: min(answered) > 20, seconds=30)
            running.send_signal(signal.SIGTERM)
            assert running.wait(20) == 0
        finally:
            over.set()
            for thread in threads:
                thread.join(20)
    assert sum(cut_off) == 0


def test_a_request_that_is_running_at_the_stop_is_still_answered() -> None:
    world, entered, released = World(), threading.Event(), threading.Event()
    world.create()
    world.produce(event("a"))
    world.settle()

    def interceptor(call: Call, perform: Callable[[], Any]) -> Any:
        if str(call) == "ledger.closed_range_at":
            entered.set()
            assert released.wait(20)
        return perform()

    answers: list[int] = []
    with server.bind_socket("127.0.0.1", 0) as listener:
        running = server.HealthServer(make_app(site(intercept(real_time(world), interceptor))))
        thread = threading.Thread(target=running.serve_on, args=(listener,))
        thread.start()
        client = Client(listener.getsockname()[1])
        request = threading.Thread(target=lambda: answers.append(client.get(f"/trace/{TOPIC}/0/0").status))
        request.start()
        assert entered.wait(20)
        running.stop()
        until(lambda: not running.servers[0].is_serving())
        assert thread.is_alive()
        released.set()
        thread.join(20)
        request.join(20)
    assert answers == [200]


def test_generated_requests_get_the_documented_responses(client: Client, tmp_path: Path) -> None:
    """Send valid and invalid requests with schemathesis. Status, content type and shape of each response are in the document."""
    url = f"http://{client.host}:{client.port}"
    options = ("--max-examples", "15", "--seed", "1", "--phases", "examples,coverage,fuzzing", "--no-color", "--continue-on-failure")
    program = str(Path(sys.executable).with_name("schemathesis"))
    command = (program, "run", f"{url}/openapi.json", "--url", url, *options)
    result = subprocess.run(command, capture_output=True, text=True, timeout=100, cwd=tmp_path, check=False)
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
    operations = len(client.get("/openapi.json").json["paths"]) - 1  # schemathesis leaves out the path of the document itself
    assert re.search(rf"Tested: *{operations}\b", result.stdout), result.stdout[-3000:]
