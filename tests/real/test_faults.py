"""A store or the broker is down, hangs, throttles, answers 503, or loses answers: bounded repeats, a message that helps, nothing lost.

Each fault begins at one call of the flow and stays; when the server is back, the next run makes of it what an undisturbed run had made.
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
from analytics_defs.errors import ResourceMissing, Unavailable
from analytics_defs.flows.ingest.execute_plan import execute_plan
from analytics_defs.ports import Ports
from tests.real import plain, proxy, world
from tests.real.doomed import watched
from tests.real.proxy import Answer, Exchange, HttpProxy, KafkaProxy, Rule, dynamo_fault, http_proxy, kafka_proxy, losing_answers, passing
from tests.real.scene import Scene, prepared
from tests.real.world import LITTLE

pytestmark = pytest.mark.real

MOST_SECONDS = 15
"""Of one failing run, with the little patience of these tests."""
RULES: dict[str, Rule] = {
    "hangs": proxy.hanging,
    "stops in the middle of an answer": proxy.stopping_midway,
    "answers 503": proxy.unavailable,
    "throttles": proxy.throttling_dynamo,
    "says slow down": proxy.slow_down,
}
DOWN = "is down"


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    with prepared() as found:
        yield found


@dataclass(frozen=True, slots=True)
class Servers:
    """The real ones, each behind a proxy."""

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
            self.kafka.silent = True
        elif server == "kafka" and fault != DOWN:
            self.kafka.largest_answer = 2_000
        elif fault == DOWN:
            getattr(self, server).refuse()
        else:
            getattr(self, server).rule = RULES[fault]

    def mend(self, server: str, fault: str) -> None:
        if fault == DOWN:
            getattr(self, server).listen()
        elif server == "kafka":
            self.kafka.behave()
        else:
            getattr(self, server).rule = passing


@contextmanager
def behind_proxies(scene: Scene) -> Iterator[Servers]:
    with (
        scene.founded() as direct,
        http_proxy(direct.dynamo_endpoint) as dynamo,
        http_proxy(direct.minio_endpoint) as archive,
        kafka_proxy() as kafka,
    ):
        through = {"dynamo_endpoint": dynamo.url, "minio_endpoint": archive.url, "kafka_brokers": kafka.brokers}
        yield Servers(dynamo, archive, kafka, direct, direct.model_copy(update=through))


def beginning_at(ports: Ports, call: str, number: int, begin: Callable[[], None]) -> Ports:
    """The same ports; right before this call something begins."""
    left = number

    def watch(name: str, perform: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        nonlocal left
        if name == call:
            left -= 1
            if not left:
                begin()
        return perform(*args)

    return watched(ports, watch)


CASES = [
    *(
        ("dynamo", fault, "recent_events.claim", 1)
        for fault in (DOWN, "hangs", "stops in the middle of an answer", "answers 503", "throttles")
    ),
    ("dynamo", "hangs", "ledger.begin_batch", 1),
    ("dynamo", "stops in the middle of an answer", "ledger.begin_batch", 1),
    ("dynamo", "stops in the middle of an answer", "ledger.mark_staged", 1),
    ("dynamo", "stops in the middle of an answer", "ledger.close_batch", 1),
    *(
        ("archive", fault, "object_store.put events", 1)
        for fault in (DOWN, "hangs", "stops in the middle of an answer", "answers 503", "says slow down")
    ),
    ("archive", "stops in the middle of an answer", "object_store.put_if_absent", 1),
    ("archive", "hangs", "object_store.put parquet", 1),
    ("archive", DOWN, "object_store.delete staging", 1),
    *(("kafka", fault, "event_log.read", 1) for fault in (DOWN, "hangs", "stops in the middle of an answer")),
    *(("kafka", fault, "event_log.commit", 1) for fault in (DOWN, "hangs")),
]


@pytest.mark.parametrize(("server", "fault", "call", "number"), CASES, ids=str)
def test_a_server_that_fails_in_the_middle_of_a_run_fails_the_run_and_nothing_is_lost(
    scene: Scene, server: str, fault: str, call: str, number: int
) -> None:
    with behind_proxies(scene) as servers:
        with world.opened(servers.through, ManualClock(scene.now), LITTLE) as through:
            ports = beginning_at(through.ports, call, number, lambda: servers.disturb(server, fault))
            started = time.monotonic()
            with pytest.raises(Unavailable) as raised:
                execute_plan(scene.plan, ports, wiring.ingest_options(servers.through, "run"))
            assert time.monotonic() - started < MOST_SECONDS
            assert servers.addresses[server] in str(raised.value)
            assert len(str(raised.value)) < 1500
            assert (
                set(plain.group_offsets(servers.direct.kafka_group_id, scene.topics).values()) == {None}
                or call == "object_store.delete staging"
            )
            servers.mend(server, fault)
            through.settle()
        with scene.opened(servers.direct) as direct:
            scene.assert_whole(direct)


class DisturbedPlatform(Platform):
    """The platform's resource, with little patience and a server that fails in the middle."""

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
def test_the_run_that_fails_tells_dagster_what_where_and_that_trying_again_may_help(
    scene: Scene, server: str, fault: str, call: str
) -> None:
    with behind_proxies(scene) as servers, world.opened(servers.through, ManualClock(scene.now), LITTLE) as through:
        ports = beginning_at(through.ports, call, 1, lambda: servers.disturb(server, fault))
        with pytest.raises(dg.Failure) as raised:
            run_job(scene, DisturbedPlatform(servers.through, ports))
        assert servers.addresses[server] in str(raised.value.description)
        assert raised.value.allow_retries
        assert raised.value.metadata["error"] == dg.MetadataValue.text("Unavailable")
        servers.mend(server, fault)
        through.settle()
        scene.assert_whole(through)


