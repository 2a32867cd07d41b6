"""Exact statistics of an hour and of a day: counted from every row of every closed batch, separate from the live counters.

read the hour's files ──► count ──► compare with the ledger ──► write under aggregates/
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from typing import Protocol, TypeVar

from analytics_defs.core.hours import statistics
from analytics_defs.core.hours.revision import start_of_hour
from analytics_defs.core.hours.statistics import DayStats, HourStats, Minute, ProductStats
from analytics_defs.core.storage.content_types import PARQUET_CONTENT_TYPE
from analytics_defs.core.storage.object_keys import aggregate_key, batch_id, require_hour
from analytics_defs.core.timestamps import hour_of
from analytics_defs.errors import InconsistentState, Superseded
from analytics_defs.flows.conflict_retry import Conflict, retry_on_conflict
from analytics_defs.flows.stored.compacted_parts import delete_compacted_parts
from analytics_defs.flows.stored.hour_files import (
    MAX_HOUR_READS,
    ConcurrentCompaction,
    HourFiles,
    batch_records,
    download,
    download_all,
    hour_files,
    live_counters,
    report_damage,
    require_all_rows,
    retry_on_compaction,
)
from analytics_defs.ports import HourCounts, Ports, StatisticsEngine, StoredObject

TOP_PRODUCTS_LIMIT = 20
HOURLY, MINUTES, PRODUCTS, DAILY, ACTIVITY = "hourly", "hourly_minutes", "hourly_products", "daily", "product_activity"

_T = TypeVar("_T")


class StatisticsEngineFactory(Protocol):
    """Creates a statistics engine. Each job has its own, which is deleted at the end of the block."""

    def __call__(self) -> AbstractContextManager[StatisticsEngine]: ...


@dataclass(frozen=True, slots=True)
class HourlyResult:
    """Statistics that were written for an hour."""

    stats: HourStats
    minutes: tuple[Minute, ...]
    top_products: tuple[ProductStats, ...]
    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DailyResult:
    """Statistics that were written for a day."""

    stats: DayStats
    hours: tuple[HourStats, ...]
    """Hours of the day that have statistics."""
    stale_hours: tuple[str, ...]
    """Hours with closed batches that their statistics do not contain yet. After they are updated, the day is computed again."""
    expired_hours: tuple[str, ...]
    """Hours with late batches that their statistics cannot contain: retention has removed other rows of the hour."""
    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ActivityResult:
    """Product activity that was written for a day."""

    day: str
    products: int
    sellers: int
    top_products: tuple[ProductStats, ...]
    keys: tuple[str, ...]


def compute_hourly_stats(hour: str, ports: Ports, engine_factory: StatisticsEngineFactory) -> HourlyResult:
    """Count the rows of the hour and write its statistics. The same rows give the same bytes.

    A zombie executor cannot leave older statistics over newer ones. Compacted parts that a zombie left are deleted.
    Raises InconsistentState, with nothing written, if files, batch records and live counters differ.
    Raises DataExpired if retention has removed rows: the stored statistics stay.
    """
    require_hour(hour)
    return retry_on_compaction(hour, ports, lambda files: _hourly(files, ports, engine_factory))


def _hourly(files: HourFiles, ports: Ports, engine_factory: StatisticsEngineFactory) -> HourlyResult:
    require_all_rows(files)
    hour = files.hour
    with engine_factory() as engine:
        paths = download_all(files, engine, ports)
        with report_damage(files, paths, engine):
            counts = engine.count_rows(paths)
            products = engine.write_product_stats(paths, "products")
        _require_equal_counts(files, counts, ports)
        stats = _hour_stats(files, counts, _duplicates_in(hour, ports))
        minutes = statistics.minutes_of(hour, counts.minutes)
        keys = tuple(aggregate_key(name, hour) for name in (HOURLY, MINUTES, PRODUCTS))
        hourly = StoredObject(keys[0], statistics.to_parquet(HourStats, [stats]), PARQUET_CONTENT_TYPE, {})
        if not ports.object_store.put_if(hourly, lambda current: _may_replace(current, stats, files, ports)):
            raise ConcurrentCompaction(f"hour {hour}: another executor wrote newer statistics")
        _put(MINUTES, hour, statistics.to_parquet(Minute, minutes), ports)
        ports.object_store.upload(keys[2], products, PARQUET_CONTENT_TYPE)
        if ports.object_store.get(hourly.key) != hourly.body:
            raise ConcurrentCompaction(f"hour {hour}: another executor wrote statistics at the same time, and files of both may be mixed")
        if files.revision:
            delete_compacted_parts(files.revision, ports)
        return HourlyResult(stats, tuple(minutes), tuple(engine.top_products(products, TOP_PRODUCTS_LIMIT)), keys)


def _may_replace(current: bytes | None, stats: HourStats, files: HourFiles, ports: Ports) -> bool:
    """Return False if the current statistics may be newer. Statistics that equal the ledger's present state always win."""
    try:
        versions = [(row.batches, row.duplicates, row.revision) for row in statistics.from_parquet(HourStats, current)] if current else []
    except (ValueError, TypeError, OSError, OverflowError):
        return True
    new_version = (stats.batches, stats.duplicates, stats.revision)
    if all(old <= new for version in versions for old, new in zip(version, new_version, strict=True)):
        return True
    return hour_files(files.hour, ports) == files and _duplicates_in(files.hour, ports) == stats.duplicates


