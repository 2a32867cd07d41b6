"""The settings: names, defaults, bounds, and rules between them."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import timedelta
from typing import Literal

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from analytics_defs.config.value_types import (
    Brokers,
    Bucket,
    Duration,
    Endpoint,
    HourText,
    OptionalRetention,
    PageUrl,
    PemFile,
    PositiveDays,
    Protocol,
    TableName,
    Topics,
)
from analytics_defs.core.events.event import ValidationRules
from analytics_defs.core.events.schema import EVENT_TYPES
from analytics_defs.core.hours.retention import RetentionPolicy
from analytics_defs.core.ingest.batch_builder import MAX_HOURS_PER_BATCH, MAX_RANGES_PER_BATCH, BatchLimits
from analytics_defs.core.ingest.planning import OnDataLoss, PlanningPolicy

LOCAL_KEY = "fake"
"""Access key and secret for local servers. Never sent to AWS."""
LOCAL_REGION = "us-east-1"
"""Region that signs requests to a custom endpoint. Local servers accept any region."""


class Settings(BaseSettings):
    """The settings of one process. Each field is the environment variable of the same name; an empty value is ignored."""

    model_config = SettingsConfigDict(env_ignore_empty=True, extra="ignore", frozen=True, arbitrary_types_allowed=True)

    kafka_brokers: Brokers = Field("localhost:9092", description="bootstrap servers of Kafka")
    kafka_client_id: str = Field("analytics-service", min_length=1, description="client id in Kafka's logs and quotas")
    kafka_group_id: str = Field("analytics-group", min_length=1, description="consumer group whose offsets show the progress")
    kafka_topics: Topics = Field(EVENT_TYPES, description="topics to ingest")
    kafka_session_timeout: Duration = Field(timedelta(seconds=30), description="session timeout of the consumer")
    kafka_heartbeat_interval: Duration = Field(timedelta(seconds=3), gt=timedelta(0), description="heartbeat interval of the consumer")
    kafka_rebalance_timeout: Duration = Field(timedelta(seconds=60), description="maximum time between two polls of the consumer")
    kafka_request_timeout: Duration = Field(
        timedelta(seconds=10), gt=timedelta(0), description="timeout of one request to Kafka, retries included"
    )
    kafka_security_protocol: Protocol = Field("PLAINTEXT", description="protocol of the connections to the brokers")
    kafka_sasl_mechanism: str | None = Field(
        None, description="SASL mechanism, such as PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512; required with a SASL protocol"
    )
    kafka_sasl_username: str | None = Field(None, description="SASL user name")
    kafka_sasl_password: SecretStr | None = Field(None, description="SASL password")
    kafka_ssl_ca_location: PemFile | None = Field(None, description="PEM file with the CA certificates")
    kafka_ssl_certificate_location: PemFile | None = Field(None, description="PEM file with the client certificate")
    kafka_ssl_key_location: PemFile | None = Field(None, description="PEM file with the client key")
    kafka_ssl_key_password: SecretStr | None = Field(None, description="password of the client key")

    dynamo_endpoint: Endpoint | None = Field(None, description="custom endpoint URL of DynamoDB; not set: AWS")
    aws_access_key_id: str = Field(
        LOCAL_KEY, description="access key for DYNAMO_ENDPOINT; without an endpoint, the SDK's credential chain is used"
    )
    aws_secret_access_key: SecretStr = Field(SecretStr(LOCAL_KEY), description="secret key for DYNAMO_ENDPOINT")
    aws_default_region: str | None = Field(None, description="AWS region; any value works with custom endpoints")
    aws_region: str | None = Field(None, description="AWS region if AWS_DEFAULT_REGION is not set, as in containers on AWS")
    recent_events_table_name: TableName = Field("RecentEvents", description="table of the recent events")
    ledger_table_name: TableName = Field("IngestLedger", description="table of checkpoints, batches and hours")
    aggregates_table_name: TableName = Field("EventAggregates", description="table of the event counters")

    minio_endpoint: Endpoint | None = Field(None, description="custom endpoint URL of an S3-compatible store; not set: Amazon S3")
    minio_access_key: str = Field("minio", description="access key for MINIO_ENDPOINT; not used without an endpoint")
    minio_secret_key: SecretStr = Field(SecretStr("minio123"), description="secret key for MINIO_ENDPOINT")
    archive_bucket_name: Bucket = Field("event-archive", description="bucket of the archive")
    minio_snowball: Literal["auto", "off"] = Field(
        "auto", description="`auto`: upload small objects in tar files if MINIO_ENDPOINT unpacks them; `off`: one request for each object"
    )
    write_event_json: bool = Field(True, description="write one JSON object for each event; Parquet files are always written")
    object_store_concurrency: int = Field(32, ge=1, le=512, description="maximum number of concurrent uploads")

    lanes: int = Field(1, ge=1, le=512, description="number of lanes: fixed shares of the partitions, each with at most one run in flight")
    batch_max_records: int = Field(10_000, ge=1, le=20_000, description="maximum number of records in a batch")
    batch_max_bytes: int = Field(
        16 * 2**20, ge=1024, le=256 * 2**20, description="maximum number of bytes of keys, values and headers in a batch"
    )
    batch_max_ranges: int = Field(
        MAX_RANGES_PER_BATCH,
        ge=1,
        le=47,
        description="maximum number of partitions in a batch; together with BATCH_MAX_HOURS at most 48",
    )
    batch_max_hours: int = Field(
        MAX_HOURS_PER_BATCH,
        ge=1,
        le=47,
        description="maximum number of event hours in a batch; together with BATCH_MAX_RANGES at most 48",
    )
    max_offsets_per_run: int = Field(100_000, ge=1, description="maximum number of offsets in the plan of a run; 100,000 take 75 to 160 s")
    batch_max_wait: Duration = Field(timedelta(0), description="maximum time that a plan smaller than one batch waits for more records")
    tail_duration: Duration = Field(
        timedelta(minutes=1),
        le=timedelta(minutes=30),  # run monitoring terminates a run after one hour, which includes the plan
        description="how long a run continues to poll its lane after its plan",
    )
    tail_interval: Duration = Field(
        timedelta(seconds=1),
        ge=timedelta(milliseconds=100),
        description="minimum time between two such polls; at least 0.2 s per lane for each batch",
    )
    run_start_timeout: Duration = Field(
        timedelta(minutes=1),
        ge=timedelta(seconds=10),  # a process takes several seconds to start: with less, no run would ever begin
        description="time from launch to start after which a run is reported as failed",
    )
    write_threads: int = Field(8, ge=1, le=64, description="number of chunks of a batch that are written concurrently")
    max_future_skew: Duration = Field(
        timedelta(hours=24), le=timedelta(hours=24), description="how far an event timestamp may lie in the future; later is a dead letter"
    )
    max_event_bytes: int = Field(
        4 * 2**20, ge=1024, le=64 * 2**20, description="maximum number of bytes of a record; a larger one is a dead letter"
    )
    on_data_loss: OnDataLoss = Field(
        OnDataLoss.CONTINUE,
        description="if Kafka's retention deleted records before they were read: "
        "`continue` records the range as lost, `stop` halts the partition",
    )

    partitions_start: HourText = Field("2024-01-01T00", description="first hour of the hourly partitioned assets")
    duckdb_memory_limit_mb: int = Field(
        384, ge=96, description="memory in MB for sorting and counting an hour; above it, DuckDB uses the disk"
    )

    max_lag: int = Field(100_000, ge=0, description="lag in records above which the check `lag` warns")
    max_commit_age: Duration = Field(
        timedelta(minutes=10), description="time without a closed batch, while records wait, after which the check `freshness` warns"
    )
    max_dead_letter_ratio: float = Field(
        0.05, ge=0, le=1, description="ratio of dead letters in the last batches above which the check `dead_letter_ratio` warns"
    )
    stall_timeout: Duration = Field(
        timedelta(minutes=5), description="time with lag and without a commit after which the health endpoint reports `unhealthy`"
    )
    health_host: str = Field("127.0.0.1", min_length=1, description="address of the health endpoint; 0.0.0.0: all interfaces")
    health_port: int = Field(8080, ge=1, le=65_535, description="port of the health endpoint")
    run_health_in_dagster: bool = Field(
        False, description="run the health endpoint as a Dagster job, as `make dev` does; otherwise run `analytics serve`"
    )
    dagster_ui_url: PageUrl | None = Field(None, description="URL of the Dagster UI, for links on the status page")

    event_json_retention: OptionalRetention = Field(
        None, description="age of the batch after which its JSON objects are deleted; not set: never"
    )
    parquet_retention: OptionalRetention = Field(
        None, description="age of an hour's newest batch after which the hour's Parquet files are deleted; not set: never"
    )
    dead_letter_retention: OptionalRetention = Field(
        None, description="age of the batch after which its files of dead letters and duplicates are deleted; not set: never"
    )
    dagster_run_retention: PositiveDays = Field(
        timedelta(days=7), description="age after which Dagster's finished micro-batch and maintenance runs are deleted"
    )

    @model_validator(mode="after")
    def _check_combinations(self) -> Settings:
        if problems := list(self._conflicts()):
            raise ValueError("\n".join(problems))
        return self

    def _conflicts(self) -> Iterator[str]:
        together = self.batch_max_ranges + self.batch_max_hours
        if together > MAX_RANGES_PER_BATCH + MAX_HOURS_PER_BATCH:
            yield (
                f"BATCH_MAX_RANGES + BATCH_MAX_HOURS={together}: expected at most {MAX_RANGES_PER_BATCH + MAX_HOURS_PER_BATCH} together, "
                "the limit of one ledger transaction"
            )
        if self.kafka_heartbeat_interval >= self.kafka_session_timeout:
            yield "KAFKA_HEARTBEAT_INTERVAL: expected less than KAFKA_SESSION_TIMEOUT"
        tables = [self.recent_events_table_name, self.ledger_table_name, self.aggregates_table_name]
        if len(set(tables)) < len(tables):
            yield f"RECENT_EVENTS_TABLE_NAME, LEDGER_TABLE_NAME, AGGREGATES_TABLE_NAME={','.join(tables)}: expected three different tables"
        sasl = {"MECHANISM": self.kafka_sasl_mechanism, "USERNAME": self.kafka_sasl_username, "PASSWORD": self.kafka_sasl_password}
        if self.kafka_security_protocol.startswith("SASL"):
            if self.kafka_sasl_mechanism is None:
                yield f"KAFKA_SASL_MECHANISM: required with KAFKA_SECURITY_PROTOCOL={self.kafka_security_protocol}"
        elif given := [f"KAFKA_SASL_{name}" for name, value in sasl.items() if value is not None]:
            yield f"{', '.join(given)}: without effect, expected KAFKA_SECURITY_PROTOCOL=SASL_SSL or SASL_PLAINTEXT"
        if (self.kafka_ssl_certificate_location is None) != (self.kafka_ssl_key_location is None):
            yield "KAFKA_SSL_CERTIFICATE_LOCATION, KAFKA_SSL_KEY_LOCATION: expected both or neither"

    @property
    def region(self) -> str | None:
        """AWS region, or None to use the region of the SDK's configuration files."""
        return self.aws_default_region or self.aws_region

    def shared_settings(self) -> dict[str, str]:
        """Return the settings that decide the outcome of a record, as text by name.

        They must be equal in all processes.
        """
        fields = ("kafka_group_id", "write_event_json", "max_future_skew", "max_event_bytes", "on_data_loss")
        return {name.upper(): str(getattr(self, name)) for name in fields}

    def planning_policy(self, recommit_lanes: Collection[int] = ()) -> PlanningPolicy:
        return PlanningPolicy(self.lanes, self.max_offsets_per_run, self.on_data_loss, recommit_lanes)

    def batch_limits(self) -> BatchLimits:
        return BatchLimits(self.batch_max_records, self.batch_max_bytes, self.batch_max_ranges, self.batch_max_hours)

    def retention_policy(self) -> RetentionPolicy:
        return RetentionPolicy(self.event_json_retention, self.parquet_retention, self.dead_letter_retention)

    def validation_rules(self) -> ValidationRules:
        return ValidationRules(max_event_bytes=self.max_event_bytes, max_future_skew=self.max_future_skew)
