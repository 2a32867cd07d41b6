"""All settings, and the only place that reads the environment.

Every wrong setting is reported at once, by name, value and what is allowed, before the first record is read.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import AnyHttpUrl, BeforeValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from analytics_defs.core.batch import MAX_HOURS, MAX_RANGES, Limits
from analytics_defs.core.events import EVENT_TYPES, Rules
from analytics_defs.core.plan import OnDataLoss, Policy
from analytics_defs.core.retention import LEAST, Ages
from analytics_defs.errors import SettingsError

LOCAL_KEY = "fake"
"""What local servers accept as key and secret; never sent to AWS itself."""
LOCAL_REGION = "us-east-1"
"""Signs requests to an endpoint of one's own; such servers accept any."""

_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?(ms|s|m|h|d)?")
_UNITS = {"ms": "milliseconds", "s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")
_SECRET = re.compile("secret|password")
_URL = re.compile(r"https?://[^/@?#\s]+/?")
_PAGE = re.compile(r"https?://[^/@?#\s]+(?:/[^?#\s]*)?")
_LOGIN = re.compile(r"//[^/@\s]*@")
_BROKER = re.compile(r"(?:[A-Za-z0-9_.-]+|\[[0-9a-fA-F:]+\]):[0-9]{1,5}")


def _duration(value: object) -> object:
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if isinstance(value, str) and match is None:
        raise ValueError("a duration such as 500ms, 30s, 5m, 24h or 7d")
    return timedelta(**{_UNITS[match[2] or "s"]: float(match[1])}) if match else value


def _age(value: object) -> object:
    found = _duration(value)
    if isinstance(found, timedelta) and found < LEAST:
        raise ValueError(f"at least {LEAST.days}d, until when the stores need each other; or nothing: kept for ever")
    return found


def _topics(value: object) -> object:
    names = tuple(name.strip() for name in value.split(",")) if isinstance(value, str) else value
    if isinstance(names, tuple) and not (all(map(_TOPIC.fullmatch, names)) and len(set(names)) == len(names) > 0):
        raise ValueError("different topic names, comma-separated, of letters, digits, `.`, `_` and `-`")
    return names


def _brokers(value: object) -> object:
    if isinstance(value, str) and not all(_BROKER.fullmatch(each.strip()) for each in value.split(",")):
        raise ValueError("host:port, comma-separated")
    return value


def _file(value: object) -> object:
    if isinstance(value, str) and not (Path(value).is_file() and os.access(value, os.R_OK)):
        raise ValueError("a file that is there and can be read")
    return value


def _hour(value: object) -> object:
    try:
        datetime.strptime(str(value), "%Y-%m-%dT%H")  # noqa: DTZ007 - the hour is UTC by definition
    except ValueError:
        raise ValueError("an UTC hour such as 2024-01-01T00") from None
    return value


def _endpoint(value: object) -> object:
    if isinstance(value, str) and not _URL.fullmatch(value):
        raise ValueError("a URL such as http://localhost:9000, without user and password")
    return value


def _page(value: object) -> object:
    if isinstance(value, str) and not _PAGE.fullmatch(value):
        raise ValueError("a URL such as https://dagster.example.com/prefix, without user and password")
    return value


def _like(pattern: str, expected: str) -> BeforeValidator:
    def look(value: object) -> object:
        if isinstance(value, str) and not re.fullmatch(pattern, value):
            raise ValueError(expected)
        return value

    return BeforeValidator(look)


@dataclass(frozen=True, slots=True)
class Allowed:
    """What values of a type are allowed, in words, for the README's table."""

    words: str


