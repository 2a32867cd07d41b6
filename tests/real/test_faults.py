"""A store or the broker is down, hangs, throttles, answers 503, or loses responses.

Retries are bounded, the error names the server, and nothing is lost. Each fault begins at one call of a port and stays. After the
server is back, the next run leaves every store as an undisturbed run does.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import dagster as dg
import pytest

from analytics_defs import wiring
from analytics_defs.adapters.memory import ManualClock
from analytics_defs.config import Settings
from analytics_defs.definitions import defs
from analytics_defs.defs.ingest.job import MICRO_BATCH_JOB, run_config
from analytics_defs.defs.resources.platform import Platform
from analytics_defs.errors import ResourceNotReady, Unavailable
from analytics_defs.flows.ingest.execute_plan import execute_plan
from analytics_defs.ports import Ports
from tests.real import proxy, raw_clients, world
from tests.real.killable_run import intercepted
from tests.real.proxy import (
    Answer,
    Exchange,
    HttpProxy,
    KafkaProxy,
    Rule,
    dynamo_fault,
    http_proxy,
    kafka_proxy,
    lose_first_responses,
    pass_through,
)
from tests.real.scene import Scene, prepared
from tests.real.world import SHORT_TIMEOUTS

pytestmark = pytest.mark.real

MAX_SECONDS = 15
"""Limit for a failing run with SHORT_TIMEOUTS."""
RULES: dict[str, Rule] = {
    "hangs": proxy.never_answer,
    "stops within a response": proxy.stop_within_response,
    "answers 503": proxy.answer_503,
    "throttles": proxy.throttle_dynamodb,
    "answers SlowDown": proxy.answer_slow_down,
}
DOWN = "is down"
DYNAMODB_HEADERS = {"Content-Type": "application/x-amz-json-1.0", "x-amzn-RequestId": "0" * 32}


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    with prepared() as scene:
        yield scene


@dataclass(frozen=True, slots=True)
class Servers:
    """The real servers, each behind a proxy. `direct` settings bypass the proxies, `through` settings use them."""

    dynamo: HttpProxy
    archive: HttpProxy
    kafka: KafkaProxy
    direct: Settings
    through: Settings

    @property
    def addresses(self) -> dict[str, str]:
        return {"dynamo": self.dynamo.url, "archive": self.archive.url, "kafka": self.kafka.brokers}

    def disturb(self, server: str, fault: str) -> None:
        if server == "kafka" and fault == "hangs":
            self.kafka.unresponsive = True
        elif server == "kafka" and fault != DOWN:
            self.kafka.max_response_bytes = 2_000
        elif fault == DOWN:
            getattr(self, server).refuse()
        else:
            getattr(self, server).rule = RULES[fault]

    def restore(self, server: str, fault: str) -> None:
        if fault == DOWN:
            getattr(self, server).listen()
        elif server == "kafka":
            self.kafka.restore()
        else:
            getattr(self, server).rule = pass_through


@contextmanager
def behind_proxies(scene: Scene) -> Iterator[Servers]:
    with (
        scene.provisioned() as direct,
        http_proxy(direct.dynamo_endpoint) as dynamo,
        http_proxy(direct.minio_endpoint) as archive,
        kafka_proxy() as kafka,
    ):
        through = {"dynamo_endpoint": dynamo.url, "minio_endpoint": archive.url, "kafka_brokers": kafka.brokers}
        yield Servers(dynamo, archive, kafka, direct, direct.model_copy(update=through))


def with_fault_at(ports: Ports, call: str, number: int, start_fault: Callable[[], None]) -> Ports:
    """Return ports that start the fault right before this call. `number` counts calls of this name from 1."""
    calls_left = number

    def interceptor(name: str, perform: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        nonlocal calls_left
        if name == call:
            calls_left -= 1
            if not calls_left:
                start_fault()
        return perform(*args)

    return intercepted(ports, interceptor)


CASES = [
    *(("dynamo", fault, "recent_events.claim", 1) for fault in (DOWN, "hangs", "stops within a response", "answers 503", "throttles")),
    ("dynamo", "hangs", "ledger.begin_batch", 1),
    ("dynamo", "stops within a response", "ledger.begin_batch", 1),
    ("dynamo", "stops within a response", "ledger.mark_staged", 1),
    ("dynamo", "stops within a response", "ledger.close_batch", 1),
    *(
        ("archive", fault, "object_store.put events", 1)
        for fault in (DOWN, "hangs", "stops within a response", "answers 503", "answers SlowDown")
    ),
    ("archive", "stops within a response", "object_store.put_if_absent", 1),
    ("archive", "hangs", "object_store.put parquet", 1),
    ("archive", DOWN, "object_store.delete staging", 1),
    *(("kafka", fault, "event_log.read", 1) for fault in (DOWN, "hangs", "stops within a response")),
    *(("kafka", fault, "event_log.commit", 1) for fault in (DOWN, "hangs")),
]


@pytest.mark.parametrize(("server", "fault", "call", "number"), CASES, ids=str)
def test_a_server_that_fails_within_a_run_fails_the_run_and_nothing_is_lost(
    scene: Scene, server: str, fault: str, call: str, number: int
) -> None:
    with behind_proxies(scene) as servers:
        with world.opened(servers.through, ManualClock(scene.now), SHORT_TIMEOUTS) as through:
            ports = with_fault_at(through.ports, call, number, lambda: servers.disturb(server, fault))
            started = time.monotonic()
            with pytest.raises(Unavailable) as raised:
                execute_plan(scene.plan, ports, wiring.ingest_options(servers.through, "run"))
            assert time.monotonic() - started < MAX_SECONDS
            assert servers.addresses[server] in str(raised.value)
            assert len(str(raised.value)) < 1500
            assert (
                set(raw_clients.group_offsets(servers.direct.kafka_group_id, scene.topics).values()) == {None}
                or call == "object_store.delete staging"
            )
            servers.restore(server, fault)
            through.settle()
        with scene.opened(servers.direct) as direct:
            scene.assert_same_as_undisturbed(direct)


class DisturbedPlatform(Platform):
    """The resource of the platform with given ports."""

    def __init__(self, settings: Settings, ports: Ports) -> None:
        self._settings, self._ports = settings, ports

    def settings(self) -> Settings:
        return self._settings

    def ports(self) -> Ports:
        return self._ports


def run_job(scene: Scene, platform: Platform) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        defs.resolve_job_def(MICRO_BATCH_JOB).execute_in_process(
            run_config=run_config(scene.plan, platform.settings()), resources={"platform": platform}, instance=instance
        )


@pytest.mark.parametrize(
    ("server", "fault", "call"),
    [
        ("dynamo", "answers 503", "recent_events.claim"),
        ("archive", "answers 503", "object_store.put events"),
        ("kafka", "hangs", "event_log.read"),
    ],
)
def test_a_run_with_an_unavailable_server_fails_with_its_address_and_allows_retries(
    scene: Scene, server: str, fault: str, call: str
) -> None:
    with behind_proxies(scene) as servers, world.opened(servers.through, ManualClock(scene.now), SHORT_TIMEOUTS) as through:
        ports = with_fault_at(through.ports, call, 1, lambda: servers.disturb(server, fault))
        with pytest.raises(dg.Failure) as raised:
            run_job(scene, DisturbedPlatform(servers.through, ports))
        assert servers.addresses[server] in str(raised.value.description)
        assert raised.value.allow_retries
        assert raised.value.metadata["error"] == dg.MetadataValue.text("Unavailable")
        servers.restore(server, fault)
        through.settle()
        scene.assert_same_as_undisturbed(through)


def test_refused_credentials_lose_no_data_and_allow_no_retries(scene: Scene) -> None:
    with scene.provisioned() as settings:
        wrong = Settings(**(settings.model_dump() | {"minio_secret_key": "not the key"}))
        with world.opened(wrong, ManualClock(scene.now)) as refused, pytest.raises(dg.Failure) as raised:
            run_job(scene, DisturbedPlatform(wrong, refused.ports))
        assert not raised.value.allow_retries
        assert settings.archive_bucket_name in str(raised.value.description)
        assert "Correct the credentials" in str(raised.value.description)
        assert "not the key" not in str(raised.value.description)
        with scene.opened(settings) as corrected:
            corrected.settle()
            scene.assert_same_as_undisturbed(corrected)


@pytest.mark.parametrize("missing", ["recent_events_table_name", "ledger_table_name", "archive_bucket_name"])
def test_a_missing_table_or_bucket_is_named_with_the_command_that_creates_it(scene: Scene, missing: str) -> None:
    with scene.provisioned() as settings:
        without = settings.model_copy(update={missing: f"missing-{settings.archive_bucket_name}"})
        with world.opened(without, ManualClock(scene.now)) as incomplete:
            with pytest.raises(ResourceNotReady, match="analytics setup") as raised:
                incomplete.run(scene.plan)
            assert f"missing-{settings.archive_bucket_name}" in str(raised.value)
        with scene.opened(settings) as complete:
            complete.settle()
            scene.assert_same_as_undisturbed(complete)


@pytest.mark.parametrize("server", ["dynamo", "archive"])
def test_requests_whose_response_is_lost_are_retried_idempotently(scene: Scene, server: str) -> None:
    """The server executes every request, and its first response is dropped. The client sends every request twice."""
    with behind_proxies(scene) as servers, world.opened(servers.through, ManualClock(scene.now)) as through:
        getattr(servers, server).rule = lose_first_responses()
        through.run(scene.plan)
        getattr(servers, server).rule = pass_through
        through.settle()
        scene.assert_same_as_undisturbed(through)


def transaction_canceled(code: str) -> Callable[[Exchange], Answer]:
    """Return a function that builds the response to a transaction whose last action is rejected with `code`."""

    def answer(exchange: Exchange) -> Answer:
        count = len(json.loads(exchange.body)["TransactItems"])
        return dynamo_fault("TransactionCanceledException", CancellationReasons=[{"Code": "None"}] * (count - 1) + [{"Code": code}])

    return answer


def reject_first_transactions(answer: Callable[[Exchange], Answer], count: int) -> Rule:
    """Return a rule that answers the first `count` transactions without forwarding them."""
    remaining = count

    def rule(exchange: Exchange) -> None:
        nonlocal remaining
        if exchange.operation == "TransactWriteItems" and remaining:
            remaining -= 1
            exchange.answer(answer(exchange))
        else:
            pass_through(exchange)

    return rule


@pytest.mark.parametrize("code", ["TransactionConflict", "ThrottlingError", "ProvisionedThroughputExceeded"])
def test_a_transaction_that_is_canceled_temporarily_is_sent_again(scene: Scene, code: str) -> None:
    """Only a failed condition means that another executor won. Begin, claims and close are all canceled at first here."""
    with behind_proxies(scene) as servers, world.opened(servers.through, ManualClock(scene.now)) as through:
        servers.dynamo.rule = reject_first_transactions(transaction_canceled(code), 9)
        through.run(scene.plan)
        through.settle()
        scene.assert_same_as_undisturbed(through)


def test_a_transaction_that_is_always_canceled_fails_the_run_after_bounded_retries(scene: Scene) -> None:
    with behind_proxies(scene) as servers, world.opened(servers.through, ManualClock(scene.now), SHORT_TIMEOUTS) as through:
        servers.dynamo.rule = reject_first_transactions(transaction_canceled("ThrottlingError"), 1_000)
        with pytest.raises(Unavailable, match=through.settings.ledger_table_name):
            through.run(scene.plan)
        servers.dynamo.rule = pass_through
        through.settle()
        scene.assert_same_as_undisturbed(through)


def leave_keys_unprocessed(exchange: Exchange) -> None:
    """Forward only the first key of a batch, and return the others as unprocessed."""
    request = json.loads(exchange.body)
    if exchange.operation != "BatchGetItem":
        pass_through(exchange)
        return
    ((table, requested),) = request["RequestItems"].items()
    first, others = requested["Keys"][:1], requested["Keys"][1:]
    body = json.dumps(request | {"RequestItems": {table: requested | {"Keys": first}}}).encode()
    answer = replace(exchange, raw=with_body(exchange.raw, body)).forward()
    result = json.loads(answer.body) | {"UnprocessedKeys": {table: requested | {"Keys": others}} if others else {}}
    exchange.answer(Answer(answer.status, DYNAMODB_HEADERS, json.dumps(result).encode()))


def with_body(raw: bytes, body: bytes) -> bytes:
    head = raw.partition(b"\r\n\r\n")[0]
    lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"content-length")]
    return b"\r\n".join([*lines, b"Content-Length: %d" % len(body), b"", body])


def leave_all_keys_unprocessed(exchange: Exchange) -> None:
    if exchange.operation != "BatchGetItem":
        pass_through(exchange)
        return
    body = json.dumps({"Responses": {}, "UnprocessedKeys": json.loads(exchange.body)["RequestItems"]}).encode()
    exchange.answer(Answer(200, DYNAMODB_HEADERS, body))


def test_only_unprocessed_keys_are_requested_again(scene: Scene) -> None:
    ids = [f"event-{number}" for number in range(10)]
    with behind_proxies(scene) as servers, world.opened(servers.through, ManualClock(scene.now), SHORT_TIMEOUTS) as through:
        through.run(scene.plan)
        servers.dynamo.rule = leave_keys_unprocessed
        assert sorted(through.ports.recent_events.get_items(ids)) == ids
        servers.dynamo.rule = leave_all_keys_unprocessed
        with pytest.raises(Unavailable, match="unprocessed"):
            through.ports.recent_events.get_items(ids)
