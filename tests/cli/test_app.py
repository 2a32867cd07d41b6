"""Output and exit codes of the command line, on memory doubles. The tests of `adapters` cover setup and check."""

from __future__ import annotations

import base64
import json
import os
import pty
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from click.testing import CliRunner, Result
from rich.progress import Task

from analytics_defs import cli, wiring
from analytics_defs.adapters.memory import InlineTaskPool, ManualClock, MemoryEventLog, MemoryLedger, MemoryObjectStore, MemoryRecentEvents
from analytics_defs.cli import exit_codes, output
from analytics_defs.cli.app import analytics
from analytics_defs.config import setting_names
from analytics_defs.core.ledger import Batch, BatchKind
from analytics_defs.core.offsets import Range, TopicPartition
from analytics_defs.core.storage.object_keys import batch_id, event_key, staging_key
from analytics_defs.errors import (
    AccessDenied,
    AnalyticsError,
    InconsistentState,
    NotFound,
    ResourceNotReady,
    SettingsError,
    StartupFailed,
    Superseded,
    TopicRecreated,
    Unavailable,
)
from analytics_defs.ports import Ports, StoredObject
from tests.flows.setup.unconditional_store import UnconditionalObjectStore
from tests.proof.interceptors import Call, intercept

TOPIC, HOUR = "ProductDeleted", "2024-01-15T10"
NOW = datetime(2024, 1, 15, 12, tzinfo=UTC)


class World:
    """One topic of two partitions, empty stores, and the command line over them."""

    def __init__(self) -> None:
        self.log, self.object_store, self.clock = MemoryEventLog(), MemoryObjectStore(), ManualClock(NOW)
        self.recent, self.ledger = MemoryRecentEvents(), MemoryLedger()
        self.ports = Ports(self.log, self.recent, self.object_store, self.ledger, self.clock, InlineTaskPool())
        self.log.create_topic(TOPIC, 2)

    def produce(self, *ids: str) -> None:
        for event_id in ids:
            event = {"id": event_id, "timestamp": f"{HOUR}:00:00Z", "type": TOPIC, "productId": "p", "sellerId": "s"}
            self.log.append(TOPIC, 0, json.dumps(event).encode())

    def run(self, *arguments: str) -> Result:
        return CliRunner().invoke(analytics, arguments, catch_exceptions=False)

    def answer(self, *arguments: str, exit_code: int = 0) -> Any:
        result = self.run(*arguments, "--json")
        assert result.exit_code == exit_code, result.output
        return json.loads(result.stdout)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    for name in setting_names():
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KAFKA_TOPICS", TOPIC)
    world = World()
    monkeypatch.setattr(wiring, "build_ports", lambda _: world.ports)
    return world


