"""Figures as one report of tables, for the terminal and for the docs."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from bench import client_time
from bench.ceilings import Ceilings
from bench.client_time import ClientTime
from bench.drain import Drained
from bench.lanes import DELAY, Scaling
from bench.latency import Latency

STEPS = ("read", "begin", "stage", "claim", "event json", "encode", "files")
"""In the order of a batch's life; others come behind."""


def machine() -> str:
    """What the figures were measured on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    kind = models[0] if models else platform.machine()
    return f"{cores} cores ({kind}), {memory:.0f} GiB, {platform.system()}, Python {platform.python_version()}"


@dataclass(slots=True)
class Results:
    """What was measured so far; the rest is missing."""

    day: str = field(default_factory=lambda: f"{datetime.now(UTC):%Y-%m-%d}")
    machine: str = field(default_factory=machine)
    ceilings: Ceilings | None = None
    """Measured between the drains."""
    drained: list[Drained] = field(default_factory=list)
    scaling: Scaling | None = None
    latencies: list[Latency] = field(default_factory=list)
    client: list[ClientTime] = field(default_factory=list)
    large_records_mib: float | None = None
    """Peak memory of runs that drained records of 900 KB."""


def markdown(results: Results) -> str:
    blocks = [
        [f"Measured on {results.day}: {results.machine}. Servers and clients share it."],
        _drains(results.drained, results.ceilings),
        _raw(results.ceilings),
        _scaling(results.scaling),
        _latencies(results.latencies),
        _steps(results.drained),
        _client(results.client),
        _memory(results.large_records_mib),
    ]
    return "\n\n".join("\n".join(block) for block in blocks if block) + "\n"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def _drains(drained: Sequence[Drained], ceilings: Ceilings | None) -> list[str]:
    if not drained:
        return []
    legend = (
        "A backlog in Kafka, drained by the runs that the sensor asks for. Events a second: from the creation of the first run to the "
        "close of the last batch; in batches: while a lane works, without the starts of processes, over all lanes. Shares are of the raw "
        "ceilings below: of the store that limits such a drain alone, and of all the requests that it makes, side by side on the same "
        f"machine; in brackets the same in batches.{_left_out(drained)}"
    )
    return [
        legend,
        "",
        *_table(
            (
                *("drain", "events", "events/s", "events/s in batches", "of the limiting store's ceiling", "of the ceiling side by side"),
                *("runs", "peak memory of a run"),
            ),
            [
                (
                    *(name(each), f"{each.events:,}", f"{each.per_second:,.0f}", f"{in_batches(each):,.0f}"),
                    *_shares(each, ceilings),
                    *(f"{each.runs}", f"{each.peak_mib:.0f} MiB"),
                )
                for each in drained
            ],
        ),
    ]


def name(each: Drained) -> str:
    return f"{each.lanes} lane{'s' if each.lanes > 1 else ''}, {each.write_event_json.value}"


def in_batches(each: Drained) -> float:
    """Events a second, over all lanes."""
    return each.per_second_in_batches * each.lanes


def _shares(each: Drained, ceilings: Ceilings | None) -> list[str]:
    if ceilings is None:
        return ["not measured"] * 2
    limits = (ceilings.of(each.write_event_json), ceilings.side_by_side(each.write_event_json))
    return [f"{each.per_second / limit:.0%} ({in_batches(each) / limit:.0%})" for limit in limits]


def _left_out(drained: Sequence[Drained]) -> str:
    """Kinds that were drained, but not by the largest number of lanes."""
    most = max(each.lanes for each in drained)
    kinds, measured = ({each.write_event_json: None for each in drained if each.lanes >= lanes} for lanes in (1, most))
    missing = [kind.value for kind in kinds if kind not in measured]
    return f" Not measured with {most} lanes, to save time: {', '.join(missing)}." if missing else ""


def _raw(ceilings: Ceilings | None) -> list[str]:
    if ceilings is None:
        return []
    found = [
        ("claims (transactions of 100 conditional puts, DynamoDB Local)", ceilings.claims),
        ("single PUTs (MinIO)", ceilings.puts),
        ("objects in tars (MinIO)", ceilings.tars),
        ("claim and single PUT of each event, side by side", ceilings.claims_and_puts),
        ("claim and object in a tar of each event, side by side", ceilings.claims_and_tars),
    ]
    return _table(("raw ceiling: the same requests, and no pipeline", "events/s"), [(what, f"{rate:,.0f}") for what, rate in found])


def _scaling(found: Scaling | None) -> list[str]:
    if found is None:
        return []
    head = (f"lanes at the same time, no store is the limit ({DELAY})", "events/s", "times one lane")
    rows = [(f"{lanes}", f"{rate:,.0f}", f"{rate / found.per_second[1]:.2f}") for lanes, rate in found.per_second.items()]
    return _table(head, rows)


def _latencies(found: Sequence[Latency]) -> list[str]:
    if not found:
        return []
    head = ("from a record's production to its item, by launcher", "events", "events/s", "p50", "p99", "worst")
    rows = [
        (
            *(each.launcher, f"{each.events:,}", f"{each.per_second:g}"),
            *(f"{seconds:.1f} s" for seconds in (each.p50_seconds, each.p99_seconds, each.worst_seconds)),
        )
        for each in found
    ]
    return _table(head, rows)


def steps_of(drained: Sequence[Drained]) -> list[str]:
    """The steps that took time, in the order of a batch's life."""
    found = dict.fromkeys(step for each in drained for step in each.steps_seconds)
    return [*(step for step in STEPS if step in found), *(step for step in found if step not in STEPS)]


def seconds_by_step(each: Drained) -> dict[str, float]:
    """Thread-seconds for each 100,000 events."""
    return {step: seconds * 100_000 / each.events for step, seconds in each.steps_seconds.items()}


def _steps(drained: Sequence[Drained]) -> list[str]:
    if not drained:
        return []
    steps = steps_of(drained)
    rows = [(f"{name(each)}: {each.events:,}", *(f"{seconds_by_step(each).get(step, 0):,.1f}" for step in steps)) for each in drained]
    return [
        "Seconds by step for each 100,000 events, summed over threads: steps overlap, so together they exceed the duration.",
        "",
        *_table(("drain: events", *steps), rows),
    ]


def _client(found: Sequence[ClientTime]) -> list[str]:
    """Who asks for a percent finds it."""
    if not found:
        return []
    spent = "; ".join(
        f"{each.how}: {each.events:,} events in {each.seconds:.1f} s with {each.cpu_seconds:.1f} s of CPU "
        f"({each.cpu_seconds / each.events * 1e6:,.0f} µs an event), {each.measuring:.1%} of it for reading the clocks"
        for each in found
    )
    legend = (
        f"Where a run's process spends its time, one lane, imports and connections made before. {spent}. Wall time: each moment is split "
        "among the threads that have something to do. Dagster's own time is not in it."
    )
    return [legend, "", *client_time.markdown(found)]


def _memory(large_records_mib: float | None) -> list[str]:
    return [] if large_records_mib is None else [f"Peak memory of a run over records of 900 KB: {large_records_mib:.0f} MiB."]
