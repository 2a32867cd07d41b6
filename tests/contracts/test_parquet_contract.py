"""The contract of the Parquet workspace, for the memory double and DuckDB. Equal rows give equal results and equal bytes in both."""

from __future__ import annotations

import errno
import io
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from analytics_defs.adapters import parquet_files
from analytics_defs.adapters.duckdb.statistics import duckdb_statistics
from analytics_defs.adapters.duckdb.workspace import duckdb_workspace, translate_duckdb_errors
from analytics_defs.adapters.memory.parquet_workspace import memory_workspace
from analytics_defs.core.hours.revision import RowSummary, merge_summaries
from analytics_defs.core.storage import event_parquet
from analytics_defs.errors import InconsistentState, InsufficientResources, Unavailable
from analytics_defs.ports import ParquetWorkspace
from tests.bench.parts import parts
from tests.core.events.made_events import NOW
from tests.core.ingest.batches import BESIDE, event

WORKSPACES: dict[str, Callable[[], AbstractContextManager[ParquetWorkspace]]] = {
    "memory": memory_workspace,
    "duckdb": partial(duckdb_workspace, 128),
}
NO_LIMIT = 2**40


@pytest.fixture(params=WORKSPACES)
def workspace(request: pytest.FixtureRequest) -> Iterator[ParquetWorkspace]:
    with WORKSPACES[request.param]() as under_test:
        yield under_test


def part(batch: str, *offsets: int, **fields: Any) -> bytes:
    """Return a part whose events are one second apart, later for lower offsets."""
    return event_parquet.encode_part(
        batch,
        NOW,
        [
            event(offset, timestamp=f"2024-01-15T10:00:{59 - offset % 60:02d}.000001Z", note="ü" * (offset % 7), **fields)
            for offset in offsets
        ],
    )


def part_of_other_partition(batch: str, *offsets: int) -> bytes:
    return event_parquet.encode_part(
        batch, NOW, [event(offset, f"beside {offset}", BESIDE, timestamp="1969-12-31T23:59:59.999999Z") for offset in offsets]
    )


def summarize_all(workspace: ParquetWorkspace, paths: list[str]) -> RowSummary:
    summaries = workspace.summarize(paths)
    assert all(rows is not None for rows in summaries.values())
    return merge_summaries(rows for rows in summaries.values() if rows)


def test_a_summary_describes_each_file(workspace: ParquetWorkspace) -> None:
    first_path, second_path = (
        workspace.put("a/one.parquet", part("b1", 3, 1, 7)),
        workspace.put("b/two.parquet", part_of_other_partition("b2", 5)),
    )
    summaries = workspace.summarize([first_path, second_path])
    assert summaries[first_path] == RowSummary(
        {"b1": 3},
        (summaries[first_path] or RowSummary()).digest,
        {"ProductDeleted": 3},
        {"ProductDeleted/3": (1, 7)},
        datetime(2024, 1, 15, 10, 0, 52, 1, UTC),
        datetime(2024, 1, 15, 10, 0, 58, 1, UTC),
    )
    first = datetime(1969, 12, 31, 23, 59, 59, 999_999, UTC)
    assert summaries[second_path] == RowSummary(
        {"b2": 1}, (summaries[second_path] or RowSummary()).digest, {"ProductDeleted": 1}, {"ProductDeleted/4": (5, 5)}, first, first
    )


def test_digests_do_not_depend_on_order_files_or_engine(workspace: ParquetWorkspace) -> None:
    whole = summarize_all(workspace, [workspace.put("whole", part("b1", 1, 2, 3, 4))])
    halves = summarize_all(workspace, [workspace.put("first", part("b1", 4, 2)), workspace.put("second", part("b1", 3, 1))])
    assert whole == halves
    with memory_workspace() as memory:
        assert summarize_all(memory, [memory.put("whole", part("b1", 1, 2, 3, 4))]) == whole


@pytest.mark.parametrize(
    "other_part",
    [part("b2", 1, 2), part("b1", 1, 3), part("b1", 1, 2, sellerId="another"), part("b1", 1, 2, productId="another"), part("b1", 1, 2, 2)],
    ids=["batch", "offset", "seller", "product", "twice"],
)
def test_digests_of_different_rows_differ(workspace: ParquetWorkspace, other_part: bytes) -> None:
    assert (
        summarize_all(workspace, [workspace.put("one", part("b1", 1, 2))]).digest
        != summarize_all(workspace, [workspace.put("other", other_part)]).digest
    )