def _require_equal_counts(files: HourFiles, counts: HourCounts, ports: Ports) -> None:
    """Compare the files with the records of their batches and with the live counters of the hour.

    The live counters may differ if a batch closed meanwhile.
    """
    counted = _by_type(counts)
    recorded: dict[str, int] = {}
    for record in batch_records(files.batches, ports).values():
        for kind, count in record.hours.get(files.hour, {}).items():
            recorded[kind] = recorded.get(kind, 0) + count
    live_types = _types(live_counters(files.hour, ports, lambda counters: _types(counters) == counted))
    closed_meanwhile = len(ports.ledger.batches_of_hour(files.hour)) != len(files.batches)
    for name, expected in (("the records of its batches", recorded), ("the live counters", live_types)):
        if expected != counted and not (closed_meanwhile and expected is live_types):
            raise InconsistentState(
                f"hour {files.hour}: its files hold {counted}, {name} say {expected}. Batches: {', '.join(files.batches[:5])}"
                f"{' and more' if files.batches[5:] else ''}. Nothing was written. If files are damaged, materialize event_archive; "
                "`analytics audit --hour` names every difference."
            )


def _types(counters: Mapping[str, int]) -> dict[str, int]:
    return {name.removeprefix("type."): count for name, count in counters.items() if name.startswith("type.") and count}


def _by_type(counts: HourCounts) -> dict[str, int]:
    by_type: dict[str, int] = {}
    for (_, kind), count in counts.minutes.items():
        by_type[kind] = by_type.get(kind, 0) + count
    return by_type


def _hour_stats(files: HourFiles, counts: HourCounts, duplicates: int) -> HourStats:
    by_type = _by_type(counts)
    return HourStats(
        period=files.hour,
        events=sum(by_type.values()),
        **{name: by_type.get(kind, 0) for kind, name in statistics.STATUSES.items()},
        products=counts.products,
        sellers=counts.sellers,
        duplicates=duplicates,
        first_event=counts.first,
        last_event=counts.last,
        revision=files.revision.number if files.revision else 0,
        batches=len(files.batches),
    )


def _duplicates_in(hour: str, ports: Ports) -> int:
    """Return the duplicates of closed batches read in this hour.

    The count comes from the batch records, because retention may have removed the files of duplicates.
    """
    first = batch_id(start_of_hour(hour), ()).partition("-")[0]
    records = takewhile(lambda record: hour_of(record.batch.time) == hour, ports.ledger.batch_records_from(first))
    return sum(record.outcome_counts.duplicates for record in records)


def compute_daily_stats(day: str, ports: Ports, engine_factory: StatisticsEngineFactory) -> DailyResult:
    """Sum up the statistics of the day's hours and write them. Raise ValueError if `day` is not a date."""
    return _retry_on_changed_hours(day, ports, lambda hours: _daily(day, hours, ports, engine_factory))


