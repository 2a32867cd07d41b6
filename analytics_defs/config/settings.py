"""The settings themselves: names, defaults, bounds, and what does not fit together."""

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
"""What local servers accept as key and secret; never sent to AWS itself."""
LOCAL_REGION = "us-east-1"
"""Signs requests to an endpoint of one's own; such servers accept any."""


class Settings(BaseSettings):
    """Names are the environment's, in lower case. Empty means not set."""

    model_config = SettingsConfigDict(env_ignore_empty=True, extra="ignore", frozen=True, arbitrary_types_allowed=True)

    kafka_brokers: Brokers = Field("localhost:9092", description="Kafka's bootstrap servers")
    kafka_client_id: str = Field("analytics-service", min_length=1, description="what Kafka's logs and quotas call this service")
    kafka_group_id: str = Field("analytics-group", min_length=1, description="the group whose offsets show the progress")
    kafka_topics: Topics = Field(EVENT_TYPES, description="topics to read")
    kafka_session_timeout: Duration = Field(timedelta(seconds=30), description="of the consumer's session")
    kafka_heartbeat_interval: Duration = Field(timedelta(seconds=3), gt=timedelta(0), description="of the consumer's session")
    kafka_rebalance_timeout: Duration = Field(timedelta(seconds=60), description="longest time between two polls of the consumer")
    kafka_request_timeout: Duration = Field(timedelta(seconds=10), gt=timedelta(0), description="one request to Kafka with its retries")
    kafka_security_protocol: Protocol = Field("PLAINTEXT", description="how the brokers are spoken to")
    kafka_sasl_mechanism: str | None = Field(None, description="PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 …, with a SASL protocol")
    kafka_sasl_username: str | None = Field(None, description="with a SASL protocol")
    kafka_sasl_password: SecretStr | None = Field(None, description="with a SASL protocol")
    kafka_ssl_ca_location: PemFile | None = Field(None, description="file of the CA certificates, PEM")
    kafka_ssl_certificate_location: PemFile | None = Field(None, description="file of the client's certificate, PEM")
    kafka_ssl_key_location: PemFile | None = Field(None, description="file of the client's key, PEM")
    kafka_ssl_key_password: SecretStr | None = Field(None, description="of the client's key")

    dynamo_endpoint: Endpoint | None = Field(None, description="URL of a DynamoDB of one's own; not set: AWS itself")
    aws_access_key_id: str = Field(LOCAL_KEY, description="sent to DYNAMO_ENDPOINT; AWS itself is reached by the SDK's own chain")
    aws_secret_access_key: SecretStr = Field(SecretStr(LOCAL_KEY), description="likewise")
    aws_default_region: str | None = Field(None, description="AWS region; with endpoints of one's own any will do")
    aws_region: str | None = Field(None, description="the same, where only this one is set, as containers on AWS have it")
    recent_events_table_name: TableName = Field("RecentEvents", description="table of recent events")
    ledger_table_name: TableName = Field("IngestLedger", description="table of heads, batches and marks")
    aggregates_table_name: TableName = Field("EventAggregates", description="table of live counters")

    minio_endpoint: Endpoint | None = Field(None, description="URL of an S3-compatible store of one's own; not set: Amazon S3")
    minio_access_key: str = Field("minio", description="sent to MINIO_ENDPOINT only")
    minio_secret_key: SecretStr = Field(SecretStr("minio123"), description="sent to MINIO_ENDPOINT only")
    archive_bucket_name: Bucket = Field("event-archive", description="bucket of the archive")
    minio_snowball: Literal["auto", "off"] = Field(
        "auto", description="`auto`: small objects go in tars where the store of MINIO_ENDPOINT proves that it unpacks them; `off`: never"
    )
    partitions_start: HourText = Field("2024-01-01T00", description="first hour (UTC) of the partitioned assets")
    write_event_json: bool = Field(True, description="one JSON object for each event; Parquet is written in any case")

    lanes: int = Field(1, ge=1, le=512, description="fixed shares of the partitions, each with at most one run in flight")
    batch_max_records: int = Field(10_000, ge=1, le=20_000, description="records in one batch")
    batch_max_bytes: int = Field(16 * 2**20, ge=1024, le=256 * 2**20, description="bytes of keys, values and headers in one batch")
    batch_max_ranges: int = Field(MAX_RANGES_PER_BATCH, ge=1, le=47, description="partitions in one batch; with the hours at most 48")
    batch_max_hours: int = Field(
        MAX_HOURS_PER_BATCH, ge=1, le=47, description="different event hours in one batch; with the ranges at most 48"
    )
    max_offsets_per_run: int = Field(100_000, ge=1, description="offsets one run covers at most: 75 to 160 s of work")
    batch_max_wait: Duration = Field(timedelta(0), description="how long a plan smaller than a batch may wait for more")
    tail_duration: Duration = Field(
        timedelta(minutes=1),
        le=timedelta(minutes=30),  # run monitoring ends whatever takes an hour, the plan before it included
        description="how long a run goes on, after its plan, with what arrives in its lane",
    )
    tail_interval: Duration = Field(
        timedelta(seconds=1),
        ge=timedelta(milliseconds=100),
        description="a run that goes on plans once in so long; for each batch of a plan, in 0.2 s a lane",
    )
    run_start_timeout: Duration = Field(
        timedelta(minutes=1),
        ge=timedelta(seconds=10),  # less than a process takes to start would let no run begin, ever
        description="a run that was launched and did not begin within it is reported failed",
    )
    max_future_skew: Duration = Field(timedelta(hours=24), le=timedelta(hours=24), description="how far a timestamp may be ahead of now")
    max_event_bytes: int = Field(4 * 2**20, ge=1024, le=64 * 2**20, description="a larger record is a dead letter")
    max_lag: int = Field(100_000, ge=0, description="records behind Kafka from where on the check `lag` warns")
    max_commit_age: Duration = Field(timedelta(minutes=10), description="without a batch, while something waits, until `freshness` warns")
    max_dead_letter_ratio: float = Field(0.05, ge=0, le=1, description="of the last batches' records, above which the check warns")
    on_data_loss: OnDataLoss = Field(OnDataLoss.CONTINUE, description="if Kafka removed records before they were read: `continue` and record the range as lost, or `stop`")
    duckdb_memory_limit_mb: int = Field(
        384, ge=96, description="memory in which the hourly assets sort and count, in MB; beyond it they use disk"
    )
    write_threads: int = Field(8, ge=1, le=64, description="chunks of a batch in flight at the same time")
    object_store_concurrency: int = Field(32, ge=1, le=512, description="objects being written at the same time")

    health_host: str = Field("127.0.0.1", min_length=1, description="address the health endpoint listens on; 0.0.0.0: all of this machine")
    health_port: int = Field(8080, ge=1, le=65_535, description="port of the health endpoint")
    run_health_in_dagster: bool = Field(
        False, description="keep the health endpoint alive as a Dagster job (`make dev` does); else `analytics serve`"
    )
    stall_timeout: Duration = Field(timedelta(minutes=5), description="lag without a commit for so long is unhealthy")
    dagster_run_retention: PositiveDays = Field(
        timedelta(days=7), description="how long Dagster keeps finished micro-batch and upkeep runs"
    )
    event_json_retention: OptionalRetention = Field(None, description="age at which JSON objects go, from batch time; not set: never")
    parquet_retention: OptionalRetention = Field(
        None, description="age at which an hour's Parquet goes, from its newest batch's time; not set: never"
    )
    dead_letter_retention: OptionalRetention = Field(None, description="age at which files of dead letters and repeats go; not set: never")
    dagster_ui_url: PageUrl | None = Field(None, description="URL of Dagster's UI, for the status page's links to runs")

    @model_validator(mode="after")
    def _fit_together(self) -> Settings:
        if problems := list(self._misfits()):
            raise ValueError("\n".join(problems))
        return self

    def _misfits(self) -> Iterator[str]:
        together = self.batch_max_ranges + self.batch_max_hours
        if together > MAX_RANGES_PER_BATCH + MAX_HOURS_PER_BATCH:
            yield (
                f"BATCH_MAX_RANGES + BATCH_MAX_HOURS={together}: expected at most {MAX_RANGES_PER_BATCH + MAX_HOURS_PER_BATCH} together, "
                "what one transaction of the ledger holds"
            )
        if self.kafka_heartbeat_interval >= self.kafka_session_timeout:
            yield "KAFKA_HEARTBEAT_INTERVAL: expected less than KAFKA_SESSION_TIMEOUT"
        tables = [self.recent_events_table_name, self.ledger_table_name, self.aggregates_table_name]
        if len(set(tables)) < len(tables):
            yield f"RECENT_EVENTS_TABLE_NAME, LEDGER_TABLE_NAME, AGGREGATES_TABLE_NAME={','.join(tables)}: expected three different tables"
        sasl = {"MECHANISM": self.kafka_sasl_mechanism, "USERNAME": self.kafka_sasl_username, "PASSWORD": self.kafka_sasl_password}
        if self.kafka_security_protocol.startswith("SASL"):
            if self.kafka_sasl_mechanism is None:
                yield f"KAFKA_SASL_MECHANISM: needed with KAFKA_SECURITY_PROTOCOL={self.kafka_security_protocol}"
        elif given := [f"KAFKA_SASL_{name}" for name, value in sasl.items() if value is not None]:
            yield f"{', '.join(given)}: without effect, expected KAFKA_SECURITY_PROTOCOL=SASL_SSL or SASL_PLAINTEXT with it"
        if (self.kafka_ssl_certificate_location is None) != (self.kafka_ssl_key_location is None):
            yield "KAFKA_SSL_CERTIFICATE_LOCATION, KAFKA_SSL_KEY_LOCATION: expected both or neither"

    @property
    def region(self) -> str | None:
        """None: what the SDK finds in its configuration files."""
        return self.aws_default_region or self.aws_region

    def shared_settings(self) -> dict[str, str]:
        """What every process of a platform has to be told alike, since it decides what becomes of a record: by name, as text."""
        fields = ("kafka_group_id", "write_event_json", "max_future_skew", "max_event_bytes", "on_data_loss")
        return {name.upper(): str(getattr(self, name)) for name in fields}

    def planning_policy(self, recommit: Collection[int] = ()) -> PlanningPolicy:
        return PlanningPolicy(self.lanes, self.max_offsets_per_run, self.on_data_loss, recommit)

    def batch_limits(self) -> BatchLimits:
        return BatchLimits(self.batch_max_records, self.batch_max_bytes, self.batch_max_ranges, self.batch_max_hours)

    def retention_policy(self) -> RetentionPolicy:
        return RetentionPolicy(self.event_json_retention, self.parquet_retention, self.dead_letter_retention)

    def validation_rules(self) -> ValidationRules:
        return ValidationRules(max_event_bytes=self.max_event_bytes, max_future_skew=self.max_future_skew)
