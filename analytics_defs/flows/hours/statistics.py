"""Statistics of an hour and of a day, exact: from every row of every closed batch, and never beside the live counters.

read the hour's files ──► count ──► compare with the ledger ──► write under aggregates/
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from itertools import takewhile
from typing import Protocol, TypeVar

from analytics_defs.core.hours import statistics
from analytics_defs.core.hours.revision import end_of_hour
from analytics_defs.core.hours.statistics import DayStats, HourStats, Minute, ProductStats
from analytics_defs.core.storage.content_types import PARQUET_CONTENT_TYPE
from analytics_defs.core.storage.object_keys import aggregate_key, batch_id, hour_path
from analytics_defs.core.timestamps import hour_of
from analytics_defs.errors import InconsistentState, Superseded
from analytics_defs.flows.stored.hour_files import (
    MAX_HOUR_READS,
    ConcurrentCompaction,
    HourFiles,
    batch_records,
    download,
    download_all,
    hour_files,
    live_counters,
    read_consistently,
    report_damage,
    require_all_rows,
)
from analytics_defs.ports import HourCounts, Ports, StatisticsEngine, StoredObject

TOP_PRODUCTS_LIMIT = 20
HOURLY, MINUTES, PRODUCTS, DAILY, ACTIVITY = "hourly", "hourly_minutes", "hourly_products", "daily", "product_activity"

T = TypeVar("T")


class StatisticsEngineFactory(Protocol):
    """Where calculators come from: each job has its own, for the length of a block."""

    def __call__(self) -> AbstractContextManager[StatisticsEngine]: ...


@dataclass(frozen=True, slots=True)
class HourlyResult:
    """What was written for an hour."""

    stats: HourStats
    minutes: tuple[Minute, ...]
    top_products: tuple[ProductStats, ...]
    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DailyResult:
    """What was written for a day."""

    stats: DayStats
    hours: tuple[HourStats, ...]
    """Those that have statistics."""
    stale_hours: tuple[str, ...]
    """Hours with closed batches that their statistics do not know yet: they follow, and then the day is asked for again."""
    expired_hours: tuple[str, ...]
    """Hours with late batches that their statistics will never know: retention took rows of theirs before."""
    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ActivityResult:
    """What was written for a day's products."""

    day: str
    products: int
    sellers: int
    top_products: tuple[ProductStats, ...]
    keys: tuple[str, ...]


def compute_hourly_stats(hour: str, ports: Ports, bench: StatisticsEngineFactory) -> HourlyResult:
    """Count the hour and write its statistics. The same rows write the same bytes, and no late riser's lie over newer ones.

    Raises InconsistentState, and writes nothing, where files, batch records and live counters do not say the same; Frozen where retention
    took rows: what was stored stays.
    """
    hour_path(hour)
    return read_consistently(hour, ports, lambda account: _hourly(account, ports, bench))


def _hourly(account: HourFiles, ports: Ports, bench: StatisticsEngineFactory) -> HourlyResult:
    require_all_rows(account)
    hour = account.hour
    with bench() as table:
        paths = download_all(account, table, ports)
        with report_damage(account, paths, table):
            counts = table.count_rows(paths)
            products = table.write_product_stats(paths, "products")
        _agree(account, counts, ports)
        stats = _hour_stats(account, counts, _repeats_in(hour, ports))
        minutes = statistics.minutes_of(hour, counts.minutes)
        keys = tuple(aggregate_key(name, hour) for name in (HOURLY, MINUTES, PRODUCTS))
        ours = StoredObject(keys[0], statistics.to_parquet(HourStats, [stats]), PARQUET_CONTENT_TYPE, {})
        if not ports.object_store.put_if(ours, lambda held: _may_follow(held, stats, account, ports)):
            raise ConcurrentCompaction(f"hour {hour}: another executor wrote newer statistics")
        _put(MINUTES, hour, statistics.to_parquet(Minute, minutes), ports)
        ports.object_store.upload(keys[2], products, PARQUET_CONTENT_TYPE)
        if ports.object_store.get(ours.key) != ours.body:
            raise ConcurrentCompaction(f"hour {hour}: another executor wrote statistics meanwhile, and some of ours may lie over its own")
        return HourlyResult(stats, tuple(minutes), tuple(table.top_products(products, TOP_PRODUCTS_LIMIT)), keys)


def _may_follow(held: bytes | None, stats: HourStats, account: HourFiles, ports: Ports) -> bool:
    """Not where a late riser would write over newer ones. Whatever is there gives way to what the ledger says at this moment."""
    try:
        newest = [(each.batches, each.duplicates, each.revision) for each in statistics.from_parquet(HourStats, held)] if held else []
    except (ValueError, TypeError, OSError):
        return True
    ours = (stats.batches, stats.duplicates, stats.revision)
    if all(there <= here for each in newest for there, here in zip(each, ours, strict=True)):
        return True
    return hour_files(account.hour, ports) == account and _repeats_in(account.hour, ports) == stats.duplicates


def _agree(account: HourFiles, counts: HourCounts, ports: Ports) -> None:
    """Files against the records of their batches, and against the live counters of the hour, unless a batch closed meanwhile."""
    counted = _by_type(counts)
    recorded: dict[str, int] = {}
    for record in batch_records(account.batches, ports).values():
        for kind, count in record.hours.get(account.hour, {}).items():
            recorded[kind] = recorded.get(kind, 0) + count
    live_types = _types(live_counters(account.hour, ports, lambda counts: _types(counts) == counted))
    closed_meanwhile = len(ports.ledger.batches_of_hour(account.hour)) != len(account.batches)
    for whose, said in (("the records of its batches", recorded), ("the live counters", live_types)):
        if said != counted and not (closed_meanwhile and said is live_types):
            raise InconsistentState(
                f"hour {account.hour}: its files hold {counted}, {whose} say {said}. Batches: {', '.join(account.batches[:5])}"
                f"{' and more' if account.batches[5:] else ''}. Nothing was written. Where files are damaged, materialize event_archive; "
                "`analytics audit --hour` names every difference."
            )