def _retry_on_changed_hours(day: str, ports: Ports, write: Callable[[list[HourStats]], _T]) -> _T:
    """Return `write(statistics of the hours)`. If these changed during the call, call it again with the new ones.

    Otherwise a zombie executor could leave an older day over a newer one.
    Raises Superseded if they change during `MAX_HOUR_READS` calls.
    """

    def attempt() -> _T:
        hours = _hours_of(day, ports)
        result = write(hours)
        if _hours_of(day, ports) != hours:
            raise Conflict(f"day {day}: the statistics of its hours changed")
        return result

    error = Superseded(f"day {day}: the statistics of its hours changed {MAX_HOUR_READS} times while they were summed up. Try again.")
    return retry_on_conflict(attempt, MAX_HOUR_READS, error)


def _daily(day: str, hours: Sequence[HourStats], ports: Ports, engine_factory: StatisticsEngineFactory) -> DailyResult:
    with engine_factory() as engine:
        activity = engine.write_product_activity(_product_files(day, engine, ports), "activity")
        products, sellers = engine.count_products_and_sellers(activity)
    stats = statistics.day_stats(day, hours, products, sellers)
    _put(DAILY, day, statistics.to_parquet(DayStats, [stats]), ports)
    outdated = _outdated_hours(day, hours, ports)
    expired = tuple(hour for hour in outdated if hour_files(hour, ports).expired.expired_batches)
    stale = tuple(hour for hour in outdated if hour not in expired)
    return DailyResult(stats, tuple(hours), stale, expired, (aggregate_key(DAILY, day),))


def compute_product_activity(day: str, ports: Ports, engine_factory: StatisticsEngineFactory) -> ActivityResult:
    """Combine the products of the day's hours and write them. Raise ValueError if `day` is not a date."""
    return _retry_on_changed_hours(day, ports, lambda _: _activity(day, ports, engine_factory))


def _activity(day: str, ports: Ports, engine_factory: StatisticsEngineFactory) -> ActivityResult:
    key = aggregate_key(ACTIVITY, day)
    with engine_factory() as engine:
        path = engine.write_product_activity(_product_files(day, engine, ports), "activity")
        products, sellers = engine.count_products_and_sellers(path)
        top_products = tuple(engine.top_products(path, TOP_PRODUCTS_LIMIT))
        ports.object_store.upload(key, path, PARQUET_CONTENT_TYPE)
    return ActivityResult(day, products, sellers, top_products, (key,))


def _hours_of(day: str, ports: Ports) -> list[HourStats]:
    """Read the statistics of the day's hours, in order. Hours without statistics are left out."""
    hours = statistics.hours_of_day(day)
    files = ports.task_pool.run_all([partial(ports.object_store.get, aggregate_key(HOURLY, hour)) for hour in hours])
    return [stats for hour, data in zip(hours, files, strict=True) if data is not None for stats in _parse_stats(hour, data, ports)]


def _parse_stats(hour: str, data: bytes, ports: Ports) -> list[HourStats]:
    """Decode the statistics of an hour. Raise InconsistentState if the file is damaged."""
    try:
        return statistics.from_parquet(HourStats, data)
    except (ValueError, TypeError, OSError, OverflowError) as error:
        action = f"materialize hourly_event_stats for {hour} (`analytics stats {hour}`), and the day again"
        if hour_files(hour, ports).expired.expired_batches:
            action = "restore it from the bucket's versions: retention has removed the rows it was counted from"
        raise InconsistentState(f"{aggregate_key(HOURLY, hour)} is damaged ({error}). Nothing was written; {action}.") from error


def _product_files(day: str, engine: StatisticsEngine, ports: Ports) -> Sequence[str]:
    """Download the product statistics of the day's hours. Return local paths in the order of the hours."""
    return list(download([aggregate_key(PRODUCTS, hour) for hour in statistics.hours_of_day(day)], engine, ports).values())


def _outdated_hours(day: str, hours: Sequence[HourStats], ports: Ports) -> list[str]:
    """Return the hours of the day that have more closed batches than their statistics contain."""
    known_batches: Mapping[str, int] = {stats.period: stats.batches for stats in hours}
    return [hour for hour in statistics.hours_of_day(day) if len(ports.ledger.batches_of_hour(hour)) != known_batches.get(hour, 0)]


def _put(name: str, period: str, data: bytes, ports: Ports) -> None:
    ports.object_store.put([StoredObject(aggregate_key(name, period), data, PARQUET_CONTENT_TYPE, {})])
