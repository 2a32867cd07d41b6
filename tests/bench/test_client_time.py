"""The client's time: what is charged to what, that nothing is counted twice, and that what has no name is missing."""

from __future__ import annotations

import gc
import pkgutil
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics_defs.adapters.memory import ManualClock, MemoryEventLog, MemoryLedger, MemoryObjectStore, MemoryRecentEvents
from analytics_defs.adapters.runtime.system import ThreadTaskPool
from analytics_defs.core.events.event import ValidationRules
from analytics_defs.core.events.schema import EVENT_TYPES
from analytics_defs.core.ingest.planning import PlanningPolicy
from analytics_defs.flows.ingest import close_batch
from analytics_defs.flows.ingest.execute_plan import execute_plan
from analytics_defs.flows.ingest.options import IngestOptions
from analytics_defs.flows.ingest.planning import plan_lanes
from analytics_defs.ports import Ports
from analytics_defs.simulator.shop import CLEAN_MIX, messages
from bench.client_time import (
    CLAIMING,
    HANDING_OUT,
    IN_PARTS,
    NO_CORE,
    OBJECTS,
    SPANS,
    STEPS,
    WAITS,
    ClientTime,
    Measured,
    Share,
    line,
    markdown,
    order,
    shares,
    waiting_line,
)
from bench.spans import COLLECTOR, OWN_THREADS, Key, Span, Spans, Spent
from tests.core.events.made_events import reproducibly

NOW = datetime(2024, 1, 15, 10, 30, tzinfo=UTC)
MS = 1_000_000


