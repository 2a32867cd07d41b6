"""`analytics ingest`, `accept-recreated-topic` and `produce`: they move something."""

from __future__ import annotations

import random
import sys
import uuid
from dataclasses import replace

import click

from analytics_defs import wiring
from analytics_defs.cli.exit_codes import FINDING
from analytics_defs.cli.options import json_option
from analytics_defs.cli.output import as_json, progress_bar
from analytics_defs.config import load_settings
from analytics_defs.core.ingest.planning import PlanningResult
from analytics_defs.core.ledger import BatchRecord, OutcomeCounts
from analytics_defs.flows.ingest.accept_topic import accept_recreated_topic
from analytics_defs.flows.ingest.drain import DrainOptions, drain
from analytics_defs.flows.setup.platform_identity import register_stores
from analytics_defs.simulator.shop import CLEAN_MIX, DEFAULT_MIX

FRACTION = click.FloatRange(0, 1)


@click.command()
@click.option("--until-idle", is_flag=True, help="Plan again until nothing is left. While a producer runs, that may be never.")
@json_option
def ingest_command(until_idle: bool, json_wanted: bool) -> None:
    """Plan and move once, without Dagster. Safe beside a sensor's runs: the ledger decides who is first.

    Exit code 1 where a partition waits for a person, or another run was first.
    """
    from analytics_defs.adapters.runtime.lease_heartbeat import LeaseHeartbeat

    settings, run_id = load_settings(), f"cli-{uuid.uuid4()}"
    ports = wiring.build_ports(settings)
    register_stores(run_id, ports)
    order = DrainOptions(settings.kafka_topics, settings.planning_policy(), wiring.ingest_options(settings, run_id), until_idle)
    with progress_bar("offsets closed", 0) as bar:
        [task] = bar.task_ids

        def planned(planning: PlanningResult) -> None:
            bar.update(task, total=(bar.tasks[0].total or 0) + sum(plan.offsets for plan in planning.plans))

        def closed(record: BatchRecord) -> None:
            bar.advance(task, sum(map(len, record.batch.ranges)))

        done = drain(order, ports, lambda lane: LeaseHeartbeat(ports.ledger, run_id, lane, ports.clock), planned, closed)
    tally = sum((record.tally for record in done.closed), OutcomeCounts()).as_dict()
    if json_wanted:
        as_json({"batches": len(done.closed), **tally, "stopped": done.halted})
    else:
        click.echo(f"{len(done.closed)} batches: " + ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in tally.items()))
        for line in done.halted:
            click.echo(line, err=True)
    sys.exit(FINDING if done.halted else 0)


@click.command("accept-recreated-topic")
@click.argument("topic")
def accept_recreated_topic_command(topic: str) -> None:
    """Go on after TOPIC was deleted and created again: read the new one from its start.

    What was stored stays. Exit code 1, and nothing changed, where TOPIC is still the one the ledger knows.
    """
    state = accept_recreated_topic(topic, wiring.build_ports(load_settings()))
    known = f"id {state.topic_id}" if state.topic_id else "the broker does not tell its id"
    click.echo(f"topic {topic}: generation {state.incarnation} starts at its oldest record ({known})")


@click.command()
@click.option("--rate", type=click.FloatRange(0, min_open=True), help="Records a second; as fast as it goes without.")
@click.option("--count", type=click.IntRange(1), help="Stop after so many; go on for ever without (then --rate is needed).")
@click.option("--seed", type=int, help="The same seed makes the same shop, with the same ids. Another one each time without.")
@click.option(
    "--legacy", type=FRACTION, default=DEFAULT_MIX.legacy, show_default=True, help="Share in the form that older producers publish."
)
@click.option("--late", type=FRACTION, default=DEFAULT_MIX.late, show_default=True, help="Share that is an hour to three days late.")
@click.option("--duplicated", type=FRACTION, default=DEFAULT_MIX.duplicated, show_default=True, help="Share that is sent once more.")
@click.option("--broken", type=FRACTION, default=DEFAULT_MIX.broken, show_default=True, help="Share that is no event.")
def produce_command(rate: float | None, count: int | None, seed: int | None, **shares: float) -> None:
    """Produce the events of a simulated shop; every record's delivery is confirmed. Ctrl-C ends it.

    \b
    Examples:
      analytics produce --rate 50
      analytics produce --count 100000 --legacy 0 --late 0 --duplicated 0 --broken 0
    """
    from analytics_defs.adapters.kafka.producer import KafkaProducer
    from analytics_defs.simulator.publisher import LoadGenerator, simulated_records

    if rate is None and count is None:
        raise click.UsageError("name --rate, --count, or both")
    settings, seed = load_settings(), random.randrange(2**32) if seed is None else seed
    producer = KafkaProducer(wiring.kafka_config(settings))
    faucet = LoadGenerator(producer, simulated_records(seed, replace(CLEAN_MIX, **shares), settings.kafka_topics))
    try:
        with faucet.stopped_by_signals(), progress_bar("records confirmed", count) as bar:
            faucet.run(rate, count, lambda confirmed: bar.update(bar.task_ids[0], completed=confirmed))
    finally:
        producer.close()
        click.echo(f"{faucet.confirmed} records confirmed, of seed {seed}")
