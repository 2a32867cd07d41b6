"""Where the client's time goes on the micro-batch path: one process, one plan, the real stores; every percent has a name, or is missing.

`python -m bench.client_time EVENTS` measures in the world that the environment's settings name, and prints JSON.
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
from bench.spans import COLLECTOR, OWN_THREADS, Key, Span, Spans, Spent, cost_ns, native_cpu_ns
from bench.world import World

WARM_UP = 1_000
"""Events moved before the clock counts: libraries are imported and connections made by then."""
CLAIMING, OBJECTS, HANDING_OUT = "claim", "event json", "hand out"
KAFKA, DYNAMODB, OBJECT_STORE = "Kafka", "DynamoDB", "the object store"

SPANS = (
    Span("analytics_defs.adapters.dynamodb.ledger:DynamoLedger.snapshot", "look"),
    Span("analytics_defs.flows.ingest.execute_plan:open_new_topics", "look"),
    Span("analytics_defs.flows.ingest.execute_plan:read_batch", "read"),
    Span("analytics_defs.adapters.kafka.reader:KafkaReader._wait", part="taking messages from librdkafka"),
    Span("analytics_defs.flows.ingest.read_batch:classify", part="decode and validate"),
    Span("analytics_defs.adapters.kafka.event_log:KafkaEventLog.topics", part="asking Kafka"),
    Span("analytics_defs.adapters.kafka.event_log:KafkaEventLog.explain_gaps", part="asking Kafka"),
    Span("analytics_defs.core.storage.staging_file:encode", part="encode, hash"),
    Span("analytics_defs.core.storage.staging_file:sha256_hex", part="encode, hash"),
    Span("analytics_defs.flows.ingest.execute_plan:claim_and_write", HANDING_OUT),
    Span("analytics_defs.adapters.dynamodb.recent_events:DynamoRecentEvents.claim", part="items and conditions"),
    Span("analytics_defs.adapters.dynamodb.client:_encode_body", part="JSON of the transaction"),
    Span("botocore.client:BaseClient._make_api_call", part="botocore"),
    Span("botocore.signers:RequestSigner.sign", part="signing"),
    Span("botocore.httpsession:URLLib3Session.send", part="HTTP"),
    Span("socket:SocketIO.readinto", part="reading the answer"),
    Span("botocore.parsers:ResponseParser.parse", part="parsing the answer"),
    Span("analytics_defs.flows.stored.event_json:_object", part="keys and metadata"),
    Span("analytics_defs.adapters.object_store.snowball:tar", part="building tars"),
    Span("hashlib:md5", part="hash of the tars"),
    Span("obstore:put", part="obstore"),
    Span("obstore:get", part="obstore"),
    Span("obstore:delete", part="obstore"),
    Span("analytics_defs.flows.ingest.execute_plan:build_batch_record", "close"),
    Span("analytics_defs.adapters.dynamodb.ledger:DynamoLedger.close_batch", "close"),
    Span("analytics_defs.adapters.object_store.store:S3ObjectStore.delete", "close"),
    Span("analytics_defs.flows.ingest.close_batch:commit_offsets", "commit"),
    Span("analytics_defs.adapters.kafka.event_log:KafkaEventLog.commit", part="asking Kafka"),
)
"""What is timed, beside the steps of the code's own stopwatch: read, begin, stage, claim, event json, encode (Parquet), files."""

WAITS = {
    "taking messages from librdkafka": KAFKA,
    "asking Kafka": KAFKA,
    "HTTP": DYNAMODB,
    "reading the answer": DYNAMODB,
    "obstore": OBJECT_STORE,
}
"""Parts in which a thread waits for a server. In all others it waits for a core or for the interpreter's lock."""
IN_PARTS = ("read", "stage", CLAIMING, OBJECTS)
"""Steps whose parts have lines of their own; of the others they are too small."""
STEPS = {
    "look": "look at the ledger",
    "read": "read",
    "begin": "begin",
    "stage": "stage",
    HANDING_OUT: "deduplicate, group, hand out to threads",
    CLAIMING: "claim",
    OBJECTS: "event json",
    "encode": "encode Parquet",
    "files": "put Parquet",
    "close": "close",
    "commit": "commit",
    COLLECTOR: "garbage collection",
}
"""In the order of a batch's life. What belongs to none is not accounted."""
NATIVE = {"rdk:": "librdkafka's own threads", "tokio-": "obstore's own threads (HTTP to the object store)"}
"""By how the names of threads begin that libraries start."""
NO_CORE = "waiting for a core or for Python's lock"
SMALL = 0.001
"""Lines below this share everywhere are one line."""
SERVERS = (KAFKA, DYNAMODB, OBJECT_STORE)


@dataclass(frozen=True, slots=True)
class Share:
    """Of the client's CPU time, and of the wall time: each moment of it is split among the threads that have something to do."""

    cpu: float
    wall: float


@dataclass(frozen=True, slots=True)
class Measured:
    """The process's time as it was read."""

    main: Mapping[Key, Spent]
    others: Mapping[Key, Spent]
    """All other threads of Python together."""
    native_ns: Mapping[str, int]
    """CPU of threads that libraries start, by name."""
    total: Spent


@dataclass(frozen=True, slots=True)
class ClientTime:
    """What one run's process spent."""

    how: str
    """How JSON objects were written."""
    events: int
    seconds: float
    cpu_seconds: float
    shares: Mapping[str, Share]
    """By line of the table, in the order of a batch's life."""
    not_accounted: Share
    measuring: float
    """Share of the CPU time that reading the clocks took; it lies inside the others."""


