"""Settings become ports. Clients are made here, and connect when they are first used."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from analytics_defs.config import LOCAL_REGION, Settings, load_settings
from analytics_defs.flows.ingest.execute_plan import Conduct
from analytics_defs.flows.ingest.tail_lane import Following
from analytics_defs.flows.setup.platform_identity import require_together
from analytics_defs.ports import Ports

if TYPE_CHECKING:
    from pydantic import AnyHttpUrl, SecretStr

    from analytics_defs.adapters.dynamodb.client import DynamoConfig
    from analytics_defs.adapters.kafka.client import KafkaConfig
    from analytics_defs.adapters.object_store.client import ObjectStoreConfig
    from analytics_defs.adapters.object_store.provisioning import BucketGround, DynamoGround, KafkaGround
    from analytics_defs.flows.health_checks import Doors, Scheduling
    from analytics_defs.flows.hours.statistics import CalculatorBench
    from analytics_defs.web.app import Site

WATCH_CONNECT, WATCH_REQUEST, WATCH_READ = timedelta(seconds=1), timedelta(seconds=2), timedelta(seconds=5)
"""How long the always-on job's own clients wait: to connect, for an answer, for an object of the archive."""


@functools.lru_cache(maxsize=4)
def build_ports(settings: Settings) -> Ports:
    """The real adapters, kept for the process: Dagster sets resources up on every tick, and clients are costly to make."""
    from analytics_defs.adapters.dynamodb.ledger import DynamoLedger
    from analytics_defs.adapters.dynamodb.ledger_transactions import LedgerTables
    from analytics_defs.adapters.dynamodb.recent_events import DynamoRecentEvents
    from analytics_defs.adapters.dynamodb.requests import Dynamo
    from analytics_defs.adapters.kafka.event_log import KafkaLog
    from analytics_defs.adapters.object_store.store import ObjectStoreArchive
    from analytics_defs.adapters.runtime.system import SystemClock, ThreadWorkers

    clock, dynamo = SystemClock(), Dynamo(dynamo_config(settings))
    tables = LedgerTables(settings.ledger_table_name, settings.aggregates_table_name)
    return Ports(
        log=KafkaLog(kafka_config(settings)),
        recent=DynamoRecentEvents(dynamo, settings.recent_events_table_name),
        archive=ObjectStoreArchive(object_store_config(settings)),
        ledger=DynamoLedger(dynamo, tables),
        clock=clock,
        workers=ThreadWorkers(settings.store_threads),
        tables=(settings.recent_events_table_name, settings.aggregates_table_name),
    )


def build_bench(settings: Settings) -> CalculatorBench:
    """Where the hourly assets sort and count. DuckDB is imported here, and by nothing that a micro-batch runs."""
    from analytics_defs.adapters.duckdb.statistics import duck_calculator

    return functools.partial(duck_calculator, settings.hourly_memory_mb)


@dataclass(frozen=True, slots=True)
class NewTopics:
    """How `setup` makes topics that are missing."""

    create: bool = True
    partitions: int = 4
    replication: int = -1
    """-1: the broker's default."""


@contextmanager
def grounds(settings: Settings, new: NewTopics | None = None) -> Iterator[tuple[KafkaGround, DynamoGround, BucketGround]]:
    """What `setup` prepares and `check` proves, with connections for the length of the block."""
    from analytics_defs.adapters.dynamodb.ledger_transactions import LedgerTables
    from analytics_defs.adapters.dynamodb.requests import Dynamo
    from analytics_defs.adapters.dynamodb.tables import expected_tables
    from analytics_defs.adapters.object_store.provisioning import BucketGround, DynamoGround, KafkaGround, TopicsWanted

    new = new or NewTopics()
    wanted = TopicsWanted(settings.kafka_topics, settings.max_event_bytes, new.partitions, new.replication, new.create)
    tables = LedgerTables(settings.ledger_table_name, settings.aggregates_table_name)
    found = (
        KafkaGround(kafka_config(settings), wanted),
        DynamoGround(Dynamo(dynamo_config(settings)), expected_tables(settings.recent_events_table_name, tables)),
        BucketGround(object_store_config(settings)),
    )
    try:
        yield found
    finally:
        for each in found:
            each.close()


def conduct(settings: Settings, run_id: str) -> Conduct:
    return Conduct(run_id, settings.rules(), settings.limits(), settings.event_objects, code_version(), settings.on_data_loss)


def following(settings: Settings) -> Following:
    """What is smaller than a batch waits here as it does at the sensor.

    Pauses grow with the lanes, and with the batches that a plan of many partitions makes: the archive of an hour lists its batches in one
    item of 400 KB, about 24,000 of them.
    """
    policy = replace(settings.policy(), max_offsets=settings.batch_max_events)
    every = max(settings.follow_every, settings.batch_max_wait, settings.lanes * FOLLOWED_LANE)
    return Following(settings.kafka_topics, policy, settings.follow_for, every, settings.lanes * FOLLOWED_LANE)


FOLLOWED_LANE = timedelta(milliseconds=200)
"""At most five batches a second over all lanes together."""


@functools.cache
def code_version() -> str:
    return importlib.metadata.version("analytics-defs")


