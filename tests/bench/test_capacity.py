"""The capacity model: its arithmetic, its request sizes against the platform's requests, its tables against the docs."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics_defs.config import Settings
from analytics_defs.flows.ingest.execute_plan import execute_plan
from analytics_defs.flows.ingest.planning import plan_lanes
from analytics_defs.wiring import MIN_BATCH_INTERVAL_PER_LANE
from bench.capacity import (
    MONTH,
    RATES,
    SNAPSHOTS,
    Assumptions,
    Prices,
    _short,
    costs,
    event_units,
    ledger_units,
    requirements,
    sample,
    snapshot_units,
    table,
)
from tests.core.events.made_events import reproducibly
from tests.proof.interceptors import Call, intercept
from tests.proof.world import World, event, ingest_options

ROOT = Path(__file__).parents[2]


def test_a_thousand_events_per_second_match_a_calculation_by_hand() -> None:
    with_objects, without = (requirements(1_000, write_event_json=kind) for kind in (True, False))
    assert (with_objects.lanes, without.lanes) == (3, 2)  # 1000 / (0.7 * 621), 1000 / (0.7 * 1335)
    seconds = MONTH.total_seconds()
    assert (with_objects.batches, without.batches) == (3, 2)  # one a second in each lane
    assert with_objects.monthly["PUTs"] - without.monthly["PUTs"] == pytest.approx(seconds * (1_000 + 5) * 0.005 / 1000, rel=0.001)
    assert without.monthly["PUTs"] == pytest.approx(seconds * 2 * 5 * 0.005 / 1000, rel=0.01)
    ledger, _ = ledger_units(500, ranges=4, hours=2)
    assert without.monthly["claims and ledger"] == pytest.approx(seconds * (1_000 * 2 + 2 * ledger) * 0.625e-6, rel=0.001)
    assert without.monthly["workers"] == pytest.approx(730 * 3 * (0.04048 + 2 * 0.004445))


def test_a_claim_takes_two_write_units_if_its_item_fits_a_kilobyte() -> None:
    assert event_units() == 2


def test_the_sampled_events_have_the_size_of_those_in_the_benchmarks() -> None:
    sizes = [len(event.data) for event in sample()]
    assert sum(sizes) / len(sizes) == pytest.approx(410, rel=0.1)


def test_a_batch_takes_two_write_units_for_each_action() -> None:
    """Four ranges: begin (4 checkpoints, pending entry), stage, close (4 checkpoints, 4 ranges, record, pending entry,
    totals, 2 hours with their entries).
    """
    units, progress = ledger_units(10_000, ranges=4, hours=2)
    assert units >= 2 * (5 + 1 + 4 + 4 + 1 + 1 + 1 + 4)
    assert units <= 2 * (5 + 1 + 4 + 4 + 1 + 1 + 1 + 4) + 6  # the record may take more than one kilobyte
    assert progress == 2 * (5 + 1 + 4 + 1)


def test_a_batch_reads_as_many_snapshots_as_in_the_model() -> None:
    world, calls = World(), list[str]()

    def record_call(call: Call, perform: Callable[[], Any]) -> Any:
        calls.append(call.method)
        return perform()

    world.create()
    world.produce(event("a"))
    ports = intercept(world.ports, record_call)
    assert execute_plan(plan_lanes(world.topics, world.policy, ports).plans[0], ports, ingest_options()).closed
    assert calls.count("snapshot") == SNAPSHOTS


def test_a_snapshot_takes_a_read_unit_for_each_four_kilobytes() -> None:
    """A lane of four partitions: about 150 bytes per checkpoint, 100 per lease, 600 per pending batch."""
    assert 1_000 < snapshot_units(1_000, ranges=4) * 4096 / 1_000 < 2_000
    assert snapshot_units(1, ranges=4) == 1


@pytest.mark.parametrize("write_event_json", [True, False])
def test_a_higher_rate_never_requires_less(write_event_json: bool) -> None:
    for lower, higher in pairwise(requirements(rate, write_event_json=write_event_json) for rate in RATES):
        assert (lower.lanes, lower.write_units, lower.puts, lower.cost) <= (higher.lanes, higher.write_units, higher.puts, higher.cost)
        assert (lower.progress_units, lower.progress_read_units) <= (higher.progress_units, higher.progress_read_units)


@reproducibly
@given(st.sampled_from(RATES), st.booleans(), st.floats(1.1, 5))
def test_faster_lanes_are_not_more_and_a_higher_price_costs_more(rate: int, write_event_json: bool, factor: float) -> None:
    default = requirements(rate, write_event_json=write_event_json)
    faster = Assumptions(lane_with_objects=621 * factor, lane_without_objects=1_335 * factor)
    assert requirements(rate, write_event_json=write_event_json, assumptions=faster).lanes <= default.lanes
    expensive = Assumptions(prices=Prices(write_units=0.625e-6 * factor))
    assert requirements(rate, write_event_json=write_event_json, assumptions=expensive).cost > default.cost


def test_the_model_uses_the_default_settings_and_the_measurements_of_the_docs() -> None:
    hours = (ROOT / "docs/hours.md").read_text(encoding="utf-8")
    document = (ROOT / "docs/capacity.md").read_text(encoding="utf-8")
    defaults = {name: field.default for name, field in Settings.model_fields.items()}
    assert Assumptions().batch_events == defaults["batch_max_records"]
    assert Assumptions().tail_duration_seconds == defaults["tail_duration"].total_seconds()
    assert Assumptions().tail_interval_seconds == defaults["tail_interval"].total_seconds()
    assert Assumptions().min_interval_per_lane_seconds == MIN_BATCH_INTERVAL_PER_LANE.total_seconds()
    assert f"| with one JSON object for each event | {Assumptions().lane_with_objects:.0f} |" in document
    assert f"| without | {Assumptions().lane_without_objects:,.0f} |" in document
    assert "| 3,000,000 (750 parts, 175 MB) | 12.6 s | 5.8 s |" in hours
    assert Assumptions().hourly_events_per_second == pytest.approx(3_000_000 / (12.6 + 5.8) / 2, rel=0.01)
    assert Assumptions().parquet_bytes == pytest.approx(175e6 / 3e6, rel=0.05)


def test_the_docs_contain_the_tables_of_the_model() -> None:
    hint = "replace the tables by the output of: python -m bench.capacity"
    assert table() in (ROOT / "docs/capacity.md").read_text(encoding="utf-8"), hint
    document = (ROOT / "docs/capacity.md").read_text(encoding="utf-8")
    assert costs(1_000) in document, hint
    without, with_objects = (_short(requirements(100_000, write_event_json=kind).progress_read_units) for kind in (False, True))
    assert f"comes to {without} of the 3,000 read units" in document
    assert f"in {requirements(100_000, write_event_json=True).lanes} lanes, to {with_objects}." in document
