"""The results as a Markdown report of tables."""

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
from bench.drain import DrainResult
from bench.lanes import DELAY, Scaling
from bench.latency import Latency

STEPS = ("read", "begin", "stage", "claim", "event json", "encode", "files")
"""Steps in the order of execution. Other steps are listed last."""


def machine() -> str:
    """Return a description of the machine: cores, CPU, memory, system."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    kind = models[0] if models else platform.machine()
    return f"{cores} cores ({kind}), {memory:.0f} GiB, {platform.system()}, Python {platform.python_version()}"


@dataclass(slots=True)
class Results:
    """The measurements so far. A benchmark that was not run has no value."""

    day: str = field(default_factory=lambda: f"{datetime.now(UTC):%Y-%m-%d}")
    machine: str = field(default_factory=machine)
    ceilings: Ceilings | None = None
    """Measured between the drains."""
    drained: list[DrainResult] = field(default_factory=list)
    scaling: Scaling | None = None
    latencies: list[Latency] = field(default_factory=list)
    client: list[ClientTime] = field(default_factory=list)
    large_records_mib: float | None = None
    """Peak memory in MiB of runs that drained records of 900 KB."""


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


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows)]


def _drains(drained: Sequence[DrainResult], ceilings: Ceilings | None) -> list[str]:
    if not drained:
        return []
    legend = (
        "A backlog in Kafka, drained by the runs of the sensor. `events/s`: from the creation of the first run to the close of the last "
        "batch. `events/s in batches`: only while lanes process batches, without process starts, sum of all lanes. The percentages "
        "compare with the raw ceilings below: of the limiting store alone, and of all requests of the drain side by side. In brackets: "
        f"the same in batches.{_left_out(drained)}"
    )
    return [
        legend,
        "",
        *_table(
            (
                *("drain", "events", "events/s", "events/s in batches", "of the limiting store's ceiling", "of the side-by-side ceiling"),
                *("runs", "peak memory of a run"),
            ),
            [
                (
                    *(name(drain), f"{drain.events:,}", f"{drain.per_second:,.0f}", f"{in_batches(drain):,.0f}"),
                    *_ratios(drain, ceilings),
                    *(f"{drain.runs}", f"{drain.peak_mib:.0f} MiB"),
                )
                for drain in drained
            ],
        ),
    ]


def name(drain: DrainResult) -> str:
    return f"{drain.lanes} lane{'s' if drain.lanes > 1 else ''}, {drain.event_json.value}"


def in_batches(drain: DrainResult) -> float:
    """Return events per second while lanes process batches, sum of all lanes."""
    return drain.per_second_in_batches * drain.lanes


def _ratios(drain: DrainResult, ceilings: Ceilings | None) -> list[str]:
    if ceilings is None:
        return ["not measured"] * 2
    limits = (ceilings.of(drain.event_json), ceilings.side_by_side(drain.event_json))
    return [f"{drain.per_second / limit:.0%} ({in_batches(drain) / limit:.0%})" for limit in limits]


def _left_out(drained: Sequence[DrainResult]) -> str:
    """Return a sentence with the modes that were not measured with the largest number of lanes."""
    most = max(drain.lanes for drain in drained)
    modes, measured = ({drain.event_json: None for drain in drained if drain.lanes >= lanes} for lanes in (1, most))
    missing = [mode.value for mode in modes if mode not in measured]
    return f" Not measured with {most} lanes, to save time: {', '.join(missing)}." if missing else ""


def _raw(ceilings: Ceilings | None) -> list[str]:
    if ceilings is None:
        return []
    rows = [
        ("claims (transactions of 100 conditional puts, DynamoDB Local)", ceilings.claims),
        ("single PUTs (MinIO)", ceilings.puts),
        ("objects in tars (MinIO)", ceilings.tars),
        ("claim and single PUT of each event, side by side", ceilings.claims_and_puts),
        ("claim and object in a tar of each event, side by side", ceilings.claims_and_tars),
    ]
    return _table(("raw ceiling: the same requests without the pipeline", "events/s"), [(label, f"{rate:,.0f}") for label, rate in rows])


def _scaling(scaling: Scaling | None) -> list[str]:
    if scaling is None:
        return []
    header = (f"concurrent lanes, not limited by a store ({DELAY})", "events/s", "times one lane")
    rows = [(f"{lanes}", f"{rate:,.0f}", f"{rate / scaling.per_second[1]:.2f}") for lanes, rate in scaling.per_second.items()]
    return _table(header, rows)


def _latencies(latencies: Sequence[Latency]) -> list[str]:
    if not latencies:
        return []
    header = ("from production of a record to its item, by launcher", "events", "events/s", "p50", "p99", "worst")
    rows = [
        (
            *(latency.launcher, f"{latency.events:,}", f"{latency.per_second:g}"),
            *(f"{seconds:.1f} s" for seconds in (latency.p50_seconds, latency.p99_seconds, latency.worst_seconds)),
        )
        for latency in latencies
    ]
    return _table(header, rows)


def steps_of(drained: Sequence[DrainResult]) -> list[str]:
    """Return the steps that took time, in the order of execution."""
    steps = dict.fromkeys(step for drain in drained for step in drain.steps_seconds)
    return [*(step for step in STEPS if step in steps), *(step for step in steps if step not in STEPS)]


def seconds_by_step(drain: DrainResult) -> dict[str, float]:
    """Return thread-seconds per 100,000 events by step."""
    return {step: seconds * 100_000 / drain.events for step, seconds in drain.steps_seconds.items()}


def _steps(drained: Sequence[DrainResult]) -> list[str]:
    if not drained:
        return []
    steps = steps_of(drained)
    rows = [(f"{name(drain)}: {drain.events:,}", *(f"{seconds_by_step(drain).get(step, 0):,.1f}" for step in steps)) for drain in drained]
    return [
        "Seconds by step per 100,000 events, summed over threads. Steps overlap, so their sum exceeds the duration.",
        "",
        *_table(("drain: events", *steps), rows),
    ]


def _client(profiles: Sequence[ClientTime]) -> list[str]:
    if not profiles:
        return []
    spent = "; ".join(
        f"{profile.mode}: {profile.events:,} events in {profile.seconds:.1f} s with {profile.cpu_seconds:.1f} s of CPU "
        f"({profile.cpu_seconds / profile.events * 1e6:,.0f} µs per event), {profile.measuring:.1%} of it for reading the clocks"
        for profile in profiles
    )
    legend = (
        f"Time of a run's process, one lane, after imports and connections. {spent}. Wall time is divided among the threads that are "
        "active at that moment. Dagster's own time is not included."
    )
    return [legend, "", *client_time.markdown(profiles)]


def _memory(large_records_mib: float | None) -> list[str]:
    return [] if large_records_mib is None else [f"Peak memory of a run with records of 900 KB: {large_records_mib:.0f} MiB."]
