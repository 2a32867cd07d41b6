"""What every table promises: the double in memory, and DuckDB. The same rows give the same answers and the same bytes in both."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from analytics_defs.adapters import parquet_files
from analytics_defs.adapters.duckdb.workspace import duckdb_workspace
from analytics_defs.adapters.memory.parquet_workspace import memory_workspace
from analytics_defs.core.hours.revision import RowSummary, merge_summaries
from analytics_defs.core.storage import event_parquet
from analytics_defs.errors import Unavailable
from analytics_defs.ports import ParquetWorkspace
from tests.bench.parts import parts
from tests.core.events.made_events import NOW
from tests.core.ingest.batches import BESIDE, event

TABLES: dict[str, Callable[[], AbstractContextManager[ParquetWorkspace]]] = {
    "memory": memory_workspace,
    "duck": partial(duckdb_workspace, 128),
}
MANY = 2**40


@pytest.fixture(params=TABLES)
def table(request: pytest.FixtureRequest) -> Iterator[ParquetWorkspace]:
    with TABLES[request.param]() as found:
        yield found


def part(batch: str, *offsets: int, **fields: Any) -> bytes:
    """Events a second apart, the later the lower their offset, on two partitions in turn."""
    return event_parquet.encode_part(
        batch,
        NOW,
        [event(each, timestamp=f"2024-01-15T10:00:{59 - each % 60:02d}.000001Z", note="ü" * (each % 7), **fields) for each in offsets],
    )


def beside(batch: str, *offsets: int) -> bytes:
    return event_parquet.encode_part(
        batch, NOW, [event(each, f"beside {each}", BESIDE, timestamp="1969-12-31T23:59:59.999999Z") for each in offsets]
    )


def all_of(table: ParquetWorkspace, paths: list[str]) -> RowSummary:
    seen = table.summarize(paths)
    assert all(rows is not None for rows in seen.values())
    return merge_summaries(rows for rows in seen.values() if rows)


def test_a_look_tells_what_each_file_holds(table: ParquetWorkspace) -> None:
    one, two = table.put("a/one.parquet", part("b1", 3, 1, 7)), table.put("b/two.parquet", beside("b2", 5))
    seen = table.summarize([one, two])
    assert seen[one] == RowSummary(
        {"b1": 3},
        (seen[one] or RowSummary()).digest,
        {"ProductDeleted": 3},
        {"ProductDeleted/3": (1, 7)},
        datetime(2024, 1, 15, 10, 0, 52, 1, UTC),
        datetime(2024, 1, 15, 10, 0, 58, 1, UTC),
    )
    first = datetime(1969, 12, 31, 23, 59, 59, 999_999, UTC)
    assert seen[two] == RowSummary(
        {"b2": 1}, (seen[two] or RowSummary()).digest, {"ProductDeleted": 1}, {"ProductDeleted/4": (5, 5)}, first, first
    )


def test_digests_are_the_same_in_whichever_order_and_files_and_in_both_engines(table: ParquetWorkspace) -> None:
    whole = all_of(table, [table.put("whole", part("b1", 1, 2, 3, 4))])
    halves = all_of(table, [table.put("first", part("b1", 4, 2)), table.put("second", part("b1", 3, 1))])
    assert whole == halves
    with memory_workspace() as other:
        assert all_of(other, [other.put("whole", part("b1", 1, 2, 3, 4))]) == whole


@pytest.mark.parametrize(
    "other",
    [part("b2", 1, 2), part("b1", 1, 3), part("b1", 1, 2, sellerId="another"), part("b1", 1, 2, productId="another"), part("b1", 1, 2, 2)],
    ids=["batch", "offset", "seller", "product", "twice"],
)
def test_a_digest_tells_other_rows_apart(table: ParquetWorkspace, other: bytes) -> None:
    assert all_of(table, [table.put("one", part("b1", 1, 2))]).digest != all_of(table, [table.put("other", other)]).digest


def test_damaged_and_foreign_files_are_none_and_the_others_are_seen(table: ParquetWorkspace) -> None:
    sound = part("b1", *range(50))
    foreign = io.BytesIO()
    pq.write_table(pa.table({"event_id": ["a"]}), foreign)
    files = {
        "sound": sound,
        "cut": sound[:-9],
        "flipped": sound[:60] + bytes([sound[60] ^ 0xFF]) + sound[61:],
        "empty": b"",
        "text": b"no Parquet at all",
        "foreign": foreign.getvalue(),
        "also sound": beside("b2", 1),
    }
    paths = {name: table.put(name, data) for name, data in files.items()}
    seen = table.summarize(list(paths.values()))
    assert {name for name, path in paths.items() if seen[path] is not None} == {"sound", "also sound"}


def test_nothing_to_look_at_and_nothing_to_merge_is_fine(table: ParquetWorkspace) -> None:
    assert table.summarize([]) == {}
    assert table.merge([], "merged", MANY) == []


def test_a_merge_sorts_by_time_then_id_then_source_and_keeps_every_column(table: ParquetWorkspace) -> None:
    paths = [table.put("one", part("b1", 3, 1, 7)), table.put("two", beside("b2", 5, 4))]
    (merged,) = table.merge(paths, "merged", MANY)
    found = pq.read_table(merged.path)
    assert found.schema.equals(event_parquet.event_schema())
    assert found["event_id"].to_pylist() == ["beside 4", "beside 5", "event 7", "event 3", "event 1"]
    rows = [row for path in paths for row in pq.read_table(path).to_pylist()]
    assert sorted(map(str, found.to_pylist())) == sorted(map(str, rows))
    assert (merged.rows, merged.bytes) == (5, Path(merged.path).stat().st_size)


def test_the_same_rows_give_the_same_bytes_however_they_came_and_whoever_sorts(table: ParquetWorkspace) -> None:
    numbers = list(range(500))
    once = table.merge([table.put("once", part("b1", *numbers))], "once-merged", MANY)
    pieces = [table.put(f"piece {first}", part("b1", *reversed(numbers[first::7]))) for first in range(7)]
    again = table.merge(pieces, "again-merged", MANY)
    with memory_workspace() as other:
        elsewhere = other.merge([other.put("once", part("b1", *numbers))], "merged", MANY)
        bodies = {Path(each.path).read_bytes() for found in (once, again, elsewhere) for each in found}
    assert len(bodies) == 1
    assert {each.sha256 for found in (once, again, elsewhere) for each in found} == {once[0].sha256}


def test_large_hours_are_cut_into_several_files_in_order(table: ParquetWorkspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_files, "GROUP_ROWS", 64)
    path = table.put("all", part("b1", *range(300)))
    merged = table.merge([path], "merged", 1)
    assert [each.rows for each in merged] == [64, 64, 64, 64, 44]
    assert all_of(table, [each.path for each in merged]) == all_of(table, [path])
    times = [time for each in merged for time in pq.read_table(each.path)["timestamp"].to_pylist()]
    assert times == sorted(times)


def test_row_groups_are_cut_by_bytes_of_payload_as_well(table: ParquetWorkspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_files, "GROUP_BYTES", 1_000)
    (merged,) = table.merge([table.put("all", part("b1", *range(100)))], "merged", MANY)
    footer = pq.ParquetFile(merged.path).metadata
    sizes = [footer.row_group(number).num_rows for number in range(footer.num_row_groups)]
    assert len(sizes) > 10
    assert sum(sizes) == 100
    assert max(sizes) < 12


def test_a_folder_is_gone_with_its_table() -> None:
    for opened in TABLES.values():
        with opened() as table:
            path = Path(table.put("a/b", b"x"))
            assert path.exists()
        assert not path.exists()
        assert not path.parent.exists()


def test_an_hour_larger_than_memory_is_sorted_on_disk() -> None:
    """400,000 rows, 160 MB as DuckDB holds them, in 96 MB."""
    ((_, once),) = parts(4_000)
    with duckdb_workspace(96, threads=1) as table:
        paths = [table.put(f"{number}", once) for number in range(100)]
        (merged,) = table.merge(paths, "merged", MANY)
        seen = table.summarize([merged.path])[merged.path]
        assert seen
        assert (merged.rows, seen.count) == (400_000, 400_000)
        assert seen == merge_summaries([table.summarize(paths[:1])[paths[0]] or RowSummary()] * 100)
        times = pq.read_table(merged.path, columns=["timestamp"])["timestamp"].cast(pa.int64())
        assert pc.all(pc.greater_equal(times[1:], times[:-1])).as_py()


def test_memory_that_is_too_small_is_said_and_is_no_damage() -> None:
    with duckdb_workspace(4, threads=1) as table:
        paths = [table.put(f"{number}", data) for number, (_, data) in enumerate(parts(8_000))]
        with pytest.raises(Unavailable, match="DUCKDB_MEMORY_LIMIT_MB"):
            table.merge(paths, "merged", MANY)
        with pytest.raises(Unavailable, match="DUCKDB_MEMORY_LIMIT_MB"):
            table.summarize(paths)
