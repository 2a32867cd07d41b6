"""Scenes whose every schedule is searched. A new kind of executor is one more method of Ground and one more name in a scene."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any, cast

from analytics_defs.adapters.memory import InlineTaskPool, ManualClock, MemoryLedger, MemoryObjectStore, MemoryRecentEvents
from analytics_defs.core.events.event import ValidationRules
from analytics_defs.core.hours.retention import MIN_RETENTION, RetentionPolicy
from analytics_defs.core.hours.revision import ExpiredData
from analytics_defs.core.ingest.planning import Plan, PlanningPolicy, lane_of
from analytics_defs.core.offsets import TopicPartition
from analytics_defs.core.repair import HourRange
from analytics_defs.core.storage.object_keys import parquet_dir
from analytics_defs.errors import Superseded
from analytics_defs.flows.hours.compaction import compact_hour
from analytics_defs.flows.hours.statistics import StatisticsEngineFactory
from analytics_defs.flows.ingest.close_batch import delete_stale_staging_files
from analytics_defs.flows.ingest.execute_plan import execute_plan
from analytics_defs.flows.ingest.options import IngestOptions
from analytics_defs.flows.ingest.planning import plan_lanes
from analytics_defs.flows.ingest.read_batch import open_new_topics
from analytics_defs.flows.redrive import DeadLetterFilter, redrive_dead_letters
from analytics_defs.flows.repair.repair_range import RepairContext, repair_range
from analytics_defs.flows.retention.apply import apply_retention
from analytics_defs.flows.retention.sweep import RetentionContext as ForgetMeans
from analytics_defs.flows.trace.trace import trace_record
from analytics_defs.ports import Ports
from tests.proof.agreement import Stores, faults, faults_at_rest
from tests.proof.archived import faults_of_hour, remembering_table, rows_by_ledger, rows_by_marker
from tests.proof.doors import Call, Door, through
from tests.proof.schedules import Scene
from tests.proof.world import HOUR, NOW, RULES, World, event

TOPICS = ("ProductCreated", "ProductDeleted")
POLICY = PlanningPolicy(lanes=2)
LARGE = event("large", padding="." * 500)
STRICT = ValidationRules(max_event_bytes=300)
REPLAYED = HourRange(HOUR, "2024-01-15T11")


@dataclass(frozen=True)
class Kinds:
    """Which doubles stand in the scene: a mutation puts others here."""

    recent_events: Callable[[], MemoryRecentEvents] = MemoryRecentEvents
    object_store: Callable[[], MemoryObjectStore] = MemoryObjectStore
    ledger: Callable[[], MemoryLedger] = MemoryLedger


REAL = Kinds()


def two_lanes(kinds: Kinds = REAL) -> Scene:
    """Two lanes that share an event id, and two executors in each: the second comes later, and has other settings."""
    ground = Ground(kinds)
    first, second = (ground.topics[lane] for lane in (0, 1))
    ground.world.produce(event("shared", lane="a"), LARGE, topic=first)
    ground.world.produce(event("shared", lane="b"), topic=second)
    ground.open_topics()
    return ground.scene(
        {
            "a1": ground.lane(0, "a1"),
            "a2": ground.lane(0, "a2", STRICT),
            "b1": ground.lane(1, "b1"),
            "b2": ground.lane(1, "b2"),
        }
    )


def redrives(kinds: Kinds = REAL) -> Scene:
    """Two redrives of one dead letter, while its lane reads another event with its id, under rules that reject the letter still."""
    ground = Ground(kinds)
    topic = ground.topics[0]
    ground.world.produce(LARGE, topic=topic)
    ground.world.settle(IngestOptions("before", STRICT))
    ground.world.produce(event("large"), topic=topic)
    return ground.scene({"r1": ground.redrive("r1"), "r2": ground.redrive("r2"), "a1": ground.lane(0, "a1", STRICT)})


def compactions(kinds: Kinds = REAL) -> Scene:
    """Two compactors of an hour that has an archive and a part, while a lane closes one more batch, which a late riser finishes as well."""
    ground = Ground(kinds)
    topic = ground.topics[0]
    for event_id in ("archived", "in a part"):
        ground.world.produce(event(event_id), topic=topic)
        ground.world.settle(IngestOptions("before", RULES))
        if event_id == "archived":
            compact_hour(HOUR, ground.world.ports, remembering_table)
    ground.world.produce(event("late"), topic=topic)
    ground.open_topics()
    executors = {"c1": ground.compactor("c1"), "c2": ground.compactor("c2"), "a1": ground.lane(0, "a1")}
    return ground.archive_scene(executors)


def replayed_hours(kinds: Kinds = REAL) -> Scene:
    """A replay of an hour that has an archive and two parts, one of them back from before, beside a compactor and a lane that closes
    one more batch. Items and objects are gone."""
    ground = Ground(kinds)
    world, topic = ground.world, ground.topics[0]
    for event_id in ("archived", "in a part"):
        world.produce(event(event_id), topic=topic)
        world.settle(IngestOptions("before", RULES))
        if event_id == "archived":
            parts = [blob for key, blob in world.object_store.objects.items() if key.startswith("parquet/")]
            compact_hour(HOUR, world.ports, remembering_table)
            world.object_store.put(parts)
    world.recent_events.items.clear()
    world.object_store.delete(list(world.object_store.list_keys("events/")))
    world.produce(event("late"), topic=topic)
    ground.open_topics()
    return ground.archive_scene({"p1": ground.replay("p1"), "c1": ground.compactor("c1"), "a1": ground.lane(0, "a1")})


def replayed_id(kinds: Kinds = REAL) -> Scene:
    """A replay of a batch whose item and object are gone, while a lane reads another event of its id."""
    ground = Ground(kinds)
    world, topic = ground.world, ground.topics[0]
    world.produce(event("shared", lane="first"), topic=topic)
    world.settle(IngestOptions("before", RULES))
    world.recent_events.items.clear()
    world.object_store.delete(list(world.object_store.list_keys("events/")))
    world.produce(event("shared", lane="second"), topic=topic)
    ground.open_topics()
    executors = {"p1": ground.replay("p1"), "a1": ground.lane(0, "a1")}
    return Scene(ground._stores, executors, lambda _: iter(()), ground._faults_of_who_holds, (Superseded,))


def forgotten_objects(kinds: Kinds = REAL) -> Scene:
    """Two retentions of an archived hour's JSON objects, while a lane stores an id of it anew: it is old enough to be free."""
    return _forgotten(kinds, RetentionPolicy(event_json=MIN_RETENTION))