def main_exit_code(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run the program's entry point and return its exit code."""
    monkeypatch.setattr(sys, "argv", ["analytics", *arguments])
    with pytest.raises(SystemExit) as raised:
        cli.main()
    return int(raised.value.code or 0)


WRITERS = [
    *(("ingest",), ("redrive", "--all"), ("compact", HOUR), ("stats", HOUR), ("restore", HOUR), ("reconcile-counters",)),
    *(("repair", "--from", f"{TOPIC}/0/0", "--to", f"{TOPIC}/0/1"), ("expire",)),
]


@pytest.mark.parametrize("command", WRITERS, ids=lambda command: command[0])
def test_a_command_that_writes_is_rejected_if_the_stores_have_different_platform_ids(
    world: World, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    world.produce("a", "b")
    assert world.run("ingest").exit_code == 0
    world.produce("c")
    before, bucket = world.ports.ledger.snapshot(), MemoryObjectStore()
    world.ports = replace(world.ports, object_store=bucket)
    assert main_exit_code(monkeypatch, *command) == exit_codes.FINDING
    assert world.ports.ledger.snapshot() == before
    assert bucket.objects == {}


@pytest.mark.parametrize("command", WRITERS, ids=lambda command: command[0])
def test_a_command_that_writes_is_rejected_if_the_store_ignores_conditions(
    world: World, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    world.produce("a", "b")
    assert world.run("ingest").exit_code == 0
    world.produce("c")
    before, bucket = world.ports.ledger.snapshot(), UnconditionalObjectStore("If-Match")
    bucket.objects |= world.object_store.objects
    world.ports = replace(world.ports, object_store=bucket, bucket="another server")
    assert main_exit_code(monkeypatch, *command) == exit_codes.REFUSED
    assert world.ports.ledger.snapshot() == before
    assert bucket.objects == world.object_store.objects


def test_lag_shows_the_lag_of_each_partition(world: World) -> None:
    world.produce("a", "b")
    result = world.run("lag")
    assert result.exit_code == 0
    assert f"{TOPIC}/0" in result.stdout
    assert [partition["lag"] for partition in world.answer("lag")["partitions"]] == [2, 0]


def test_lag_over_the_limit_is_a_finding(world: World) -> None:
    world.produce("a", "b")
    assert world.run("lag", "--max", "2").exit_code == 0
    assert world.run("lag", "--max", "1").exit_code == exit_codes.FINDING


def test_a_halted_partition_is_a_finding_and_names_the_command_that_resumes_it(world: World) -> None:
    world.produce("a")
    world.run("ingest")
    world.log.delete_topic(TOPIC)
    world.log.create_topic(TOPIC, 2)
    result = world.run("lag")
    assert result.exit_code == exit_codes.FINDING
    assert f"analytics accept-recreated-topic {TOPIC}" in result.stdout
    assert world.run("ingest").exit_code == exit_codes.FINDING
    accepted = world.run("accept-recreated-topic", TOPIC)
    assert (accepted.exit_code, "incarnation 1" in accepted.stdout) == (0, True)
    assert world.run("lag").exit_code == 0


def test_ingest_stores_all_records_and_reports_their_outcomes(world: World) -> None:
    world.produce("a", "b", "a")
    world.log.append(TOPIC, 1, b"no event")
    world.log.append(TOPIC, 1, None)
    result = world.answer("ingest", "--until-idle")
    assert result == {"batches": 1, "stored": 2, "duplicates": 1, "dead_letters": 1, "tombstones": 1, "gaps": 0, "lost": 0, "halted": []}
    assert sorted(world.recent.items) == ["a", "b"]
    assert world.ledger.snapshot().leases == {}
    assert "0 batches" in world.run("ingest").stdout


@pytest.mark.usefixtures("world")
def test_a_port_in_use_has_the_exit_code_of_a_refusal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setenv("HEALTH_PORT", str(listener.getsockname()[1]))
        assert main_exit_code(monkeypatch, "serve") == exit_codes.REFUSED
    assert "cannot listen on port" in capsys.readouterr().err


def test_a_balanced_audit_is_not_a_finding(world: World) -> None:
    world.produce("a", "b")
    world.run("ingest")
    assert world.run("audit", "--hour", HOUR).exit_code == 0
    result = world.answer("audit", "--hour", HOUR)
    assert (result["unaccounted"], result["differences"], result["hours"][0]["objects"]) == (0, [], 2)


def test_an_audit_shows_the_sum_over_all_partitions(world: World) -> None:
    world.produce("a", "b", "a")
    world.log.append(TOPIC, 1, b"no event")
    world.run("ingest")
    *_, last, _, unaccounted = world.run("audit").stdout.splitlines()
    assert [cell.strip() for cell in last.split("│")[1:-1]] == ["all 2: 4 offsets", "", "", "2", "1", "1", "0", "0", "0", "0"]
    assert unaccounted == "unaccounted: 0"


def test_a_missing_entry_of_the_ledger_is_a_finding_of_an_audit(world: World) -> None:
    world.produce("a")
    world.run("ingest")
    world.ports.ledger._hours.clear()  # type: ignore[attr-defined]
    result = world.run("audit")
    assert result.exit_code == exit_codes.FINDING
    assert "is missing or altered. `analytics repair --from" in result.stdout
    (finding,) = world.answer("audit", exit_code=exit_codes.FINDING)["ledger"]
    assert finding in result.stdout


def test_altered_bytes_are_a_finding_of_an_audit_with_the_option_bytes(world: World) -> None:
    world.produce("a", "b")
    world.run("ingest")
    stored = world.object_store.objects[event_key(HOUR, "a")]
    world.object_store.put([replace(stored, body=b"{}")])
    assert world.run("audit", "--hour", HOUR).exit_code == 0
    result = world.run("audit", "--hour", HOUR, "--bytes")
    assert (result.exit_code, "1 JSON objects with other bytes than Parquet, for example a" in result.stdout) == (exit_codes.FINDING, True)
    assert world.run("audit", "--bytes").exit_code == exit_codes.WRONG_USAGE


def test_a_partition_without_leader_is_a_finding_of_lag(world: World) -> None:
    world.produce("a", "b")
    world.run("ingest")
    world.log.make_unavailable(TOPIC, 1)
    result = world.run("lag")
    assert (result.exit_code, f"{TOPIC}/1 is unavailable, the other partitions continue" in result.stdout) == (exit_codes.FINDING, True)
    assert list(world.answer("lag", exit_code=exit_codes.FINDING)["unavailable"]) == [f"{TOPIC}/1"]


def test_stores_that_disagree_are_a_finding(world: World) -> None:
    world.produce("a", "b")
    world.run("ingest")
    world.object_store.delete([event_key(HOUR, "a")])
    result = world.run("audit", "--hour", HOUR)
    assert result.exit_code == exit_codes.FINDING
    assert "1 ids without JSON object, for example a" in result.stdout


def test_an_abandoned_batch_is_a_finding(world: World) -> None:
    world.produce("a")
    range_ = Range(TopicPartition(TOPIC, 0, 0), 0, 1)
    begun_at = NOW - timedelta(minutes=11)
    batch = Batch(batch_id(begun_at, [range_]), BatchKind.INGEST, 0, begun_at, (range_,), "dead")
    assert world.ledger.begin_batch(batch)
    result = world.run("audit")
    assert result.exit_code == exit_codes.FINDING
    assert f"batch {batch.id} of {TOPIC}/0[0,1) is pending for 11 minutes" in result.stdout
    assert len(world.answer("audit", exit_code=exit_codes.FINDING)["abandoned"]) == 1


def test_trace_finds_an_event_by_id_and_by_source(world: World) -> None:
    world.produce("a", "a")
    world.run("ingest")
    assert (world.answer("trace", "a")["source"], world.answer("trace", f"{TOPIC}/0/0")["event_id"]) == (f"{TOPIC}/0/0", "a")
    assert world.answer("trace", f"{TOPIC}/0/1")["original_source"] == f"{TOPIC}/0/0"
    assert "outcome       stored" in world.run("trace", "a").stdout


def test_a_trace_beyond_the_end_of_the_log_names_the_end_offset(world: World) -> None:
    world.produce("a")
    world.run("ingest")
    world.produce("b")
    assert world.answer("trace", f"{TOPIC}/0/1")["detail"] == "the next offset to read is 1"
    beyond = f"Kafka's log of {TOPIC}/0 ends at 2 and has no such record yet; the next offset to read is 1"
    assert world.answer("trace", f"{TOPIC}/0/2")["detail"] == beyond
    world.log.make_unavailable(TOPIC, 0)
    assert world.answer("trace", f"{TOPIC}/0/2")["detail"] == "the next offset to read is 1"


@pytest.mark.parametrize(("target", "hinted"), [(f"{TOPIC}/0", True), ("another/0", False), (f"{TOPIC}/x", False)])
def test_a_trace_of_a_partition_asks_for_the_offset(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], target: str, hinted: bool
) -> None:
    world.produce("a")
    world.run("ingest")
    assert main_exit_code(monkeypatch, "trace", target) == exit_codes.FINDING
    assert (f"topic/partition/offset, for example {target}/0" in capsys.readouterr().err) is hinted


def test_a_trace_of_an_unknown_partition_is_a_finding(world: World) -> None:
    result = world.run("trace", "orders/7/5")
    assert (result.exit_code, "unknown_partition" in result.stdout) == (exit_codes.FINDING, True)


def test_dead_letters_are_complete_and_filtered(world: World) -> None:
    world.log.append(TOPIC, 0, b"\xff[bold]:smile:", key=b"k", headers=(("h", None),))
    world.log.append(TOPIC, 0, b'{"type": "[red]:smile:"}')
    world.run("ingest")
    result = world.answer("dead-letters", "--reason", "not_utf8")
    assert base64.b64decode(result["value"]) == b"\xff[bold]:smile:"
    assert (result["source"], result["headers"], base64.b64decode(result["key"])) == (f"{TOPIC}/0/0", [["h", None]], b"k")
    assert "[red]:smile:" in world.run("dead-letters", "--reason", "unknown_type").stdout
    assert len(world.run("dead-letters", "--json").stdout.splitlines()) == 2
    assert len(world.run("dead-letters", "--json", "--limit", "1").stdout.splitlines()) == 1


def test_redrive_uses_the_current_settings_and_is_idempotent(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAX_EVENT_BYTES", "1024")
    world.produce("long" * 500)
    world.log.append(TOPIC, 0, b"never")
    world.run("ingest")
    monkeypatch.setenv("MAX_EVENT_BYTES", "4096")
    result = world.answer("redrive", "--all")
    assert (result["stored"], result["still_rejected"], result["redriven_before"], len(result["batches"])) == (1, 1, 0, 1)
    assert "0 stored, 0 duplicates, 1 still rejected, 1 redriven before" in world.run("redrive", "--all").stdout
    assert world.run("audit").exit_code == 0
    assert "after redrive:" in world.run("trace", f"{TOPIC}/0/0").stdout
    (event_id,) = world.recent.items
    by_id = world.run("trace", event_id).stdout
    assert by_id.index("stored") < by_id.index("before redrive:") < by_id.index("dead_letter")
    trace = world.answer("trace", event_id)
    assert (trace["outcome"], trace["before"]["outcome"]) == ("stored", "dead_letter")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("redrive",), "--reason, --batch-hour, --batch, or --all"),
        (("produce",), "--rate, --count, or both"),
        (("dead-letters", "--batch-hour", "yesterday"), "'yesterday' is not an hour"),
        (("audit", "--hour", HOUR, "--hour", "2024"), "'2024' is not an hour"),
        (("audit", "--hour", "2024-01-15T25"), "'2024-01-15T25' is not an hour"),
        (("dead-letters", "--batch-hour", "2024-02-31T10"), "'2024-02-31T10' is not an hour"),
        (("redrive", "--batch", "7"), "'7' is not a batch id"),
        (("dead-letters", "--reason", "bad"), "'not_utf8'"),
        (("produce", "--rate", "1", "--broken", "2"), "0<=x<=1"),
    ],
)
def test_wrong_usage_exits_with_2_and_names_the_valid_usage(world: World, arguments: tuple[str, ...], message: str) -> None:
    result = world.run(*arguments)
    assert result.exit_code == exit_codes.WRONG_USAGE
    assert message in result.stderr


