"""Construction of ports, options and the web context from settings. Clients connect on first use."""

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
from analytics_defs.flows.ingest.options import IngestOptions
from analytics_defs.flows.ingest.tail_lane import TailOptions
from analytics_defs.flows.setup.platform_identity import verify_stores
from analytics_defs.ports import Ports

if TYPE_CHECKING:
    from pydantic import AnyHttpUrl, SecretStr

    from analytics_defs.adapters.dynamodb.client import DynamoConfig
    from analytics_defs.adapters.dynamodb.provisioning import DynamoProvisioner
    from analytics_defs.adapters.kafka.client import KafkaConfig
    from analytics_defs.adapters.kafka.provisioning import KafkaProvisioner
    from analytics_defs.adapters.object_store.client import ObjectStoreConfig
    from analytics_defs.adapters.object_store.provisioning import BucketProvisioner
    from analytics_defs.flows.health_probes import HealthClients, SchedulerProbe
    from analytics_defs.flows.hours.statistics import StatisticsEngineFactory
    from analytics_defs.web.app import WebContext

HEALTH_CONNECT_TIMEOUT, HEALTH_REQUEST_TIMEOUT, HEALTH_READ_TIMEOUT = timedelta(seconds=1), timedelta(seconds=2), timedelta(seconds=5)
"""Time limits of the always-on job's clients: to connect, for a response, and to read an object."""


@functools.lru_cache(maxsize=4)
def build_ports(settings: Settings) -> Ports:
    """Build the production adapters. Cached, because Dagster sets up resources on every tick and clients are expensive."""
    from analytics_defs.adapters.dynamodb.ledger import DynamoLedger
    from analytics_defs.adapters.dynamodb.ledger_transactions import LedgerTables
    from analytics_defs.adapters.dynamodb.recent_events import DynamoRecentEvents
    from analytics_defs.adapters.dynamodb.requests import DynamoClient
    from analytics_defs.adapters.kafka.event_log import KafkaEventLog
    from analytics_defs.adapters.object_store.store import S3ObjectStore
    from analytics_defs.adapters.runtime.system import SystemClock, ThreadTaskPool

    clock, dynamo, bucket = SystemClock(), DynamoClient(dynamo_config(settings)), object_store_config(settings)
    tables = LedgerTables(settings.ledger_table_name, settings.aggregates_table_name)
    return Ports(
        event_log=KafkaEventLog(kafka_config(settings)),
        recent_events=DynamoRecentEvents(dynamo, settings.recent_events_table_name),
        object_store=S3ObjectStore(bucket),
        ledger=DynamoLedger(dynamo, tables),
        clock=clock,
        task_pool=ThreadTaskPool(settings.write_threads),
        table_names=(settings.recent_events_table_name, settings.aggregates_table_name),
        bucket=bucket.address,
    )


def statistics_engine_factory(settings: Settings) -> StatisticsEngineFactory:
    """Return the factory of DuckDB workspaces for the hourly assets. DuckDB is imported here and never by a micro-batch."""
    from analytics_defs.adapters.duckdb.statistics import duckdb_statistics

    return functools.partial(duckdb_statistics, settings.duckdb_memory_limit_mb)


@dataclass(frozen=True, slots=True)
class NewTopicOptions:
    """Options of `setup` for missing topics."""

    create: bool = True
    partitions: int = 4
    replication: int = -1
    """-1: the broker's default."""


@contextmanager
def provisioners(
    settings: Settings, new: NewTopicOptions | None = None
) -> Iterator[tuple[KafkaProvisioner, DynamoProvisioner, BucketProvisioner]]:
    """Yield the provisioners that `setup` and `check` use. Their connections are closed at the end of the block."""
    from analytics_defs.adapters.dynamodb.ledger_transactions import LedgerTables
    from analytics_defs.adapters.dynamodb.provisioning import DynamoProvisioner
    from analytics_defs.adapters.dynamodb.requests import DynamoClient
    from analytics_defs.adapters.dynamodb.tables import expected_tables
    from analytics_defs.adapters.kafka.provisioning import KafkaProvisioner, TopicRequirements
    from analytics_defs.adapters.object_store.provisioning import BucketProvisioner

    new = new or NewTopicOptions()
    requirements = TopicRequirements(settings.kafka_topics, settings.max_event_bytes, new.partitions, new.replication, new.create)
    tables = LedgerTables(settings.ledger_table_name, settings.aggregates_table_name)
    all_provisioners = (
        KafkaProvisioner(kafka_config(settings), requirements),
        DynamoProvisioner(DynamoClient(dynamo_config(settings)), expected_tables(settings.recent_events_table_name, tables)),
        BucketProvisioner(object_store_config(settings)),
    )
    try:
        yield all_provisioners
    finally:
        for provisioner in all_provisioners:
            provisioner.close()


def ingest_options(settings: Settings, run_id: str) -> IngestOptions:
    return IngestOptions(
        run_id, settings.validation_rules(), settings.batch_limits(), settings.write_event_json, code_version(), settings.on_data_loss
    )


def tail_options(settings: Settings) -> TailOptions:
    """Return the options for tailing a lane after its plan.

    A plan below a full batch waits as in the sensor. Pauses grow with the number of lanes and of batches in a plan:
    a revision lists the batches of its hour in one item of 400 KB, which holds about 24,000.
    """
    policy = replace(settings.planning_policy(), max_offsets=settings.batch_max_records)
    interval = max(settings.tail_interval, settings.batch_max_wait, settings.lanes * MIN_BATCH_INTERVAL_PER_LANE)
    return TailOptions(settings.kafka_topics, policy, settings.tail_duration, interval, settings.lanes * MIN_BATCH_INTERVAL_PER_LANE)