def _types(counts: Mapping[str, int]) -> dict[str, int]:
    return {name.removeprefix("type."): count for name, count in counts.items() if name.startswith("type.") and count}


def _by_type(counts: HourCounts) -> dict[str, int]:
    found: dict[str, int] = {}
    for (_, kind), count in counts.minutes.items():
        found[kind] = found.get(kind, 0) + count
    return found


def _hour_stats(account: HourFiles, counts: HourCounts, repeats: int) -> HourStats:
    by_type = _by_type(counts)
    return HourStats(
        hour=account.hour,
        events=sum(by_type.values()),
        **{name: by_type.get(kind, 0) for kind, name in statistics.STATUSES.items()},
        products=counts.products,
        sellers=counts.sellers,
        duplicates=repeats,
        first_event=counts.first,
        last_event=counts.last,
        revision=account.revision.number if account.revision else 0,
        batches=len(account.batches),
    )


def _repeats_in(hour: str, ports: Ports) -> int:
    """Of closed batches cut in this hour, by their records: retention may have taken their files long before somebody counts again."""
    first = batch_id(end_of_hour(hour) - timedelta(hours=1), ()).partition("-")[0]
    mine = takewhile(lambda record: hour_of(record.batch.time) == hour, ports.ledger.batch_records_from(first))
    return sum(record.tally.duplicates for record in mine)


def compute_daily_stats(day: str, ports: Ports, bench: StatisticsEngineFactory) -> DailyResult:
    """From the statistics of the day's hours. Raises ValueError where `day` is none."""
    return _from_hours(day, ports, lambda hours: _daily(day, hours, ports, bench))


def _from_hours(day: str, ports: Ports, write: Callable[[list[HourStats]], T]) -> T:
    """Written again where an hour has other statistics meanwhile: a late riser may have written over what was made of those.

    Raises Superseded where they change every time.
    """
    for _ in range(MAX_HOUR_READS):
        written = write(hours := _hours_of(day, ports))
        if _hours_of(day, ports) == hours:
            return written
    raise Superseded(f"day {day}: the statistics of its hours changed {MAX_HOUR_READS} times while they were added up. Try again.")


def _daily(day: str, hours: Sequence[HourStats], ports: Ports, bench: StatisticsEngineFactory) -> DailyResult:
    with bench() as table:
        activity = table.write_product_activity(_products_of(day, table, ports), "activity")
        products, sellers = table.count_products_and_sellers(activity)
    stats = statistics.day_stats(day, hours, products, sellers)
    _put(DAILY, day, statistics.to_parquet(DayStats, [stats]), ports)
    behind = _behind(day, hours, ports)
    frozen = tuple(hour for hour in behind if hour_files(hour, ports).expired.expired_batches)
    return DailyResult(stats, tuple(hours), tuple(each for each in behind if each not in frozen), frozen, (aggregate_key(DAILY, day),))


def compute_product_activity(day: str, ports: Ports, bench: StatisticsEngineFactory) -> ActivityResult:
    """Every product of the day, from its hours. Raises ValueError where `day` is none."""
    return _from_hours(day, ports, lambda _: _activity(day, ports, bench))


def _activity(day: str, ports: Ports, bench: StatisticsEngineFactory) -> ActivityResult:
    key = aggregate_key(ACTIVITY, day)
    with bench() as table:
        path = table.write_product_activity(_products_of(day, table, ports), "activity")
        products, sellers = table.count_products_and_sellers(path)
        busiest = tuple(table.top_products(path, TOP_PRODUCTS_LIMIT))
        ports.object_store.upload(key, path, PARQUET_CONTENT_TYPE)
    return ActivityResult(day, products, sellers, busiest, (key,))


def _hours_of(day: str, ports: Ports) -> list[HourStats]:
    hours = statistics.hours_of_day(day)
    found = zip(
        hours, ports.task_pool.run_all([partial(ports.object_store.get, aggregate_key(HOURLY, hour)) for hour in hours]), strict=True
    )
    return [stats for hour, data in found if data is not None for stats in _stats_in(hour, data, ports)]


def _stats_in(hour: str, data: bytes, ports: Ports) -> list[HourStats]:
    """Raises InconsistentState where the file is none of ours."""
    try:
        return statistics.from_parquet(HourStats, data)
    except (ValueError, TypeError, OSError) as error:
        frozen = hour_files(hour, ports).expired.expired_batches
        mend = "restore it from the bucket's versions: retention took the rows it was counted from"
        raise InconsistentState(
            f"{aggregate_key(HOURLY, hour)} is damaged ({error}). Nothing was written; "
            f"{mend if frozen else f'materialize hourly_event_stats for {hour} (`analytics stats {hour}`), and the day again'}."
        ) from error


def _products_of(day: str, table: StatisticsEngine, ports: Ports) -> Sequence[str]:
    """In the order of the hours."""
    return list(download([aggregate_key(PRODUCTS, hour) for hour in statistics.hours_of_day(day)], table, ports).values())


def _behind(day: str, hours: Sequence[HourStats], ports: Ports) -> list[str]:
    known: Mapping[str, int] = {each.hour: each.batches for each in hours}
    return [hour for hour in statistics.hours_of_day(day) if len(ports.ledger.batches_of_hour(hour)) != known.get(hour, 0)]


def _put(name: str, period: str, data: bytes, ports: Ports) -> None:
    ports.object_store.put([StoredObject(aggregate_key(name, period), data, PARQUET_CONTENT_TYPE, {})])