@pytest.mark.usefixtures("world")
def test_invalid_settings_exit_with_2_and_are_all_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("LANES", "0")
    monkeypatch.setenv("HEALTH_PORT", "none")
    assert main_exit_code(monkeypatch, "lag") == exit_codes.WRONG_USAGE
    message = capsys.readouterr().err
    assert "LANES=0" in message
    assert "HEALTH_PORT=none" in message


@pytest.mark.usefixtures("world")
def test_a_trace_of_an_unknown_id_is_a_finding_without_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main_exit_code(monkeypatch, "trace", "unknown") == exit_codes.FINDING
    assert capsys.readouterr().err.startswith("error: event 'unknown' is not in RecentEvents")


def test_an_error_is_printed_with_its_notes_and_sets_the_exit_code(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    error = Unavailable("the ledger is down")
    error.add_note("also: the archive is down")

    def down() -> None:
        raise error

    monkeypatch.setattr(world.ledger, "snapshot", down)
    assert main_exit_code(monkeypatch, "lag") == exit_codes.UNAVAILABLE
    assert capsys.readouterr().err == "error: the ledger is down\nalso: the archive is down\n"


def test_an_interrupt_exits_without_traceback(world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(world.ledger, "snapshot", interrupted)
    assert main_exit_code(monkeypatch, "lag") == exit_codes.INTERRUPTED
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (SettingsError, exit_codes.WRONG_USAGE),
        (Unavailable, exit_codes.UNAVAILABLE),
        (Superseded, exit_codes.FINDING),
        (AccessDenied, exit_codes.REFUSED),
        (ResourceNotReady, exit_codes.REFUSED),
        (NotFound, exit_codes.FINDING),
        (StartupFailed, exit_codes.REFUSED),
        (TopicRecreated, exit_codes.FINDING),
        (InconsistentState, exit_codes.FINDING),
        (AnalyticsError, exit_codes.FINDING),
    ],
)
def test_every_kind_of_error_has_an_exit_code(error: Callable[[str], AnalyticsError], code: int) -> None:
    assert exit_codes.exit_code(error("message")) == code


