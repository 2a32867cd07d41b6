"""Settings: the promised names and defaults, and messages that report every problem at once."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import pytest

from analytics_defs import wiring
from analytics_defs.adapters.object_store.store import S3ObjectStore
from analytics_defs.config import Settings, load_settings, partitions_start_at_load, setting_names, topics_at_load
from analytics_defs.core.events.schema import EVENT_TYPES
from analytics_defs.core.ingest.planning import OnDataLoss
from analytics_defs.errors import SettingsError


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ.keys() & setting_names().keys():
        monkeypatch.delenv(name)


def problems(monkeypatch: pytest.MonkeyPatch, **environment: str) -> list[str]:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as raised:
        load_settings()
    return str(raised.value).splitlines()


def test_names_and_defaults_are_the_promised_ones() -> None:
    settings = load_settings()
    promised = {
        "kafka_brokers": "localhost:9092",
        "kafka_client_id": "analytics-service",
        "kafka_group_id": "analytics-group",
        "kafka_session_timeout": timedelta(seconds=30),
        "kafka_heartbeat_interval": timedelta(seconds=3),
        "kafka_rebalance_timeout": timedelta(seconds=60),
        "dynamo_endpoint": None,
        "aws_access_key_id": "fake",
        "recent_events_table_name": "RecentEvents",
        "ledger_table_name": "IngestLedger",
        "aggregates_table_name": "EventAggregates",
        "minio_endpoint": None,
        "minio_access_key": "minio",
        "archive_bucket_name": "event-archive",
        "kafka_topics": EVENT_TYPES,
        "max_future_skew": timedelta(hours=24),
        "on_data_loss": OnDataLoss.CONTINUE,
        "health_port": 8080,
    }
    assert {name: getattr(settings, name) for name in promised} == promised
    assert settings.aws_secret_access_key.get_secret_value() == "fake"
    assert settings.minio_secret_key.get_secret_value() == "minio123"


def test_values_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {
        "KAFKA_TOPICS": "a, b",
        "LANES": "3",
        "WRITE_EVENT_JSON": "false",
        "BATCH_MAX_WAIT": "1.5m",
        "ON_DATA_LOSS": "stop",
        "PARTITIONS_START": "",
    }
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    assert (settings.kafka_topics, settings.lanes, settings.write_event_json) == (("a", "b"), 3, False)
    assert (settings.batch_max_wait, settings.on_data_loss, settings.partitions_start) == (
        timedelta(seconds=90),
        OnDataLoss.STOP,
        "2024-01-01T00",
    )


@pytest.mark.parametrize(
    ("text", "duration"),
    [("500ms", timedelta(milliseconds=500)), ("30", timedelta(seconds=30)), ("2h", timedelta(hours=2)), ("1 d", timedelta(days=1))],
)
def test_durations_are_parsed_with_their_unit(monkeypatch: pytest.MonkeyPatch, text: str, duration: timedelta) -> None:
    monkeypatch.setenv("STALL_TIMEOUT", text)
    assert load_settings().stall_timeout == duration


@pytest.mark.parametrize(
    ("name", "value", "expected"), [("RUN_START_TIMEOUT", "0", "at least 10s"), ("TAIL_DURATION", "1h", "at most 30m")]
)
def test_limits_that_would_let_no_run_begin_or_end_normally_are_rejected(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, expected: str
) -> None:
    """Breaks: each run is reported as failed before its process starts, or terminated by run monitoring after an hour."""
    [problem] = problems(monkeypatch, **{name: value})
    assert problem.startswith(f"{name}={value}: expected {expected}")


def test_every_problem_is_reported_at_once_with_its_value_and_what_is_allowed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    key.touch()
    messages = problems(
        monkeypatch,
        LANES="0",
        BATCH_MAX_RECORDS="many",
        BATCH_MAX_HOURS="30",
        BATCH_MAX_WAIT="soon",
        DYNAMO_ENDPOINT="localhost:8000",
        ARCHIVE_BUCKET_NAME="Event_Archive",
        LEDGER_TABLE_NAME="RecentEvents",
        KAFKA_BROKERS="localhost",
        KAFKA_SECURITY_PROTOCOL="SASL_SSL",
        KAFKA_SSL_CA_LOCATION="/nope.pem",
        KAFKA_SSL_KEY_LOCATION=str(key),
        KAFKA_CLIENTID="me",
    )
    for start in (
        "LANES=0: expected at least 1 (number of lanes",
        "BATCH_MAX_RECORDS=many: expected a valid integer",
        "BATCH_MAX_RANGES + BATCH_MAX_HOURS=54: expected at most 48 together",
        "BATCH_MAX_WAIT=soon: expected a duration such as 500ms, 30s, 5m, 24h or 7d",
        "DYNAMO_ENDPOINT=localhost:8000: expected a URL such as http://localhost:9000",
        "ARCHIVE_BUCKET_NAME=Event_Archive: expected 3 to 63 lower-case letters",
        "RECENT_EVENTS_TABLE_NAME, LEDGER_TABLE_NAME, AGGREGATES_TABLE_NAME=RecentEvents,RecentEvents,EventAggregates: expected three",
        "KAFKA_BROKERS=localhost: expected host:port, comma-separated",
        "KAFKA_SASL_MECHANISM: required with KAFKA_SECURITY_PROTOCOL=SASL_SSL",
        "KAFKA_SSL_CA_LOCATION=/nope.pem: expected a readable file",
        "KAFKA_SSL_CERTIFICATE_LOCATION, KAFKA_SSL_KEY_LOCATION: expected both or neither",
        "KAFKA_CLIENTID is not a setting: did you mean KAFKA_CLIENT_ID?",
    ):
        assert [line for line in messages if line.startswith(start)], start
    assert len(messages) == 12


@pytest.mark.parametrize("name", ["KAFKA_SSL_CA_LOCATION", "KAFKA_SSL_CERTIFICATE_LOCATION", "KAFKA_SSL_KEY_LOCATION"])
def test_missing_files_are_reported(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    assert problems(monkeypatch, **{name: "/nope.pem"})[0].startswith(f"{name}=/nope.pem: expected a readable file")


NUMBERS = [
    (name, bound, words, getattr(item, bound))
    for name, field in setting_names().items()
    for item in Settings.model_fields[field].metadata
    for bound, words in (("ge", "at least"), ("le", "at most"))
    if isinstance(getattr(item, bound, None), (int, float))
]


@pytest.mark.parametrize(("name", "bound", "words", "limit"), NUMBERS)
def test_a_number_out_of_bounds_is_reported_with_its_bound(
    monkeypatch: pytest.MonkeyPatch, name: str, bound: str, words: str, limit: float
) -> None:
    beyond = limit - 1 if bound == "ge" else limit + 1
    assert problems(monkeypatch, **{name: str(beyond)})[0].startswith(f"{name}={beyond}: expected {words} {limit} (")


def test_the_expected_value_is_named_once(monkeypatch: pytest.MonkeyPatch) -> None:
    assert problems(monkeypatch, KAFKA_BROKERS="nohost") == [
        "KAFKA_BROKERS=nohost: expected host:port, comma-separated (bootstrap servers of Kafka)"
    ]


def test_secrets_are_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_SASL_PASSWORD", "s3cr3t")
    monkeypatch.setenv("MINIO_SECRET_KEY", "s3cr3t")
    messages = problems(monkeypatch, MINIO_ENDPOINT="http://user:s3cr3t@localhost:9000")
    assert "s3cr3t" not in "\n".join(messages)
    assert messages[-1].startswith("KAFKA_SASL_PASSWORD: without effect")
    monkeypatch.delenv("MINIO_ENDPOINT")
    monkeypatch.setenv("KAFKA_SECURITY_PROTOCOL", "SASL_SSL")
    monkeypatch.setenv("KAFKA_SASL_MECHANISM", "PLAIN")
    settings = load_settings()
    assert (
        "s3cr3t" not in f"{settings!r}{settings.model_dump_json()}{wiring.kafka_config(settings)!r}{wiring.object_store_config(settings)!r}"
    )


def test_the_url_of_the_dagster_ui_may_have_a_path_but_no_login(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_UI_URL", "https://tools.example.com/dagster/")
    assert str(load_settings().dagster_ui_url) == "https://tools.example.com/dagster/"
    for invalid in ("https://user:s3cr3t@tools.example.com/dagster", "ftp://x/y", "https://x/?next=y"):
        messages = problems(monkeypatch, DAGSTER_UI_URL=invalid)
        assert "DAGSTER_UI_URL" in messages[0]
        assert "s3cr3t" not in messages[0]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("KAFKA_BROKER", "KAFKA_BROKERS"),
        ("KAFKA_TOPIC", "KAFKA_TOPICS"),
        ("MINIO_ENDPOINTS", "MINIO_ENDPOINT"),
        ("MINIO_ENDPONT", "MINIO_ENDPOINT"),
        ("DYNAMO_ENDPONT", "DYNAMO_ENDPOINT"),
        ("DYNAMO_ENDPIONT", "DYNAMO_ENDPOINT"),
        ("LANE", "LANES"),
        ("LANEZ", "LANES"),
        ("LNAES", "LANES"),
    ],
)
def test_a_misspelled_setting_is_reported(monkeypatch: pytest.MonkeyPatch, name: str, expected: str) -> None:
    messages = [f"{name} is not a setting: did you mean {expected}?"]
    assert problems(monkeypatch, **{name: "x"}) == messages
    field = Settings.model_fields[setting_names()[expected]]
    valid = {"DYNAMO_ENDPOINT": "http://x:1", "MINIO_ENDPOINT": "http://x:1", "KAFKA_TOPICS": "a"}.get(expected, str(field.default))
    assert problems(monkeypatch, **{expected: valid}) == messages


UNRELATED_NAMES = """
    LINES COLUMNS LANG LANGUAGE LC_ALL LS_COLORS PATH HOME HOST HOSTNAME PORT SHELL TERM TMPDIR TZ USER NAME DISPLAY EDITOR PAGER PWD
    OLDPWD SHLVL KAFKA_HOME KAFKA_HEAP_OPTS KAFKA_OPTS KAFKA_LOG_DIRS KAFKA_PORT KAFKA_SERVICE_HOST KAFKA_SERVICE_PORT KAFKA_NODE_ID
    AWS_PROFILE AWS_SESSION_TOKEN AWS_ENDPOINT_URL AWS_ENDPOINT_URL_S3 AWS_CONFIG_FILE AWS_ROLE_ARN AWS_CA_BUNDLE AWS_EXECUTION_ENV
    MINIO_ROOT_USER MINIO_ROOT_PASSWORD MINIO_VOLUMES MINIO_PORT DAGSTER_HOME DAGSTER_POSTGRES_HOST DAGSTER_POSTGRES_PASSWORD
    VIRTUAL_ENV PYTHONPATH PYTHONUNBUFFERED CI JOBS RATE HEALTHCHECK_PORT HTTP_PROXY NO_PROXY JAVA_HOME XDG_RUNTIME_DIR SSH_AUTH_SOCK