def forgotten_parquet(kinds: Kinds = REAL) -> Scene:
    """The same of its Parquet."""
    return _forgotten(kinds, RetentionPolicy(parquet=MIN_RETENTION))


def _forgotten(kinds: Kinds, ages: RetentionPolicy) -> Scene:
    ground = Ground(kinds)
    world, topic = ground.world, ground.topics[0]
    for event_id in ("again", "in a part"):
        world.produce(event(event_id), topic=topic)
        world.settle(IngestOptions("before", RULES))
    compact_hour(HOUR, world.ports, remembering_table)
    ground.later = MIN_RETENTION + timedelta(hours=1)
    now = int((NOW + ground.later).timestamp() * 1000)
    source = world.source(world.event_log.append(topic, 0, event("again", lane="late"), timestamp_ms=now), topic=topic)
    world.values[source] = event("again", lane="late")
    ground.open_topics()
    executors = {"f1": ground.retention("f1", ages), "f2": ground.retention("f2", ages), "a1": ground.lane(0, "a1")}
    at_end = partial(ground._faults_once_forgotten, ages)
    return Scene(ground._stores, executors, ground._faults_while_forgetting, at_end, (Superseded,))


class Ground:
    """What the scenes stand on, and who may work there."""

    def __init__(self, kinds: Kinds) -> None:
        self.world = World(
            recent_events=kinds.recent_events(),
            object_store=kinds.object_store(),
            ledger=kinds.ledger(),
            topics=list(TOPICS),
            policy=POLICY,
        )
        self.topics = {lane_of(TopicPartition(topic, 0, 0), POLICY.lanes): topic for topic in TOPICS}
        """By lane."""
        for topic in TOPICS:
            self.world.create(topic)
        self.later = timedelta(0)
        """How long after what was before the executors work."""

    def open_topics(self) -> None:
        for plan in self.world.plan().plans:
            open_new_topics(plan, self.world.ports)

    def lane(self, lane: int, name: str, rules: ValidationRules = RULES) -> Callable[[Door], None]:
        """Plans its lane from the ledger, in one call, and executes that."""

        def plan(stores: dict[str, Any]) -> Plan:
            return plan_lanes(TOPICS, POLICY, _ports(stores, NOW)).plans[lane]

        def run(door: Door) -> None:
            ports = self._ports(name)
            execute_plan(door(Call("whole", "plan", (plan,)), lambda: plan(self._stores)), through(ports, door), IngestOptions(name, rules))

        return run

    def redrive(self, name: str) -> Callable[[Door], None]:
        def run(door: Door) -> None:
            redrive_dead_letters(DeadLetterFilter(), through(self._ports(name), door), IngestOptions(name, RULES))

        return run

    def compactor(self, name: str) -> Callable[[Door], None]:
        def run(door: Door) -> None:
            compact_hour(HOUR, through(self._ports(name), door), remembering_table)

        return run

    def retention(self, name: str, ages: RetentionPolicy) -> Callable[[Door], None]:
        def run(door: Door) -> None:
            apply_retention(ForgetMeans(through(self._ports(name), door), cast(StatisticsEngineFactory, remembering_table), ages))

        return run

    def _faults_while_forgetting(self, stores: dict[str, Any]) -> Iterator[str]:
        """Readers find every row that retention did not take, once, and no file gone; the late event has its object once it is closed."""
        seen = self._seen(stores)
        revision = stores["ledger"].latest_revision(HOUR)
        left = sum(sum(record.hours.get(HOUR, {}).values()) for record in seen.records.values()) - (
            revision.expired.expired_rows if revision else 0
        )
        for reader, rows in (("the ledger's", rows_by_ledger(seen, HOUR)), ("the marker's", rows_by_marker(seen, HOUR))):
            if rows is None:
                yield f"{reader} reader finds a file gone"
            elif len(set(rows)) != len(rows) or len(rows) < left:
                yield f"{reader} reader sees {rows}, {left} are not taken"
        yield from self._late_without_object(stores)

    def _late_without_object(self, stores: dict[str, Any]) -> Iterator[str]:
        there = {blob.metadata["source"] for key, blob in stores["object_store"].objects.items() if key.startswith("events/")}
        for record in stores["ledger"].batch_records_from(""):
            for each in record.batch.ranges if record.batch.time > NOW + timedelta(days=1) else ():
                if f"{each.topic_partition}/{each.start}" not in there:
                    yield f"the object of the late event {each} is gone: there are those of {sorted(there)}"

    def _faults_once_forgotten(self, ages: RetentionPolicy, stores: dict[str, Any]) -> Iterator[str]:
        """The lane goes on, and retention runs once more: of a frozen hour the late event is all that is left, and the next run finds
        nothing. What was not frozen before the late event came is as young as that, and whole.
        """
        recovered = World(
            **stores, clock=ManualClock(NOW + self.later + timedelta(hours=2)), topics=list(TOPICS), policy=POLICY, values=self.world.values
        )
        recovered.settle()
        means = ForgetMeans(recovered.ports, cast(StatisticsEngineFactory, remembering_table), ages)
        done, again = apply_retention(means), apply_retention(means)
        if done.skipped_hours or again.deleted or again.skipped_hours:
            yield f"{done.skipped_hours}, and then {again.deleted} {again.skipped_hours}"
        yield from self._faults_while_forgetting(stores)
        revision = recovered.ledger.latest_revision(HOUR)
        taken = revision.expired if revision else ExpiredData()
        rows = rows_by_ledger(self._seen(stores), HOUR) or []
        if len(rows) != (1 if taken.expired_batches else 3):
            yield f"{taken}, and the archive holds {rows}"
        left = {blob.metadata["batch"] for key, blob in recovered.object_store.objects.items() if key.startswith("events/")}
        if len(left) != (1 if taken.event_json_expired_through else 3):
            yield f"{taken}, and objects of {sorted(left)} are left"

    def replay(self, name: str) -> Callable[[Door], None]:
        def run(door: Door) -> None:
            # The records are in Kafka: nothing but `look` is asked of the table.
            means = RepairContext(through(self._ports(name), door), cast(StatisticsEngineFactory, remembering_table), RULES)
            repair_range(REPLAYED, means)

        return run

    def _faults_of_who_holds(self, stores: dict[str, Any]) -> Iterator[str]:
        """The object is that of whoever holds the id, also after one more replay; and the next one changes nothing."""
        recovered = World(
            **stores, clock=ManualClock(NOW + timedelta(hours=1)), topics=list(TOPICS), policy=POLICY, values=self.world.values
        )
        recovered.settle()
        for _ in range(2):  # a replay that died may have left an object out; the next one brings it
            (item,) = recovered.recent_events.items.values()
            for blob in (each for key, each in recovered.object_store.objects.items() if key.startswith("events/")):
                if (blob.metadata["source"], blob.body) != (str(item.source), self.world.values[item.source]):
                    yield f"{item.source} holds the id, and the object is that of {blob.metadata['source']}: {blob.body!r}"
            again = repair_range(REPLAYED, RepairContext(recovered.ports, cast(StatisticsEngineFactory, remembering_table), RULES))
            if again.conflicts or again.lost:
                yield f"{again.conflicts} {again.lost}"
        if (
            last := repair_range(REPLAYED, RepairContext(recovered.ports, cast(StatisticsEngineFactory, remembering_table), RULES))
        ).changed:
            yield f"replayed again, it changes {last.changes}"

    def archive_scene(self, executors: dict[str, Callable[[Door], None]]) -> Scene:
        """What readers of the hour see, in every state; ingest itself is proved by the other scenes."""
        return Scene(
            self._stores, executors, lambda stores: faults_of_hour(self._seen(stores), HOUR), self._faults_once_compacted, (Superseded,)
        )

    def _faults_once_compacted(self, stores: dict[str, Any]) -> Iterator[str]:
        """Somebody ingests what is left and compacts once more; then one file holds every event, and nothing lies beside it."""
        recovered = World(
            **stores, clock=ManualClock(NOW + timedelta(hours=1)), topics=list(TOPICS), policy=POLICY, values=self.world.values
        )
        recovered.settle()
        compact_hour(HOUR, recovered.ports, remembering_table)
        yield from faults_of_hour(self._seen(stores), HOUR)
        left = [key.rpartition("/")[2][:7] for key in recovered.object_store.list_keys(parquet_dir(HOUR))]
        if left != ["_SUCCES", "archive"]:
            yield f"below the hour lie {left}"
        rows = rows_by_ledger(self._seen(stores), HOUR) or []
        if sorted(event_id for event_id, _ in rows) != ["archived", "in a part", "late"]:
            yield f"the archive holds {rows}"

    def scene(self, executors: dict[str, Callable[[Door], None]]) -> Scene:
        return Scene(self._stores, executors, self._faults, self._faults_after_recovery, (Superseded,))

    @property
    def _stores(self) -> dict[str, Any]:
        return {
            "event_log": self.world.event_log,
            "recent_events": self.world.recent_events,
            "object_store": self.world.object_store,
            "ledger": self.world.ledger,
        }

    def _ports(self, name: str) -> Ports:
        """Each executor has a time of its own: batches of two never have the same id."""
        return _ports(self._stores, NOW + self.later + timedelta(minutes=1, seconds=sum(name.encode())))

    def _seen(self, stores: dict[str, Any]) -> Stores:
        return Stores(stores["recent_events"], stores["object_store"], stores["ledger"], self.world.values)

    def _faults(self, stores: dict[str, Any]) -> Iterator[str]:
        return faults(self._seen(stores))

    def _faults_after_recovery(self, stores: dict[str, Any]) -> Iterator[str]:
        """Somebody plans and runs every lane until nothing is left, and sweeps; then all must agree, with exactly one repeat."""
        recovered = World(
            **stores, clock=ManualClock(NOW + timedelta(hours=1)), topics=list(TOPICS), policy=POLICY, values=self.world.values
        )
        recovered.settle()
        redrive_dead_letters(DeadLetterFilter(), recovered.ports, IngestOptions("recovery", RULES))
        delete_stale_staging_files(recovered.ports)
        seen = self._seen(stores)
        partitions = [TopicPartition(topic, 0, 0) for topic in TOPICS]
        yield from faults_at_rest(
            seen,
            stores["event_log"],
            {each: marks.last_stable_offset for each, marks in self.world.event_log.watermarks(partitions).items()},
        )
        repeats = [source for record in seen.records.values() for source in seen.lines(record.duplicates_key)]
        if len(repeats) != 1:
            yield f"repeats: {repeats}, expected exactly one"
        for source in repeats:
            told = trace_record(str(source), recovered.ports)
            held_by = (told.redrive or told).original_source
            if held_by is None or (event_id := (told.redrive or told).event_id) is None or recovered.ids([event_id]) != {event_id: held_by}:
                yield f"the repeat does not lead to the source that holds the id: {told}"


def _ports(stores: dict[str, Any], time: datetime) -> Ports:
    return Ports(**stores, clock=ManualClock(time), task_pool=InlineTaskPool())