def test_help_is_fast_because_it_imports_no_client_library() -> None:
    program = "import sys, analytics_defs.cli.app; print([m for m in sys.argv[1:] if m in sys.modules])"
    heavy = ("boto3", "botocore", "obstore", "confluent_kafka", "pyarrow", "dagster", "pandas")
    assert subprocess.run([sys.executable, "-c", program, *heavy], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_hours_are_compacted_counted_and_restored_by_command(world: World) -> None:
    world.produce("a", "b", "c")
    world.run("ingest")
    (archived,) = world.answer("compact", HOUR)
    assert (archived["created"], archived["revision"]["number"], archived["revision"]["rows"]) == (True, 1, 3)
    (counted,) = world.answer("stats", HOUR)
    assert (counted["period"], counted["events"], counted["deleted"], counted["products"]) == (HOUR, 3, 3, 1)
    del world.recent.items["b"]
    (restored,) = world.answer("restore", HOUR)
    assert (restored["restored"], restored["already_present"]) == (1, 2)
    for command in ("compact", "stats", "restore"):
        output = world.run(command, HOUR, "1969-12-31T23")
        assert output.exit_code == 0
        assert HOUR in output.output
        assert "1969-12-31T23" in output.output


def test_an_hour_without_events_is_shown_as_empty_and_not_as_incomplete(world: World) -> None:
    world.produce("a")
    world.run("ingest")
    [*_, empty, full, _] = world.run("compact", "2020-01-01T00", HOUR).stdout.splitlines()
    assert [cell.strip() for cell in empty.split("│")[1:-1]] == ["0", "2020-01-01T00", "0", "none", "no events", "none", "none"]
    assert [cell.strip() for cell in full.split("│")[1:-1]] == ["1", HOUR, "1", "created", "yes", "none", "none"]
    assert "archive" in world.run("compact", HOUR).stdout


def test_counters_that_differ_from_the_batch_records_are_a_finding(world: World) -> None:
    world.produce("a", "b", "c")
    world.run("ingest")
    nothing = {"batches": 1, "hours": [HOUR], "counters": [], "archive": [], "expired": [], "adjustments": []}
    assert world.answer("reconcile-counters", "--dry-run") == nothing
    world.ledger._hourly[HOUR, 0]["events"] -= 2
    (result,) = world.answer("reconcile-counters", "--dry-run", exit_code=1)["counters"]
    batches = result.pop("batches")
    assert result == {"lane": 0, "hour": HOUR, "counter": "events", "live": 1, "recorded": 3, "difference": -2}
    output = world.run("reconcile-counters", "--dry-run")
    assert (output.exit_code, "1 differences in 1 batches and 1 hours" in output.output) == (1, True)
    assert batches[0] in output.output.replace("\n", "")
    assert world.ledger.adjustments() == []


def test_counters_are_corrected_once_by_command(world: World) -> None:
    world.produce("a", "b", "c")
    world.run("ingest")
    world.ledger._hourly[HOUR, 0]["events"] -= 2
    world.ledger._totals[0]["events"] += 1
    output = world.run("reconcile-counters")
    assert output.exit_code == 0
    assert f"{HOUR} lane 0: adjustment 1 over 1 batches: events +2\n2 adjustments made\n" in output.output
    assert (world.ledger.counters()["events"], world.ledger.hourly_counters(HOUR, HOUR)[HOUR]["events"]) == (3, 3)
    assert world.answer("reconcile-counters")["adjustments"] == []
    assert len(world.ledger.adjustments()) == 2


@pytest.mark.parametrize("command", ["compact", "stats", "restore"])
def test_an_invalid_hour_is_wrong_usage(world: World, command: str) -> None:
    result = CliRunner().invoke(analytics, [command, "2024-01-15"])
    assert result.exit_code == 2
    assert "'2024-01-15' is not an hour: expected for example 2024-01-15T10" in result.output
    assert world.object_store.objects == {}


ENDLESS = """
import itertools
from analytics_defs import cli, wiring
from analytics_defs.cli.commands import dead_letters
from analytics_defs.core.storage.dead_letter_files import DeadLetter
from analytics_defs.core.offsets import Record, Source, TopicPartition
from analytics_defs.core.events.rejection_reasons import RejectionReason
from analytics_defs.flows.redrive import StoredDeadLetter

record = Record(Source(TopicPartition("t", 0, 0), 0), 0, None, b"x" * 1000)
stored = StoredDeadLetter("key", "batch", DeadLetter(record, next(iter(RejectionReason)), "detail"))
wiring.build_ports = lambda _: None
dead_letters.list_dead_letters = lambda *_: itertools.repeat(stored)
cli.main()
"""


@pytest.mark.parametrize("arguments", [("--json", "--limit", "1000000"), ("--limit", "5000")])
def test_a_closed_output_pipe_ends_the_command_without_an_error_message(arguments: tuple[str, ...]) -> None:
    command = [sys.executable, "-c", ENDLESS, "dead-letters", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(30) in {0, exit_codes.CLOSED_PIPE}


BAR = """
from analytics_defs.cli.output import progress_bar

with progress_bar("records", None) as bar:
    bar.advance(bar.task_ids[0], 7)
"""


def test_the_progress_bar_is_drawn_only_on_a_terminal() -> None:
    assert subprocess.run([sys.executable, "-c", BAR], capture_output=True, text=True, check=True).stderr == ""


SLOW = """
import sys
from analytics_defs.cli import output

output.PROGRESS_LINE_INTERVAL = 0.01
with output.progress_bar("hours compared", 2) as bar:
    progress = output.progress_callback(bar)
    bar.advance(bar.task_ids[0])
    progress("objects compared", 3000, 8550)
    sys.stdin.read()
"""


def test_a_long_step_prints_progress_lines_if_stderr_is_not_a_terminal() -> None:
    with subprocess.Popen([sys.executable, "-c", SLOW], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        lines = [next(line for line in process.stderr if "3,000" in line), process.stderr.readline()]
        process.stdin.close()
        assert process.wait(30) == 0
    assert all(line.startswith("hours compared: 1 of 2, objects compared: 3,000 of 8,550 (after ") for line in lines), lines


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("audit", "--hour", HOUR), ("files read: 0 of 1", "ids read: 0 of 2", "hours compared: 0 of 1")),
        (("audit", "--hour", HOUR, "--bytes"), ("objects compared: 0 of 2", "hours compared: 0 of 1")),
        (("repair", "--from", HOUR, "--to", "2024-01-15T11", "--dry-run"), ("objects read: 0 of 2", "batches: 0 of 1")),
        (("reconcile-counters", "--dry-run"), ("hours compared: 0 of 1",)),
        (("ingest", "--until-idle"), ("offsets closed: 0 of 1",)),
        (("compact", HOUR), ("hours: 0 of 1",)),
    ],
)
def test_a_long_command_prints_its_steps_and_their_progress(
    world: World, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], expected: tuple[str, ...]
) -> None:
    """Delay each store call until a progress line was printed, as with a slow store."""
    world.produce("a", "b")
    world.run("ingest")
    world.produce("c")
    monkeypatch.setattr(output, "PROGRESS_LINE_INTERVAL", 0.001)
    format_progress, printed = output._format_progress, threading.Condition()
    lines = list[str]()

    def record_line(tasks: Sequence[Task]) -> str:
        with printed:
            lines.append(format_progress(tasks))
            printed.notify_all()
            return lines[-1]

    def slow(_: Call, perform: Callable[[], Any]) -> Any:
        with printed:
            before = len(lines)
            if shows_progress():
                assert printed.wait_for(lambda: len(lines) > before + 1, 30)
        return perform()

    def shows_progress() -> bool:
        is_main = threading.current_thread() is threading.main_thread()
        return is_main and any(thread.name == "progress" for thread in threading.enumerate())

    monkeypatch.setattr(output, "_format_progress", record_line)
    monkeypatch.setattr(world, "ports", intercept(world.ports, slow))
    result = world.run(*arguments)
    assert result.exit_code == 0, result.output
    for text in expected:
        assert any(text in line for line in lines), lines
        assert text in result.stderr