def test_damaged_and_foreign_files_are_none_and_the_others_are_summarized(workspace: ParquetWorkspace) -> None:
    intact = part("b1", *range(50))
    foreign = io.BytesIO()
    pq.write_table(pa.table({"event_id": ["a"]}), foreign)
    files = {
        "intact": intact,
        "cut": intact[:-9],
        "flipped": intact[:60] + bytes([intact[60] ^ 0xFF]) + intact[61:],
        "empty": b"",
        "text": b"no Parquet at all",
        "foreign": foreign.getvalue(),
        "also intact": part_of_other_partition("b2", 1),
    }
    paths = {name: workspace.put(name, data) for name, data in files.items()}
    summaries = workspace.summarize(list(paths.values()))
    assert {name for name, path in paths.items() if summaries[path] is not None} == {"intact", "also intact"}


def test_empty_summaries_and_merges_are_empty(workspace: ParquetWorkspace) -> None:
    assert workspace.summarize([]) == {}
    assert workspace.merge([], "merged", NO_LIMIT) == []


def test_a_merge_sorts_by_time_id_and_source_and_keeps_every_column(workspace: ParquetWorkspace) -> None:
    paths = [workspace.put("one", part("b1", 3, 1, 7)), workspace.put("two", part_of_other_partition("b2", 5, 4))]
    (merged,) = workspace.merge(paths, "merged", NO_LIMIT)
    table = pq.read_table(merged.path)
    assert table.schema.equals(event_parquet.event_schema())
    assert table["event_id"].to_pylist() == ["beside 4", "beside 5", "event 7", "event 3", "event 1"]
    rows = [row for path in paths for row in pq.read_table(path).to_pylist()]
    assert sorted(map(str, table.to_pylist())) == sorted(map(str, rows))
    assert (merged.rows, merged.bytes) == (5, Path(merged.path).stat().st_size)


def test_equal_rows_give_equal_bytes_for_any_order_files_and_engine(workspace: ParquetWorkspace) -> None:
    numbers = list(range(500))
    from_one_file = workspace.merge([workspace.put("once", part("b1", *numbers))], "once-merged", NO_LIMIT)
    pieces = [workspace.put(f"piece {first}", part("b1", *reversed(numbers[first::7]))) for first in range(7)]
    from_pieces = workspace.merge(pieces, "again-merged", NO_LIMIT)
    with memory_workspace() as memory:
        in_memory = memory.merge([memory.put("once", part("b1", *numbers))], "merged", NO_LIMIT)
        bodies = {Path(file.path).read_bytes() for files in (from_one_file, from_pieces, in_memory) for file in files}
    assert len(bodies) == 1
    assert {file.sha256 for files in (from_one_file, from_pieces, in_memory) for file in files} == {from_one_file[0].sha256}


def test_large_hours_are_split_into_several_files_in_order(workspace: ParquetWorkspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_files, "GROUP_ROWS", 64)
    path = workspace.put("all", part("b1", *range(300)))
    merged = workspace.merge([path], "merged", 1)
    assert [file.rows for file in merged] == [64, 64, 64, 64, 44]
    assert summarize_all(workspace, [file.path for file in merged]) == summarize_all(workspace, [path])
    times = [time for file in merged for time in pq.read_table(file.path)["timestamp"].to_pylist()]
    assert times == sorted(times)


def test_row_groups_are_also_limited_by_payload_bytes(workspace: ParquetWorkspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_files, "GROUP_BYTES", 1_000)
    (merged,) = workspace.merge([workspace.put("all", part("b1", *range(100)))], "merged", NO_LIMIT)
    footer = pq.ParquetFile(merged.path).metadata
    sizes = [footer.row_group(number).num_rows for number in range(footer.num_row_groups)]
    assert len(sizes) > 10
    assert sum(sizes) == 100
    assert max(sizes) < 12