class Clocks:
    """This thread's CPU clock and the wall clock, moved by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cpu = self.wall = 0
        monkeypatch.setattr(time, "thread_time_ns", lambda: self.cpu)
        monkeypatch.setattr(time, "perf_counter_ns", lambda: self.wall)

    def work(self, ms: int) -> None:
        self.cpu += ms * MS
        self.wall += ms * MS

    def wait(self, ms: int) -> None:
        self.wall += ms * MS


def in_ms(spent: Mapping[Key, Spent]) -> dict[Key, tuple[int, int]]:
    """Worked, waited."""
    return {key: (each.cpu_ns // MS, each.waited_ns // MS) for key, each in spent.items()}


def test_time_is_charged_to_the_innermost_span_and_to_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, spans = Clocks(monkeypatch), Spans()
    clock.work(100)  # before any span
    with spans.span("claim"):
        clock.work(3)
        with spans.span(part="HTTP"):
            clock.work(2)
            clock.wait(40)
        clock.work(5)
    clock.work(100)
    assert in_ms(spans.spent(is_main=True)) == {Key("claim"): (8, 0), Key("claim", "HTTP"): (2, 40)}
    assert spans.spent(is_main=False) == {}


def test_a_span_ends_where_what_it_times_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, spans = Clocks(monkeypatch), Spans()
    with spans.installed((Span("analytics_defs.flows.ingest.close_batch:commit_offsets", "commit"),)):
        with pytest.raises(AttributeError):
            close_batch.commit_offsets(None, None)  # type: ignore[arg-type]
        clock.work(7)
    assert in_ms(spans.spent(is_main=True)) == {Key("commit"): (0, 0)}


def timed() -> list[object]:
    """What is there now under the names that are timed."""
    there: list[object] = [pkgutil.resolve_name(each.target) for each in SPANS]
    return [*there, ThreadTaskPool.run_all, pkgutil.resolve_name("analytics_defs.flows.ingest.execute_plan:Stopwatch")]


def test_every_function_that_is_timed_exists_and_is_itself_again_afterwards() -> None:
    before, callbacks = timed(), list(gc.callbacks)
    with Spans().installed(SPANS):
        assert not [each for each, was in zip(timed(), before, strict=True) if each is was]
    assert timed() == before
    assert gc.callbacks == callbacks


def test_a_job_belongs_to_the_step_that_waits_for_it_and_collections_to_the_collector() -> None:
    spans, workers = Spans(), ThreadTaskPool(2)
    try:
        with spans.installed(()), spans.span("event json"):
            workers.run_all([gc.collect, gc.collect])
    finally:
        workers.close()
    assert set(spans.spent(is_main=True)) == {Key("event json"), Key("event json", OWN_THREADS)}
    assert set(spans.spent(is_main=False)) == {Key("event json"), Key(COLLECTOR)}
    assert spans.spent(is_main=False)[Key(COLLECTOR)].cpu_ns > 0


def test_the_steps_of_a_batch_all_have_a_line_in_the_table() -> None:
    log, workers = MemoryEventLog(), ThreadTaskPool(2)
    for topic in EVENT_TYPES:
        log.create_topic(topic)
    ports = Ports(log, MemoryRecentEvents(), MemoryObjectStore(), MemoryLedger(), ManualClock(NOW), workers)
    for message in islice(messages(1, lambda: NOW, CLEAN_MIX), 300):
        log.append(message.topic, 0, message.value, key=message.key, timestamp_ms=0)
    [plan] = [each for each in plan_lanes(EVENT_TYPES, PlanningPolicy(), ports).plans if each]
    spans = Spans()
    try:
        with spans.installed(SPANS), spans.span(""):
            assert execute_plan(plan, ports, IngestOptions("run", ValidationRules(max_event_bytes=2**20))).closed
    finally:
        workers.close()
    seen = {*spans.spent(is_main=True), *spans.spent(is_main=False)}
    assert {key.step for key in seen} - {"", COLLECTOR} == STEPS.keys() - {COLLECTOR}
    assert {line(key) for key in seen if key.step} <= set(order())
    assert Key("read", "decode and validate") in seen


def test_what_the_main_thread_waits_is_split_among_its_threads_by_what_they_do() -> None:
    found = Measured(
        main={
            Key("read"): Spent(cpu_ns=10, wall_ns=20),
            Key(HANDING_OUT, OWN_THREADS): Spent(cpu_ns=0, wall_ns=80),
        },
        others={
            Key(CLAIMING, "reading the answer"): Spent(cpu_ns=0, wall_ns=300),
            Key(CLAIMING, "signing"): Spent(cpu_ns=40, wall_ns=100),
            Key(OBJECTS, OWN_THREADS): Spent(cpu_ns=0, wall_ns=999),  # others do its work, and are counted for it
        },
        native_ns={"rdk:broker0": 25, "tokio-runtime-w": 15},
        total=Spent(cpu_ns=100, wall_ns=100),
    )
    named, missing = shares(found)
    assert named["read: the rest of our own code"] == Share(0.1, 0.1)
    walls = {name: round(each.wall, 9) for name, each in named.items() if each.wall}
    assert walls == {
        "read: the rest of our own code": 0.1,
        "claim: signing": 0.08,  # 40 of 400 thread-ns, of the 80 that were handed over
        "claim: waiting for DynamoDB": 0.6,
        NO_CORE: 0.22,  # 10 of the main thread's own, and 60 of those 400
    }
    assert (named["claim: signing"].cpu, named["librdkafka's own threads"].cpu) == (0.4, 0.25)
    assert (round(missing.cpu, 9), round(missing.wall, 9)) == (0.1, 0)


keys = st.builds(Key, st.sampled_from([*STEPS, "", "unknown"]), st.sampled_from(["", "unknown", OWN_THREADS, *WAITS, "signing"]))
spent = st.dictionaries(keys, st.builds(lambda cpu, waited: Spent(cpu, cpu + waited), st.integers(0, 10**6), st.integers(0, 10**9)))
native = st.dictionaries(st.sampled_from(["rdk:main", "tokio-runtime-w", "strange"]), st.integers(0, 10**6))


@reproducibly
@given(spent, spent, native, st.integers(1, 10**6))
def test_named_and_not_accounted_are_the_whole_and_the_unknown_is_never_named(
    main: Mapping[Key, Spent], others: Mapping[Key, Spent], native_ns: Mapping[str, int], cpu_ns: int
) -> None:
    covered = sum(each.cpu_ns for part in (main, others) for each in part.values()) + sum(native_ns.values())
    named, missing = shares(Measured(main, others, native_ns, Spent(covered + cpu_ns, 10**12)))
    assert sum(each.cpu for each in named.values()) + missing.cpu == pytest.approx(1)
    assert sum(each.wall for each in named.values()) + missing.wall == pytest.approx(1)
    is_strange = {key: key.step not in STEPS or (key.step in IN_PARTS and key.part == "unknown") for key in (*main, *others)}
    nameless = sum(each.cpu_ns for part in (main, others) for key, each in part.items() if is_strange[key])
    nameless += native_ns.get("strange", 0) + cpu_ns
    assert missing.cpu == pytest.approx(nameless / (covered + cpu_ns))
    assert list(named) == [each for each in order() if each in named]


def test_a_part_that_has_a_line_of_its_own_says_its_step_and_waits_for_its_server() -> None:
    assert line(Key("claim", "HTTP")) == "claim: HTTP"
    assert waiting_line(Key("claim", "HTTP")) == "claim: waiting for DynamoDB"
    assert line(Key("close", "HTTP")) == "close"
    assert waiting_line(Key("close", "HTTP")) == "other steps: waiting for DynamoDB"
    assert waiting_line(Key("claim", "signing")) == NO_CORE
    assert {each.part for each in SPANS} >= WAITS.keys()
    assert set(IN_PARTS) <= STEPS.keys()


def test_the_table_has_every_line_once_and_the_small_ones_together() -> None:
    named = {"read: decode and validate": Share(0.3, 0.2), "begin": Share(0.0004, 0.0003), "commit": Share(0.0002, 0.0001)}
    runs = [ClientTime("by tar", 10, 1.0, 1.0, named, Share(0.0494, 0.0496), 0.01)]
    runs += [ClientTime("off", 10, 1.0, 1.0, {"close": Share(0.9, 0.99)}, Share(0.1, 0.01), 0.01)]
    assert markdown(runs) == [
        "| where the client's time goes | by tar: CPU time | by tar: wall time | off: CPU time | off: wall time |",
        "| --- | --- | --- | --- | --- |",
        "| read: decode and validate | 30.0% | 20.0% | 0.0% | 0.0% |",
        "| close | 0.0% | 0.0% | 90.0% | 99.0% |",
        "| the rest (2), each below 0.1% | 0.1% | 0.0% | 0.0% | 0.0% |",
        "| **not accounted** | 4.9% | 5.0% | 10.0% | 1.0% |",
    ]
