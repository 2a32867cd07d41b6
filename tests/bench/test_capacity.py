"""The capacity model: its arithmetic by hand, its weights against the code's own requests, its tables against the documents."""

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
    Assumed,
    Prices,
    _short,
    costs,
    event_units,
    ledger_units,
    need,
    sample,
    snapshot_units,
    table,
)
from tests.core.events.made_events import reproducibly
from tests.proof.doors import Call, through
from tests.proof.world import World, conduct, event

ROOT = Path(__file__).parents[2]


def test_a_thousand_events_a_second_by_hand() -> None:
    with_objects, without = (need(1_000, write_event_json=kind) for kind in (True, False))
    assert (with_objects.lanes, without.lanes) == (3, 2)  # 1000 / (0.7 * 621), 1000 / (0.7 * 1335)
    seconds = MONTH.total_seconds()
    assert (with_objects.batches, without.batches) == (3, 2)  # one a second in each lane
    assert with_objects.monthly["PUTs"] - without.monthly["PUTs"] == pytest.approx(seconds * (1_000 + 5) * 0.005 / 1000, rel=0.001)
    assert without.monthly["PUTs"] == pytest.approx(seconds * 2 * 5 * 0.005 / 1000, rel=0.01)
    ledger, _ = ledger_units(500, ranges=4, hours=2)
    assert without.monthly["claims and ledger"] == pytest.approx(seconds * (1_000 * 2 + 2 * ledger) * 0.625e-6, rel=0.001)
    assert without.monthly["workers"] == pytest.approx(730 * 3 * (0.04048 + 2 * 0.004445))


def test_a_claim_weighs_two_units_as_long_as_its_item_fits_a_kilobyte() -> None:
    assert event_units() == 2


def test_the_sampled_events_are_of_the_size_that_was_measured() -> None:
    sizes = [len(each.data) for each in sample()]
    assert sum(sizes) / len(sizes) == pytest.approx(410, rel=0.1)


def test_a_batch_weighs_two_units_for_each_action_of_its_two_transactions_and_its_mark() -> None:
    """Four ranges: taken (4 heads, an entry), marked, closed (4 heads, 4 ranges, record, entry, totals, 2 hours with their marks)."""
    units, progress = ledger_units(10_000, ranges=4, hours=2)
    assert units >= 2 * (5 + 1 + 4 + 4 + 1 + 1 + 1 + 4)
    assert units <= 2 * (5 + 1 + 4 + 4 + 1 + 1 + 1 + 4) + 6  # the record may take more than one kilobyte
    assert progress == 2 * (5 + 1 + 4 + 1)


def test_a_batch_looks_at_all_progress_as_often_as_the_model_says() -> None:
    world, calls = World(), list[str]()

    def door(call: Call, perform: Callable[[], Any]) -> Any:
        calls.append(call.method)
        return perform()

    world.create()
    world.produce(event("a"))
    ports = through(world.ports, door)
    assert execute_plan(plan_lanes(world.topics, world.policy, ports).plans[0], ports, conduct()).closed
    assert calls.count("snapshot") == SNAPSHOTS


def test_a_look_at_all_progress_weighs_a_unit_for_each_four_kilobytes_of_its_items() -> None:
    """A lane of four partitions: about 150 bytes a head, 100 a lease, 600 a pending batch."""
    assert 1_000 < snapshot_units(1_000, ranges=4) * 4096 / 1_000 < 2_000
    assert snapshot_units(1, ranges=4) == 1


@pytest.mark.parametrize("write_event_json", [True, False])
def test_more_events_never_take_less(write_event_json: bool) -> None:
    for one, more in pairwise(need(rate, write_event_json=write_event_json) for rate in RATES):
        assert (one.lanes, one.write_units, one.puts, one.cost) <= (more.lanes, more.write_units, more.puts, more.cost)
        assert (one.progress_units, one.progress_read_units) <= (more.progress_units, more.progress_read_units)


@reproducibly
@given(st.sampled_from(RATES), st.booleans(), st.floats(1.1, 5))
def test_a_faster_lane_needs_no_more_lanes_and_a_dearer_write_costs_more(rate: int, write_event_json: bool, factor: float) -> None:
    plain = need(rate, write_event_json=write_event_json)
    faster = Assumed(lane_with_objects=621 * factor, lane_without=1_335 * factor)
    assert need(rate, write_event_json=write_event_json, assumed=faster).lanes <= plain.lanes
    dearer = Assumed(prices=Prices(write_units=0.625e-6 * factor))
    assert need(rate, write_event_json=write_event_json, assumed=dearer).cost > plain.cost


def test_the_model_takes_the_settings_defaults_and_the_figures_that_the_documents_give() -> None:
    hours = (ROOT / "docs/hours.md").read_text(encoding="utf-8")
    document = (ROOT / "docs/capacity.md").read_text(encoding="utf-8")
    defaults = {name: field.default for name, field in Settings.model_fields.items()}
    assert Assumed().batch_events == defaults["batch_max_records"]
    assert Assumed().follow_for_seconds == defaults["tail_duration"].total_seconds()
    assert Assumed().follow_every_seconds == defaults["tail_interval"].total_seconds()
    assert Assumed().followed_lane_seconds == MIN_BATCH_INTERVAL_PER_LANE.total_seconds()
    assert f"| with one JSON object for each event | {Assumed().lane_with_objects:.0f} |" in document
    assert f"| without | {Assumed().lane_without:,.0f} |" in document
    assert "| 3,000,000 (750 parts, 175 MB) | 12.6 s | 5.8 s |" in hours
    assert Assumed().hourly_events_per_second == pytest.approx(3_000_000 / (12.6 + 5.8) / 2, rel=0.01)
    assert Assumed().parquet_bytes == pytest.approx(175e6 / 3e6, rel=0.05)


def test_the_documents_show_what_the_model_says() -> None:
    hint = "replace the tables by the output of: python -m bench.capacity"
    assert table() in (ROOT / "docs/capacity.md").read_text(encoding="utf-8"), hint
    document = (ROOT / "docs/capacity.md").read_text(encoding="utf-8")
    assert costs(1_000) in document, hint
    without, with_objects = (_short(need(100_000, write_event_json=kind).progress_read_units) for kind in (False, True))
    assert f"comes to {without} of the 3,000 read units" in document
    assert f"in {need(100_000, write_event_json=True).lanes} lanes, to {with_objects}." in document