def test_closing_a_workspace_deletes_its_folder() -> None:
    for opened in WORKSPACES.values():
        with opened() as workspace:
            path = Path(workspace.put("a/b", b"x"))
            assert path.exists()
        assert not path.exists()
        assert not path.parent.exists()


def test_an_hour_larger_than_memory_is_sorted_on_disk() -> None:
    """Sort 400,000 rows, 160 MB as DuckDB holds them, in 96 MB."""
    ((_, once),) = parts(4_000)
    with duckdb_workspace(96, threads=1) as workspace:
        paths = [workspace.put(f"{number}", once) for number in range(100)]
        (merged,) = workspace.merge(paths, "merged", NO_LIMIT)
        summary = workspace.summarize([merged.path])[merged.path]
        assert summary
        assert (merged.rows, summary.count) == (400_000, 400_000)
        assert summary == merge_summaries([workspace.summarize(paths[:1])[paths[0]] or RowSummary()] * 100)
        times = pq.read_table(merged.path, columns=["timestamp"])["timestamp"].cast(pa.int64())
        assert pc.all(pc.greater_equal(times[1:], times[:-1])).as_py()


def test_too_little_memory_raises_unavailable_and_is_not_damage() -> None:
    with duckdb_workspace(4, threads=1) as workspace:
        paths = [workspace.put(f"{number}", data) for number, (_, data) in enumerate(parts(8_000))]
        with pytest.raises(Unavailable, match="DUCKDB_MEMORY_LIMIT_MB"):
            workspace.merge(paths, "merged", NO_LIMIT)
        with pytest.raises(Unavailable, match="DUCKDB_MEMORY_LIMIT_MB"):
            workspace.summarize(paths)


def damaged_part() -> bytes:
    """Return a part whose footer is intact and whose pages are not."""
    data = part("b1", *range(50))
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    return data[:4] + bytes(footer - 4) + data[footer:]


def test_bad_data_is_not_retried_and_not_blamed_on_memory() -> None:
    with duckdb_statistics(128, 1) as engine:
        path = engine.put("damaged", damaged_part())
        readers: list[Callable[[], object]] = [
            lambda: engine.merge([path], "merged", NO_LIMIT),
            lambda: engine.count_rows([path]),
            lambda: engine.write_product_stats([path], "products"),
            lambda: engine.write_product_activity([path], "activity"),
            lambda: engine.count_products_and_sellers(path),
            lambda: engine.top_products(path, 5),
            lambda: list(engine.read_rows([path])),
        ]
        for read in readers:
            with pytest.raises(InconsistentState, match="met data that cannot be read") as raised:
                read()
            assert not raised.value.retryable
            assert "DUCKDB_MEMORY_LIMIT_MB" not in str(raised.value)


@pytest.mark.parametrize(
    "error",
    [
        duckdb.OutOfMemoryException("Out of Memory Error: failed to offload data block"),
        duckdb.IOException('IO Error: Could not write all bytes to file "spilled"'),
        OSError(errno.ENOSPC, "Error writing bytes to file"),
        OSError("Out of Memory Error: could not allocate block"),
        pa.ArrowMemoryError("malloc of size 64 failed"),
        MemoryError(),
    ],
    ids=repr,
)
def test_too_little_memory_or_disk_is_retried_and_names_the_setting(error: Exception) -> None:
    with pytest.raises(InsufficientResources, match="DUCKDB_MEMORY_LIMIT_MB") as raised, translate_duckdb_errors():
        raise error
    assert raised.value.retryable


@pytest.mark.parametrize(
    "error",
    [
        duckdb.ConversionException("Conversion Error: Could not convert Timestamp(MS) to Timestamp(US)"),
        duckdb.IOException('IO Error: Could not read enough bytes from file "part"'),
        duckdb.InvalidInputException("Invalid Input Error: No magic bytes found"),
        OSError("Corrupt snappy compressed data."),
        pa.ArrowInvalid("Casting from timestamp[us] to timestamp[ms] would lose data"),
        OverflowError("date value out of range"),
    ],
    ids=repr,
)
def test_other_errors_of_duckdb_and_arrow_are_bad_data(error: Exception) -> None:
    with pytest.raises(InconsistentState, match="met data that cannot be read"), translate_duckdb_errors():
        raise error
