"""A profile of the micro-batch path: one process, one plan, real stores. Time without a name is reported as missing.

`python -m bench.client_time EVENTS` measures with the settings of the environment and prints JSON.
"""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pydantic import TypeAdapter

from analytics_defs import wiring
from analytics_defs.adapters.runtime.system import reduced_gc
from analytics_defs.config import Settings, load_settings
from analytics_defs.core.ingest.planning import Plan
from analytics_defs.flows.ingest.execute_plan import execute_plan
from analytics_defs.flows.ingest.planning import plan_lanes
from analytics_defs.ports import Ports
from bench.spans import COLLECTOR, OWN_THREADS, Key, Span, Spans, TimeSpent, cost_ns, native_cpu_ns
from bench.world import World

WARM_UP = 1_000
"""Events that are ingested before the measurement, so that imports and connections are not measured."""
CLAIM, EVENT_JSON, DISPATCH = "claim", "event json", "dispatch"
KAFKA, DYNAMODB, OBJECT_STORE = "Kafka", "DynamoDB", "the object store"

SPANS = (
    Span("analytics_defs.adapters.dynamodb.ledger:DynamoLedger.snapshot", "snapshot"),
    Span("analytics_defs.flows.ingest.execute_plan:open_new_topics", "snapshot"),
    Span("analytics_defs.flows.ingest.execute_plan:read_batch", "read"),
    Span("analytics_defs.adapters.kafka.reader:KafkaReader._wait", part="receive from librdkafka"),
    Span("analytics_defs.flows.ingest.read_batch:classify", part="decode and validate"),
    Span("analytics_defs.adapters.kafka.event_log:KafkaEventLog.topics", part="Kafka requests"),
    Span("analytics_defs.adapters.kafka.event_log:KafkaEventLog.explain_gaps", part="Kafka requests"),
    Span("analytics_defs.core.storage.staging_file:encode", part="encode and hash"),
    Span("analytics_defs.flows.ingest.stage_batch:sha256_hex", part="encode and hash"),
    Span("analytics_defs.flows.ingest.execute_plan:claim_and_write", DISPATCH),
    Span("analytics_defs.adapters.dynamodb.recent_events:DynamoRecentEvents.claim", part="build items and conditions"),
    Span("analytics_defs.adapters.dynamodb.client:_encode_body", part="JSON of the transaction"),
    Span("botocore.client:BaseClient._make_api_call", part="botocore"),
    Span("botocore.signers:RequestSigner.sign", part="signing"),
    Span("botocore.httpsession:URLLib3Session.send", part="HTTP"),
    Span("socket:SocketIO.readinto", part="read the response"),
    Span("botocore.parsers:ResponseParser.parse", part="parse the response"),
    Span("analytics_defs.flows.stored.event_json:_json_object", part="keys and metadata"),
    Span("analytics_defs.adapters.object_store.snowball:tar", part="build tar files"),
    Span("hashlib:md5", part="hash tar files"),
    Span("obstore:put", part="obstore"),
    Span("obstore:get", part="obstore"),
    Span("obstore:delete", part="obstore"),
    Span("analytics_defs.flows.ingest.execute_plan:build_batch_record", "close"),
    Span("analytics_defs.adapters.dynamodb.ledger:DynamoLedger.close_batch", "close"),
    Span("analytics_defs.adapters.object_store.store:S3ObjectStore.delete", "close"),
    Span("analytics_defs.flows.ingest.close_batch:commit_offsets", "commit"),
    Span("analytics_defs.adapters.kafka.event_log:KafkaEventLog.commit", part="Kafka requests"),
)
"""Timed functions, in addition to the steps of `Stopwatch`: read, begin, stage, claim, event json, encode, files."""

