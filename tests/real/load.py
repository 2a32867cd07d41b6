"""A measurement, not a test: 200 requests to /health per second for 30 s. `analytics serve` has one core; the servers are real.

make servers; set -a; . .servers/env; set +a; .venv/bin/python -m tests.real.load measure

Requests have fixed start times, so a slow response does not delay others. Latency is measured from the planned start.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import click
import psutil

from analytics_defs.devstack.tcp_ports import LOOPBACK, free_port, http_status
from tests.devstack.waiting import until
from tests.real import proxy
from tests.real.proxy import Exchange, http_proxy
from tests.real.scene import prepared

CONNECTIONS = 16
REQUEST = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def _poll(port: int, starts: list[float], latencies: list[float], statuses: Counter[str]) -> None:
    """Send the requests of one connection, one after the other."""
    reader, writer = await asyncio.open_connection(LOOPBACK, port)
    for start in starts:
        await asyncio.sleep(max(0.0, start - time.perf_counter()))
        writer.write(REQUEST)
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
        await reader.readexactly(length)
        latencies.append(time.perf_counter() - start)
        statuses[head[9:12].decode()] += 1
    writer.close()


async def fire(port: int, rate: int, seconds: int) -> dict[str, object]:
    start = time.perf_counter() + 0.5
    starts = [start + number / rate for number in range(rate * seconds)]
    latencies: list[float] = []
    statuses: Counter[str] = Counter()
    connections = (_poll(port, starts[number::CONNECTIONS], latencies, statuses) for number in range(CONNECTIONS))
    await asyncio.gather(*connections)
    latencies.sort()
    percentiles = {f"p{percent}_ms": round(1000 * latencies[int(len(latencies) * percent / 100)], 1) for percent in (50, 95, 99)}
    return {"answers": len(latencies), "statuses": dict(statuses), **percentiles, "max_ms": round(1000 * latencies[-1], 1)}


@click.group()
def main() -> None:
    """Measure the endpoint under load."""


@main.command("fire")
@click.argument("port", type=int)
@click.argument("rate", type=int)
@click.argument("seconds", type=int)
def _fire(port: int, rate: int, seconds: int) -> None:
    click.echo(json.dumps(asyncio.run(fire(port, rate, seconds))))


@main.command()
@click.option("--rate", default=200, show_default=True, help="Requests per second.")
@click.option("--seconds", default=30, show_default=True)
def measure(rate: int, seconds: int) -> None:
    """Start the server, send the requests, and print one line of JSON."""
    calls: Counter[str] = Counter()

    def count_and_pass(exchange: Exchange) -> None:
        calls[exchange.operation or f"S3 {exchange.method}"] += 1
        proxy.pass_through(exchange)

    with prepared() as scene, scene.provisioned() as settings:
        with scene.opened(settings) as stores:
            stores.settle()
        with http_proxy(settings.dynamo_endpoint) as dynamo, http_proxy(settings.minio_endpoint) as bucket:
            dynamo.rule = bucket.rule = count_and_pass
            names = ("kafka_group_id", "recent_events_table_name", "ledger_table_name", "aggregates_table_name", "archive_bucket_name")
            changes = {name.upper(): str(getattr(settings, name)) for name in names} | {"KAFKA_TOPICS": ",".join(settings.kafka_topics)}
            changes |= {"DYNAMO_ENDPOINT": dynamo.url, "MINIO_ENDPOINT": bucket.url, "HEALTH_PORT": str(free_port())}
            click.echo(json.dumps(_under_load(changes, rate, seconds, calls)))


def _under_load(changes: dict[str, str], rate: int, seconds: int, calls: Counter[str]) -> dict[str, object]:
    """Start the server on one core, send the requests from the others, and return the measurements."""
    environment = {name: value for name, value in os.environ.items() if name != "DAGSTER_HOME"} | changes
    port = changes["HEALTH_PORT"]
    with subprocess.Popen(
        [str(Path(sys.executable).with_name("analytics")), "serve"], env=environment, stderr=subprocess.DEVNULL
    ) as server:
        try:
            first, *others = sorted(os.sched_getaffinity(0))
            os.sched_setaffinity(server.pid, {first})
            os.sched_setaffinity(0, set(others) or {first})
            until(lambda: http_status(f"http://{LOOPBACK}:{port}/health") == 200, seconds=60)
            process = psutil.Process(server.pid)
            calls.clear()
            before, cpu = process.memory_info().rss, process.cpu_times()
            command = [sys.executable, "-m", "tests.real.load", "fire", port, str(rate), str(seconds)]
            answers = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=seconds + 30).stdout)
            after, spent = process.memory_info().rss, process.cpu_times()
        finally:
            server.terminate()
    answers["core_used"] = round((spent.user + spent.system - cpu.user - cpu.system) / seconds, 2)
    answers["rss_mb"] = [round(before / 2**20, 1), round(after / 2**20, 1)]
    answers["store_calls_a_second"] = round(sum(calls.values()) / seconds, 1)
    answers["store_calls"] = dict(calls)
    return dict(answers)


if __name__ == "__main__":
    main()