"""


def test_unrelated_variables_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in UNRELATED_NAMES.split():
        monkeypatch.setenv(name, "1")
    assert load_settings() == Settings()


def test_local_keys_are_sent_to_custom_endpoints_and_never_to_aws(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_settings()
    assert (wiring.dynamo_config(settings).access_key, wiring.object_store_config(settings).keys) == (None, None)
    assert (wiring.dynamo_config(settings).region, wiring.object_store_config(settings).region) == (None, None)
    monkeypatch.setenv("DYNAMO_ENDPOINT", "http://localhost:8000/")
    monkeypatch.setenv("MINIO_ENDPOINT", "http://localhost:9000")
    settings = load_settings()
    dynamo, store = wiring.dynamo_config(settings), wiring.object_store_config(settings)
    assert store.keys is not None
    assert (dynamo.endpoint, dynamo.access_key, dynamo.secret_key, dynamo.region) == ("http://localhost:8000", "fake", "fake", "us-east-1")
    assert (store.keys.access_key_id, store.keys.secret_access_key, store.region) == ("minio", "minio123", "us-east-1")


def test_both_names_of_the_region_work_and_aws_default_region_has_precedence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    assert wiring.dynamo_config(load_settings()).region == "eu-west-1"
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    assert wiring.object_store_config(load_settings()).region == "eu-central-1"


def test_snowball_is_used_only_by_writers_to_a_custom_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not wiring.object_store_config(load_settings()).snowball
    monkeypatch.setenv("MINIO_ENDPOINT", "http://localhost:9000")
    assert wiring.object_store_config(load_settings()).snowball
    store = wiring.web_context(load_settings(), "this one", None).ports.object_store
    assert isinstance(store, S3ObjectStore)
    assert not store.config.snowball
    monkeypatch.setenv("MINIO_SNOWBALL", "off")
    assert not wiring.object_store_config(load_settings()).snowball
    monkeypatch.setenv("MINIO_SNOWBALL", "on")
    with pytest.raises(SettingsError, match="MINIO_SNOWBALL=on: expected 'auto' or 'off'"):
        load_settings()


def test_ports_are_built_once_for_the_same_settings_and_do_not_connect(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_BROKERS", "127.0.0.1:1")
    monkeypatch.setenv("DYNAMO_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("MINIO_ENDPOINT", "http://127.0.0.1:1")
    assert wiring.build_ports(load_settings()) is wiring.build_ports(load_settings())


def test_invalid_settings_do_not_prevent_definitions_from_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANES", "none")
    assert (topics_at_load(), partitions_start_at_load()) == (EVENT_TYPES, "2024-01-01T00")


def test_every_setting_has_a_description() -> None:
    assert all(field.description for field in Settings.model_fields.values())


def test_the_tail_interval_grows_with_the_lanes_and_is_at_least_batch_max_wait() -> None:
    def interval(**settings: object) -> float:
        return wiring.tail_options(Settings(**settings)).interval.total_seconds()  # type: ignore[arg-type]

    assert interval() == 1
    assert interval(lanes=20) == 4
    assert interval(batch_max_wait=timedelta(seconds=30)) == 30
    assert wiring.tail_options(Settings(lanes=4)).interval_per_batch == timedelta(seconds=0.8)
    assert wiring.tail_options(Settings(batch_max_records=7)).planning_policy.max_offsets == 7


def test_a_duration_out_of_bounds_is_reported_with_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAIL_INTERVAL", "50ms")
    monkeypatch.setenv("MAX_FUTURE_SKEW", "30h")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert [line.partition(" (")[0] for line in str(caught.value).splitlines()] == [
        "TAIL_INTERVAL=50ms: expected at least 0.1s",
        "MAX_FUTURE_SKEW=30h: expected at most 24h",
    ]


@pytest.mark.parametrize("name", ["EVENT_JSON_RETENTION", "PARQUET_RETENTION", "DEAD_LETTER_RETENTION"])
def test_a_retention_is_unset_or_long_enough(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    assert not load_settings().retention_policy()
    monkeypatch.setenv(name, "31d")
    assert load_settings().retention_policy()
    for value, message in (("30d", "expected at least 31d, because RecentEvents"), ("soon", "expected a duration such as")):
        monkeypatch.setenv(name, value)
        with pytest.raises(SettingsError, match=f"{name}={value}: {message}"):
            load_settings()


DURATIONS = [name for name, field in Settings.model_fields.items() if "timedelta" in str(field.annotation)]


@pytest.mark.parametrize("name", DURATIONS)
def test_a_duration_beyond_all_dates_is_reported(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for value in ("99999999999d", f"{10**400}s", "36501d"):
        [problem] = problems(monkeypatch, **{name.upper(): value})
        assert "at most 36500d" in problem


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("ARCHIVE_BUCKET_NAME", "a..b", "without `..`"),
        ("ARCHIVE_BUCKET_NAME", "192.168.5.4", "not an IP address"),
        ("KAFKA_TOPICS", ".", "`.` is reserved"),
        ("KAFKA_TOPICS", "a,..", "`..` is reserved"),
        ("KAFKA_TOPICS", "a.b,a_b", "differ in more than `.` and `_`"),
        ("PARTITIONS_START", "9999-12-31T23", "in the years 1970 to 2200"),
        ("PARTITIONS_START", "0001-01-01T00", "in the years 1970 to 2200"),
    ],
)
def test_a_value_that_a_service_would_refuse_is_reported(monkeypatch: pytest.MonkeyPatch, name: str, value: str, expected: str) -> None:
    [problem] = problems(monkeypatch, **{name: value})
    assert problem.startswith(f"{name}={value}: expected")
    assert expected in problem
