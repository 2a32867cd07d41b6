"""`analytics ingest` and `accept-recreated-topic`: run ingestion without Dagster."""

from __future__ import annotations

import sys
import uuid

import click

from analytics_defs import wiring
from analytics_defs.cli.exit_codes import FINDING
from analytics_defs.cli.options import json_option
from analytics_defs.cli.output import print_json, progress_bar
from analytics_defs.config import load_settings
from analytics_defs.core.ingest.planning import PlanningResult
from analytics_defs.core.ledger import BatchRecord, OutcomeCounts
from analytics_defs.flows.ingest.accept_topic import accept_recreated_topic
from analytics_defs.flows.ingest.close_batch import delete_stale_staging_files
from analytics_defs.flows.ingest.drain import DrainOptions, drain
from analytics_defs.flows.setup.platform_identity import register_stores


@click.command()
@click.option("--until-idle", is_flag=True, help="Repeat until no records are left. Does not end while a producer is running.")
@json_option
def ingest_command(until_idle: bool, json_output: bool) -> None:
    """Read new records from Kafka and store them. Does not need Dagster.

    Safe to run next to Dagster's runs: the ledger decides which of two executors begins a batch.

    Exit code 1: a partition is halted until an operator acts, or another run was first.

    \b
    Example:
      analytics ingest --until-idle
    """
    from analytics_defs.adapters.runtime.lease_heartbeat import LeaseHeartbeat

    settings, run_id = load_settings(), f"cli-{uuid.uuid4()}"
    ports = wiring.build_ports(settings)
    register_stores(run_id, ports)
    options = DrainOptions(settings.kafka_topics, settings.planning_policy(), wiring.ingest_options(settings, run_id), until_idle)
    delete_stale_staging_files(ports)
    with progress_bar("offsets closed", 0) as bar:
        [task] = bar.task_ids

        def on_planned(planning: PlanningResult) -> None:
            bar.update(task, total=(bar.tasks[0].total or 0) + sum(plan.offsets for plan in planning.plans))

        def on_closed(record: BatchRecord) -> None:
            bar.advance(task, sum(map(len, record.batch.ranges)))

        result = drain(options, ports, lambda lane: LeaseHeartbeat(ports.ledger, run_id, lane, ports.clock), on_planned, on_closed)
    counts = sum((record.outcome_counts for record in result.closed), OutcomeCounts()).as_dict()
    if json_output:
        print_json({"batches": len(result.closed), **counts, "halted": result.halted})
    else:
        click.echo(f"{len(result.closed)} batches: " + ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items()))
        for message in result.halted:
            click.echo(message, err=True)
    sys.exit(FINDING if result.halted else 0)


@click.command("accept-recreated-topic")
@click.argument("topic")
def accept_recreated_topic_command(topic: str) -> None:
    """Resume ingestion of a recreated TOPIC.

    Use it after TOPIC was deleted and created again, or after its log was truncated. A topic with a new id is read
    from its start. A truncated log is read from its end: its older records have outcomes. Stored data is kept.

    Exit code 1: TOPIC was not recreated. Nothing is changed.

    \b
    Example:
      analytics accept-recreated-topic ProductCreated
    """
    state = accept_recreated_topic(topic, wiring.build_ports(load_settings()))
    start = "the end of its truncated log" if state.starts else "its oldest record"
    topic_id = f"id {state.topic_id}" if state.topic_id else "the broker does not report topic ids"
    click.echo(f"topic {topic}: incarnation {state.incarnation} starts at {start} ({topic_id})")
