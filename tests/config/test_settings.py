"""Settings: names and defaults that others rely on, and every problem heard at once."""

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


def test_names_and_defaults_are_those_that_were_promised() -> None:
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
def test_durations_carry_their_unit(monkeypatch: pytest.MonkeyPatch, text: str, duration: timedelta) -> None:
    monkeypatch.setenv("STALL_TIMEOUT", text)
    assert load_settings().stall_timeout == duration


@pytest.mark.parametrize(
    ("name", "value", "expected"), [("RUN_START_TIMEOUT", "0", "at least 10s"), ("TAIL_DURATION", "1h", "at most 30m")]
)
def test_what_would_let_no_run_begin_or_end_by_itself_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, expected: str
) -> None:
    """Breaks: each run would be given up before its process is there, or ended by run monitoring after an hour."""
    [problem] = problems(monkeypatch, **{name: value})
    assert problem.startswith(f"{name}={value}: expected {expected}")


def test_every_problem_is_named_at_once_with_its_value_and_what_is_allowed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    key.touch()
    found = problems(
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
        "LANES=0: expected at least 1 (fixed shares",
        "BATCH_MAX_RECORDS=many: expected a valid integer",
        "BATCH_MAX_RANGES + BATCH_MAX_HOURS=54: expected at most 48 together",
        "BATCH_MAX_WAIT=soon: expected a duration such as 500ms, 30s, 5m, 24h or 7d",
        "DYNAMO_ENDPOINT=localhost:8000: expected a URL such as http://localhost:9000",
        "ARCHIVE_BUCKET_NAME=Event_Archive: expected 3 to 63 lower-case letters",
        "RECENT_EVENTS_TABLE_NAME, LEDGER_TABLE_NAME, AGGREGATES_TABLE_NAME=RecentEvents,RecentEvents,EventAggregates: expected three",
        "KAFKA_BROKERS=localhost: expected host:port, comma-separated",
        "KAFKA_SASL_MECHANISM: needed with KAFKA_SECURITY_PROTOCOL=SASL_SSL",
        "KAFKA_SSL_CA_LOCATION=/nope.pem: expected a file that is there and can be read",
        "KAFKA_SSL_CERTIFICATE_LOCATION, KAFKA_SSL_KEY_LOCATION: expected both or neither",
        "KAFKA_CLIENTID is not a setting: did you mean KAFKA_CLIENT_ID?",
    ):
        assert [line for line in found if line.startswith(start)], start
    assert len(found) == 12


