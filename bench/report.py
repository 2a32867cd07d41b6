"""Figures as one table for the terminal and one for the docs."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from bench.ceilings import Ceilings
from bench.drain import Drained
from bench.latency import Latency

MOST_STEPS = 8


@dataclass(slots=True)
class Results:
    ceilings: Ceilings | None = None
    """Measured between the drains."""
    drained: list[Drained] = field(default_factory=list)
    latencies: list[Latency] = field(default_factory=list)
    large_records_mib: float | None = None
    """Peak memory of runs that drained records of 900 KB."""


def markdown(results: Results) -> str:
    lines = [
        f"Measured on {datetime.now(UTC):%Y-%m-%d}: {machine()}. Servers and clients share it.",
        "",
        "| drain | events | events/s | in batches | of its raw ceiling | of the stores' side by side | runs | peak memory of a run |",
        "|---|---|---|---|---|---|---|---|",
        *(_drain_line(each, results.ceilings) for each in results.drained),
        "",
        "| raw ceiling, same requests, no pipeline | a second |",
        "|---|---|",
        *(f"| {what} | {found:,.0f} |" for what, found in _raw(results.ceilings)),
    ]
    if results.latencies:
        lines += ["", "| record to queryable item | launcher | p50 | p99 | worst |", "|---|---|---|---|---|"]
        lines += [
            f"| {each.events:,} events at {each.per_second:g}/s | {each.launcher} | {each.p50_seconds:.1f} s | {each.p99_seconds:.1f} s | "
            f"{each.worst_seconds:.1f} s |"
            for each in results.latencies
        ]
    if results.large_records_mib is not None:
        lines += ["", f"Peak memory of a run over records of 900 KB: {results.large_records_mib:.0f} MiB."]
    lines += ["", *_steps(results.drained)]
    return "\n".join(lines).rstrip() + "\n"


def machine() -> str:
    """What the figures were measured on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    kind = models[0] if models else platform.machine()
    return f"{cores} cores ({kind}), {memory:.0f} GiB, {platform.system()}, Python {platform.python_version()}"


def _drain_line(each: Drained, ceilings: Ceilings | None) -> str:
    shares = ["not measured"] * 2
    if ceilings:
        shares = [_share(each, limit(each.event_objects)) for limit in (ceilings.of, ceilings.side_by_side)]
    return (
        f"| {_name(each)} | {each.events:,} | {each.per_second:,.0f} | {each.per_second_in_batches * each.lanes:,.0f} | "
        f"{' | '.join(shares)} | {each.runs} | {each.peak_mib:.0f} MiB |"
    )


def _name(each: Drained) -> str:
    return f"{each.lanes} lane{'s' if each.lanes > 1 else ''}, {each.event_objects.value}"


def _share(each: Drained, ceiling: float) -> str:
    return f"{each.per_second / ceiling:.2f} ({each.per_second_in_batches * each.lanes / ceiling:.2f} in batches)"


def _raw(ceilings: Ceilings | None) -> list[tuple[str, float]]:
    if ceilings is None:
        return []
    return [
        ("claims (transactions of 100 conditional puts, DynamoDB Local)", ceilings.claims),
        ("single PUTs (MinIO)", ceilings.puts),
        ("objects in tars (MinIO)", ceilings.tars),
        ("claim and single PUT of each event, side by side", ceilings.claims_and_puts),
        ("claim and object in a tar of each event, side by side", ceilings.claims_and_tars),
    ]


def _steps(drained: Sequence[Drained]) -> list[str]:
    """Seconds by step for each 100,000 events: steps overlap and run in several threads, so they exceed the duration."""
    if not drained:
        return []
    names = list(dict.fromkeys(step for each in drained for step in each.steps_seconds))[:MOST_STEPS]
    head = ["| thread seconds for each 100,000 events |", *(f" {name} |" for name in names)]
    return [
        "".join(head),
        "|---|" + "---|" * len(names),
        *(
            f"| {each.events:,}, {_name(each)} |"
            + "".join(f" {each.steps_seconds.get(name, 0.0) * 100_000 / each.events:,.1f} |" for name in names)
            for each in drained
        ),
    ]
