"""Native servers: Apache Kafka, DynamoDB Local, MinIO and Redis. Each has a loopback port and a data folder.

    with servers.kafka(folder) as kafka:
        kafka.settings          # {"KAFKA_BROKERS": "127.0.0.1:24012"}
        kafka.kill()
        kafka.start()           # the same port and the same data

The folder is not deleted when the block ends. The caller deletes it.
"""

from __future__ import annotations

import base64
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from analytics_defs.devstack import install
from analytics_defs.devstack.processes import POLL_SECONDS, ProcessRecord, end_group, last_lines, signal_group, spawn
from analytics_defs.devstack.tcp_ports import LOOPBACK, accepts, free_port, http_status
from analytics_defs.errors import StartupFailed

READY_WITHIN = timedelta(seconds=60)
AWS_KEYS = {"AWS_ACCESS_KEY_ID": "fake", "AWS_SECRET_ACCESS_KEY": "fake", "AWS_DEFAULT_REGION": "us-east-1"}
MINIO_KEYS = {"MINIO_ACCESS_KEY": "minio", "MINIO_SECRET_KEY": "minio123"}
_KAFKA_PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers={host}:{controller_port}
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://{host}:{port},CONTROLLER://{host}:{controller_port}
advertised.listeners=PLAINTEXT://{host}:{port}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=PLAINTEXT
log.dirs={data}
auto.create.topics.enable=false
num.partitions=4
offsets.topic.num.partitions=4
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
broker.heartbeat.interval.ms=500
broker.session.timeout.ms=3000
log.cleaner.backoff.ms=1000
"""


@dataclass(frozen=True, slots=True)
class NativeServer:
    """A server and the settings of its clients. `start` after `stop` or `kill` uses the same port and data."""

    name: str
    folder: Path
    port: int
    command: tuple[str, ...]
    settings: Mapping[str, str]
    """Settings with which the platform uses this server."""
    answers: Callable[[int], bool]
    """Returns whether the server at this port answers requests, not only accepts connections."""
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def address(self) -> str:
        return f"{LOOPBACK}:{self.port}"

    @property
    def log(self) -> Path:
        return self.folder / "log.txt"

    @property
    def process(self) -> ProcessRecord | None:
        """The process that was last started in this folder, by any program. It may have ended."""
        return ProcessRecord.load(self.folder / "process.json")

    def launch(self) -> None:
        """Start the process without waiting for it. Raise StartupFailed if it is already running in this folder."""
        if self.process is not None and self.process.is_alive():
            raise StartupFailed(f"{self.name} is already running in {self.folder} as process {self.process.pid}")
        spawn(self.command, log=self.log, environment=self.environment).save(self.folder / "process.json")

    def await_ready(self) -> None:
        """Wait until the server answers.

        If it ends or takes too long, kill it and raise StartupFailed with its last log lines.
        """
        deadline = time.monotonic() + READY_WITHIN.total_seconds()
        while not (accepts(self.port) and self.answers(self.port)):
            ended = self.process is None or not self.process.is_alive()
            if ended or time.monotonic() > deadline:
                self.kill()
                problem = "ended while starting" if ended else f"did not answer within {READY_WITHIN.total_seconds():.0f} s"
                raise StartupFailed(f"{self.name} at {self.address} {problem}. The end of {self.log}:\n{last_lines(self.log)}")
            time.sleep(POLL_SECONDS)

    def start(self) -> None:
        self.launch()
        self.await_ready()

    def stop(self) -> None:
        """Stop the server with SIGTERM. Do nothing if it has ended."""
        if self.process is not None:
            end_group(self.process)

    def kill(self) -> None:
        """Kill the server with SIGKILL, as a power failure would."""
        if self.process is not None:
            end_group(self.process, first=signal.SIGKILL)

    def freeze(self) -> None:
        """Suspend the server with SIGSTOP.

        The kernel still accepts connections, but no request is answered until `thaw`.
        """
        if self.process is not None:
            signal_group(self.process, signal.SIGSTOP)

    def thaw(self) -> None:
        if self.process is not None:
            signal_group(self.process, signal.SIGCONT)


@contextmanager
def kafka(folder: Path) -> Iterator[NativeServer]:
    """Run a Kafka broker for the duration of the block."""
    yield from _running(kafka_server(folder))


@contextmanager
def dynamodb(folder: Path) -> Iterator[NativeServer]:
    """Run DynamoDB Local for the duration of the block. Its tables do not survive a `stop` or `kill`."""
    yield from _running(dynamodb_server(folder))


@contextmanager
def durable_dynamodb(folder: Path) -> Iterator[NativeServer]:
    """Run DynamoDB Local with tables that survive `stop` and `kill`, for tests with an outage."""
    yield from _running(durable_dynamodb_server(folder))


@contextmanager
def minio(folder: Path) -> Iterator[NativeServer]:
    """Run a MinIO server for the duration of the block."""
    yield from _running(minio_server(folder))


def kafka_server(folder: Path) -> NativeServer:
    """Return one formatted KRaft node, not started. It does not create topics automatically."""
    port, controller_port = free_port(), free_port()
    data, properties = folder / "data", folder / "server.properties"
    data.mkdir(parents=True)
    text = _KAFKA_PROPERTIES.format(host=LOOPBACK, port=port, controller_port=controller_port, data=data)
    properties.write_text(text, encoding="utf-8")
    jvm = (*_jvm(folder), "-Dlog4j2.level=WARN", "-cp", f"{install.kafka_jars()}/*")
    _format(folder, [*jvm, "kafka.tools.StorageTool", "format", "-t", _cluster_id(), "-c", str(properties), "--standalone"])
    settings = {"KAFKA_BROKERS": f"{LOOPBACK}:{port}"}
    return NativeServer("Apache Kafka", folder, port, (*jvm, "kafka.Kafka", str(properties)), settings, _kafka_answers)


def dynamodb_server(folder: Path) -> NativeServer:
    """Return a server that is not started. Its tables are in memory, as in the published benchmarks."""
    return _dynamodb_local(folder, "-inMemory")


def durable_dynamodb_server(folder: Path) -> NativeServer:
    """Return a server that is not started. Its tables are on disk; single writes are about 8 times slower."""
    return _dynamodb_local(folder, "-dbPath", str(folder / "data"))


def _dynamodb_local(folder: Path, *storage: str) -> NativeServer:
    """Return a server that listens on every interface: DynamoDB Local has no option to restrict it."""
    port, jars = free_port(), install.dynamodb_jars()
    (folder / "data").mkdir(parents=True)
    jvm = (*_jvm(folder), f"-Dsqlite4java.library.path={jars}", "-cp", f"{jars}/*")
    options = (*storage, "-sharedDb", "-port", str(port), "-disableTelemetry")
    settings = {"DYNAMO_ENDPOINT": f"http://{LOOPBACK}:{port}"} | AWS_KEYS
    command = (*jvm, "software.amazon.dynamodb.services.local.main.ServerRunner", *options)
    return NativeServer("DynamoDB Local", folder, port, command, settings, _dynamodb_answers)


def minio_server(folder: Path) -> NativeServer:
    """Return a server that is not started. Its console is off, because it would listen on another port."""
    port, binary = free_port(), install.minio_binary()
    data = folder / "data"
    data.mkdir(parents=True)
    command = (str(binary), "server", "--quiet", "--address", f"{LOOPBACK}:{port}", "--certs-dir", str(folder / "certs"), str(data))
    credentials = {"MINIO_ROOT_USER": MINIO_KEYS["MINIO_ACCESS_KEY"], "MINIO_ROOT_PASSWORD": MINIO_KEYS["MINIO_SECRET_KEY"]}
    environment = credentials | {"MINIO_BROWSER": "off", "MINIO_UPDATE": "off"}
    settings = {"MINIO_ENDPOINT": f"http://{LOOPBACK}:{port}"} | MINIO_KEYS
    return NativeServer("MinIO", folder, port, command, settings, _minio_answers, environment)


@contextmanager
def redis(folder: Path) -> Iterator[NativeServer]:
    """Run a Redis server for the duration of the block."""
    yield from _running(redis_server(folder))


def redis_server(folder: Path) -> NativeServer:
    """Return a server that is not started. It writes each message to disk before the acknowledgement, as in
    docker-compose.yml, so a `kill` loses none.
    """
    binary = install.tool("redis-server")
    port, data = free_port(), folder / "data"
    data.mkdir(parents=True)
    durable = ("--appendonly", "yes", "--appendfsync", "always", "--save", "")
    command = (binary, "--bind", LOOPBACK, "--port", str(port), "--dir", str(data), *durable)
    settings = {"DAGSTER_CELERY_BROKER": f"redis://{LOOPBACK}:{port}/0"}
    return NativeServer("Redis", folder, port, command, settings, _redis_answers)


def _running(server: NativeServer) -> Iterator[NativeServer]:
    try:
        server.start()
        yield server
    finally:
        server.thaw()
        server.stop()


def _jvm(folder: Path) -> tuple[str, ...]:
    """Return the command of a JVM whose temporary files are in the server's folder.

    DynamoDB Local writes a library of 1 MB at each start.
    """
    temporary = folder / "tmp"
    temporary.mkdir()
    return install.tool("java"), "-Xms64m", "-Xmx512m", f"-Djava.io.tmpdir={temporary}", "-XX:-UsePerfData"


def _cluster_id() -> str:
    """Return a cluster id like `StorageTool random-uuid`, which takes a second. Kafka rejects a leading dash."""
    while True:
        cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        if not cluster_id.startswith("-"):
            return cluster_id


def _format(folder: Path, command: list[str]) -> None:
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode:
        raise StartupFailed(f"Apache Kafka: formatting {folder} failed:\n{finished.stdout}{finished.stderr}")


def _kafka_answers(port: int) -> bool:
    admin = AdminClient({"bootstrap.servers": f"{LOOPBACK}:{port}", "log_level": 0})
    try:
        return bool(admin.list_topics(timeout=2).brokers)
    except KafkaException:
        return False


def _dynamodb_answers(port: int) -> bool:
    return http_status(f"http://{LOOPBACK}:{port}/") is not None


def _minio_answers(port: int) -> bool:
    return http_status(f"http://{LOOPBACK}:{port}/minio/health/ready") == 200


def _redis_answers(port: int) -> bool:
    """Return whether Redis answers PING. It does not while it loads its data."""
    try:
        with socket.create_connection((LOOPBACK, port), timeout=2) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
    except OSError:
        return False