@pytest.mark.parametrize("name", ["KAFKA_SSL_CA_LOCATION", "KAFKA_SSL_CERTIFICATE_LOCATION", "KAFKA_SSL_KEY_LOCATION"])
def test_files_that_are_not_there_are_named(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    assert problems(monkeypatch, **{name: "/nope.pem"})[0].startswith(f"{name}=/nope.pem: expected a file")


NUMBERS = [
    (name, bound, words, getattr(each, bound))
    for name, field in setting_names().items()
    for each in Settings.model_fields[field].metadata
    for bound, words in (("ge", "at least"), ("le", "at most"))
    if isinstance(getattr(each, bound, None), (int, float))
]


@pytest.mark.parametrize(("name", "bound", "words", "limit"), NUMBERS)
def test_the_bound_of_a_number_is_said_in_plain_words(
    monkeypatch: pytest.MonkeyPatch, name: str, bound: str, words: str, limit: float
) -> None:
    beyond = limit - 1 if bound == "ge" else limit + 1
    assert problems(monkeypatch, **{name: str(beyond)})[0].startswith(f"{name}={beyond}: expected {words} {limit} (")


def test_what_is_expected_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    assert problems(monkeypatch, KAFKA_BROKERS="nohost") == [
        "KAFKA_BROKERS=nohost: expected host:port, comma-separated (Kafka's bootstrap servers)"
    ]


def test_secrets_are_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_SASL_PASSWORD", "s3cr3t")
    monkeypatch.setenv("MINIO_SECRET_KEY", "s3cr3t")
    found = problems(monkeypatch, MINIO_ENDPOINT="http://user:s3cr3t@localhost:9000")
    assert "s3cr3t" not in "\n".join(found)
    assert found[-1].startswith("KAFKA_SASL_PASSWORD: without effect")
    monkeypatch.delenv("MINIO_ENDPOINT")
    monkeypatch.setenv("KAFKA_SECURITY_PROTOCOL", "SASL_SSL")
    monkeypatch.setenv("KAFKA_SASL_MECHANISM", "PLAIN")
    settings = load_settings()
    assert (
        "s3cr3t" not in f"{settings!r}{settings.model_dump_json()}{wiring.kafka_config(settings)!r}{wiring.object_store_config(settings)!r}"
    )


def test_dagsters_ui_may_be_below_a_path_of_its_server_and_holds_no_login(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_UI_URL", "https://tools.example.com/dagster/")
    assert str(load_settings().dagster_ui_url) == "https://tools.example.com/dagster/"
    for wrong in ("https://user:s3cr3t@tools.example.com/dagster", "ftp://x/y", "https://x/?next=y"):
        found = problems(monkeypatch, DAGSTER_UI_URL=wrong)
        assert "DAGSTER_UI_URL" in found[0]
        assert "s3cr3t" not in found[0]


@pytest.mark.parametrize(
    ("name", "meant"),
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
def test_a_setting_that_is_nearly_right_is_not_silently_ignored(monkeypatch: pytest.MonkeyPatch, name: str, meant: str) -> None:
    said = [f"{name} is not a setting: did you mean {meant}?"]
    assert problems(monkeypatch, **{name: "x"}) == said
    field = Settings.model_fields[setting_names()[meant]]
    right = {"DYNAMO_ENDPOINT": "http://x:1", "MINIO_ENDPOINT": "http://x:1", "KAFKA_TOPICS": "a"}.get(meant, str(field.default))
    assert problems(monkeypatch, **{meant: right}) == said


OTHERS = """
    LINES COLUMNS LANG LANGUAGE LC_ALL LS_COLORS PATH HOME HOST HOSTNAME PORT SHELL TERM TMPDIR TZ USER NAME DISPLAY EDITOR PAGER PWD
    OLDPWD SHLVL KAFKA_HOME KAFKA_HEAP_OPTS KAFKA_OPTS KAFKA_LOG_DIRS KAFKA_PORT KAFKA_SERVICE_HOST KAFKA_SERVICE_PORT KAFKA_NODE_ID
    AWS_PROFILE AWS_SESSION_TOKEN AWS_ENDPOINT_URL AWS_ENDPOINT_URL_S3 AWS_CONFIG_FILE AWS_ROLE_ARN AWS_CA_BUNDLE AWS_EXECUTION_ENV
    MINIO_ROOT_USER MINIO_ROOT_PASSWORD MINIO_VOLUMES MINIO_PORT DAGSTER_HOME DAGSTER_POSTGRES_HOST DAGSTER_POSTGRES_PASSWORD
    VIRTUAL_ENV PYTHONPATH PYTHONUNBUFFERED CI JOBS RATE HEALTHCHECK_PORT HTTP_PROXY NO_PROXY JAVA_HOME XDG_RUNTIME_DIR SSH_AUTH_SOCK
"""


def test_other_peoples_variables_are_nobody_s_business(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in OTHERS.split():
        monkeypatch.setenv(name, "1")
    assert load_settings() == Settings()


def test_local_keys_go_to_endpoints_of_one_s_own_and_never_to_aws(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_either_name_of_the_region_counts_the_older_one_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    assert wiring.dynamo_config(load_settings()).region == "eu-west-1"
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    assert wiring.object_store_config(load_settings()).region == "eu-central-1"


def test_only_who_writes_to_a_store_of_one_s_own_finds_out_whether_it_unpacks_tars(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not wiring.object_store_config(load_settings()).snowball
    monkeypatch.setenv("MINIO_ENDPOINT", "http://localhost:9000")
    assert wiring.object_store_config(load_settings()).snowball
    watching = wiring.web_context(load_settings(), "this one", None).ports.object_store
    assert isinstance(watching, S3ObjectStore)
    assert not watching.config.snowball
    monkeypatch.setenv("MINIO_SNOWBALL", "off")
    assert not wiring.object_store_config(load_settings()).snowball
    monkeypatch.setenv("MINIO_SNOWBALL", "on")
    with pytest.raises(SettingsError, match="MINIO_SNOWBALL=on: expected 'auto' or 'off'"):
        load_settings()


def test_ports_are_made_once_for_the_same_settings_and_connect_to_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_BROKERS", "127.0.0.1:1")
    monkeypatch.setenv("DYNAMO_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("MINIO_ENDPOINT", "http://127.0.0.1:1")
    assert wiring.build_ports(load_settings()) is wiring.build_ports(load_settings())


def test_wrong_settings_do_not_keep_definitions_from_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANES", "none")
    assert (topics_at_load(), partitions_start_at_load()) == (EVENT_TYPES, "2024-01-01T00")


def test_every_setting_is_described() -> None:
    assert all(field.description for field in Settings.model_fields.values())


def test_a_run_follows_more_slowly_the_more_lanes_there_are_and_no_faster_than_small_plans_may_wait() -> None:
    def every(**settings: object) -> float:
        return wiring.tail_options(Settings(**settings)).interval.total_seconds()  # type: ignore[arg-type]

    assert every() == 1
    assert every(lanes=20) == 4
    assert every(batch_max_wait=timedelta(seconds=30)) == 30
    assert wiring.tail_options(Settings(lanes=4)).interval_per_batch == timedelta(seconds=0.8)
    assert wiring.tail_options(Settings(batch_max_records=7)).planning_policy.max_offsets == 7


def test_a_duration_out_of_bounds_is_told_the_bound_as_one_writes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAIL_INTERVAL", "50ms")
    monkeypatch.setenv("MAX_FUTURE_SKEW", "30h")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert [line.partition(" (")[0] for line in str(caught.value).splitlines()] == [
        "TAIL_INTERVAL=50ms: expected at least 0.1s",
        "MAX_FUTURE_SKEW=30h: expected at most 24h",
    ]


@pytest.mark.parametrize("name", ["EVENT_JSON_RETENTION", "PARQUET_RETENTION", "DEAD_LETTER_RETENTION"])
def test_an_age_is_never_or_long_enough(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    assert not load_settings().retention_policy()
    monkeypatch.setenv(name, "31d")
    assert load_settings().retention_policy()
    for value, said in (("30d", "expected at least 31d, until when the stores need each other"), ("soon", "expected a duration such as")):
        monkeypatch.setenv(name, value)
        with pytest.raises(SettingsError, match=f"{name}={value}: {said}"):
            load_settings()