MIN_BATCH_INTERVAL_PER_LANE = timedelta(milliseconds=200)
"""Limits all lanes together to five batches a second."""


@functools.cache
def code_version() -> str:
    return importlib.metadata.version("analytics-defs")


@functools.cache
def code_digest() -> str:
    """Return 12 hex digits of a hash of this package's source files, read at the first call. Equal code gives an equal digest."""
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
    """Return the DynamoDB client settings. Access keys are used only with an endpoint; AWS uses the SDK's credential chain."""
    from analytics_defs.adapters.dynamodb.client import DynamoConfig

    endpoint, region = _url(settings.dynamo_endpoint), settings.region
    connections = settings.write_threads + 4
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
    """Return the object store settings. Access keys are used only with an endpoint, as in `dynamo_config`."""
    from analytics_defs.adapters.object_store.client import ObjectStoreConfig, ObjectStoreKeys

    endpoint = _url(settings.minio_endpoint)
    return ObjectStoreConfig(
        bucket=settings.archive_bucket_name,
        endpoint=endpoint,
        region=settings.region or (LOCAL_REGION if endpoint else None),
        keys=ObjectStoreKeys(settings.minio_access_key, settings.minio_secret_key.get_secret_value()) if endpoint else None,
        max_in_flight=settings.object_store_concurrency,
        snowball=endpoint is not None and settings.minio_snowball == "auto",
    )


def _url(url: AnyHttpUrl | None) -> str | None:
    return str(url).rstrip("/") if url else None


def _security(settings: Settings) -> dict[str, str]:
    """Return the SASL and TLS settings that are set, by librdkafka's names."""
    values: dict[str, str | SecretStr | None] = {
        "security.protocol": settings.kafka_security_protocol,
        "sasl.mechanism": settings.kafka_sasl_mechanism,
        "sasl.username": settings.kafka_sasl_username,
        "sasl.password": settings.kafka_sasl_password,
        "ssl.ca.location": settings.kafka_ssl_ca_location,
        "ssl.certificate.location": settings.kafka_ssl_certificate_location,
        "ssl.key.location": settings.kafka_ssl_key_location,
        "ssl.key.password": settings.kafka_ssl_key_password,
    }
    return {name: value if isinstance(value, str) else value.get_secret_value() for name, value in values.items() if value is not None}


def web_context(settings: Settings, instance: str, scheduling: SchedulerProbe | None) -> WebContext:
    """Build the context of the web app. Its clients have short time limits, so a hanging store is reported within seconds.

    `instance`: name of this process in responses.
    """
    from analytics_defs.web.app import WebContext
    from analytics_defs.web.monitor import HealthMonitor, MonitorSettings

    clients = _health_clients(settings, scheduling)
    monitor_settings = MonitorSettings(settings.planning_policy(), settings.stall_timeout, code_version(), instance)
    return WebContext(HealthMonitor(clients, monitor_settings), clients.ports, _url(settings.dagster_ui_url))


def _health_clients(settings: Settings, scheduling: SchedulerProbe | None) -> HealthClients:
    from analytics_defs.adapters.dynamodb.ledger import DynamoLedger
    from analytics_defs.adapters.dynamodb.ledger_transactions import LedgerTables
    from analytics_defs.adapters.dynamodb.recent_events import DynamoRecentEvents
    from analytics_defs.adapters.dynamodb.requests import DynamoClient
    from analytics_defs.adapters.kafka.event_log import KafkaEventLog
    from analytics_defs.adapters.kafka.topic_retention import CachedTopicRetention
    from analytics_defs.adapters.object_store.store import S3ObjectStore
    from analytics_defs.adapters.runtime.system import SystemClock, ThreadTaskPool
    from analytics_defs.flows.health_probes import HealthClients

    kafka, clock = kafka_config(settings), SystemClock()
    kafka = replace(
        kafka, request_timeout=min(kafka.request_timeout, HEALTH_REQUEST_TIMEOUT), read_timeout=HEALTH_REQUEST_TIMEOUT, prefetch_bytes=2**18
    )
    dynamo = DynamoClient(
        replace(dynamo_config(settings), connect_timeout=HEALTH_CONNECT_TIMEOUT, read_timeout=HEALTH_REQUEST_TIMEOUT, attempts=2)
    )
    bucket = replace(
        object_store_config(settings),
        connect_timeout=HEALTH_CONNECT_TIMEOUT,
        request_timeout=HEALTH_READ_TIMEOUT,
        max_retries=1,
        snowball=False,
    )
    ports = Ports(
        event_log=KafkaEventLog(kafka),
        recent_events=DynamoRecentEvents(dynamo, settings.recent_events_table_name),
        object_store=S3ObjectStore(replace(bucket, retry_within=HEALTH_CONNECT_TIMEOUT)),
        ledger=DynamoLedger(dynamo, LedgerTables(settings.ledger_table_name, settings.aggregates_table_name)),
        clock=clock,
        task_pool=ThreadTaskPool(settings.write_threads),
    )
    return HealthClients(settings.kafka_topics, ports, KafkaEventLog(kafka), CachedTopicRetention(kafka, clock), scheduling)


def verified_ports(settings: Settings) -> Ports:
    """Build ports for a command that writes. Raises InconsistentState if the stores have different platform ids."""
    ports = build_ports(settings)
    verify_stores(ports)
    return ports


def ports_from_environment() -> Ports:
    """Build ports from the environment. Raises SettingsError with all wrong settings."""
    return build_ports(load_settings())