WAITS = {
    "receive from librdkafka": KAFKA,
    "Kafka requests": KAFKA,
    "HTTP": DYNAMODB,
    "read the response": DYNAMODB,
    "obstore": OBJECT_STORE,
}
"""Parts in which a thread waits for a server. In all other parts it waits for a core or for Python's GIL."""
IN_PARTS = ("read", "stage", CLAIM, EVENT_JSON)
"""Steps with one line for each part. The parts of other steps are too small."""
STEPS = {
    "snapshot": "read the ledger",
    "read": "read",
    "begin": "begin",
    "stage": "stage",
    DISPATCH: "deduplicate, group, dispatch to threads",
    CLAIM: "claim",
    EVENT_JSON: "event json",
    "encode": "encode Parquet",
    "files": "put Parquet",
    "close": "close",
    "commit": "commit",
    COLLECTOR: "garbage collection",
}
"""Labels of the steps, in the order of execution. Time in no step is not accounted for."""
NATIVE = {"rdk:": "threads of librdkafka", "tokio-": "threads of obstore (HTTP to the object store)"}
"""Labels of native threads, by the prefix of their names."""
NO_CORE = "waiting for a core or the GIL"
SMALL = 0.001
"""Lines below this ratio in all profiles are combined."""
SERVERS = (KAFKA, DYNAMODB, OBJECT_STORE)


@dataclass(frozen=True, slots=True)
class TimeRatio:
    """Ratio of the process's CPU time, and of its wall time. Wall time is divided among the threads that are active."""

    cpu: float
    wall: float


@dataclass(frozen=True, slots=True)
class Measurements:
    """Times of the process as measured."""

    main: Mapping[Key, TimeSpent]
    others: Mapping[Key, TimeSpent]
    """Sum of all other Python threads."""
    native_ns: Mapping[str, int]
    """CPU time of native threads, by thread name."""
    total: TimeSpent


@dataclass(frozen=True, slots=True)
class ClientTime:
    """The profile of one run's process."""

    mode: str
    """How JSON objects were written."""
    events: int
    seconds: float
    cpu_seconds: float
    ratios: Mapping[str, TimeRatio]
    """Keyed by line of the table, in the order of execution."""
    not_accounted: TimeRatio
    measuring: float
    """Ratio of the CPU time for reading the clocks. It is included in the other lines."""


def client_time(world: World, mode: str, events: int) -> ClientTime:
    """Produce events and profile their ingestion in a new process, without the threads of this one."""
    world.produce(events + WARM_UP)
    profile = TypeAdapter(ClientTime).validate_json(world.python("-m", "bench.client_time", str(events)))
    world.verify(events + WARM_UP)
    return replace(profile, mode=mode)


def time_ratios(measured: Measurements) -> tuple[dict[str, TimeRatio], TimeRatio]:
    """Return the ratio of each line, and the ratio that is not accounted for. They add up to 1.

    While the main thread waits for its worker threads, its wall time is divided by the activity of these threads.
    """
    cpu, wall = defaultdict[str, float](float), defaultdict[str, float](float)
    for name, ns in measured.native_ns.items():
        cpu[_native_line(name)] += ns
    worker_ns = sum(spent.wall_ns for key, spent in measured.others.items() if key.part != OWN_THREADS)
    dispatched_ns = sum(spent.waited_ns for key, spent in measured.main.items() if key.part == OWN_THREADS)
    weights = ((measured.main, 1.0), (measured.others, dispatched_ns / worker_ns if worker_ns else 0.0))
    for times, weight in weights:
        for key, spent in times.items():
            working, waiting = line(key), waiting_line(key)
            cpu[working] += spent.cpu_ns
            wall[working] += weight * min(spent.cpu_ns, spent.wall_ns)
            wall[waiting] += weight * spent.waited_ns if key.part != OWN_THREADS else 0.0
    total = measured.total
    named = {name: TimeRatio(cpu[name] / total.cpu_ns, wall[name] / total.wall_ns) for name in order() if name in cpu | wall}
    missing = TimeRatio(1 - sum(ratio.cpu for ratio in named.values()), 1 - sum(ratio.wall for ratio in named.values()))
    return named, missing


def line(key: Key) -> str:
    """Return the table line for the work of a thread. Empty if the step has no name."""
    step = STEPS.get(key.step, "")
    part = key.part if key.part != OWN_THREADS else ""
    return f"{step}: {part or 'other code of the platform'}" if key.step in IN_PARTS else step


