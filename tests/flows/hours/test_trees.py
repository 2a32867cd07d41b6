"""Every tree of Parquet files opens whole with pandas, pyarrow and DuckDB, and holds what was written."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from analytics_defs.adapters.duckdb.statistics import duckdb_statistics
from analytics_defs.adapters.memory.parquet_workspace import memory_workspace
from analytics_defs.core.hours.statistics import STATISTICS_COLUMNS, statistics_schema
from analytics_defs.core.storage.event_parquet import event_schema
from analytics_defs.core.storage.object_keys import aggregate_key, hour_of_key, part_key
from analytics_defs.flows.hours.compaction import compact_hour
from analytics_defs.flows.hours.statistics import (
    ACTIVITY,
    DAILY,
    HOURLY,
    MINUTES,
    PRODUCTS,
    compute_daily_stats,
    compute_hourly_stats,
    compute_product_activity,
)
from tests.proof.world import World, event

HOURS = ("2024-01-15T09", "2024-01-15T10", "2024-01-16T00")
TREES = ("parquet", *(f"aggregates/{name}" for name in (HOURLY, MINUTES, PRODUCTS, DAILY, ACTIVITY)))


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with every object of a platform: parts, archives, manifests and statistics of two days."""
    world, engine = World(), partial(duckdb_statistics, 128, 1)
    world.create()
    for hour in HOURS:
        world.produce(event(f"a {hour}", f"{hour}:10:00Z"), event(f"b {hour}", f"{hour}:20:00Z", productId="p2"))
    world.settle()
    for hour in HOURS:
        compact_hour(hour, world.ports, memory_workspace)
        compute_hourly_stats(hour, world.ports, engine)
    for day in ("2024-01-15", "2024-01-16"):
        compute_daily_stats(day, world.ports, engine)
        compute_product_activity(day, world.ports, engine)
    world.produce(event("late", f"{HOURS[0]}:30:00Z"))
    world.settle()
    folder = tmp_path_factory.mktemp("bucket")
    for key, object_ in world.object_store.objects.items():
        path = folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(object_.body)
    return folder


def partition_of(path: Path) -> dict[str, int]:
    return {name: int(value) for name, _, value in (part.partition("=") for part in path.parts) if value}


def written(tree: Path) -> list[dict[str, Any]]:
    """Return the rows of every file, read one by one, with the values of the folders."""
    files = sorted(tree.rglob("*.parquet"))
    rows = [(row, partition_of(path)) for path in files for row in pq.read_table(io.BytesIO(path.read_bytes())).to_pylist()]
    assert not any(row.keys() & partition.keys() for row, partition in rows)
    return [row | partition for row, partition in rows]


def by_pyarrow(tree: Path) -> pa.Table:
    return ds.dataset(tree, format="parquet", partitioning="hive").to_table()


def by_pandas(tree: Path) -> pa.Table:
    return pa.Table.from_pandas(pd.read_parquet(tree, dtype_backend="pyarrow"))


def by_duckdb(tree: Path) -> pa.Table:
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        return connection.read_parquet(f"{tree}/**/*.parquet", hive_partitioning=True).to_arrow_table()


def comparable(rows: list[dict[str, Any]]) -> list[str]:
    """Return the rows as sorted text. Folder values are numbers: readers return them as text or as numbers."""
    numbers = ("year", "month", "day", "hour")
    return sorted(str(sorted((row | {name: int(row[name]) for name in numbers if name in row}).items())) for row in rows)


@pytest.mark.parametrize("tree", TREES)
@pytest.mark.parametrize("read", [by_pyarrow, by_pandas, by_duckdb])
def test_a_whole_tree_holds_what_was_written(tree: str, read: Callable[[Path], pa.Table], bucket: Path) -> None:
    expected = written(bucket / tree)
    assert len(expected) >= 2
    rows = [{name: _in_utc(value) for name, value in row.items()} for row in read(bucket / tree).to_pylist()]
    assert comparable(rows) == comparable([{name: _in_utc(value) for name, value in row.items()} for row in expected])


def _in_utc(value: Any) -> Any:
    return value.isoformat() if hasattr(value, "isoformat") else value


def test_every_tree_with_parquet_files_is_opened_whole(bucket: Path) -> None:
    trees = {str(path.relative_to(bucket)).partition("/year=")[0] for path in bucket.rglob("*.parquet")}
    assert trees == set(TREES)


LAYOUTS = {
    "hour of events": part_key(HOURS[0], "batch"),
    "hour": aggregate_key(HOURLY, HOURS[0]),
    "day": aggregate_key(DAILY, HOURS[0][:10]),
}
SCHEMAS = {"events": event_schema()} | {row.__name__: statistics_schema(row) for row in STATISTICS_COLUMNS}


@pytest.mark.parametrize("schema", SCHEMAS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_no_column_bears_the_name_of_a_partition_folder(schema: str, layout: str) -> None:
    folders = partition_of(Path(LAYOUTS[layout]))
    assert {"year", "month", "day"} <= set(folders)
    assert ("hour" in folders) == (hour_of_key(LAYOUTS[layout]) is not None)
    assert not set(folders) & set(SCHEMAS[schema].names)