def test_credentials_that_are_refused_drop_nothing_and_are_not_tried_again(scene: Scene) -> None:
    with scene.founded() as settings:
        wrong = Settings(**(settings.model_dump() | {"minio_secret_key": "not the key"}))
        with world.opened(wrong, ManualClock(scene.now)) as refused, pytest.raises(dg.Failure) as raised:
            run_job(scene, DisturbedPlatform(wrong, refused.ports))
        assert not raised.value.allow_retries
        assert settings.archive_bucket_name in str(raised.value.description)
        assert "Correct the credentials" in str(raised.value.description)
        assert "not the key" not in str(raised.value.description)
        with scene.opened(settings) as mended:
            mended.settle()
            scene.assert_whole(mended)


@pytest.mark.parametrize("gone", ["recent_events_table_name", "ledger_table_name", "archive_bucket_name"])
def test_a_table_or_bucket_that_is_not_there_is_named_with_the_command_that_makes_it(scene: Scene, gone: str) -> None:
    with scene.founded() as settings:
        without = settings.model_copy(update={gone: f"missing-{settings.archive_bucket_name}"})
        with world.opened(without, ManualClock(scene.now)) as incomplete:
            with pytest.raises(ResourceMissing, match="analytics setup") as raised:
                incomplete.run(scene.plan)
            assert f"missing-{settings.archive_bucket_name}" in str(raised.value)
        with scene.opened(settings) as complete:
            complete.settle()
            scene.assert_whole(complete)


@pytest.mark.parametrize("server", ["dynamo", "archive"])
def test_answers_that_are_lost_are_asked_for_again_and_nothing_is_done_twice(scene: Scene, server: str) -> None:
    """The server did it, the client does not know: every single request is sent twice."""
    with behind_proxies(scene) as servers, world.opened(servers.through, ManualClock(scene.now)) as through:
        getattr(servers, server).rule = losing_answers()
        through.run(scene.plan)
        getattr(servers, server).rule = passing
        through.settle()
        scene.assert_whole(through)