def test_progress_without_a_total_ends_with_the_final_count_as_total() -> None:
    master, terminal = pty.openpty()
    try:
        subprocess.run([sys.executable, "-c", BAR], stderr=terminal, env=os.environ | {"TERM": "xterm"}, check=True)
        output = os.read(master, 100_000).decode()
    finally:
        os.close(master)
        os.close(terminal)
    assert output.rindex("7/7") > output.rfind("/?")


def test_a_dry_run_of_a_repair_shows_its_changes_and_a_second_repair_has_none(world: World) -> None:
    world.produce("a", "b")
    world.run("ingest")
    world.object_store.delete([event_key(HOUR, "a")])
    command = ("repair", "--from", HOUR, "--to", "2024-01-15T11")
    planned = world.answer(*command, "--dry-run", exit_code=exit_codes.FINDING)
    assert planned["counts"]["event_json"] == {"missing": 1, "identical": 1}
    assert world.object_store.get(event_key(HOUR, "a")) is None
    assert event_key(HOUR, "a") in world.run(*command).stdout
    assert world.object_store.get(event_key(HOUR, "a")) is not None
    assert world.answer(*command, "--dry-run")["changes"] == []
    assert world.run("repair", "--from", HOUR, "--to", HOUR).exit_code == exit_codes.WRONG_USAGE


