"""The status page: what it shows, as text; and as a real browser has it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from analytics_defs.core.events import EVENT_TYPES
from analytics_defs.web.page import CHART_HEIGHT, chart
from tests.local.waiting import until
from tests.proof.world import TOPIC, World, event
from tests.web.browser import chromium
from tests.web.served import Client, real_time, served, site


@pytest.fixture
def world() -> World:
    found = World()
    found.create()
    found.produce(event("a"), event("b"), b"<script>alert(1)</script>", event("c"))
    found.settle()
    return found


@pytest.fixture
def client(world: World) -> Iterator[Client]:
    with served(site(real_time(world))) as found:
        yield found


def test_bars_are_stacked_as_high_as_the_drawing_for_the_fullest_hour() -> None:
    full, half, empty = chart({"h1": {EVENT_TYPES[1]: 30, EVENT_TYPES[0]: 10}, "h2": {EVENT_TYPES[3]: 20}, "h3": {}})
    assert [bar.kind for bar in full.bars] == [0, 1]
    assert sum(bar.height for bar in full.bars) == CHART_HEIGHT
    assert (full.bars[0].y, full.bars[1].y) == (CHART_HEIGHT * 3 / 4, 0)
    assert [bar.height for bar in half.bars] == [CHART_HEIGHT / 2]
    assert (empty.bars, empty.total) == ((), 0)
    assert full.label == "h1:00 UTC: 40 events, 30 ProductUpdated, 10 ProductCreated"
    assert chart({}) == []


def test_the_page_has_the_numbers_and_links_to_the_runs(client: Client, world: World) -> None:
    page = client.get("/").text
    assert re.search(r'id="total">3<', page)
    assert re.search(r"not_json</td><td class=\"number\">1<", page)
    for record in world.ledger.last_batches(10):
        assert f'<a href="http://dagster.test/runs/{record.batch.run_id}">{record.batch.id}</a>' in page
    assert f"<td>{TOPIC}/0</td>" in page


def test_what_comes_from_outside_is_text_and_nothing_else_may_run(world: World) -> None:
    """A fault's words may hold anything a broker said."""
    from analytics_defs.errors import Unavailable

    def down(*_: object) -> None:
        raise Unavailable("<img src=x onerror=alert(1)>")

    ports = real_time(world)
    ports.archive.keys = down  # type: ignore[method-assign, assignment]
    with served(site(ports)) as client:
        until(lambda: "onerror" in client.get("/").text)
        page = client.get("/")
    assert "<img" not in page.text
    assert "&lt;img src=x onerror=alert(1)&gt;" in page.text
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy


@pytest.mark.real
def test_in_a_real_browser_it_updates_itself_asks_nobody_else_and_is_readable_dark_and_on_a_phone(
    client: Client, world: World, tmp_path: Path
) -> None:
    url = f"http://{client.host}:{client.port}/"
    with chromium() as page:
        page.resize(1000, 1200)
        page.prefer("light")
        page.go(url)
        assert page.says("document.getElementById('total').textContent") == "3"
        assert page.says("document.querySelectorAll('svg[role=img] g').length") == 24
        light = page.says("getComputedStyle(document.body).backgroundColor")
        page.prefer("dark")
        dark = page.says("getComputedStyle(document.body).backgroundColor")
        assert _brightness(light) > 200
        assert _brightness(dark) < 60
        assert _brightness(page.says("getComputedStyle(document.body).color")) > 200

        world.produce(event("d"))
        world.settle()
        until(lambda: page.says("document.getElementById('total').textContent") == "4", seconds=30)

        page.resize(360, 740, phone=True)
        assert page.says("document.documentElement.scrollWidth") <= 360
        page.picture(tmp_path / "phone.png")
        assert (tmp_path / "phone.png").stat().st_size > 5_000

        assert set(page.requested) <= {url, "data:,"}
        assert page.complaints == []

        page.ask("Emulation.setScriptExecutionDisabled", value=True)
        page.go(url + "?without")
        assert page.says("document.getElementById('total').textContent") == "4"
        assert page.says("document.querySelector('main').innerText.includes('not_json')") is True


def _brightness(colour: str) -> float:
    red, green, blue = map(int, re.findall(r"\d+", colour)[:3])
    return (red + green + blue) / 3