def cancelled(code: str) -> Callable[[Exchange], Answer]:
    """All actions of the transaction are refused for the moment, the last of them because of `code`."""

    def answer(exchange: Exchange) -> Answer:
        count = len(json.loads(exchange.body)["TransactItems"])
        return dynamo_fault("TransactionCanceledException", CancellationReasons=[{"Code": "None"}] * (count - 1) + [{"Code": code}])

    return answer


def refusing_at_first(answer: Callable[[Exchange], Answer], times: int) -> Rule:
    """The first so many transactions get this answer, and nothing of them is done."""
    left = times

    def rule(exchange: Exchange) -> None:
        nonlocal left
        if exchange.operation == "TransactWriteItems" and left:
            left -= 1
            exchange.answer(answer(exchange))
        else:
            passing(exchange)

    return rule


@pytest.mark.parametrize("code", ["TransactionConflict", "ThrottlingError", "ProvisionedThroughputExceeded"])
def test_a_transaction_that_is_cancelled_for_the_moment_is_sent_again(scene: Scene, code: str) -> None:
    """Only a condition that does not hold means lost: the take, the claims and the close all meet this first."""
    with behind_proxies(scene) as servers, world.opened(servers.through, ManualClock(scene.now)) as through:
        servers.dynamo.rule = refusing_at_first(cancelled(code), 9)
        through.run(scene.plan)
        through.settle()
        scene.assert_whole(through)


def test_a_transaction_that_is_cancelled_for_ever_fails_the_run_after_bounded_repeats(scene: Scene) -> None:
    with behind_proxies(scene) as servers, world.opened(servers.through, ManualClock(scene.now), LITTLE) as through:
        servers.dynamo.rule = refusing_at_first(cancelled("ThrottlingError"), 1_000)
        with pytest.raises(Unavailable, match=through.settings.ledger_table_name):
            through.run(scene.plan)
        servers.dynamo.rule = passing
        through.settle()
        scene.assert_whole(through)


def leaving_keys(exchange: Exchange) -> None:
    """Of a batch of keys only the first is read; the others come back as unprocessed."""
    request = json.loads(exchange.body)
    if exchange.operation != "BatchGetItem":
        passing(exchange)
        return
    ((table, asked),) = request["RequestItems"].items()
    first, rest = asked["Keys"][:1], asked["Keys"][1:]
    body = json.dumps(request | {"RequestItems": {table: asked | {"Keys": first}}}).encode()
    answer = replace(exchange, raw=with_body(exchange.raw, body)).forward()
    found = json.loads(answer.body) | {"UnprocessedKeys": {table: asked | {"Keys": rest}} if rest else {}}
    exchange.answer(
        Answer(answer.status, {"Content-Type": "application/x-amz-json-1.0", "x-amzn-RequestId": "0" * 32}, json.dumps(found).encode())
    )


def with_body(raw: bytes, body: bytes) -> bytes:
    head = raw.partition(b"\r\n\r\n")[0]
    lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"content-length")]
    return b"\r\n".join([*lines, b"Content-Length: %d" % len(body), b"", body])


def leaving_all_keys(exchange: Exchange) -> None:
    if exchange.operation != "BatchGetItem":
        passing(exchange)
        return
    body = json.dumps({"Responses": {}, "UnprocessedKeys": json.loads(exchange.body)["RequestItems"]}).encode()
    exchange.answer(Answer(200, {"Content-Type": "application/x-amz-json-1.0", "x-amzn-RequestId": "0" * 32}, body))


def test_keys_that_are_left_unprocessed_are_asked_for_again_and_those_alone(scene: Scene) -> None:
    ids = [f"event-{number}" for number in range(10)]
    with behind_proxies(scene) as servers, world.opened(servers.through, ManualClock(scene.now), LITTLE) as through:
        through.run(scene.plan)
        servers.dynamo.rule = leaving_keys
        assert sorted(through.ports.recent_events.get_items(ids)) == ids
        servers.dynamo.rule = leaving_all_keys
        with pytest.raises(Unavailable, match="unprocessed"):
            through.ports.recent_events.get_items(ids)