@functools.cache
def code_digest() -> str:
    """12 hex digits of this package's source, as it lies on the disk at the first call: the same wherever the same code runs."""
    folder, digest = Path(__file__).parent, hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(f"{path.relative_to(folder).as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def kafka_config(settings: Settings) -> KafkaConfig:
    from analytics_defs.adapters.kafka.client import KafkaConfig

    return KafkaConfig(
        brokers=settings.kafka_brokers,
        client_id=settings.kafka_client_id,
        group_id=settings.kafka_group_id,
        session_timeout=settings.kafka_session_timeout,
        heartbeat_interval=settings.kafka_heartbeat_interval,
        rebalance_timeout=settings.kafka_rebalance_timeout,
        request_timeout=settings.kafka_request_timeout,
        security=_security(settings),
    )


def dynamo_config(settings: Settings) -> DynamoConfig:
    """Keys go to an endpoint of one's own only: AWS itself is reached as the SDK's own chain says."""
    from analytics_defs.adapters.dynamodb.client import DynamoConfig

    endpoint, region = _url(settings.dynamo_endpoint), settings.region
    connections = settings.store_threads + 4
    if endpoint is None:
        return DynamoConfig(region=region, connections=connections)
    return DynamoConfig(
        endpoint=endpoint,
        region=region or LOCAL_REGION,
        access_key=settings.aws_access_key_id,
        secret_key=settings.aws_secret_access_key.get_secret_value(),
        connections=connections,
    )


def object_store_config(settings: Settings) -> ObjectStoreConfig:
    """The same for the bucket."""
    from analytics_defs.adapters.object_store.client import ObjectStoreConfig, ObjectStoreKeys

    endpoint = _url(settings.minio_endpoint)
    return ObjectStoreConfig(
        bucket=settings.archive_bucket_name,
        endpoint=endpoint,
        region=settings.region or (LOCAL_REGION if endpoint else None),
        keys=ObjectStoreKeys(settings.minio_access_key, settings.minio_secret_key.get_secret_value()) if endpoint else None,
        max_in_flight=settings.puts_in_flight,
        unpacks_tars=endpoint is not None and settings.tar_unpacking == "auto",
    )


def _url(url: AnyHttpUrl | None) -> str | None:
    return str(url).rstrip("/") if url else None


def _security(settings: Settings) -> dict[str, str]:
    """SASL and TLS in librdkafka's names, those that are set."""
    found: dict[str, str | SecretStr | None] = {
        "security.protocol": settings.kafka_security_protocol,
        "sasl.mechanism": settings.kafka_sasl_mechanism,
        "sasl.username": settings.kafka_sasl_username,
        "sasl.password": settings.kafka_sasl_password,
        "ssl.ca.location": settings.kafka_ssl_ca_location,
        "ssl.certificate.location": settings.kafka_ssl_certificate_location,
        "ssl.key.location": settings.kafka_ssl_key_location,
        "ssl.key.password": settings.kafka_ssl_key_password,
    }
    return {name: value if isinstance(value, str) else value.get_secret_value() for name, value in found.items() if value is not None}


def site(settings: Settings, instance: str, scheduling: Scheduling | None) -> Site:
    """What the always-on job shows, over clients of its own with short limits: a store that hangs is noticed in seconds, and asked again.

    `instance` names the process that answers.
    """
    from analytics_defs.web.app import Site
    from analytics_defs.web.monitor import Identity, Watch

    doors = _doors(settings, scheduling)
    identity = Identity(settings.policy(), settings.stall_after, code_version(), instance)
    return Site(Watch(doors, identity), doors.ports, _url(settings.dagster_ui_url))


def _doors(settings: Settings, scheduling: Scheduling | None) -> Doors:
    from analytics_defs.adapters.dynamodb.ledger import DynamoLedger
    from analytics_defs.adapters.dynamodb.ledger_transactions import LedgerTables
    from analytics_defs.adapters.dynamodb.recent_events import DynamoRecentEvents
    from analytics_defs.adapters.dynamodb.requests import Dynamo
    from analytics_defs.adapters.kafka.event_log import KafkaLog
    from analytics_defs.adapters.kafka.retention import KafkaRetention
    from analytics_defs.adapters.object_store.store import ObjectStoreArchive
    from analytics_defs.adapters.runtime.system import SystemClock, ThreadWorkers
    from analytics_defs.flows.health_checks import Doors

    kafka, clock = kafka_config(settings), SystemClock()
    kafka = replace(kafka, request_timeout=min(kafka.request_timeout, WATCH_REQUEST), read_timeout=WATCH_REQUEST, prefetch_bytes=2**18)
    dynamo = Dynamo(replace(dynamo_config(settings), connect_timeout=WATCH_CONNECT, read_timeout=WATCH_REQUEST, attempts=2))
    bucket = replace(
        object_store_config(settings), connect_timeout=WATCH_CONNECT, request_timeout=WATCH_READ, max_retries=1, unpacks_tars=False
    )
    ports = Ports(
        log=KafkaLog(kafka),
        recent=DynamoRecentEvents(dynamo, settings.recent_events_table_name),
        archive=ObjectStoreArchive(replace(bucket, retry_within=WATCH_CONNECT)),
        ledger=DynamoLedger(dynamo, LedgerTables(settings.ledger_table_name, settings.aggregates_table_name)),
        clock=clock,
        workers=ThreadWorkers(settings.store_threads),
    )
    return Doors(settings.kafka_topics, ports, KafkaLog(kafka), KafkaRetention(kafka, clock), scheduling)


def sealed_ports(settings: Settings) -> Ports:
    """The same, for a command that writes. Raises Contradiction where these stores do not belong together."""
    ports = build_ports(settings)
    require_together(ports)
    return ports


def ports_from_environment() -> Ports:
    """Raises SettingsError with every wrong setting."""
    return build_ports(load_settings())