def client_time(world: World, how: str, events: int) -> ClientTime:
    """Fill the world and drain it in a process of its own: this one has threads that are no part of it."""
    world.produce(events + WARM_UP)
    found = TypeAdapter(ClientTime).validate_json(world.python("-m", "bench.client_time", str(events)))
    world.prove(events + WARM_UP)
    return replace(found, how=how)


def shares(found: Measured) -> tuple[dict[str, Share], Share]:
    """Each line's share, and what is not accounted. Together they are the whole.

    While the main thread waits for its own threads, that moment is theirs: it is split by what they were doing then.
    """
    cpu, wall = defaultdict[str, float](float), defaultdict[str, float](float)
    for name, ns in found.native_ns.items():
        cpu[_native_line(name)] += ns
    theirs = sum(each.wall_ns for key, each in found.others.items() if key.part != OWN_THREADS)
    handed_over = sum(each.waited_ns for key, each in found.main.items() if key.part == OWN_THREADS)
    for spent, weight in ((found.main, 1.0), (found.others, handed_over / theirs if theirs else 0.0)):
        for key, each in spent.items():
            working, waiting = line(key), waiting_line(key)
            cpu[working] += each.cpu_ns
            wall[working] += weight * min(each.cpu_ns, each.wall_ns)
            wall[waiting] += weight * each.waited_ns if key.part != OWN_THREADS else 0.0
    named = {name: Share(cpu[name] / found.total.cpu_ns, wall[name] / found.total.wall_ns) for name in order() if name in cpu | wall}
    missing = Share(1 - sum(each.cpu for each in named.values()), 1 - sum(each.wall for each in named.values()))
    return named, missing


def line(key: Key) -> str:
    """What a thread does there. Empty: nothing that has a name."""
    step = STEPS.get(key.step, "")
    part = key.part if key.part != OWN_THREADS else ""
    return f"{step}: {part or 'the rest of our own code'}" if key.step in IN_PARTS else step


def waiting_line(key: Key) -> str:
    """What a thread waits for there."""
    if key.step not in STEPS:
        return ""
    server = WAITS.get(key.part)
    return f"{STEPS[key.step] if key.step in IN_PARTS else 'other steps'}: waiting for {server}" if server else NO_CORE


def _native_line(name: str) -> str:
    return next((called for prefix, called in NATIVE.items() if name.startswith(prefix)), "")


def order() -> list[str]:
    """Every line there can be."""
    parts = ["", *dict.fromkeys(each.part for each in SPANS if each.part)]
    lines: list[str] = []
    for step in STEPS:
        lines += [line(Key(step, part)) for part in parts]
        lines += [waiting_line(Key(step, part)) for part in parts if step in IN_PARTS and part in WAITS]
    lines += [f"other steps: waiting for {server}" for server in SERVERS]
    return list(dict.fromkeys([*lines, *NATIVE.values(), NO_CORE]))


def measure(events: int) -> ClientTime:
    """In this process: a first plan to warm up, then the rest."""
    settings, spans, cost = load_settings(), Spans(), cost_ns()
    conduct = wiring.ingest_options(settings, "bench")
    with spans.installed(SPANS):
        ports = wiring.build_ports(settings)
        execute_plan(_plan(settings, ports, WARM_UP), ports, conduct)
        plan = _plan(settings, ports, events)
        spans.clear()
        native_ns, begun = native_cpu_ns(), Spent(time.process_time_ns(), time.perf_counter_ns())
        with reduced_gc(), spans.span(""):
            execute_plan(plan, ports, conduct)
        total = Spent(time.process_time_ns() - begun.cpu_ns, time.perf_counter_ns() - begun.wall_ns)
        native_ns = {name: ns - native_ns.get(name, 0) for name, ns in native_cpu_ns().items()}
    found = Measured(spans.spent(is_main=True), spans.spent(is_main=False), native_ns, total)
    turns = sum(each.count for spent in (found.main, found.others) for each in spent.values())
    return ClientTime("", events, total.wall_ns / 1e9, total.cpu_ns / 1e9, *shares(found), measuring=cost * turns / 2 / total.cpu_ns)


def _plan(settings: Settings, ports: Ports, events: int) -> Plan:
    """Of the only lane."""
    return plan_lanes(settings.kafka_topics, replace(settings.planning_policy(), max_offsets=events), ports).plans[0]


def markdown(found: Sequence[ClientTime]) -> list[str]:
    """One table: for each run its shares of CPU and wall time."""
    names = [name for name in order() if any(name in each.shares for each in found)]
    rows = {name: [each.shares.get(name, Share(0, 0)) for each in found] for name in names}
    small = [name for name, each in rows.items() if all(max(share.cpu, share.wall) < SMALL for share in each)]
    rest = [Share(*(sum(getattr(rows[name][number], kind) for name in small) for kind in ("cpu", "wall"))) for number in range(len(found))]
    lines = [(name, each) for name, each in rows.items() if name not in small]
    lines += [(f"the rest ({len(small)}), each below {SMALL:.1%}", rest)] if small else []
    lines += [("**not accounted**", [each.not_accounted for each in found])]
    heads = [f"{each.how}: {kind} time" for each in found for kind in ("CPU", "wall")]
    cells = [[name, *(f"{round(part, 3) + 0:.1%}" for share in each for part in (share.cpu, share.wall))] for name, each in lines]
    return [f"| {' | '.join(row)} |" for row in (["where the client's time goes", *heads], ["---"] * (1 + len(heads)), *cells)]


if __name__ == "__main__":
    sys.stdout.buffer.write(TypeAdapter(ClientTime).dump_json(measure(int(sys.argv[1]))))
