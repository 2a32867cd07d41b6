"""Work on Parquet files: a local folder of one job, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from analytics_defs.core.hours.revision import RowSummary
from analytics_defs.core.hours.statistics import ProductStats
from analytics_defs.core.offsets import Source


@dataclass(frozen=True, slots=True)
class MergedFile:
    """One output file of a merge."""

    path: str
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class HourCounts:
    """Totals over the rows of an hour."""

    minutes: Mapping[tuple[int, str], int]
    """Events by minute of the hour (0 to 59) and event type."""
    products: int
    sellers: int
    first: datetime | None
    last: datetime | None


@dataclass(frozen=True, slots=True)
class StoredRow:
    """The columns of an event row that are needed to rebuild the event."""

    source: Source
    payload: bytes
    record_timestamp_ms: int
    """`NO_TIMESTAMP` if unknown."""
    batch_id: str


class ParquetWorkspace(Protocol):
    """A local folder for the Parquet files of one job. Used by one thread. Rows are those of `core.storage.event_parquet`.

    Methods take the paths that `path` and `put` returned. Record timestamps that are no dates are read as null. Methods raise
    InsufficientResources if memory or disk runs out, and InconsistentState if the rows cannot be read.
    """

    def path(self, name: str) -> str:
        """Return the local path for a file of this name. Names may contain slashes."""
        ...

    def put(self, name: str, data: bytes) -> str:
        """Write a file. Return its path."""
        ...

    def summarize(self, paths: Sequence[str]) -> Mapping[str, RowSummary | None]:
        """Return the summary of each file, after reading every column of every row. None if a file is damaged or has another schema."""
        ...

    def merge(self, paths: Sequence[str], name: str, max_bytes: int) -> Sequence[MergedFile]:
        """Sort all rows by timestamp, id and source into files of about `max_bytes`. Deterministic: equal rows give equal bytes."""
        ...


class StatisticsEngine(ParquetWorkspace, Protocol):
    """A workspace that also computes exact statistics of its rows."""

    def count_rows(self, paths: Sequence[str]) -> HourCounts:
        """Return the totals over all rows."""
        ...

    def write_product_stats(self, paths: Sequence[str], name: str) -> str:
        """Write a file of `core.hours.statistics.ProductStats`, sorted by product id. Return its path."""
        ...

    def write_product_activity(self, paths: Sequence[str], name: str) -> str:
        """Combine such files, given in time order, into one. Changes between two files count. Return its path."""
        ...

    def count_products_and_sellers(self, path: str) -> tuple[int, int]:
        """Return the number of products and of sellers in a file of `ProductStats`."""
        ...

    def top_products(self, path: str, limit: int) -> Sequence[ProductStats]:
        """Return the products with the most events in a file of `ProductStats`; ties by id."""
        ...

    def read_rows(self, paths: Sequence[str], batch_id: str | None = None) -> Iterator[Sequence[StoredRow]]:
        """Yield all rows, or those of one batch, batch by batch, in chunks. Exhaust it before any other call."""
        ...