Bucket = Annotated[str, _like(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", "3 to 63 lower-case letters, digits, `.` and `-`")]
Brokers = Annotated[str, BeforeValidator(_brokers), Allowed("host:port, comma-separated")]
Endpoint = Annotated[AnyHttpUrl, BeforeValidator(_endpoint)]
Page = Annotated[AnyHttpUrl, BeforeValidator(_page)]
Duration = Annotated[timedelta, BeforeValidator(_duration), Field(ge=timedelta(0)), Allowed("a duration")]
Days = Annotated[timedelta, BeforeValidator(_duration), Field(ge=timedelta(days=1)), Allowed("a duration")]
KeptFor = Annotated[timedelta | None, BeforeValidator(_age), Allowed(f"a duration, at least `{LEAST.days}d`")]
Hour = Annotated[str, BeforeValidator(_hour), Allowed("an hour, UTC")]
PemFile = Annotated[str, BeforeValidator(_file)]
Protocol = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
Table = Annotated[str, _like(r"[A-Za-z0-9_.-]{3,255}", "3 to 255 letters, digits, `.`, `_` and `-`")]
Topics = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_topics), Allowed("names, comma-separated")]


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
    recent_events_table_name: Table = Field("RecentEvents", description="table of recent events")
    ledger_table_name: Table = Field("IngestLedger", description="table of heads, batches and marks")
    aggregates_table_name: Table = Field("EventAggregates", description="table of live counters")

    minio_endpoint: Endpoint | None = Field(None, description="URL of an S3-compatible store of one's own; not set: Amazon S3")
    minio_access_key: str = Field("minio", description="sent to MINIO_ENDPOINT only")
    minio_secret_key: SecretStr = Field(SecretStr("minio123"), description="sent to MINIO_ENDPOINT only")
    archive_bucket_name: Bucket = Field("event-archive", description="bucket of the archive")
    tar_unpacking: Literal["auto", "off"] = Field(
        "auto", description="`auto`: small objects go in tars where the store of MINIO_ENDPOINT proves that it unpacks them; `off`: never"
    )
    archive_start: Hour = Field("2024-01-01T00", description="first hour (UTC) of the partitioned assets")
    event_objects: bool = Field(True, description="one JSON object for each event; Parquet is written in any case")

    lanes: int = Field(1, ge=1, le=512, description="fixed shares of the partitions, each with at most one run in flight")
    batch_max_events: int = Field(10_000, ge=1, le=20_000, description="records in one batch")
    batch_max_bytes: int = Field(16 * 2**20, ge=1024, le=256 * 2**20, description="bytes of keys, values and headers in one batch")
    batch_max_ranges: int = Field(MAX_RANGES, ge=1, le=47, description="partitions in one batch; with the hours at most 48")
    batch_max_hours: int = Field(MAX_HOURS, ge=1, le=47, description="different event hours in one batch; with the ranges at most 48")
    plan_max_offsets: int = Field(100_000, ge=1, description="offsets one run covers at most: 75 to 160 s of work")
    batch_max_wait: Duration = Field(timedelta(0), description="how long a plan smaller than a batch may wait for more")
    follow_for: Duration = Field(timedelta(seconds=20), description="how long a run goes on, after its plan, with what arrives in its lane")
    follow_every: Duration = Field(
        timedelta(seconds=1),
        ge=timedelta(milliseconds=100),
        description="a run that goes on plans once in so long; for each batch of a plan, in 0.2 s a lane",
    )
    run_start_timeout: Duration = Field(
        timedelta(minutes=1), description="a run that was launched and did not begin within it is reported failed"
    )
    max_future_skew: Duration = Field(timedelta(hours=24), le=timedelta(hours=24), description="how far a timestamp may be ahead of now")
    max_event_bytes: int = Field(4 * 2**20, ge=1024, le=64 * 2**20, description="a larger record is a dead letter")
    max_lag: int = Field(100_000, ge=0, description="records behind Kafka from where on the check `lag` warns")
    max_silence: Duration = Field(timedelta(minutes=10), description="without a batch, while something waits, until `freshness` warns")
    max_dead_letter_share: float = Field(0.05, ge=0, le=1, description="of the last batches' records, above which the check warns")
    on_data_loss: OnDataLoss = Field(OnDataLoss.RECORD, description="where retention was faster: `record` the range as lost, or `stop`")
    hourly_memory_mb: int = Field(
        384, ge=96, description="memory in which the hourly assets sort and count, in MB; beyond it they use disk"
    )
    store_threads: int = Field(8, ge=1, le=64, description="chunks of a batch in flight at the same time")
    puts_in_flight: int = Field(32, ge=1, le=512, description="objects being written at the same time")

    health_host: str = Field("127.0.0.1", min_length=1, description="address the health endpoint listens on; 0.0.0.0: all of this machine")
    health_port: int = Field(8080, ge=1, le=65_535, description="port of the health endpoint")
    health_in_dagster: bool = Field(
        False, description="keep the health endpoint alive as a Dagster job (`make dev` does); else `analytics serve`"
    )
    stall_after: Duration = Field(timedelta(minutes=5), description="lag without a commit for so long is unhealthy")
    dagster_runs_kept_for: Days = Field(timedelta(days=7), description="how long Dagster keeps finished micro-batch and upkeep runs")
    event_objects_kept_for: KeptFor = Field(None, description="age at which JSON objects go, from batch time; not set: never")
    parquet_kept_for: KeptFor = Field(None, description="age at which an hour's Parquet goes, from its newest batch's time; not set: never")
    dead_letters_kept_for: KeptFor = Field(None, description="age at which files of dead letters and repeats go; not set: never")
    dagster_ui_url: Page | None = Field(None, description="URL of Dagster's UI, for the status page's links to runs")

    @model_validator(mode="after")
    def _fit_together(self) -> Settings:
        if problems := list(self._misfits()):
            raise ValueError("\n".join(problems))
        return self

    def _misfits(self) -> Iterator[str]:
        together = self.batch_max_ranges + self.batch_max_hours
        if together > MAX_RANGES + MAX_HOURS:
            yield (
                f"BATCH_MAX_RANGES + BATCH_MAX_HOURS={together}: expected at most {MAX_RANGES + MAX_HOURS} together, "
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

    def policy(self, recommit: Collection[int] = ()) -> Policy:
        return Policy(self.lanes, self.plan_max_offsets, self.on_data_loss, recommit)

    def limits(self) -> Limits:
        return Limits(self.batch_max_events, self.batch_max_bytes, self.batch_max_ranges, self.batch_max_hours)

    def ages(self) -> Ages:
        return Ages(self.event_objects_kept_for, self.parquet_kept_for, self.dead_letters_kept_for)

    def rules(self) -> Rules:
        return Rules(max_event_bytes=self.max_event_bytes, max_future_skew=self.max_future_skew)


def load_settings() -> Settings:
    """The settings of this process's environment. Raises SettingsError, one line for each problem."""
    problems: list[str] = []
    try:
        settings = Settings()
    except ValidationError as error:
        problems = [*_in_words(error), *_misfits_beside(error)]
        settings = None
    problems += _near_misses()
    if problems or settings is None:
        raise SettingsError("\n".join(problems))
    return settings


def has_dagster_instance() -> bool:
    """Whether this process is told where Dagster's instance is. Dagster reads the rest itself."""
    return bool(os.environ.get("DAGSTER_HOME"))


def names() -> dict[str, str]:
    """Every setting by its name in the environment, with its field."""
    return {field.upper(): field for field in Settings.model_fields}


def table() -> str:
    """The settings as a Markdown table, for the README."""
    rows = [
        f"| `{name}` | {_shown(Settings.model_fields[field].default)} | {_allowed(field)} | {Settings.model_fields[field].description} |"
        for name, field in names().items()
    ]
    return "\n".join(["| setting | default | allowed | what it is |", "|---|---|---|---|", *rows])


def topics_at_load() -> tuple[str, ...]:
    """The topics to draw as assets. Wrong settings do not keep definitions from loading: the sensor's tick reports them."""
    try:
        return load_settings().kafka_topics
    except SettingsError:
        return EVENT_TYPES


def health_in_dagster_at_load() -> bool:
    try:
        return load_settings().health_in_dagster
    except SettingsError:
        return False


def anything_goes_at_load() -> bool:
    """Whether a setting says that anything of the archive goes, some day."""
    try:
        return bool(load_settings().ages())
    except SettingsError:
        return False


def archive_start_at_load() -> str:
    try:
        return load_settings().archive_start
    except SettingsError:
        return str(Settings.model_fields["archive_start"].default)


def _in_words(error: ValidationError) -> Iterator[str]:
    """Secrets are named, never shown; what was expected comes from the check that failed, and from the setting's description."""
    for problem in error.errors(include_url=False):
        if not problem["loc"]:
            yield str(problem["ctx"]["error"])
            continue
        field = str(problem["loc"][0])
        value = "(secret)" if _SECRET.search(field) else _LOGIN.sub("//(secret)@", os.environ.get(field.upper(), str(problem["input"])))
        expected = _expected(problem)
        for start, shorter in _WORDS.items():
            expected = expected.replace(start, shorter)
        yield f"{field.upper()}={value}: expected {expected} ({Settings.model_fields[field].description})"


def _expected(problem: Mapping[str, Any]) -> str:
    if problem["type"] == "value_error":
        return str(problem["ctx"]["error"])
    bounds = {"greater_than_equal": ("at least", "ge"), "greater_than": ("above", "gt"), "less_than_equal": ("at most", "le")}
    words, name = bounds.get(problem["type"], ("", ""))
    # pydantic tells the bound of a duration in microseconds, as text
    info = Settings.model_fields[str(problem["loc"][0])]
    found = [getattr(each, name) for each in info.metadata if words and hasattr(each, name)]
    bound = next((each for each in found if isinstance(each, timedelta)), found[0] if found else None)
    return problem["msg"] if bound is None else f"{words} {_shown(bound).strip('`')}"


_WORDS = {"Input should be ": "", "String should ": "to ", ", unable to parse string as an integer": "", ", unable to interpret input": ""}
"""Of pydantic's sentences, so that they go on from `expected`."""


def _misfits_beside(error: ValidationError) -> Iterator[str]:
    """What does not fit together although each is right: looked at with defaults in the place of what is wrong by itself."""
    wrong = {str(problem["loc"][0]) for problem in error.errors() if problem["loc"]}
    if wrong:
        try:
            Settings(**{field: Settings.model_fields[field].default for field in wrong})
        except ValidationError as another:
            yield from _in_words(another)


def _near_misses() -> Iterator[str]:
    """Names that look like one of ours and are not: a setting that silently does nothing is the worst kind."""
    known = names()
    for name in sorted(os.environ.keys() - known.keys() - _OTHERS):
        close = [each for each in difflib.get_close_matches(name, known, n=1, cutoff=0.9) if not os.environ.get(each)]
        if meant := [each for each in known if _one_slip(name, each)] or close:
            yield f"{name} is not a setting: did you mean {meant[0]}?"


_OTHERS = frozenset({"LINES"})
"""Set by shells and terminals, and one letter away from one of ours."""


def _one_slip(one: str, other: str) -> bool:
    """Whether one letter missing, too many or wrong, or two that changed places, make one of the other."""
    start = next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    left, right = one[start:], other[start:]
    swapped = left[:2] == right[:2][::-1] and left[2:] == right[2:]
    return swapped or left[1:] == right or left == right[1:] or left[1:] == right[1:]


def _allowed(field: str) -> str:
    """Bounds and choices of a setting. Empty where its description says enough."""
    info = Settings.model_fields[field]
    words = [each.words for each in info.metadata if isinstance(each, Allowed)]
    at_least, above, at_most = (
        next((_shown(getattr(each, bound)) for each in info.metadata if hasattr(each, bound)), None) for bound in ("ge", "gt", "le")
    )
    if at_most:
        words.append(f"{at_least} to {at_most}")
    elif above or at_least:
        words.append(f"above {above}" if above else f"at least {at_least}")
    if choices := _choices(info.annotation):
        words.append(", ".join(map(_shown, choices)))
    return ", ".join(words)


def _choices(kind: object) -> tuple[object, ...]:
    if kind is bool:
        return True, False
    if isinstance(kind, type) and issubclass(kind, Enum):
        return tuple(kind)
    return get_args(kind) if get_origin(kind) is Literal else ()


def _shown(default: object) -> str:
    match default:
        case None:
            return "not set"
        case timedelta():
            seconds = default.total_seconds()
            return next(
                (f"`{int(seconds / size)}{unit}`" for unit, size in (("h", 3600), ("m", 60)) if seconds and seconds % size == 0),
                f"`{seconds:g}s`",
            )
        case SecretStr():
            return f"`{default.get_secret_value()}`"
        case tuple():
            return f"`{','.join(default)}`"
        case bool():
            return f"`{str(default).lower()}`"
        case _:
            return f"`{default}`"
