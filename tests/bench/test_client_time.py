"""The profile of the client: time is added to one span only, and time without a name is reported as missing."""

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
    CLAIM,
    DISPATCH,
    EVENT_JSON,
    IN_PARTS,
    NO_CORE,
    SPANS,
    STEPS,
    WAITS,
    ClientTime,
    Measurements,
    TimeRatio,
    line,
    markdown,
    order,
    time_ratios,
    waiting_line,
)
from bench.spans import COLLECTOR, OWN_THREADS, Key, Span, Spans, TimeSpent
from tests.core.events.made_events import reproducibly

NOW = datetime(2024, 1, 15, 10, 30, tzinfo=UTC)
MS = 1_000_000


class Clocks:
    """Manual CPU and wall clocks of this thread."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cpu = self.wall = 0
        monkeypatch.setattr(time, "thread_time_ns", lambda: self.cpu)
        monkeypatch.setattr(time, "perf_counter_ns", lambda: self.wall)

    def work(self, ms: int) -> None:
        self.cpu += ms * MS
        self.wall += ms * MS

    def wait(self, ms: int) -> None:
        self.wall += ms * MS


def in_ms(spent: Mapping[Key, TimeSpent]) -> dict[Key, tuple[int, int]]:
    """Return work and waiting time in milliseconds."""
    return {key: (time_spent.cpu_ns // MS, time_spent.waited_ns // MS) for key, time_spent in spent.items()}


def test_time_is_added_only_to_the_innermost_span(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_span_ends_if_the_timed_function_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, spans = Clocks(monkeypatch), Spans()
    with spans.installed((Span("analytics_defs.flows.ingest.close_batch:commit_offsets", "commit"),)):
        with pytest.raises(AttributeError):
            close_batch.commit_offsets(None, None)  # type: ignore[arg-type]
        clock.work(7)
    assert in_ms(spans.spent(is_main=True)) == {Key("commit"): (0, 0)}


def timed_functions() -> list[object]:
    """Return the current objects under the names that are timed."""
    functions: list[object] = [pkgutil.resolve_name(span.target) for span in SPANS]
    return [*functions, ThreadTaskPool.run_all, pkgutil.resolve_name("analytics_defs.flows.ingest.execute_plan:Stopwatch")]


def test_every_timed_function_exists_and_is_restored_afterwards() -> None:
    before, callbacks = timed_functions(), list(gc.callbacks)
    with Spans().installed(SPANS):
        assert not [current for current, original in zip(timed_functions(), before, strict=True) if current is original]
    assert timed_functions() == before
    assert gc.callbacks == callbacks


def test_jobs_belong_to_the_waiting_step_and_collections_to_the_collector() -> None:
    spans, workers = Spans(), ThreadTaskPool(2)
    try:
        with spans.installed(()), spans.span("event json"):
            workers.run_all([gc.collect, gc.collect])
    finally:
        workers.close()
    assert set(spans.spent(is_main=True)) == {Key("event json"), Key("event json", OWN_THREADS)}
    assert set(spans.spent(is_main=False)) == {Key("event json"), Key(COLLECTOR)}
    assert spans.spent(is_main=False)[Key(COLLECTOR)].cpu_ns > 0


def test_every_step_of_a_batch_has_a_line_in_the_table() -> None:
    log, workers = MemoryEventLog(), ThreadTaskPool(2)
    for topic in EVENT_TYPES:
        log.create_topic(topic)
    ports = Ports(log, MemoryRecentEvents(), MemoryObjectStore(), MemoryLedger(), ManualClock(NOW), workers)
    for message in islice(messages(1, lambda: NOW, CLEAN_MIX), 300):
        log.append(message.topic, 0, message.value, key=message.key, timestamp_ms=0)
    [plan] = filter(None, plan_lanes(EVENT_TYPES, PlanningPolicy(), ports).plans)
    spans = Spans()
    try:
        with spans.installed(SPANS), spans.span(""):
            assert execute_plan(plan, ports, IngestOptions("run", ValidationRules(max_event_bytes=2**20))).closed
    finally:
        workers.close()
    recorded = {*spans.spent(is_main=True), *spans.spent(is_main=False)}
    assert {key.step for key in recorded} - {"", COLLECTOR} == STEPS.keys() - {COLLECTOR}
    assert {line(key) for key in recorded if key.step} <= set(order())
    assert Key("read", "decode and validate") in recorded


def test_waiting_of_the_main_thread_is_divided_among_its_worker_threads() -> None:
    measured = Measurements(
        main={
            Key("read"): TimeSpent(cpu_ns=10, wall_ns=20),
            Key(DISPATCH, OWN_THREADS): TimeSpent(cpu_ns=0, wall_ns=80),
        },
        others={
            Key(CLAIM, "read the response"): TimeSpent(cpu_ns=0, wall_ns=300),
            Key(CLAIM, "signing"): TimeSpent(cpu_ns=40, wall_ns=100),
            Key(EVENT_JSON, OWN_THREADS): TimeSpent(cpu_ns=0, wall_ns=999),  # the work of its worker threads is counted there
        },
        native_ns={"rdk:broker0": 25, "tokio-runtime-w": 15},
        total=TimeSpent(cpu_ns=100, wall_ns=100),
    )
    named, missing = time_ratios(measured)
    assert named["read: other code of the platform"] == TimeRatio(0.1, 0.1)
    walls = {name: round(ratio.wall, 9) for name, ratio in named.items() if ratio.wall}
    assert walls == {
        "read: other code of the platform": 0.1,
        "claim: signing": 0.08,  # 40 of 400 thread-ns, of the 80 that were dispatched
        "claim: waiting for DynamoDB": 0.6,
        NO_CORE: 0.22,  # 10 of the main thread, and 60 of those 400
    }
    assert (named["claim: signing"].cpu, named["threads of librdkafka"].cpu) == (0.4, 0.25)
    assert (round(missing.cpu, 9), round(missing.wall, 9)) == (0.1, 0)


keys = st.builds(Key, st.sampled_from([*STEPS, "", "unknown"]), st.sampled_from(["", "unknown", OWN_THREADS, *WAITS, "signing"]))
spent = st.dictionaries(keys, st.builds(lambda cpu, waited: TimeSpent(cpu, cpu + waited), st.integers(0, 10**6), st.integers(0, 10**9)))
native = st.dictionaries(st.sampled_from(["rdk:main", "tokio-runtime-w", "other"]), st.integers(0, 10**6))


@reproducibly
@given(spent, spent, native, st.integers(1, 10**6))
def test_all_ratios_add_up_to_one_and_unknown_time_is_never_named(
    main: Mapping[Key, TimeSpent], others: Mapping[Key, TimeSpent], native_ns: Mapping[str, int], cpu_ns: int
) -> None:
    covered = sum(time_spent.cpu_ns for part in (main, others) for time_spent in part.values()) + sum(native_ns.values())
    named, missing = time_ratios(Measurements(main, others, native_ns, TimeSpent(covered + cpu_ns, 10**12)))
    assert sum(ratio.cpu for ratio in named.values()) + missing.cpu == pytest.approx(1)
    assert sum(ratio.wall for ratio in named.values()) + missing.wall == pytest.approx(1)
    is_unknown = {key: key.step not in STEPS or (key.step in IN_PARTS and key.part == "unknown") for key in (*main, *others)}
    unnamed = sum(time_spent.cpu_ns for part in (main, others) for key, time_spent in part.items() if is_unknown[key])
    unnamed += native_ns.get("other", 0) + cpu_ns
    assert missing.cpu == pytest.approx(unnamed / (covered + cpu_ns))
    assert list(named) == [name for name in order() if name in named]


def test_lines_name_the_step_the_part_and_the_server() -> None:
    assert line(Key("claim", "HTTP")) == "claim: HTTP"
    assert waiting_line(Key("claim", "HTTP")) == "claim: waiting for DynamoDB"
    assert line(Key("close", "HTTP")) == "close"
    assert waiting_line(Key("close", "HTTP")) == "other steps: waiting for DynamoDB"
    assert waiting_line(Key("claim", "signing")) == NO_CORE
    assert {span.part for span in SPANS} >= WAITS.keys()
    assert set(IN_PARTS) <= STEPS.keys()


def test_the_table_has_every_line_once_and_combines_small_lines() -> None:
    named = {"read: decode and validate": TimeRatio(0.3, 0.2), "begin": TimeRatio(0.0004, 0.0003), "commit": TimeRatio(0.0002, 0.0001)}
    runs = [ClientTime("by tar", 10, 1.0, 1.0, named, TimeRatio(0.0494, 0.0496), 0.01)]
    runs += [ClientTime("off", 10, 1.0, 1.0, {"close": TimeRatio(0.9, 0.99)}, TimeRatio(0.1, 0.01), 0.01)]
    assert markdown(runs) == [
        "| client time | by tar: CPU time | by tar: wall time | off: CPU time | off: wall time |",
        "| --- | --- | --- | --- | --- |",
        "| read: decode and validate | 30.0% | 20.0% | 0.0% | 0.0% |",
        "| close | 0.0% | 0.0% | 90.0% | 99.0% |",
        "| the rest (2), each below 0.1% | 0.1% | 0.0% | 0.0% | 0.0% |",
        "| **not accounted for** | 4.9% | 5.0% | 10.0% | 1.0% |",
    ]
