"""Code server, daemon and every run are killed at once, and started again: each kind of run is found dead and requested again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import pytest
import yaml

from analytics_defs import wiring
from analytics_defs.defs.ingest.job import MICRO_BATCH_JOB
from analytics_defs.defs.ingest.sensor import UNFINISHED_STATUSES
from analytics_defs.defs.observability.endpoint import ENDPOINT_JOB
from analytics_defs.devstack.tcp_ports import free_port
from analytics_defs.flows.hours.compaction import compact_hour
from analytics_defs.flows.hours.statistics import compute_hourly_stats
from tests.devstack.waiting import until
from tests.real import data, held_runs, raw_clients, world
from tests.real.user_interface import ROOT, UserInterface, dagster_dev
from tests.real.world import World

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]

HOUR, DAY, END = data.HOUR, data.HOUR[:10], "2024-01-15T11"
PARTITIONS = {
    "event_archive": HOUR,
    "hourly_event_stats": HOUR,
    "restored_recent_events": HOUR,
    "daily_event_stats": DAY,
    "product_activity": DAY,
}
JOBS: dict[str, dict[str, object]] = {
    "stores_consistency_check": {},
    "repair": {"ops": {"repair_range": {"config": {"from": HOUR, "to": END, "dry_run": False}}}},
    "purge_old_runs": {},
    "apply_retention": {},
}
KINDS = {*PARTITIONS, *JOBS, ENDPOINT_JOB}
POOLED = len(PARTITIONS) + 1
"""The assets and apply_retention share the pool. Its limit is raised to this number, so that all kinds run at once and no slot is left."""
DETECTION_SECONDS = 120
"""Limit from the restart of Dagster until every dead run is reported: a minute without heartbeat, and the ticks of a slow machine."""
SUCCESS, STARTED, QUEUED = dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.QUEUED


def instance_home(folder: Path) -> Path:
    """Create the instance with the repository's dagster.yaml, except for the limit of the pool."""
    home = folder / "home"
    home.mkdir()
    configuration = yaml.safe_load((ROOT / "dagster.yaml").read_text(encoding="utf-8"))
    configuration["concurrency"]["pools"]["default_limit"] = POOLED
    (home / "dagster.yaml").write_text(yaml.safe_dump(configuration), encoding="utf-8")
    return home


@contextmanager
def dagster(platform: World, folder: Path) -> Iterator[UserInterface]:
    changes = {"RUN_HEALTH_IN_DAGSTER": "true", "HEALTH_PORT": str(free_port()), held_runs.HOLD_VARIABLE: str(folder / "hold")}
    with dagster_dev(platform.settings, folder, ("-w", str(folder / "workspace.yaml")), **changes) as ui:
        yield ui


def prepare(folder: Path) -> None:
    location = {"module_name": held_runs.__name__, "location_name": "analytics", "working_directory": str(ROOT)}
    (folder / "workspace.yaml").write_text(yaml.safe_dump({"load_from": [{"python_module": location}]}), encoding="utf-8")
    (folder / "hold").touch()


def unfinished(instance: dg.DagsterInstance, *statuses: dg.DagsterRunStatus) -> dict[str, str]:
    """Return the kind of every unfinished run outside the lanes, by run id."""
    runs = instance.get_runs(dg.RunsFilter(statuses=list(statuses or UNFINISHED_STATUSES)))
    return {run.run_id: kind(run) for run in runs if run.job_name != MICRO_BATCH_JOB}


def kind(run: dg.DagsterRun) -> str:
    """Return the name of the job, or of the asset if the run is of a backfill."""
    return ",".join(key.to_user_string() for key in run.asset_selection or ()) or run.job_name


def launch_all_kinds(platform: World, ui: UserInterface) -> list[str]:
    """Ingest an hour and launch every kind of run, and one more run behind the full pool. Return the backfills."""
    ui.stop_sensor("hourly_automation")
    raw_clients.produce([raw_clients.Written(platform.settings.kafka_topics[0], 0, data.event(f"event {number}")) for number in range(20)])
    until(lambda: platform.lag() == 0 and not platform.ports.ledger.snapshot().pending, seconds=120)
    engine = wiring.statistics_engine_factory(platform.settings)
    compact_hour(HOUR, platform.ports, engine)  # so that the runs succeed in any order
    compute_hourly_stats(HOUR, platform.ports, engine)
    for job, config in JOBS.items():
        ui.launch_job(job, config)
    return [ui.launch_backfill(asset, [partition]) for asset, partition in PARTITIONS.items()]


def succeeded_again(instance: dg.DagsterInstance, run_id: str) -> bool:
    return bool(instance.get_runs(dg.RunsFilter(tags={"dagster/root_run_id": run_id}, statuses=[SUCCESS])))


def test_every_kind_of_run_is_found_dead_and_requested_again_after_its_whole_tree_was_killed(tmp_path: Path) -> None:
    prepare(tmp_path)
    home = instance_home(tmp_path)
    with raw_clients.topics(1) as topics, world.new_world(topics) as platform, dg.DagsterInstance.from_config(str(home)) as instance:
        with dagster(platform, tmp_path) as ui:
            backfills = launch_all_kinds(platform, ui)
            until(lambda: set(unfinished(instance, STARTED).values()) == KINDS, seconds=180)
            backfills.append(ui.launch_backfill("event_archive", [END]))
            until(lambda: "event_archive" in unfinished(instance, QUEUED).values(), seconds=60)
            ui.kill()
        dead = unfinished(instance, STARTED)
        assert set(dead.values()) == KINDS, "no process was left that could report the end of the others"
        (tmp_path / "hold").unlink()
        with dagster(platform, tmp_path) as ui:
            until(lambda: not dead.keys() & unfinished(instance).keys(), seconds=DETECTION_SECONDS)
            for run_id in dead.keys() - {run_id for run_id, name in dead.items() if name == ENDPOINT_JOB}:  # its sensor requests another
                until(lambda run_id=run_id: succeeded_again(instance, run_id), seconds=180)  # type: ignore[misc]
            until(lambda: bool(instance.get_runs(dg.RunsFilter(job_name=ENDPOINT_JOB, statuses=[STARTED]))), seconds=60)
            for backfill in backfills:
                until(lambda backfill=backfill: ui.backfill_status(backfill) == "COMPLETED_SUCCESS", seconds=120)  # type: ignore[misc]
        platform.assert_consistent()
