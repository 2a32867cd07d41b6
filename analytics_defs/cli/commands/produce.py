"""`analytics produce`: a load generator that publishes the events of a simulated shop."""

from __future__ import annotations

import random
from dataclasses import replace

import click

from analytics_defs import wiring
from analytics_defs.cli.output import progress_bar
from analytics_defs.config import load_settings
from analytics_defs.simulator.shop import CLEAN_MIX, DEFAULT_MIX

RATIO = click.FloatRange(0, 1)


@click.command()
@click.option("--rate", type=click.FloatRange(0, min_open=True), help="Records per second. Default: as fast as possible.")
@click.option("--count", type=click.IntRange(1), help="Number of records. Default: no limit; --rate is then required.")
@click.option("--seed", type=int, help="Seed of the random generator: the same seed gives the same events and ids. Default: random.")
@click.option("--legacy", type=RATIO, default=DEFAULT_MIX.legacy, show_default=True, help="Ratio of events in the legacy form.")
@click.option(
    "--late", type=RATIO, default=DEFAULT_MIX.late, show_default=True, help="Ratio of events that are one hour to three days late."
)
@click.option("--duplicated", type=RATIO, default=DEFAULT_MIX.duplicated, show_default=True, help="Ratio of duplicates of recent events.")
@click.option("--broken", type=RATIO, default=DEFAULT_MIX.broken, show_default=True, help="Ratio of records that are not valid events.")
def produce_command(rate: float | None, count: int | None, seed: int | None, **ratios: float) -> None:
    """Publish simulated product events to Kafka.

    Waits for the delivery report of every record. Ctrl-C stops it.

    \b
    Examples:
      analytics produce --rate 50
      analytics produce --count 100000 --legacy 0 --late 0 --duplicated 0 --broken 0
    """
    from analytics_defs.adapters.kafka.producer import KafkaProducer
    from analytics_defs.simulator.publisher import LoadGenerator, simulated_records

    if rate is None and count is None:
        raise click.UsageError("expected --rate, --count, or both")
    settings, seed = load_settings(), random.randrange(2**32) if seed is None else seed
    producer = KafkaProducer(wiring.kafka_config(settings))
    generator = LoadGenerator(producer, simulated_records(seed, replace(CLEAN_MIX, **ratios), settings.kafka_topics))
    try:
        with generator.stopped_by_signals(), progress_bar("records confirmed", count) as bar:
            generator.run(rate, count, lambda confirmed: bar.update(bar.task_ids[0], completed=confirmed))
    finally:
        producer.close()
        click.echo(f"{generator.confirmed} records confirmed (seed {seed})")
