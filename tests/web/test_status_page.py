"""The status page: its text, and its behaviour in a real browser."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from analytics_defs.core.events.schema import EVENT_TYPES
from analytics_defs.core.monitoring.health import HealthSnapshot, SchedulerStatus
from analytics_defs.core.monitoring.probe_result import ProbeResult
from analytics_defs.web.status_page import CHART_HEIGHT, UNKNOWN_LOSS_TEXT, format_duration, hours_chart_bars, render_status_page
from tests.devstack.waiting import until
from tests.proof.world import NOW, TOPIC, World, event, ingest_options
from tests.web.browser import chromium
from tests.web.served import Client, real_time, served, site

RUN = "0b1f6bd5-9a7e-4a52-8a5e-6f1c8f2f2f11"


@pytest.fixture
def world() -> World:
    world = World()
    world.create()
    world.produce(event("a"), event("b"), b"<script>alert(1)</script>", event("c"))
    world.settle(ingest_options(RUN))
    return world


@pytest.fixture
def client(world: World) -> Iterator[Client]:
    with served(site(real_time(world))) as client:
        yield client


def test_an_unknown_time_to_data_loss_is_explained(client: Client, world: World) -> None:
    assert UNKNOWN_LOSS_TEXT not in client.get("/").text
    world.produce(event("waiting"))
    with served(site(real_time(world))) as later:
        text = later.get("/").text
    assert f'title="{UNKNOWN_LOSS_TEXT}">unknown</td>' in text
    assert f"Lost in unknown: {UNKNOWN_LOSS_TEXT}." in text


def test_the_bars_of_the_largest_hour_have_the_full_height() -> None:
    full, half, empty = hours_chart_bars({"h1": {EVENT_TYPES[1]: 30, EVENT_TYPES[0]: 10}, "h2": {EVENT_TYPES[3]: 20}, "h3": {}})
    assert [bar.kind for bar in full.bars] == [0, 1]
    assert sum(bar.height for bar in full.bars) == CHART_HEIGHT
    assert (full.bars[0].y, full.bars[1].y) == (CHART_HEIGHT * 3 / 4, 0)
    assert [bar.height for bar in half.bars] == [CHART_HEIGHT / 2]
    assert (empty.bars, empty.total) == ((), 0)
    assert full.label == "h1:00 UTC: 40 events, 30 ProductUpdated, 10 ProductCreated"
    assert hours_chart_bars({}) == []


def test_the_page_shows_counters_and_links_to_dagster_runs(client: Client, world: World) -> None:
    world.produce(None)
    world.settle(ingest_options(f"cli-{RUN}"))
    text = client.get("/").text
    assert re.search(r'id="total">3<', text)
    assert re.search(r"not_json</td><td class=\"number\">1<", text)
    records = world.ledger.last_batches(10)
    assert [record.batch.run_id for record in records] == [f"cli-{RUN}", RUN]
    assert f"<td>{records[0].batch.id}</td>" in text  # the batch of a command: Dagster has no page for it
    assert f'<a href="http://dagster.test/runs/{RUN}">{records[1].batch.id}</a>' in text
    assert f"<td>{TOPIC}/0</td>" in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "unknown"),
        (float("inf"), "never"),
        (0, "0 s"),
        (-5, "no time"),
        (0.26, "0.3 s"),
        (28.956, "29 s"),
        (60, "1 min"),
        (725, "12 min 5 s"),
        (3 * 3600 + 59, "3 h"),
        (604_799, "6 d 23 h"),
    ],
)
def test_a_duration_is_shown_in_its_two_largest_units(seconds: float | None, text: str) -> None:
    assert format_duration(seconds) == text


def test_the_partitions_furthest_behind_come_first_and_the_rest_is_collapsed() -> None:
    world = World()
    world.create(partitions=40)
    for number in range(40):
        for _ in range(number % 20 + 1):
            world.produce(event("e"), partition=number)
    with served(site(real_time(world))) as client:
        until(lambda: "offsets in 40 partitions" in client.get("/").text)
        text = client.get("/").text
    shown, more = text.split('<details id="more"><summary>24 more</summary>')
    names = re.findall(rf"<td>({TOPIC}/\d+)</td>", shown)
    assert names[:4] == [f"{TOPIC}/19", f"{TOPIC}/39", f"{TOPIC}/18", f"{TOPIC}/38"]
    assert len(names) == 16
    assert len(re.findall(rf"<td>{TOPIC}/\d+</td>", more)) == 24


@pytest.mark.parametrize(
    ("status", "state", "detail"),
    [
        (SchedulerStatus(sensor_stopped=False, heartbeat=NOW), "running", "daemon heartbeat 0 s ago"),
        (SchedulerStatus(sensor_stopped=True, heartbeat=NOW - timedelta(seconds=30)), "sensor stopped", "daemon heartbeat 30 s ago"),
        (SchedulerStatus(sensor_stopped=False, heartbeat=NOW - timedelta(minutes=5)), "daemon down", "daemon heartbeat 5 min ago"),
        (SchedulerStatus(sensor_stopped=False, heartbeat=None), "daemon down", "no daemon heartbeat yet"),
    ],
)
def test_the_dagster_card_shows_sensor_and_daemon(status: SchedulerStatus, state: str, detail: str) -> None:
    text = page_of(HealthSnapshot(NOW, timedelta(minutes=5), scheduler=ProbeResult(status, None, 3, 100, NOW)))
    assert re.search(rf'Dagster <b class="\w+">{state}</b> <span class="faint">{detail}<', text)


def test_the_dagster_card_shows_why_the_state_is_unknown() -> None:
    stale = ProbeResult(SchedulerStatus(sensor_stopped=True, heartbeat=NOW), "failed with OperationalError", 3, 100, NOW)
    unknown = page_of(HealthSnapshot(NOW, timedelta(minutes=5), scheduler=stale))
    assert 'Dagster <b class="">unknown</b> <span class="faint">failed with OperationalError<' in unknown
    assert 'Dagster <b class="">not configured</b>' in page_of(HealthSnapshot(NOW, timedelta(minutes=5)))


def page_of(snapshot: HealthSnapshot) -> str:
    return bytes(render_status_page(snapshot, None).body).decode()


def test_external_text_is_escaped_and_no_other_script_may_run(world: World) -> None:
    """An error message may hold any text of a broker."""
    from analytics_defs.errors import Unavailable

    def down(*_: object) -> None:
        raise Unavailable("<img src=x onerror=alert(1)>")

    ports = real_time(world)
    ports.object_store.list_keys = down  # type: ignore[method-assign, assignment]
    with served(site(ports)) as client:
        until(lambda: "onerror" in client.get("/").text)
        page = client.get("/")
    assert "<img" not in page.text
    assert "&lt;img src=x onerror=alert(1)&gt;" in page.text
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy


@pytest.mark.real
def test_in_a_browser_the_page_updates_itself_and_fits_dark_mode_and_a_phone(client: Client, world: World, tmp_path: Path) -> None:
    url = f"http://{client.host}:{client.port}/"
    with chromium() as tab:
        tab.resize(1000, 1200)
        tab.set_color_scheme("light")
        tab.navigate(url)
        assert tab.evaluate("document.getElementById('total').textContent") == "3"
        assert tab.evaluate("document.querySelectorAll('svg[role=img] g').length") == 24
        light = tab.evaluate("getComputedStyle(document.body).backgroundColor")
        tab.set_color_scheme("dark")
        dark = tab.evaluate("getComputedStyle(document.body).backgroundColor")
        assert _brightness(light) > 200
        assert _brightness(dark) < 60
        assert _brightness(tab.evaluate("getComputedStyle(document.body).color")) > 200

        world.produce(event("d"))
        world.settle()
        until(lambda: tab.evaluate("document.getElementById('total').textContent") == "4", seconds=30)

        tab.resize(360, 740, phone=True)
        assert tab.evaluate("document.documentElement.scrollWidth") <= 360
        tab.screenshot(tmp_path / "phone.png")
        assert (tmp_path / "phone.png").stat().st_size > 5_000

        assert set(tab.requested) <= {url, "data:,"}
        assert tab.console_errors == []

        tab.call("Emulation.setScriptExecutionDisabled", value=True)
        tab.navigate(url + "?without")
        assert tab.evaluate("document.getElementById('total').textContent") == "4"
        assert tab.evaluate("document.querySelector('main').innerText.includes('not_json')") is True


PROXY_PAGES = {"bad gateway": (502, b"<main><h1>Bad gateway</h1></main>"), "another page": (200, b"<h1>Log in, please</h1>")}


class Proxy(BaseHTTPRequestHandler):
    """A proxy that answers with the page, with an error page, or not at all."""

    page = b""
    behaviour = "forward"
    released = threading.Event()

    def do_GET(self) -> None:
        if self.behaviour == "hang":
            self.released.wait(60)
        status, body = PROXY_PAGES.get(self.behaviour, (200, self.page))
        self.send_response(status)
        self.send_header("content-type", "text/html; charset=utf-8")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.real
@pytest.mark.parametrize("behaviour", [*PROXY_PAGES, "hang"])
def test_without_an_answer_the_page_keeps_its_content_and_reports_it(client: Client, behaviour: str) -> None:
    wide = "<style>.scroll { width: 200px } .scroll > * { min-width: 900px }</style>"
    collapsed = b'<details id="more"><summary>1 more</summary></details></main>'
    Proxy.page = client.get("/").body.replace(b"timeoutMs = 10000", b"timeoutMs = 500").replace(b"</main>", collapsed)
    Proxy.behaviour, Proxy.released = "forward", threading.Event()
    with ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as server, running(server), chromium() as tab:
        tab.navigate(f"http://127.0.0.1:{server.server_address[1]}/")
        tab.evaluate(f"document.body.insertAdjacentHTML('beforeend', {wide!r}); document.querySelector('.scroll').scrollLeft = 77")
        tab.evaluate("document.getElementById('more').open = true; window.seen = document.querySelector('main'); 1")
        until(lambda: tab.evaluate("document.querySelector('main') !== window.seen") is True, seconds=30)
        assert tab.evaluate("document.querySelector('.scroll').scrollLeft") == 77  # the scroll position is kept
        assert tab.evaluate("document.getElementById('more').open") is True
        Proxy.behaviour = behaviour
        until(lambda: "cannot be reached" in tab.evaluate("document.getElementById('connection').textContent"), seconds=30)
        assert tab.evaluate("document.getElementById('total').textContent") == "3"
        Proxy.behaviour = "forward"
        until(lambda: tab.evaluate("document.getElementById('connection').textContent") == "", seconds=30)
        assert tab.evaluate("document.getElementById('total').textContent") == "3"


@contextmanager
def running(server: ThreadingHTTPServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield
    finally:
        Proxy.released.set()
        server.shutdown()
        thread.join(20)


def _brightness(colour: str) -> float:
    red, green, blue = map(int, re.findall(r"\d+", colour)[:3])
    return (red + green + blue) / 3
