"""The tables and charts of the benchmarks contain every measured series and nothing else."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from bench import pictures
from bench.__main__ import LANES, QUICK, Sizes
from bench.ceilings import Ceilings
from bench.client_time import ClientTime, TimeRatio
from bench.drain import DrainResult, EventJson
from bench.lanes import Scaling
from bench.latency import Latency
from bench.report import Results, markdown

STEPS = {"claim": 8.0, "read": 2.0, "event json": 4.0, "something new": 1.0}


def drain_result(lanes: int, event_json: EventJson, events: int = 100_000) -> DrainResult:
    return DrainResult(events, lanes, event_json, seconds=50.0, batch_seconds=40.0 * lanes, runs=lanes, peak_mib=400.0, steps_seconds=STEPS)


@pytest.fixture(name="results")
def complete_results() -> Results:
    return Results(
        "2026-11-28",
        "2 cores",
        Ceilings(claims=4_000, puts=2_000, tars=2_500, claims_and_puts=1_600, claims_and_tars=2_000),
        [drain_result(lanes, mode) for lanes, modes in LANES.items() for mode in modes],
        Scaling(24_000, {1: 900.0, 2: 1_710.0}),
        [Latency("a process for each run", 3_000, 50.0, 0.8, 5.7, 6.1), Latency("a warm Celery worker", 3_000, 50.0, 0.7, 5.5, 6.0)],
        [
            ClientTime(
                mode,
                50_000,
                30.0,
                9.0,
                {"claim: signing": TimeRatio(0.6, 0.1), "begin": TimeRatio(0.001, 0.001)},
                TimeRatio(0.02, 0.01),
                0.03,
            )
            for mode in ("JSON by tar", "JSON off")
        ],
        418.0,
    )


def test_a_drain_is_compared_with_the_ceiling_of_its_own_requests(results: Results) -> None:
    text = markdown(results)
    assert "| 2 lanes, JSON by PUT | 100,000 | 2,000 | 2,500 | 100% (125%) | 125% (156%) | 2 | 400 MiB |" in text
    assert "| 3 lanes, JSON off | 100,000 | 2,000 | 2,500 | 50% (62%) | 50% (62%) | 3 | 400 MiB |" in text
    assert "Not measured with 3 lanes, to save time: JSON by PUT." in text
    assert "| 2 | 1,710 | 1.90 |" in text
    assert "| a warm Celery worker | 3,000 | 50 | 0.7 s | 5.5 s | 6.0 s |" in text
    assert "50,000 events in 30.0 s with 9.0 s of CPU (180 µs per event), 3.0% of it for reading the clocks" in text


def test_all_steps_are_listed_in_the_order_of_execution(results: Results) -> None:
    text = markdown(results)
    assert "| drain: events | read | claim | event json | something new |" in text
    assert "| 1 lane, JSON by tar: 100,000 | 2.0 | 8.0 | 4.0 | 1.0 |" in text


def test_missing_measurements_have_no_table_and_no_chart(tmp_path: Path) -> None:
    assert len(markdown(Results()).splitlines()) == 1
    assert pictures.draw(Results(), tmp_path) == []
    text = markdown(Results(drained=[drain_result(1, EventJson.OFF)]))
    assert "not measured | not measured" in text
    assert "to save time" not in text


def test_every_row_of_a_table_has_as_many_cells_as_its_header(results: Results) -> None:
    tables = [block.splitlines() for block in markdown(results).split("\n\n") if block.startswith("|")]
    assert len(tables) == 6
    for table in tables:
        assert {row.count(" | ") for row in table} == {table[0].count(" | ")}


def test_saved_results_are_loaded_unchanged(results: Results, tmp_path: Path) -> None:
    pictures.save(results, tmp_path / "results.json")
    assert pictures.load(tmp_path / "results.json") == results


def test_charts_have_every_measured_series(results: Results) -> None:
    drains = [f"{lanes} lane{'s' if lanes > 1 else ''}, {mode.value}: 100,000 events" for lanes, modes in LANES.items() for mode in modes]
    throughput, steps = pictures.throughput(results), pictures.steps(results.drained)
    for figure in (throughput, steps):
        assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == drains
    assert [text.get_text() for text in steps.legends[0].get_texts()] == ["read", "claim", "event json", "something new"]
    assert len(throughput.legends[0].get_texts()) == 4
    latency = pictures.latency(results.latencies)
    assert [text.get_text() for text in latency.legends[0].get_texts()] == ["p50", "p99", "worst"]
    assert [len(bars) for bars in latency.axes[0].containers] == [2, 2, 2]
    client = pictures.client(results.client)
    assert [text.get_text() for text in client.legends[0].get_texts()] == ["JSON by tar", "JSON off"]
    assert [label.get_text() for label in client.axes[0].get_yticklabels()] == [
        "claim: signing",
        "the rest (1), each below 2%",
        "not accounted for",
    ]
    assert [len(bars) for axes in client.axes for bars in axes.containers] == [3, 3, 3, 3]


def test_charts_are_small_deterministic_files_without_fonts(results: Results, tmp_path: Path) -> None:
    written = pictures.draw(results, tmp_path)
    assert [path.name for path in written] == ["bench-throughput.svg", "bench-steps.svg", "bench-latency.svg", "bench-client-time.svg"]
    for path in written:
        assert path.stat().st_size < 150_000
        text = path.read_text(encoding="utf-8")
        assert ET.fromstring(text).tag == "{http://www.w3.org/2000/svg}svg"  # noqa: S314 - written by this test
        assert "fill: #ffffff" in text
        assert "<text" not in text
    before = [path.read_bytes() for path in written]
    assert [path.read_bytes() for path in pictures.draw(results, tmp_path)] == before


def test_a_quick_run_has_every_benchmark() -> None:
    full = Sizes()
    assert [bool(getattr(QUICK, name)) for name in Sizes.__slots__] == [bool(getattr(full, name)) for name in Sizes.__slots__]
    assert {lanes for lanes, modes in LANES.items() if modes} == {1, 2, 3}