def test_an_interrupted_repair_names_its_changes_and_the_interrupted_batch(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    world.produce("a", "b")
    world.run("ingest")
    key = event_key(HOUR, "a")
    world.object_store.delete([key])

    def down(*_: object) -> None:
        raise Unavailable("the bucket does not answer")

    monkeypatch.setattr(world.object_store, "put_if", down)
    command = ("repair", "--from", HOUR, "--to", "2024-01-15T11")
    assert main_exit_code(monkeypatch, *command) == exit_codes.UNAVAILABLE
    output = capsys.readouterr()
    assert key in output.out
    assert "interrupted while batch " in output.err
    assert "error: the bucket does not answer" in output.err
    assert main_exit_code(monkeypatch, *command, "--json") == exit_codes.UNAVAILABLE
    assert json.loads(capsys.readouterr().out)["interrupted_batch"].startswith("batch ")


def test_expire_deletes_old_data_and_its_dry_run_lists_it_first(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.produce("a", "b")
    world.run("ingest")
    world.clock.advance(timedelta(days=91))
    kept = world.run("expire")
    assert (kept.exit_code, "nothing expires" in kept.stdout) == (0, True)
    monkeypatch.setenv("EVENT_JSON_RETENTION", "90d")
    planned = world.answer("expire", "--dry-run")
    assert (planned["objects"], [deleted["hour"] for deleted in planned["report"]["deleted"]]) == (2, [HOUR])
    assert world.object_store.get(event_key(HOUR, "a")) is not None
    done = world.run("expire")
    assert (done.exit_code, "deleted: 2 objects" in done.stdout) == (0, True)
    assert world.object_store.get(event_key(HOUR, "a")) is None
    assert world.answer("expire")["objects"] == 0


def test_an_old_hour_that_cannot_be_expired_is_a_finding(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.produce("a")
    world.run("ingest")
    world.clock.advance(timedelta(days=91))
    world.produce("unread")
    monkeypatch.setenv("PARQUET_RETENTION", "90d")
    result = world.run("expire")
    assert result.exit_code == exit_codes.FINDING
    assert f"hour {HOUR}: old enough, but not every partition has passed it" in result.stderr


def test_commands_that_need_expired_data_are_refused_with_a_clear_error(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    world.produce("a")
    world.run("ingest")
    world.clock.advance(timedelta(days=91))
    monkeypatch.setenv("PARQUET_RETENTION", "90d")
    world.run("expire")
    for command in (("restore", HOUR), ("stats", HOUR), ("repair", "--from", HOUR, "--to", "2024-01-15T11")):
        assert main_exit_code(monkeypatch, *command) == exit_codes.FINDING
        assert "retention removed" in capsys.readouterr().err
    assert world.answer("audit", "--hour", HOUR)["hours"][0]["expired_rows"] == 1
    assert world.answer("reconcile-counters", "--dry-run")["expired"] == [HOUR]


@pytest.mark.parametrize("hour", ["9999-12-31T23", "0001-01-01T00"])
@pytest.mark.parametrize("command", [("compact",), ("stats",), ("restore",), ("audit", "--hour"), ("dead-letters", "--batch-hour")])
def test_the_first_and_the_last_hour_of_the_calendar_are_hours(world: World, command: tuple[str, ...], hour: str) -> None:
    world.produce("a")
    world.run("ingest")
    result = world.run(*command, hour)
    assert result.exit_code in (0, exit_codes.FINDING), result.output


def test_a_repair_of_all_time_reads_the_ledger_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.produce("a")
    world.run("ingest")
    calls: list[str] = []

    def counting(call: Call, perform: Callable[[], Any]) -> Any:
        calls.append(call.method)
        return perform()

    ports = intercept(world.ports, counting)
    monkeypatch.setattr(wiring, "build_ports", lambda _: ports)
    answer = world.answer("repair", "--from", "1970-01-01T00", "--to", "2100-01-01T00", "--dry-run")
    assert answer["batches"] == 1
    assert len(calls) < 50


@pytest.mark.parametrize("command", [("ingest",), ("redrive", "--all")])
def test_a_staging_file_left_behind_a_close_is_deleted_by_the_next_command(world: World, command: tuple[str, ...]) -> None:
    world.produce("a")
    world.run("ingest")
    [record] = world.ledger.last_batches(1)
    world.object_store.put([StoredObject(staging_key(record.batch.id), b"", "", {})])
    assert world.run(*command).exit_code == 0
    assert list(world.object_store.list_keys("staging/")) == []


def test_an_id_that_reads_like_a_source_is_traced_with_the_option_id(world: World) -> None:
    looks_like_source = f"{TOPIC}/0/0"
    world.produce("a")
    world.produce(looks_like_source)
    world.run("ingest")
    owner = world.recent.items[looks_like_source].source
    assert world.answer("trace", looks_like_source, "--id")["source"] == str(owner)


@pytest.mark.parametrize("target", ["", "x" * 2049])
def test_a_trace_target_that_no_record_can_have_is_wrong_usage(world: World, target: str) -> None:
    result = world.run("trace", target)
    assert result.exit_code == 2
    assert "an event id of 1 to 2048 bytes" in result.output