def waiting_line(key: Key) -> str:
    """Return the table line for the waiting of a thread."""
    if key.step not in STEPS:
        return ""
    server = WAITS.get(key.part)
    return f"{STEPS[key.step] if key.step in IN_PARTS else 'other steps'}: waiting for {server}" if server else NO_CORE


def _native_line(name: str) -> str:
    return next((label for prefix, label in NATIVE.items() if name.startswith(prefix)), "")


def order() -> list[str]:
    """Return every possible line, in the order of execution."""
    parts = ["", *dict.fromkeys(span.part for span in SPANS if span.part)]
    lines: list[str] = []
    for step in STEPS:
        lines += [line(Key(step, part)) for part in parts]
        lines += [waiting_line(Key(step, part)) for part in parts if step in IN_PARTS and part in WAITS]
    lines += [f"other steps: waiting for {server}" for server in SERVERS]
    return list(dict.fromkeys([*lines, *NATIVE.values(), NO_CORE]))


def measure(events: int) -> ClientTime:
    """Ingest a first plan to warm up, then profile the rest, in this process."""
    settings, spans, cost = load_settings(), Spans(), cost_ns()
    options = wiring.ingest_options(settings, "bench")
    with spans.installed(SPANS):
        ports = wiring.build_ports(settings)
        execute_plan(_plan(settings, ports, WARM_UP), ports, options)
        plan = _plan(settings, ports, events)
        spans.clear()
        native_ns, started = native_cpu_ns(), TimeSpent(time.process_time_ns(), time.perf_counter_ns())
        with reduced_gc(), spans.span(""):
            execute_plan(plan, ports, options)
        total = TimeSpent(time.process_time_ns() - started.cpu_ns, time.perf_counter_ns() - started.wall_ns)
        native_ns = {name: ns - native_ns.get(name, 0) for name, ns in native_cpu_ns().items()}
    measured = Measurements(spans.spent(is_main=True), spans.spent(is_main=False), native_ns, total)
    readings = sum(spent.count for times in (measured.main, measured.others) for spent in times.values())
    return ClientTime(
        "", events, total.wall_ns / 1e9, total.cpu_ns / 1e9, *time_ratios(measured), measuring=cost * readings / 2 / total.cpu_ns
    )


def _plan(settings: Settings, ports: Ports, events: int) -> Plan:
    """Return the plan of the only lane."""
    return plan_lanes(settings.kafka_topics, replace(settings.planning_policy(), max_offsets=events), ports).plans[0]


def markdown(profiles: Sequence[ClientTime]) -> list[str]:
    """Return one table with the ratios of CPU and wall time of each profile."""
    names = [name for name in order() if any(name in profile.ratios for profile in profiles)]
    rows = {name: [profile.ratios.get(name, TimeRatio(0, 0)) for profile in profiles] for name in names}
    small = [name for name, ratios in rows.items() if all(max(ratio.cpu, ratio.wall) < SMALL for ratio in ratios)]
    rest = [
        TimeRatio(*(sum(getattr(rows[name][number], kind) for name in small) for kind in ("cpu", "wall")))
        for number in range(len(profiles))
    ]
    lines = [(name, ratios) for name, ratios in rows.items() if name not in small]
    lines += [(f"the rest ({len(small)}), each below {SMALL:.1%}", rest)] if small else []
    lines += [("**not accounted for**", [profile.not_accounted for profile in profiles])]
    header = ["client time", *(f"{profile.mode}: {kind} time" for profile in profiles for kind in ("CPU", "wall"))]
    cells = [[name, *(f"{round(part, 3) + 0:.1%}" for ratio in ratios for part in (ratio.cpu, ratio.wall))] for name, ratios in lines]
    return [f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *cells)]


if __name__ == "__main__":
    sys.stdout.buffer.write(TypeAdapter(ClientTime).dump_json(measure(int(sys.argv[1]))))
