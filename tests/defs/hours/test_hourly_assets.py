"""The hourly and daily assets in Dagster: complete hours, charts by partition, and runs only for changed hours."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import pytest

from analytics_defs.adapters.memory import MemoryLedger
from analytics_defs.core.storage.object_keys import event_json_dir, manifest_key, part_key
from analytics_defs.core.timestamps import hour_of
from analytics_defs.definitions import defs
from analytics_defs.defs.asset_specs import HOURLY_PARTITIONS, event_parts
from analytics_defs.defs.hours.daily_assets import DAILY_PARTITIONS, daily_event_stats, product_activity
from analytics_defs.defs.hours.hourly_assets import event_archive, hourly_automation, hourly_event_stats, restored_recent_events
from analytics_defs.defs.resources.statistics_io_manager import STATISTICS_IO_MANAGER, StatisticsIOManager
from analytics_defs.errors import Unavailable
from tests.defs.memory_platform import HOUR, MemoryPlatform
from tests.proof.interceptors import Call, intercept

ASSETS = [event_archive, hourly_event_stats, restored_recent_events, daily_event_stats, product_activity]
AUTOMATED = dg.AssetSelection.assets("event_archive", "hourly_event_stats", "daily_event_stats", "product_activity")
STARTED = datetime.now(UTC)
"""The time that all tests use as now, so that no hour ends in the middle of a test."""


def ago(hours: int) -> str:
    return hour_of(STARTED - timedelta(hours=hours))


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def materialize(
    platform: MemoryPlatform,
    instance: dg.DagsterInstance,
    asset: dg.AssetsDefinition,
    first: str,
    last: str | None = None,
    **options: Any,
) -> dg.ExecuteInProcessResult:
    """Materialize one partition, or a range of partitions in one run as a backfill does."""
    tags = {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last or first}
    return dg.materialize(
        [*ASSETS, event_parts],
        selection=[asset],
        resources={"platform": platform, STATISTICS_IO_MANAGER: StatisticsIOManager(platform)},
        instance=instance,
        **({"tags": tags} if last else {"partition_key": first}),
        **options,
    )


def metadata_by_partition(result: dg.ExecuteInProcessResult) -> dict[str | None, dict[str, Any]]:
    """Return the metadata of the materializations."""
    return {
        event.partition: {name: value.value for name, value in event.materialization.metadata.items()}
        for event in result.get_asset_materialization_events()
    }


def png_in(markdown: str) -> bytes:
    return base64.b64decode(markdown.partition("base64,")[2].rstrip(")"))


def test_a_run_of_several_hours_reports_each_hour_separately(instance: dg.DagsterInstance) -> None:
    platform = MemoryPlatform()
    platform.produce(10, hour="2024-01-15T10")
    platform.produce(4, start=10, hour="2024-01-15T12")
    platform.run(instance)
    archived = metadata_by_partition(materialize(platform, instance, event_archive, "2024-01-15T10", "2024-01-15T12"))
    assert {hour: metadata["dagster/partition_row_count"] for hour, metadata in archived.items()} == {
        "2024-01-15T10": 10,
        "2024-01-15T11": 0,
        "2024-01-15T12": 4,
    }
    assert archived["2024-01-15T10"]["dagster/uri"].startswith(
        "s3://event-archive/parquet/year=2024/month=01/day=15/hour=10/archive-000001-"
    )
    assert (archived["2024-01-15T10"]["complete"], archived["2024-01-15T10"]["events added"]) == (True, 10)
    counted = metadata_by_partition(materialize(platform, instance, hourly_event_stats, "2024-01-15T10", "2024-01-15T12"))
    assert [counted[hour]["events"] for hour in sorted(filter(None, counted))] == [10, 0, 4]
    for hour in counted.values():
        for chart in ("events per minute", "low-stock warnings", "busiest products"):
            assert png_in(hour[chart]).startswith(b"\x89PNG")
            assert len(png_in(hour[chart])) < 40_000
    daily = metadata_by_partition(materialize(platform, instance, daily_event_stats, "2024-01-15"))["2024-01-15"]
    assert (daily["events"], daily["hours with events"], daily["stale hours"]) == (14, 2, [])
    activity = metadata_by_partition(materialize(platform, instance, product_activity, "2024-01-15"))["2024-01-15"]
    assert (activity["products"], activity["busiest"].records[0].data["events"]) == (1, 14)


def test_nothing_in_dagsters_storage_is_infinite_or_nan(instance: dg.DagsterInstance) -> None:
    platform = MemoryPlatform()
    for number, stock in enumerate(("1e400", "-1.7e308", "1.7e308")):
        product = f'{{"id": "p", "name": "n", "price": 1e999, "stock": {stock}, "sellerId": "s"}}'
        event = f'{{"id": "{number}", "timestamp": "{HOUR}:0{number}:00Z", "type": "ProductCreated", "product": {product}}}'
        platform.log.append("ProductDeleted", 0, event.encode(), timestamp_ms=2**63 - 1)
    platform.run(instance)
    for asset, partition in zip(ASSETS, [HOUR, HOUR, HOUR, HOUR[:10], HOUR[:10]], strict=True):
        assert materialize(platform, instance, asset, partition).success
    events = [entry for run in instance.get_runs() for entry in instance.all_logs(run.run_id)]
    materialized = {
        entry.dagster_event.asset_key for entry in events if entry.dagster_event and entry.dagster_event.is_step_materialization
    }
    assert materialized >= {asset.key for asset in ASSETS}
    for entry in events:
        json.loads(dg.serialize_value(entry), parse_constant=refuse_constant)


def refuse_constant(name: str) -> None:
    raise AssertionError(f"{name} is not JSON")


def test_a_second_run_writes_the_same_bytes(instance: dg.DagsterInstance) -> None:
    platform = MemoryPlatform()
    platform.produce(10)
    platform.run(instance)
    runs = []
    for _ in range(2):
        for asset in ASSETS[:2]:
            materialize(platform, instance, asset, "2024-01-15T10")
        runs.append({key: stored.body for key, stored in platform.ports().object_store.objects.items()})  # type: ignore[attr-defined]
    assert runs[0] == runs[1]


def test_a_restored_hour_reports_its_counts(instance: dg.DagsterInstance) -> None:
    platform = MemoryPlatform()
    platform.produce(10)
    platform.run(instance)
    items: dict[str, Any] = platform.ports().recent_events.items  # type: ignore[attr-defined]
    before = dict(items)
    del items["event-3"], items["event-4"]
    metadata = metadata_by_partition(materialize(platform, instance, restored_recent_events, "2024-01-15T10"))["2024-01-15T10"]
    assert (metadata["restored"], metadata["already present"], metadata["TTL passed"]) == (2, 8, 0)
    assert items == before


def test_an_incomplete_hour_fails_with_its_message_and_is_not_materialized(instance: dg.DagsterInstance) -> None:
    platform = MemoryPlatform()
    platform.produce(10)
    platform.run(instance)
    objects = platform.ports().object_store.objects  # type: ignore[attr-defined]
    (batch,) = platform.ports().ledger.batches_of_hour("2024-01-15T10")
    del objects[part_key("2024-01-15T10", batch)], objects["events/2024/01/15/10/event-3.json"]
    result = materialize(platform, instance, event_archive, "2024-01-15T10", raise_on_error=False)
    (failed,) = [event for event in result.all_events if event.event_type is dg.DagsterEventType.STEP_FAILURE]
    assert failed.step_failure_data.user_failure_data
    assert f"{batch} (9 of 10)" in (failed.step_failure_data.user_failure_data.description or "")
    assert metadata_by_partition(result) == {}


@pytest.mark.parametrize("asset", [event_archive, hourly_event_stats], ids=["archive", "statistics"])
def test_a_worker_with_another_ledger_does_not_overwrite_an_hour(instance: dg.DagsterInstance, asset: dg.AssetsDefinition) -> None:
    """Breaks: in that ledger every hour is empty, and empty statistics would overwrite the stored ones."""
    platform = MemoryPlatform()
    platform.produce(10)
    platform.run(instance)
    for upstream in (event_archive, hourly_event_stats):
        assert materialize(platform, instance, upstream, HOUR).success
    object_store, before = platform.ports().object_store, stored_bytes(platform)
    platform._ports = replace(platform._ports, ledger=MemoryLedger())
    result = materialize(platform, instance, asset, HOUR, raise_on_error=False)
    assert not result.success
    assert stored_bytes(platform) == before
    assert object_store.get(manifest_key(HOUR)) is not None


def stored_bytes(platform: MemoryPlatform) -> dict[str, bytes | None]:
    object_store = platform.ports().object_store
    return {key: object_store.get(key) for key in object_store.list_keys("")}


def test_a_failed_hour_does_not_stop_the_other_hours_of_its_run(instance: dg.DagsterInstance) -> None:
    """Backfills and automation put six hours into a run. A retry must not get the same six again and again."""
    platform = MemoryPlatform()
    automation, good, bad, after = Automation(instance, platform), ago(32), ago(31), ago(30)
    for number, hour in enumerate((good, bad, after)):
        platform.produce(4, start=4 * number, hour=hour)
    platform.run(instance)
    for batch in platform.ports().ledger.batches_of_hour(bad):
        platform.ports().object_store.delete([part_key(bad, batch)])
    platform.ports().object_store.delete(list(platform.ports().object_store.list_keys(event_json_dir(bad))))
    automation.tick()
    automation.parts_changed(good, bad, after)
    assert automation.tick() == {"event_archive": {good, bad, after}}
    result = materialize(platform, instance, event_archive, good, after, raise_on_error=False)
    assert not result.success
    by_hour = metadata_by_partition(result)
    assert {hour: metadata["dagster/partition_row_count"] for hour, metadata in by_hour.items()} == {good: 4, after: 4}
    (failed,) = [event for event in result.all_events if event.event_type is dg.DagsterEventType.STEP_FAILURE]
    assert failed.step_failure_data.user_failure_data
    assert bad in (failed.step_failure_data.user_failure_data.description or "")
    assert failed.step_failure_data.user_failure_data.metadata["failed"].value == [bad]
    assert automation.tick() == {"hourly_event_stats": {good, after}}
    requested = [automation.tick() for _ in range(11)]
    assert [request for request in requested if request] == [{"event_archive": {bad}}]


def test_an_unavailable_store_ends_a_run_and_its_finished_hours_are_reported(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform, read_hours = MemoryPlatform(), set[str]()
    platform.produce(4, hour="2024-01-15T10")
    platform.run(instance)

    def fail_the_second_hour(call: Call, perform: Callable[[], Any]) -> Any:
        if call.method == "latest_revision":
            read_hours.add(call.args[0])
            if call.args[0] == "2024-01-15T11":
                raise Unavailable("the ledger is down")
        return perform()

    ports = intercept(platform.ports(), fail_the_second_hour)
    monkeypatch.setattr(platform, "ports", lambda: ports)
    result = materialize(platform, instance, event_archive, "2024-01-15T10", "2024-01-15T12", raise_on_error=False)
    assert not result.success
    assert read_hours == {"2024-01-15T10", "2024-01-15T11"}
    assert list(metadata_by_partition(result)) == ["2024-01-15T10"]


def test_statistics_load_as_a_data_frame(instance: dg.DagsterInstance) -> None:
    platform = MemoryPlatform()
    platform.produce(10)
    platform.run(instance)
    materialize(platform, instance, hourly_event_stats, "2024-01-15T10")
    loaded = dg.Definitions(
        assets=[*ASSETS, event_parts], resources={"platform": platform, STATISTICS_IO_MANAGER: StatisticsIOManager(platform)}
    ).load_asset_value("hourly_event_stats", partition_key="2024-01-15T10", instance=instance)
    assert type(loaded).__name__ == "DataFrame"
    frame: Any = loaded
    assert frame["events"].to_list() == [10]
    assert frame["period"].to_list() == ["2024-01-15T10"]


def test_every_hourly_asset_has_a_description_owners_kinds_and_columns() -> None:
    for node in defs.resolve_asset_graph().asset_nodes:
        if node.group_name == "hourly":
            assert node.description, node.key
            assert node.owners, node.key
            assert node.kinds, node.key
    described = {asset.key.to_user_string(): asset.metadata_by_key[asset.key] for asset in ASSETS}
    assert {name for name, metadata in described.items() if "dagster/column_schema" in metadata} == set(described) - {
        "restored_recent_events"
    }


def test_runs_by_hand_begin_before_runs_of_the_automation() -> None:
    """Breaks: a backfill by hand waits for every hour that a late event changed. Runs by hand have priority 0."""
    assert hourly_automation.run_tags == {"dagster/priority": "-1"}


def test_all_hours_of_a_day_are_partitions() -> None:
    first = DAILY_PARTITIONS.get_first_partition_key()
    assert first == "2024-01-01"
    assert HOURLY_PARTITIONS.has_partition_key(f"{first}T00")
    assert HOURLY_PARTITIONS.has_partition_key(f"{DAILY_PARTITIONS.get_last_partition_key()}T23")


class Automation:
    """Successive evaluations of the automation sensor, and the runs that it requests."""

    def __init__(self, instance: dg.DagsterInstance, platform: MemoryPlatform) -> None:
        self.instance, self.platform = instance, platform
        self.cursor: Any = None
        self.now = STARTED.replace(minute=1)

    def parts_changed(self, *hours: str) -> None:
        """Report changed parts as the ingest sensor does after batches closed."""
        for hour in hours:
            self.instance.report_runless_asset_event(dg.AssetMaterialization(event_parts.key, partition=hour))

    def tick(self) -> dict[str, set[str]]:
        """Advance the time by a minute and evaluate. Return the requested partitions by asset."""
        self.now += timedelta(minutes=1)
        result = dg.evaluate_automation_conditions(
            defs=defs, instance=self.instance, asset_selection=AUTOMATED, evaluation_time=self.now, cursor=self.cursor
        )
        self.cursor = result.cursor
        requested = {name: result.get_requested_partitions(dg.AssetKey(name)) for name in self.names}
        return {name: {key for key in keys if key} for name, keys in requested.items() if keys}

    names: Sequence[str] = ("event_archive", "hourly_event_stats", "daily_event_stats", "product_activity")

    def run(self, requested: Mapping[str, set[str]]) -> None:
        by_name = {asset.key.to_user_string(): asset for asset in ASSETS}
        for name in self.names:
            for partition in sorted(requested.get(name, ())):
                materialize(self.platform, self.instance, by_name[name], partition)

    def until_idle(self) -> list[dict[str, set[str]]]:
        ticks = []
        while requested := self.tick():
            ticks.append(requested)
            assert len(ticks) < 12, ticks
            self.run(requested)
        return ticks


def test_a_late_event_requests_its_hour_once_and_then_the_downstream_assets(instance: dg.DagsterInstance) -> None:
    automation, hour = Automation(instance, MemoryPlatform()), "2024-03-07T09"
    assert automation.tick() == {}
    automation.parts_changed(hour)
    assert automation.until_idle() == [
        {"event_archive": {hour}},
        {"hourly_event_stats": {hour}},
        {"daily_event_stats": {"2024-03-07"}, "product_activity": {"2024-03-07"}},
    ]
    assert [automation.tick() for _ in range(3)] == [{}, {}, {}]
    automation.parts_changed(hour, hour)
    assert automation.until_idle()[0] == {"event_archive": {hour}}
    assert automation.tick() == {}


def test_the_open_hour_and_future_hours_are_requested_when_they_are_over(instance: dg.DagsterInstance) -> None:
    automation = Automation(instance, MemoryPlatform())
    automation.tick()
    automation.parts_changed(ago(0), ago(-3), ago(1))
    assert automation.tick()["event_archive"] == {ago(1)}
    automation.now += timedelta(hours=1, minutes=1)
    assert automation.tick()["event_archive"] == {ago(0)}


def test_an_update_during_the_run_of_its_hour_is_not_lost(instance: dg.DagsterInstance) -> None:
    automation, hour = Automation(instance, MemoryPlatform()), ago(30)
    automation.tick()
    automation.parts_changed(hour)
    requested = automation.tick()
    assert requested == {"event_archive": {hour}}
    automation.parts_changed(hour)
    automation.run(requested)
    assert automation.tick()["event_archive"] == {hour}


def test_a_failed_hour_is_requested_again_without_another_event(instance: dg.DagsterInstance) -> None:
    platform = MemoryPlatform()
    automation, hour = Automation(instance, platform), ago(30)
    automation.now = automation.now.replace(minute=1)
    platform.produce(3, hour=hour)
    platform.run(instance)
    (batch,) = platform.ports().ledger.batches_of_hour(hour)
    part = platform.ports().object_store.objects.pop(part_key(hour, batch))  # type: ignore[attr-defined]
    objects = dict(platform.ports().object_store.objects)  # type: ignore[attr-defined]
    for key in list(objects):
        platform.ports().object_store.delete([key])
    automation.tick()
    automation.parts_changed(hour)
    assert automation.tick() == {"event_archive": {hour}}
    materialize(platform, instance, event_archive, hour, raise_on_error=False)
    assert automation.tick() == {}
    platform.ports().object_store.put([part, *objects.values()])
    requested = [automation.tick() for _ in range(11)]
    assert [request for request in requested if request] == [{"event_archive": {hour}}]


def test_an_idle_system_requests_nothing(instance: dg.DagsterInstance) -> None:
    automation = Automation(instance, MemoryPlatform())
    assert [automation.tick() for _ in range(3)] == [{}] * 3
